# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the full context would have answered, where an answer was given without it.

The answer is computed again over the whole context, which repairs its KV and tells how likely each
of its words is there. The record stays as it was said; a review says what to say instead.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.abstention import words_of
from cwm_ros.engine import LogitRows
from cwm_ros.kv import Role
from cwm_ros.probe import log_softmax
from cwm_ros.session import REPAIR_SLICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from threading import Event

    from cwm_ros.abstention import Abstentions
    from cwm_ros.kv import FloatArray, Turn
    from cwm_ros.model import Tokenizer
    from cwm_ros.session import Session
    from cwm_ros.store import Manifest

AGREED_NATS = 1.0
"""An answer that is so much less likely than the greedy one is as good."""
COMMON_TURNS = 5
COMMON_SHARE = 0.1
"""A word that stands in more turns than both say is wording, not content."""


class ReviewVerdict(Enum):
    """Whether an answer holds."""

    CONFIRMED = 'confirmed'
    CHANGED = 'changed'


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """
    An answer that is to be reviewed.

    Parameters
    ----------
    turn
        Its number in the window.
    is_cut
        Whether it was ended by its length or the caller: then it may be the beginning of a right
        answer.
    is_provisional
        Whether context was missing; otherwise it is reviewed only if the restore failed.

    """

    turn: int
    is_cut: bool
    is_provisional: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """
    What became of an answer when all context was there.

    Parameters
    ----------
    turn
        Its number in the window.
    verdict
        CONFIRMED, or CHANGED when another answer is right now.
    said, text
        What was said, which stays on the record; and what the full context answers.
    gap
        How much less likely what was said is than that [nats].

    """

    turn: int
    verdict: ReviewVerdict
    said: str
    text: str
    gap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewer:
    """
    Reviews answers of one session.

    Parameters
    ----------
    session
        All of its window is there, some of it provisional.
    tokenizer, stop_ids, abstentions
        Of the model.
    max_tokens
        Longest answer [tokens].

    """

    session: Session
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    abstentions: Abstentions
    max_tokens: int

    def review(self, spoken: Spoken, cancel: Event | None = None) -> Iterator[int | Review]:
        """
        Make all sound up to an answer, then judge it; the last value is the `Review`.

        There is none when the answer's segment is over. When it is left in the middle, what is
        not sound is known to be so, and the review can be asked for again.
        """
        session = self.session
        index = session.head + spoken.turn - session.first_turn
        if not max(session.head, 1) <= index < len(session.turns):
            return
        start, stop = session.answer_bounds(index)
        for left, right in list(session.unsound().overlap(0, start - 1)):
            for at in range(left, right, REPAIR_SLICE):
                session.compute(at, min(at + REPAIR_SLICE, right), LogitRows.NONE, cancel)
                yield len(session.unsound())
        yield self._judge(spoken, index, start, stop, cancel)

    def _judge(
        self, spoken: Spoken, index: int, start: int, stop: int, cancel: Event | None
    ) -> Review:
        """Compare an answer's tokens [start, stop) with what the context says now."""
        session, said = self.session, self.session.turns[index].text
        if not spoken.is_cut:
            stop = min(stop + 1, session.turn_stops[index])  # that it ended counts as well
        logits = session.compute(start - 1, max(stop - 1, start), LogitRows.ALL, cancel)
        scores = log_softmax(logits)[: stop - start]
        of_said = scores[np.arange(len(scores)), session.tokens[start:stop]]
        if float((scores.max(axis=1) - of_said).sum()) <= 0:
            text, gap = said, 0.0  # word by word what is likeliest
        else:
            text, of_text = self._answer(start, logits[0])
            gap = of_text - float(of_said.sum())
            if spoken.is_cut and text.startswith(said):
                gap = 0.0
        turns = session.turns
        is_other = gap > AGREED_NATS and self._differ(
            said, text, turns[index - 1].text, turns, is_cut=spoken.is_cut
        )
        verdict = ReviewVerdict.CHANGED if is_other else ReviewVerdict.CONFIRMED
        return Review(turn=spoken.turn, verdict=verdict, said=said, text=text, gap=gap)

    def _answer(self, start: int, logits: FloatArray) -> tuple[str, float]:
        """Return the greedy answer at a position, and its log probability; it leaves no trace."""
        engine, position, total = self.session.engine, start, 0.0
        said: list[int] = []
        try:
            while len(said) < self.max_tokens:
                scores = log_softmax(logits[np.newaxis])[0]
                token = int(scores.argmax())
                total += float(scores[token])
                if token in self.stop_ids or position >= engine.capacity:
                    break
                said.append(token)
                logits = engine.run(np.array([token], np.int32), position)[-1]
                position += 1
        finally:
            self.session.drop(start, max(position, start))
        return self.tokenizer.decode(said).strip(), total

    def _differ(
        self, said: str, text: str, prompt: str, turns: Sequence[Turn], *, is_cut: bool
    ) -> bool:
        """Say whether two answers to a prompt differ in content, not in wording alone."""
        is_blank = [self.abstentions.is_one(answer) for answer in (said, text)]
        if any(is_blank):
            return not all(is_blank)
        first, second = words_of(said), words_of(text)
        if first == second or (is_cut and first == second[: len(first)]):
            return False
        content = content_filter(turns, prompt)
        return content(first) != content(second)


def content_filter(turns: Sequence[Turn], prompt: str) -> Callable[[Iterable[str]], list[str]]:
    """
    Return what keeps the words that carry content, in order, each once.

    They are those with a digit, and those that few turns hold and that the prompt does not.
    """
    counts = Counter(word for turn in turns for word in set(words_of(turn.text)))
    limit = max(COMMON_TURNS, COMMON_SHARE * len(turns))
    asked = set(words_of(prompt))

    def is_content(word: str) -> bool:
        has_digit = any(letter.isdigit() for letter in word)
        return has_digit or (counts[word] <= limit and word not in asked)

    return lambda words: list(dict.fromkeys(word for word in words if is_content(word)))


def answers_in(session: Session, manifest: Manifest) -> list[Spoken]:
    """Return the answers of an earlier cycle that were frozen before they were reviewed."""
    ranges, found = manifest.provisional, []
    if not np.array_equal(session.tokens[: len(manifest.tokens)], manifest.tokens):
        return []
    for index in range(max(session.head, 1), len(session.turns)):
        start, stop = session.turn_stops[index - 1], session.turn_stops[index]
        is_touched = any(max(a, start) < min(b, stop) for a, b in ranges)
        if is_touched and session.turns[index].role is Role.ASSISTANT:
            number = session.first_turn + index - session.head
            found.append(Spoken(turn=number, is_cut=False))
    return found
