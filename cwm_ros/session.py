# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A live conversation: turns, the tokens they became, and which of them an engine holds.

A token position is *resident* when its KV is in the engine. It is *provisional* when its KV was
computed while an earlier position was absent or itself provisional: such KV serves an early
answer, is never written to disk, and is computed again by `Session.repair`.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.engine.base import LogitRows
from cwm_ros.errors import ContextFullError, CwmError, ModelError
from cwm_ros.kv import Role, TokenRanges, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from threading import Event

    from cwm_ros.engine.base import Engine
    from cwm_ros.kv import FloatArray, TokenArray
    from cwm_ros.model.chat import ChatRenderer

    Sampler = Callable[[FloatArray], int]

REPAIR_SLICE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """
    How faithful an answer can be to a session that was never frozen.

    PARTIAL(resident of total) while a position is absent or provisional, whatever the others went
    through. Otherwise LOSSY(codec) when KV of any position was loaded from a codec that changes
    values ('fp16' included), and EXACT when none was: loaded from 'raw', or computed.

    Parameters
    ----------
    codec
        Name of the lossy codec that resident KV went through; empty when there is none.
    resident, total
        Tokens in the engine that are not provisional, and tokens of the conversation.

    """

    codec: str
    resident: int
    total: int

    def __str__(self) -> str:
        if self.resident < self.total:
            return f'PARTIAL({self.resident} of {self.total})'
        return f'LOSSY({self.codec})' if self.codec else 'EXACT'


def common_length(a: TokenArray, b: TokenArray) -> int:
    """Return how many tokens two conversations have in common at their beginning."""
    length = min(len(a), len(b))
    differs = np.flatnonzero(a[:length] != b[:length])
    return int(differs[0]) if len(differs) else length


def _untimed(num_tokens: int) -> AbstractContextManager[None]:
    del num_tokens
    return nullcontext()


