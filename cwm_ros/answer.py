# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A prompt and its answer, generated between the steps of a thaw."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.engine import sample, Sampling
from cwm_ros.errors import ConfigError, InterruptedOperation
from cwm_ros.readahead import check_cancelled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Event

    from cwm_ros.abstention import Abstentions
    from cwm_ros.model import IncrementalDecoder
    from cwm_ros.progress import ThawProgress
    from cwm_ros.session import Session
    from cwm_ros.thaw import Thaw


MAX_STOPS, MAX_STOP = 16, 256


class When(Enum):
    """How much of a window must be there before a prompt is answered."""

    NOW = 'now'
    USABLE = 'usable'
    COMPLETE = 'complete'


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    A prompt, and how it is to be answered.

    Parameters
    ----------
    text
        What the user says.
    when
        How much of the window must be there first. USABLE also waits for the few chunks that
        share the rarest words with ``text``.
    max_tokens
        Longest answer [tokens]; 0 means as the settings say.
    temperature, seed
        0 is greedy; otherwise the seed repeats an answer.
    stop
        The answer ends before the first of these, which are not said.

    """

    text: str
    when: When = When.USABLE
    max_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError('the prompt is empty', hint='say something')
        if self.max_tokens < 0 or self.seed < 0:
            raise ConfigError(
                f'max_tokens is {self.max_tokens}, seed {self.seed}: one is negative'
            )
        if len(self.stop) > MAX_STOPS or not all(0 < len(s) <= MAX_STOP for s in self.stop):
            raise ConfigError(
                f'stop has {len(self.stop)} texts, one may be empty or too long',
                hint=f'give at most {MAX_STOPS} of 1 to {MAX_STOP} characters',
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of an answer's text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    What the assistant said.

    Parameters
    ----------
    text
        The whole answer.
    finish_reason
        'stop', 'length' or 'cancelled'.
    prompt_tokens, new_tokens
        Tokens that the prompt added, and tokens of the answer.
    time_to_first_token_s
        From the prompt to the first token, waiting for the thaw included [s].
    fidelity
        Of the context that the answer began from.
    is_provisional
        Whether context was missing when it began.
    num_drafts
        How many answers were given up before it, because they were abstentions while chunks were
        absent; nobody heard them.

    """

    text: str
    finish_reason: str
    prompt_tokens: int
    new_tokens: int
    time_to_first_token_s: float
    fidelity: str
    is_provisional: bool
    num_drafts: int = 0


def wait_for(thaw: Thaw, when: When, cancel: Event | None) -> Iterator[ThawProgress]:
    """
    Advance a thaw until an answer may begin.

    Raises
    ------
    InterruptedOperation
        ``cancel`` was set; what is resident stays.

    """
    while when is not When.NOW and not thaw.is_complete:
        progress = thaw.progress()
        if when is When.USABLE and progress.is_answerable:
            return
        thaw.advance(wait=True, cancel=cancel)
        yield thaw.progress()


class Speaker:
    """
    Generates one answer, a token at a time.

    Parameters
    ----------
    session
        Ends with the prompt; the answer's tokens are appended to it.
    decoder
        Turns tokens into text.
    request
        How to answer.
    unwanted
        Answers that are to be given up when they begin so; None for none.

    Attributes
    ----------
    text, num_tokens
        What was said.
    finish_reason
        'stop', 'length', 'cancelled', or 'abstained' when it was given up.

    """

    def __init__(
        self,
        session: Session,
        decoder: IncrementalDecoder,
        request: Request,
        unwanted: Abstentions | None = None,
    ) -> None:
        self._session = session
        self._decoder = decoder
        self._request = request
        self._unwanted = unwanted
        self._held = ''
        self._lengths: list[int] = []
        self._start = session.num_tokens
        self.text = ''
        self.num_tokens = 0
        self.finish_reason = 'length'
        self._is_cut = False
        self._lock = Lock()

    @property
    def is_held(self) -> bool:
        """Whether tokens were generated of which nothing was said, as it may be unwanted."""
        return bool(self._held) and not self.text

    def speak(self, cancel: Event | None) -> Iterator[str]:
        """
        Yield pieces of text until the model stops, the limit is reached or it is cancelled.

        What may become an unwanted answer, or what ends it, is held back until it is clear that
        it does not.
        """
        request = self._request
        sampling = Sampling(temperature=request.temperature)
        rng = np.random.default_rng(request.seed)
        tokens = self._session.generate(
            lambda logits: sample(logits, sampling, rng), request.max_tokens, cancel
        )
        try:
            for token in tokens:
                with self._lock:
                    if self._is_cut:
                        self._session.take_back_token()
                        break
                    self.num_tokens += 1
                    piece = self._say(self._decoder.push(token))
                if piece is not None:
                    yield piece
                if self.finish_reason in ('abstained', 'stop'):
                    return
                check_cancelled(cancel)
        except InterruptedOperation:
            self.finish_reason = 'cancelled'
        with self._lock:
            self._unwanted = None
            piece = '' if self._is_cut else self._say(self._decoder.flush(), is_last=True)
        yield piece or ''
        if self.finish_reason == 'stop':
            return
        if self._session.is_answer_ended:
            self.finish_reason = 'stop'
        elif self._is_cut:
            self.finish_reason = 'cancelled'

    def cut(self) -> str:
        """
        End the answer with what was said until now, and return that; from any thread.

        An answer of which nothing was said goes on.
        """
        with self._lock:
            said = self.text.strip()
            self._is_cut = self._is_cut or bool(said)
            return said

    def _say(self, piece: str, *, is_last: bool = False) -> str | None:
        """Add a piece; white space around the whole answer belongs to the template."""
        self._lengths.append((self._lengths[-1] if self._lengths else 0) + len(piece))
        self._held += piece
        if not self.text:
            self._held = self._held.lstrip()
        if self._unwanted:
            if self._unwanted.is_one(self._held):
                self.finish_reason = 'abstained'
                return None
            if self._unwanted.may_become(self._held):
                return None
            self._unwanted = None
        length = len(self._held) if is_last else len(self._held) - self._num_to_hold()
        found = [at for stop in self._request.stop if (at := self._held.find(stop)) >= 0]
        if found:
            length = min(found)
            self._stop_at(length)
        piece, self._held = self._held[:length], '' if found else self._held[length:]
        self.text += piece
        return piece

    def _num_to_hold(self) -> int:
        """Return how many of the last letters may become a text that ends the answer."""
        held = self._held
        return max(
            (
                size
                for stop in self._request.stop
                for size in range(1, min(len(stop), len(held) + 1))
                if held.endswith(stop[:size])
            ),
            default=0,
        )

    def _stop_at(self, length: int) -> None:
        """End the answer within what is held, and forget the tokens behind."""
        self.finish_reason = 'stop'
        stop = self._lengths[-1] - len(self._held) + length
        num_kept = sum(1 for end in self._lengths[: self.num_tokens] if end <= stop)
        self._session.shorten_answer(self._start + num_kept)
        self.num_tokens = num_kept
