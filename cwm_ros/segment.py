# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What a conversation goes on with when its context is full.

A new segment begins at position 0 with the system prompt and the recent whole turns, from one of
the user on. All turns stay in the window; those that are left behind are not before the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from cwm_ros.errors import ContextFullError
from cwm_ros.kv import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.kv import Turn
    from cwm_ros.session import Session

    NewSession = Callable[[int, int], Session]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStarted:
    """
    The context was full, and a new segment began.

    Parameters
    ----------
    first_turn
        Number of the window's first turn that the segment holds, beside the system prompt.
    left_behind
        How many turns the segment before held that this one does not.
    carried
        How many turns it goes on with, the system prompt not counted.
    tokens
        Their length, the system prompt's included.

    """

    first_turn: int
    left_behind: int
    carried: int
    tokens: int

    def __str__(self) -> str:
        return (
            f'the context was full: the assistant goes on with the system prompt and the last '
            f'{self.carried} turns ({self.tokens} tokens); {self.left_behind} older turns are '
            f'kept in the window, but it does not see them'
        )


def head_of(turns: Sequence[Turn]) -> int:
    """Return how many of a window's turns every segment begins with: its system prompt, if any."""
    return int(bool(turns) and turns[0].role is Role.SYSTEM)


def turn_lengths(session: Session) -> list[int]:
    """Return the length of each turn of a session [tokens]."""
    return [stop - start for start, stop in pairwise((0, *session.turn_stops))]


def begin_segment(
    new_session: NewSession,
    head: Sequence[Turn],
    turns: Sequence[Turn],
    lengths: Sequence[int],
    *,
    stop_turn: int,
    keep_tokens: int,
) -> Session:
    """
    Return a session of the next segment; the one before is as it was.

    Parameters
    ----------
    new_session
        Makes an empty session from its ``head`` and ``first_turn``.
    head
        What every segment begins with; see `head_of`.
    turns, lengths
        Candidates, which are the window's last turns, and about how long each is [tokens].
    stop_turn
        The window's number behind the last of them.
    keep_tokens
        Most tokens of turns that are carried over.

    Raises
    ------
    ContextFullError
        The context does not even hold ``head``.

    """
    room, start = keep_tokens, len(turns)
    while start and lengths[start - 1] <= room:
        start -= 1
        room -= lengths[start]
    while True:
        start = _next_prompt(turns, start)
        session = new_session(len(head), stop_turn - len(turns) + start)
        for turn in head:
            session.add_turn(turn)
        most = session.num_tokens + keep_tokens
        try:
            for turn in turns[start:]:
                session.add_turn(turn)
        except ContextFullError:
            start += 1
            continue
        if start == len(turns) or session.num_tokens <= most:
            return session
        start += 1


def _next_prompt(turns: Sequence[Turn], start: int) -> int:
    while start < len(turns) and turns[start].role is not Role.USER:
        start += 1
    return start