class Session:
    """
    A conversation in an engine; called from the one thread that owns the engine.

    Parameters
    ----------
    engine
        Its cache holds this conversation and nothing else.
    chat, stop_ids
        Renders turns to tokens; the tokens that end an answer.
    turns, tokens, turn_stops
        A conversation to begin with: the tokens, int32 shape (T,), of its current segment and the
        position after each of its turns. None of it is resident yet; it is brought back by a thaw
        or by `repair`.
    head, first_turn
        How many of the turns repeat the window's first ones at the beginning of a later segment
        (the system prompt), and the window's number of the turn behind them.

    Attributes
    ----------
    timing
        Called with a number of tokens, returns a context in which they are computed.

    """

    def __init__(
        self,
        engine: Engine,
        chat: ChatRenderer,
        stop_ids: frozenset[int],
        *,
        turns: Sequence[Turn] = (),
        tokens: TokenArray | None = None,
        turn_stops: Sequence[int] = (),
        head: int = 0,
        first_turn: int = 0,
    ) -> None:
        self.engine = engine
        self.head = head
        self.first_turn = first_turn
        self.turns = list(turns)
        self.turn_stops = list(turn_stops)
        self.provisional = TokenRanges()
        self.bridged = TokenRanges()
        self.lossy_codec = ''
        self.timing: Callable[[int], AbstractContextManager[None]] = _untimed
        self._chat = chat
        self._stop_ids = stop_ids
        self._closing = chat.closing()
        self._tokens = np.zeros(0, np.int32) if tokens is None else np.array(tokens, np.int32)
        self._frontier = len(self._tokens)

    @property
    def tokens(self) -> TokenArray:
        """All tokens so far, int32, shape (T,); a view that must not be written."""
        return self._tokens

    @property
    def num_tokens(self) -> int:
        """Number of tokens so far."""
        return len(self._tokens)

    @property
    def num_turns(self) -> int:
        """Number of turns of the window, those that earlier segments hold included."""
        return self.first_turn + len(self.turns) - self.head

    @property
    def last_turn_start(self) -> int:
        """Position where the last turn begins."""
        return self.turn_stops[-2] if len(self.turn_stops) > 1 else 0

    @property
    def last_turn_tokens(self) -> int:
        """Length of the last turn."""
        return self.turn_stops[-1] - self.last_turn_start

    def turns_from(self, number: int) -> list[Turn]:
        """Return the turns from a number of the window on, which is not before this segment."""
        return self.turns[self.head + number - self.first_turn :]

    @property
    def fidelity(self) -> Fidelity:
        """How faithful an answer given now can be."""
        unsound = sum(b - a for a, b in self.unsound().overlap(0, self._frontier))
        resident = self._frontier - unsound
        return Fidelity(codec=self.lossy_codec, resident=resident, total=self._frontier)

    def unsound(self) -> TokenRanges:
        """Return the positions that are not resident or provisional, pending ones included."""
        ranges = TokenRanges(self.engine.resident.missing(0, self.num_tokens))
        for start, stop in self.provisional:
            ranges.add(start, stop)
        return ranges

    def is_sound(self, start: int, stop: int) -> bool:
        """Say whether all of [start, stop) is resident and none of it provisional."""
        has_all = self.engine.resident.covers(start, stop)
        return has_all and next(self.provisional.overlap(start, stop), None) is None

    def drop(self, start: int, stop: int) -> None:
        """Forget the KV of [start, stop)."""
        self.engine.drop(start, stop)
        self.provisional.remove(start, stop)
        self.bridged.remove(start, stop)

    def adopt(self, other: Session) -> None:
        """
        Keep what the engine holds of the tokens that two conversations begin with.

        KV depends on the tokens up to its own and on nothing else, so that it is right wherever
        they are the same. What else the engine holds is dropped.

        Parameters
        ----------
        other
            The conversation that the engine held until now.

        """
        same = common_length(self._tokens, other.tokens)
        self.engine.drop(same, max(same, other.num_tokens, self.engine.capacity))
        self.provisional = TokenRanges(other.provisional.overlap(0, same))
        self.bridged = TokenRanges(other.bridged.overlap(0, same))
        self.lossy_codec = other.lossy_codec if len(self.engine.resident) else ''
        gaps = self.engine.resident.missing(self._frontier, self.num_tokens)
        self._frontier, _ = next(gaps, (self.num_tokens, self.num_tokens))

    def add_turn(self, turn: Turn) -> int:
        """
        Append a turn and its tokens, without computing them; return how many there are.

        Raises
        ------
        ContextFullError
            The context cannot hold them; nothing has changed.

        """
        tokens = self._chat.render_suffix(self.turns, [turn], add_generation_prompt=False)
        self._append(tokens)
        self._end_turn(turn)
        return len(tokens)

    def take_back(self, num_turns: int) -> None:
        """Forget the window's turns from ``num_turns`` on; nothing of them is computed yet."""
        kept = self.head + num_turns - self.first_turn
        stop = self.turn_stops[kept - 1] if kept else 0
        assert self._frontier <= stop
        del self.turns[kept:], self.turn_stops[kept:]
        self._tokens = self._tokens[:stop]

    def add_prompt(self, text: str, time_ms: int, *, answer_tokens: int = 1) -> None:
        """
        Append what the user says, if an answer will find room behind it.

        Parameters
        ----------
        text, time_ms
            What, and when by the wall clock [ms since 1970].
        answer_tokens
            How long an answer must find room.

        Raises
        ------
        ContextFullError
            It would not; nothing has changed.
        ModelError
            The template cannot render it; nothing has changed.

        """
        turn = Turn(role=Role.USER, text=text, time_ms=time_ms)
        num_turns = self.num_turns
        try:
            try:
                self.add_turn(turn)
            except ModelError:
                if not self.turns or self.turns[-1].role is not Role.USER:
                    raise
                # The last prompt was cut off before its answer, and the template wants one.
                self.add_turn(Turn(role=Role.ASSISTANT, text='', time_ms=time_ms))
                self.add_turn(turn)
            opening = self._chat.render_suffix(self.turns, [], add_generation_prompt=True)
            self._check_room(len(opening), spare=answer_tokens + len(self._closing))
        except CwmError:
            self.take_back(num_turns)
            raise

    def answer_bounds(self, index: int) -> tuple[int, int]:
        """Return where the tokens of what the assistant says in a turn begin and end."""
        opening = self._chat.render_suffix(self.turns[:index], [], add_generation_prompt=True)
        start = self.turn_stops[index - 1] + len(opening)
        return start, max(start, self.turn_stops[index] - len(self._closing))

    def retract_answer(self) -> None:
        """Forget an answer that was not ended, and the KV of the prompt before it."""
        start = self.turn_stops[-2] if len(self.turn_stops) > 1 else 0
        self.drop(start, self.num_tokens)
        self._tokens = self._tokens[: self.turn_stops[-1]]
        self._frontier = min(self._frontier, start)

    def shorten_answer(self, stop: int) -> None:
        """Forget the tokens from a position on, all of an answer that was not ended."""
        self.drop(stop, self.num_tokens)
        self._tokens = self._tokens[:stop]
        self._frontier = min(self._frontier, stop)

    def begin_answer(self, max_tokens: int) -> None:
        """
        Append the tokens after which the assistant speaks, and make room for an answer.

        Raises
        ------
        ContextFullError
            The context cannot hold them and one token of an answer; nothing has changed.

        """
        tokens = self._chat.render_suffix(self.turns, [], add_generation_prompt=True)
        self._append(tokens, spare=1 + len(self._closing))
        self.engine.reserve(min(self.num_tokens + max_tokens, self.engine.capacity))

    def generate(
        self, sampler: Sampler, max_tokens: int, cancel: Event | None = None
    ) -> Iterator[int]:
        """
        Yield the tokens of an answer until it stops or has ``max_tokens``.

        The stop token is appended, not yielded. The caller ends the turn with `end_answer`,
        also when it stops asking early. An answer also ends where the context does.

        Raises
        ------
        InterruptedOperation
            ``cancel`` was set while the prompt was computed.

        """
        room = self.engine.capacity - self.num_tokens - len(self._closing)
        for _ in range(min(max_tokens, room)):
            logits = self.compute(self._frontier, self.num_tokens, LogitRows.LAST, cancel)
            token = sampler(logits[-1])
            self._append(np.array([token], np.int32))
            if token in self._stop_ids:
                return
            yield token

    def take_back_token(self) -> None:
        """Forget the last token of an answer, which is not computed yet."""
        assert self._frontier < self.num_tokens
        self._tokens = self._tokens[:-1]

    @property
    def is_answer_ended(self) -> bool:
        """Whether the last token is one that ends an answer."""
        return self.num_tokens > 0 and int(self._tokens[-1]) in self._stop_ids

    def end_answer(self, text: str, time_ms: int) -> Turn:
        """Close the assistant's turn as the template does and return it."""
        turn = Turn(role=Role.ASSISTANT, text=text, time_ms=time_ms)
        if self.is_answer_ended and len(self._closing):
            # The model may stop with another token than the template; it is not computed yet.
            self._tokens = self._tokens[:-1]
        self._append(self._closing)
        self._end_turn(turn)
        return turn

    def compute(
        self, start: int, stop: int, rows: LogitRows, cancel: Event | None = None
    ) -> FloatArray:
        """
        Compute the positions [start, stop) from what is resident before them.

        Returns
        -------
        FloatArray
            Logits, shape (R, V), of the rows asked for.

        """
        is_sound = self.is_sound(0, start)
        if not is_sound:
            # Before, because a run that is cancelled leaves what it had finished.
            self.provisional.add(start, stop)
        with self.timing(stop - start):
            logits = self.engine.run(self._tokens[start:stop], start, rows=rows, cancel=cancel)
        if is_sound:
            self.provisional.remove(start, stop)
        self.bridged.remove(start, stop)
        self._frontier = max(self._frontier, stop)
        return logits

    def repair(self, cancel: Event | None = None) -> Iterator[int]:
        """
        Compute what is not resident, and again what is provisional, in order.

        Yields
        ------
        int
            How many tokens have been computed since the last one; stopping early is safe.

        """
        for start, stop in self.unsound():
            for left in range(start, stop, REPAIR_SLICE):
                right = min(left + REPAIR_SLICE, stop)
                self.compute(left, right, LogitRows.NONE, cancel)
                yield right - left

    def _end_turn(self, turn: Turn) -> None:
        """Note a turn that ends here: with its position, or not at all."""
        try:
            self.turns.append(turn)
            self.turn_stops.append(self.num_tokens)
        except BaseException:
            del self.turns[len(self.turn_stops) :]
            raise

    def _check_room(self, num_tokens: int, *, spare: int) -> None:
        if num_tokens > self.engine.capacity - self.num_tokens - spare:
            raise ContextFullError(
                f'{num_tokens} more tokens do not fit: the context holds '
                f'{self.engine.capacity} and {self.num_tokens} are taken',
                hint='shorten the prompt, or begin a new window',
            )

    def _append(self, tokens: TokenArray, *, spare: int = 0) -> None:
        self._check_room(len(tokens), spare=spare)
        self._tokens = np.concatenate([self._tokens, tokens.astype(np.int32)])
