# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What an answer waits for: what makes a window usable, and what its prompt is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.plan import prioritize
from cwm_ros.relevance import relevance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.kv import TokenRanges
    from cwm_ros.plan import ThawStep
    from cwm_ros.session import Session

    Closeness = Callable[[int, int], float]


class Wanted:
    """
    Which steps of a thaw are waited for, and in what order the others would help.

    Parameters
    ----------
    steps
        Of the thaw, in the order of its plan.
    chunk_tokens
        Length of a chunk [tokens].

    Attributes
    ----------
    steps
        As they are by now: a chunk that was lost is one to be computed.
    usable
        First positions of the steps that make the window usable.
    starts
        First positions of those that are waited for.

    """

    def __init__(self, steps: Sequence[ThawStep], chunk_tokens: int) -> None:
        self.steps = tuple(steps)
        self.usable = {step.start for step in steps if step.is_usable_part}
        self.starts = self.usable
        self._chunk_tokens = chunk_tokens
        self._by_relevance = self.steps
        self._by_start = {step.start: step for step in steps}

    def get(self, start: int) -> ThawStep | None:
        """Return the step that begins at a position."""
        return self._by_start.get(start)

    def file_bytes(self, starts: set[int]) -> int:
        """Return the size of the files of some steps [bytes]."""
        entries = (self._by_start[start].entry for start in starts)
        return sum(entry.file_bytes for entry in entries if entry)

    def has_arrived(self, resident: TokenRanges) -> bool:
        """Say whether nothing is waited for any more."""
        wanted = (self._by_start[start] for start in self.starts)
        return all(resident.covers(step.start, step.stop) for step in wanted)

    def ask(self, prompt: str, session: Session, count: int) -> Sequence[ThawStep]:
        """
        Wait for the ``count`` chunks most relevant to a prompt; return the order that this gives.

        The best chunks of the whole window count, also those that have arrived meanwhile.
        """
        num_tokens = max((step.stop for step in self.steps), default=0)
        stops = [stop for stop in session.turn_stops if stop <= num_tokens]
        found = relevance(prompt, session.turns, stops, self._chunk_tokens)
        scores = np.zeros(-(-num_tokens // self._chunk_tokens))
        scores[: len(found)] = found
        order, num_wanted = prioritize(
            self.steps, scores, chunk_tokens=self._chunk_tokens, count=count
        )
        self.starts = {
            step.start for step in order[:num_wanted] if step.entry or step.is_usable_part
        }
        self._by_relevance = order
        return order

    def ask_more(
        self, resident: TokenRanges, count: int, closeness: Closeness | None = None
    ) -> Sequence[ThawStep]:
        """
        Wait for ``count`` absent chunks more; return the order that this gives.

        They are the closest ones, else the next. Without any the order is empty.
        """
        absent = [
            step
            for step in self._by_relevance
            if self._by_start[step.start].entry and not resident.covers(step.start, step.stop)
        ]
        if closeness is not None:
            absent.sort(key=lambda step: -closeness(step.start, step.stop))
        self.starts = self.starts | {step.start for step in absent[:count]}
        if not absent:
            return ()
        return sorted(self._by_relevance, key=lambda step: step.start not in self.starts)

    def lose(self, step: ThawStep) -> ThawStep:
        """Return a step whose chunk cannot be loaded as one to compute."""
        lost = step.computed('could not be loaded')
        self.steps = tuple(lost if s.start == step.start else s for s in self.steps)
        self._by_start[step.start] = lost
        if not step.is_usable_part:
            # Computing it before the chunks in front of it are there would not help an answer.
            self.starts = self.starts - {step.start}
        return lost
