# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ignition: at ON the window comes back, at OFF it is saved; knows nothing of ROS."""

from __future__ import annotations

import logging
from threading import RLock
from typing import Protocol, TYPE_CHECKING

from cwm_ros.errors import CwmError, InterruptedOperation
from cwm_ros.ignition import Edge, Ignition, IgnitionTracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.manager import Manager
    from cwm_ros.node.core import OnEnd
    from cwm_ros.node.worker import Job

log = logging.getLogger(__name__)


class BeginSave(Protocol):
    """What begins a save within a budget [s] and returns at once."""

    def __call__(self, budget_s: float, *, on_end: OnEnd) -> Job[Manager]:
        """Begin it; raises CwmError when nothing can be saved."""


class IgnitionWatch:
    """
    The ignition, debounced, and the save that it began.

    Parameters
    ----------
    thaw
        Brings the default window back, for a reason.
    begin_save
        Saves the open window.
    clock
        Steady clock [s].

    """

    def __init__(
        self,
        thaw: Callable[[str], None],
        begin_save: BeginSave,
        clock: Callable[[], float],
    ) -> None:
        self._thaw = thaw
        self._begin_save = begin_save
        self._clock = clock
        self._lock = RLock()
        self._tracker = IgnitionTracker()
        self._cut_s: float | None = None
        self._saving: Job[Manager] | None = None

    @property
    def is_on(self) -> bool | None:
        """Whether the vehicle is on; None until a position has told."""
        return self._tracker.is_on

    def take(self, position: Ignition, cut_s: float | None, *, is_active: bool) -> None:
        """
        Take the position, and how long power stays at OFF [s].

        At ON a save that runs finishes its chunk and ends; the default window comes back if the
        node is active.
        """
        with self._lock:
            self._tracker, edge = self._tracker.after(position, self._clock())
            self._cut_s = cut_s
            if edge is not Edge.ON:
                return
            saving, self._saving = self._saving, None
        if saving is not None:
            saving.cancel.set()
        if is_active:
            self._thaw('the ignition is on')

    def tick(self, debounce_s: float) -> bool:
        """Let time pass; say whether OFF counts from now on."""
        with self._lock:
            self._tracker, edge = self._tracker.tick(self._clock(), debounce_s)
        return edge is Edge.OFF

    def save(self, budget_s: float) -> None:
        """Save because the ignition is off; what fails is logged, and the session stays open."""
        cut_s = self._cut_s

        def end(saved: object, error: BaseException | None) -> None:
            if isinstance(error, InterruptedOperation):
                log.info('the ignition is on again; what was saved until then counts')
            elif error is not None:
                log.error('the ignition is off, but the save did not end: %s', error)
            else:
                log.info('the ignition is off, saved: %s', saved)

        try:
            saving = self._begin_save(min(budget_s, cut_s) if cut_s else budget_s, on_end=end)
        except CwmError as exc:
            log.error('the ignition is off, but nothing is saved: %s', exc)  # noqa: TRY400
            return
        with self._lock:
            self._saving = saving
