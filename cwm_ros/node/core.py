# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The assistant behind the node: a manager in the engine's thread, and what others may see of it.

All methods are called from any thread and return at once, except `open` and `close`. Knows
nothing of ROS.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
import logging
from threading import Event
import time
from typing import TYPE_CHECKING

from cwm_ros.config import MIB
from cwm_ros.errors import BusyError, CwmError, EngineError
from cwm_ros.manager import Manager
from cwm_ros.node import jobs, wake
from cwm_ros.node.state import look, Phase, see_shelf, Shelf, View
from cwm_ros.node.thaw_report import state_of
from cwm_ros.node.worker import Job, Urgency, Worker
from cwm_ros.review import Review
from cwm_ros.runtime import check_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from cwm_ros.config import Settings
    from cwm_ros.node.thaw_report import ThawReport

    Run = Callable[[Manager, Event], Generator[object, None, object]]
    OnValue = Callable[[object], None]
    OnEnd = Callable[[object, BaseException | None], None]

log = logging.getLogger(__name__)

MIN_LOOK_S = 0.05


class Core:
    """
    A manager that works in a thread of its own.

    Parameters
    ----------
    settings, profile
        Of the manager.
    on_change
        Called in the engine's thread when `view` or `shelf` changed.
    report
        Follows thaws.
    problem
        Why no engine is to be loaded; empty: load it.
    clock
        Steady clock [s].

    Attributes
    ----------
    view, shelf
        What the engine's thread last saw of itself and of the store.
    problem
        Why there is no engine; empty while it is loaded or loading.
    kept
        Whether what memory holds may be relied on.
    on_review
        Called in the engine's thread with a window and what became of one of its answers.

    """

    EMPTY = View(), Shelf()

    def __init__(
        self,
        settings: Settings,
        *,
        profile: str,
        on_change: Callable[[], None],
        report: ThawReport,
        problem: str = '',
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.profile = profile
        self.view = View()
        self.shelf = Shelf()
        self.problem = problem
        self.on_review: Callable[[str, Review], None] = lambda _window, _review: None
        self.kept = wake.Kept(wake.asleep_s)
        self._manager: Manager | None = None
        self._on_change = on_change
        self._report = report
        self._is_resting = False
        self._clock = clock
        self._looked_s = -MIN_LOOK_S
        self._generation = 0
        self._is_entry_due = False
        self._opened = Event()
        self._open_error: CwmError | None = None
        self._worker: Worker[Manager] = Worker(
            self._make, idle=self._idle, after_step=self._after_step, clock=clock
        )

    # --- life ---------------------------------------------------------------------------------

    def open(self, timeout_s: float) -> None:
        """
        Open the store, and begin to load the model, unless there is a problem.

        Raises
        ------
        CwmError
            The store cannot be opened.
        BusyError
            It took longer than ``timeout_s``.

        """
        self._worker.start()
        if not self.problem:
            load = Job(
                name='load the engine',
                urgency=Urgency.STORE,
                run=jobs.load_engine,
                on_end=self._engine_loaded,
                is_timed=False,
            )
            self._worker.submit(load)
        if not self._opened.wait(timeout_s):
            raise BusyError(f'the store was not open within {timeout_s} s', hint='try again')
        if self._open_error is not None:
            raise self._open_error

    def close(self, timeout_s: float) -> bool:
        """End the engine's thread; say whether it ended in time."""
        return self._worker.close(timeout_s)

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._worker.is_alive

    def step_age_s(self) -> float:
        """Return for how long the engine has been at one step [s]."""
        return self._worker.step_age_s()

    def secure_turns(self) -> None:
        """Make durable what was said, whatever the engine's thread does; what fails is logged."""
        manager = self._manager
        try:
            if manager is not None:
                manager.secure_turns()
        except CwmError as exc:
            log.error('what was said last is not durable: %s', exc)  # noqa: TRY400

    def give_up(self, error: CwmError) -> None:
        """End all work by an error, for the engine's thread does not answer."""
        self._worker.give_up(error)

    @property
    def phase(self) -> Phase:
        """What the assistant is doing."""
        if self.problem:
            return Phase.STORE_ONLY
        if not self.is_alive:
            return Phase.STORE_ONLY
        if self.is_busy_with(Urgency.SHUTDOWN):
            return Phase.FREEZING
        return Phase.THAWING if self.is_unchecked else self.view.phase

    @property
    def is_unchecked(self) -> bool:
        """Whether a window is open that was asleep in memory, and not checked since."""
        return self.view.has_engine and bool(self.view.window) and self.kept.is_doubted

    # --- work ---------------------------------------------------------------------------------

    def submit(
        self,
        name: str,
        urgency: Urgency,
        run: Run,
        *,
        on_value: OnValue = lambda _value: None,
        on_end: OnEnd,
        deadline_s: float | None = None,
    ) -> Job[Manager]:
        """
        Let the engine's thread do something; both callbacks are called there.

        Parameters
        ----------
        deadline_s
            From now [s]; None for no deadline.

        Raises
        ------
        EngineError
            The assistant is closed, or needs an engine that could not be loaded.

        """
        self.check(urgency)
        job: Job[Manager] = Job(
            name=name,
            urgency=urgency,
            run=partial(self._run, urgency, run),
            on_value=on_value,
            on_end=on_end,
            deadline_s=None if deadline_s is None else self._clock() + deadline_s,
        )
        self._worker.submit(job)
        return job

    def check_memory(self) -> None:
        """Raise OutOfMemoryError when a thaw would leave too little memory for others."""
        staging_bytes = self.settings.thaw.staging_mib * MIB
        check_memory(self.settings.runtime, wanted_bytes=staging_bytes)

    def check(self, urgency: Urgency) -> None:
        """Raise EngineError when work of this urgency needs an engine and there is none."""
        if self.problem and urgency in (Urgency.TALK, Urgency.THAW):
            raise EngineError(self.problem)

    @property
    def is_idle(self) -> bool:
        """Whether no work runs or waits."""
        return not any(self._worker.is_busy_with(urgency) for urgency in Urgency)

    def is_busy_with(self, urgency: Urgency) -> bool:
        """Whether work of this urgency runs or waits."""
        return self._worker.is_busy_with(urgency)

    def cancel(self, *urgencies: Urgency) -> None:
        """Cancel the work of these urgencies."""
        self._worker.cancel(*urgencies)

    def note_thaw(self) -> None:
        """Count a thaw; called in the engine's thread when one begins."""
        self._generation += 1
        self._is_entry_due = True

    def rest(self) -> None:
        """Leave a thaw that was cancelled alone until something needs it."""
        self._is_resting = True

    def take_entry(self) -> bool:
        """Say once after each thaw that the assistant has to be told what is now."""
        is_due, self._is_entry_due = self._is_entry_due, False
        return is_due

    # --- in the engine's thread ---------------------------------------------------------------

    @contextmanager
    def _make(self) -> Iterator[Manager]:
        try:
            manager = Manager(self.settings, profile=self.profile, defer_engine=True)
        except CwmError as exc:
            self._open_error = exc
            self._opened.set()
            raise
        with manager:
            self._manager = manager
            self._see_shelf(manager)
            self._opened.set()
            try:
                yield manager
            finally:
                self._manager = None

    def _run(
        self, urgency: Urgency, run: Run, manager: Manager, cancel: Event
    ) -> Generator[object, None, object]:
        if urgency in (Urgency.TALK, Urgency.THAW):
            self._is_resting = False
        else:
            self._report.pause()
        if urgency not in (Urgency.STORE, Urgency.UPKEEP) and self.kept.is_doubted:
            yield from jobs.check_kept(manager, self.note_thaw)
            self.kept.trust()
            self._on_change()
        return (yield from run(manager, cancel))

    def _engine_loaded(self, _result: object, error: BaseException | None) -> None:
        if error is not None:
            log.error('the model cannot be loaded: %s', error)
            self.problem = f'the model cannot be loaded: {error}'
        self._on_change()

    @property
    def _may_work_on(self) -> bool:
        return not self._is_resting and not self.kept.is_doubted

    def _idle(self, manager: Manager) -> Generator[object, None, None]:
        if manager.has_engine and manager.window and self._may_work_on:
            for value in manager.idle():
                if isinstance(value, Review):
                    self.on_review(manager.window, value)
                yield value
                if self.kept.is_doubted:
                    return

    def _after_step(self, owned: Manager, *, is_end: bool) -> None:
        if is_end:
            self._see_shelf(owned)
        elif self._clock() - self._looked_s < MIN_LOOK_S and not self._is_edge(owned):
            return
        self._look(owned)

    def _look(self, manager: Manager) -> None:
        self._looked_s = self._clock()
        seen, before = look(manager, self._generation), self.view
        if seen == before:
            return
        self.view = seen
        is_left = (before.window, before.generation) != (seen.window, seen.generation)
        if is_left and before.progress is not None:
            self._report.leave(before.window, before.generation, before.progress)
        if seen.progress is not None:
            self._report.move(seen.window, seen.generation, seen.progress)
        self._on_change()

    def _is_edge(self, manager: Manager) -> bool:
        """Say whether a thaw has become usable or complete, which is seen at once."""
        thaw, before = manager.thaw, self.view.progress
        if thaw is None or (before is not None and before.is_complete):
            return False
        return before is None or state_of(thaw.progress()) is not state_of(before)

    def _see_shelf(self, manager: Manager) -> None:
        shelf = see_shelf(manager.store, self.shelf)
        if shelf != self.shelf:
            self.shelf = shelf
            self._on_change()
