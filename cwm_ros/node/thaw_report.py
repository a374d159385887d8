# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What is told of a thaw: every edge of its state, and in between how far it is; knows no ROS.

The engine's thread says what it sees; another thread takes what is to be told. Nothing is lost in
between: an edge that is followed by the next one at once is told, too.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import IntEnum
from threading import Lock
from typing import TYPE_CHECKING

from cwm_ros.errors import InterruptedOperation

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.progress import ThawProgress

MIN_GAP_S = 0.05
"""Between two reports without an edge."""
MAX_WAITING = 1000
"""Reports that nobody takes."""


class ThawState(IntEnum):
    """The numbers of cwm_interfaces/ThawProgress."""

    QUEUED = 0
    LOADING = 1
    USABLE = 2
    COMPLETE = 3
    PAUSED = 4
    CANCELLED = 5
    FAILED = 6


MOVING = (ThawState.LOADING, ThawState.USABLE)


def state_of(progress: ThawProgress) -> ThawState:
    """Return the state of a thaw that moves."""
    if progress.is_complete:
        return ThawState.COMPLETE
    return ThawState.USABLE if progress.is_usable else ThawState.LOADING


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """
    One thing to tell.

    Parameters
    ----------
    state
        Of the thaw.
    window, generation
        Which thaw it is.
    progress
        How far it is; None when it has not begun.

    """

    state: ThawState
    window: str
    generation: int
    progress: ThawProgress | None = None


class ThawReport:
    """
    Follows the thaws of a node; called from any thread.

    Parameters
    ----------
    wake
        Called when there is something to tell.
    clock
        Steady clock [s].

    """

    def __init__(self, wake: Callable[[], None], clock: Callable[[], float]) -> None:
        self._wake = wake
        self._clock = clock
        self._lock = Lock()
        self._last: Report | None = None
        self._told_s = -MIN_GAP_S
        self._generation = 0
        self._waiting: deque[Report] = deque(maxlen=MAX_WAITING)

    def take(self) -> list[Report]:
        """Return what is to be told, oldest first."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
        return taken

    def queue(self, window: str, generation: int, progress: ThawProgress | None) -> None:
        """Note that a thaw waits; with its progress when it has been going on before."""
        state = ThawState.QUEUED
        report = Report(state=state, window=window, generation=generation, progress=progress)
        with self._lock:
            self._generation = generation
            self._tell(report)
        self._wake()

    def move(self, window: str, generation: int, progress: ThawProgress) -> None:
        """Note how far a thaw is, whoever advances it."""
        state = state_of(progress)
        now = Report(state=state, window=window, generation=generation, progress=progress)
        with self._lock:
            last = self._last
            is_same = last is not None and (last.window, last.generation) == (window, generation)
            if is_same and last is not None and not _has_moved(last, now):
                return
            is_edge = not is_same or last is None or state is not last.state
            if is_edge or self._clock() - self._told_s >= MIN_GAP_S:
                self._tell(now)
            else:
                self._last = now
        self._wake()

    def pause(self) -> None:
        """Note that other work has taken a thaw's place."""
        with self._lock:
            if self._last is None or self._last.state not in MOVING:
                return
            self._tell(replace(self._last, state=ThawState.PAUSED))
        self._wake()

    def end(self, window: str, error: BaseException | None) -> None:
        """Note how the work for a thaw ended."""
        with self._lock:
            last = self._last
            if last is None or last.window != window:
                last = Report(state=ThawState.QUEUED, window=window, generation=self._generation)
            if error is not None:
                is_cancelled = isinstance(error, InterruptedOperation)
                state = ThawState.CANCELLED if is_cancelled else ThawState.FAILED
            elif last.progress is None or last.state in (*MOVING, ThawState.COMPLETE):
                return
            else:  # there was nothing to do
                state = state_of(last.progress)
            self._tell(replace(last, state=state))
        self._wake()

    def leave(self, window: str, generation: int, progress: ThawProgress) -> None:
        """Note that a thaw does not go on, because its window was left."""
        left = Report(
            state=ThawState.CANCELLED, window=window, generation=generation, progress=progress
        )
        with self._lock:
            last = self._last
            is_told = last is not None and replace(last, progress=progress) == left
            if progress.is_complete or is_told:
                return
            self._tell(left)
        self._wake()

    def _tell(self, report: Report) -> None:
        self._last, self._told_s = report, self._clock()
        self._waiting.append(report)


def _has_moved(before: Report, now: Report) -> bool:
    """Say whether a thaw is elsewhere than it was; time alone does not count."""
    was, after = before.progress, now.progress
    if was is None or after is None:
        return True
    if before.state in (*MOVING, ThawState.COMPLETE) and before.state is not now.state:
        return True
    if before.state is ThawState.COMPLETE:
        return False
    return _without_time(was) != _without_time(after)


def _without_time(progress: ThawProgress) -> ThawProgress:
    return replace(progress, elapsed_s=0.0, remaining_s=None)
