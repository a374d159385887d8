# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The one thread that owns the engine, and the work that waits for it; knows nothing of ROS.

A job is a generator: between two of its steps the worker looks for work that is more urgent. A
job that can stand still (a thaw, upkeep) does so while the other one runs; one that cannot (an
answer, whose tokens are on their way) is cancelled by a save and waits for nothing else.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
import logging
from threading import Condition, Event, Thread
import time
from typing import Generic, Protocol, TYPE_CHECKING, TypeVar

from cwm_ros.errors import CwmError, DeadlineError, EngineError, InterruptedOperation

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

log = logging.getLogger(__name__)

Owned = TypeVar('Owned')
Seen_contra = TypeVar('Seen_contra', contravariant=True)


class Urgency(IntEnum):
    """Who goes first; a lower number is more urgent."""

    SHUTDOWN = 0
    STORE = 1
    TALK = 2
    SAVE = 3
    THAW = 4
    UPKEEP = 5


class AfterStep(Protocol[Seen_contra]):
    """What is called after each step, and with ``is_end`` after each job."""

    def __call__(self, owned: Seen_contra, *, is_end: bool) -> None:
        """Look at what the worker owns; in its thread."""


@dataclass(eq=False, kw_only=True)
class Job(Generic[Owned]):
    """
    Work for the engine's thread.

    Parameters
    ----------
    name
        For people.
    urgency
        Who goes first.
    run
        Called in the worker's thread with what it owns and with `cancel`; each value it yields
        is a step, what it returns is the result.
    on_value, on_end
        Called in the worker's thread with each value, and at the end with the result or with
        what was raised.
    deadline_s
        When it must have ended, on the worker's clock [s]; `on_end` then gets a DeadlineError.
    cancel
        Set to end it early.
    is_timed
        Whether a long step means that something hangs.
    is_told
        Whether `on_end` was called; it is once.

    """

    name: str
    urgency: Urgency
    run: Callable[[Owned, Event], Generator[object, None, object]]
    on_value: Callable[[object], None] = field(default=lambda _value: None)
    on_end: Callable[[object, BaseException | None], None] = field(
        default=lambda _result, _error: None
    )
    deadline_s: float | None = None
    cancel: Event = field(default_factory=Event)
    is_timed: bool = True
    is_told: bool = False

    @property
    def can_stand_still(self) -> bool:
        """Whether other work may run between two steps, not only what touches the store alone."""
        return self.urgency is not Urgency.TALK


class Worker(Generic[Owned]):
    """
    Runs jobs, the most urgent first; idle work when there is none.

    Parameters
    ----------
    make
        Called in the worker's thread for what it owns; a context manager that the thread leaves
        when the worker is closed.
    idle
        Gives the steps of idle work; begun anew after each job, given up when a job comes.
    after_step
        Called in the worker's thread with what it owns after each step, and with ``is_end=True``
        after each job.
    clock
        Steady clock [s].

    Attributes
    ----------
    running
        Name of the job that runs, else empty.

    """

    def __init__(
        self,
        make: Callable[[], AbstractContextManager[Owned]],
        *,
        idle: Callable[[Owned], Generator[object, None, None]],
        after_step: AfterStep[Owned],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.running = ''
        self._make = make
        self._idle = idle
        self._after_step = after_step
        self._clock = clock
        self._jobs: deque[Job[Owned]] = deque()
        self._current: list[Job[Owned]] = []
        self._changed = Condition()
        self._is_closing = False
        self._step_began_s: float | None = None
        self._thread = Thread(target=self._live, name='cwm-engine', daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def step_age_s(self) -> float:
        """Return for how long the step that runs has been running [s]; 0 between steps."""
        began_s = self._step_began_s
        return 0.0 if began_s is None else self._clock() - began_s

    def submit(self, job: Job[Owned]) -> None:
        """
        Let a job run when its turn comes; called from any thread.

        Raises
        ------
        EngineError
            The worker is closed.

        """
        with self._changed:
            if self._is_closing:
                raise EngineError('the engine is closed', hint='activate the node again')
            self._jobs.append(job)
            if job.urgency is Urgency.SHUTDOWN:
                for running in self._current:
                    if not running.can_stand_still:
                        running.cancel.set()
            self._changed.notify()

    def cancel(self, *urgencies: Urgency) -> None:
        """Cancel the jobs of these urgencies, running and waiting; they end as cancelled."""
        with self._changed:
            for job in (*self._jobs, *self._current):
                if job.urgency in urgencies:
                    job.cancel.set()

    def is_busy_with(self, urgency: Urgency) -> bool:
        """Whether a job of this urgency runs or waits."""
        with self._changed:
            return any(job.urgency is urgency for job in (*self._jobs, *self._current))

    def give_up(self, error: CwmError) -> None:
        """
        Tell all jobs that they ended by an error, the one that hangs included; takes no more.

        Their ends are told in the caller's thread, for the worker's own does not answer.
        """
        with self._changed:
            self._is_closing = True
            jobs = [*self._current, *self._jobs]
            self._jobs.clear()
            for job in jobs:
                job.cancel.set()
        for job in jobs:
            self._tell_end(job, None, error)

    def close(self, timeout_s: float) -> bool:
        """Cancel everything and end the thread; say whether it ended in time."""
        with self._changed:
            self._is_closing = True
            for job in (*self._jobs, *self._current):
                job.cancel.set()
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- in the thread ------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            with self._make() as owned:
                self._after_step(owned, is_end=True)
                self._serve(owned)
        except CwmError as exc:
            log.error('the engine cannot be used: %s', exc)  # noqa: TRY400 - it says all
        except Exception:
            log.exception('the thread of the engine ended')
        finally:
            self._end_all(EngineError('the engine is closed', hint='activate the node again'))

    def _serve(self, owned: Owned) -> None:
        while (job := self._next(owned)) is not None:
            self._run(job, owned)

    def _next(self, owned: Owned) -> Job[Owned] | None:
        """Return the most urgent job, idling until there is one; None when closing."""
        idle = self._idle(owned)
        try:
            while True:
                with self._changed:
                    if self._is_closing and not self._jobs:
                        return None
                    if self._jobs:
                        return self._take(min(job.urgency for job in self._jobs))
                if self._idle_once(idle):
                    self._after_step(owned, is_end=False)
                else:
                    with self._changed:
                        if not self._jobs and not self._is_closing:
                            self._changed.wait()
                    idle.close()
                    idle = self._idle(owned)
        finally:
            idle.close()

    def _idle_once(self, idle: Generator[object, None, None]) -> bool:
        try:
            with self._step():
                next(idle)
        except StopIteration:
            return False
        except CwmError as exc:
            log.warning('idle work failed: %s', exc)
            return False
        return True

    def _take(self, urgency: Urgency) -> Job[Owned]:
        job = next(job for job in self._jobs if job.urgency is urgency)
        self._jobs.remove(job)
        return job

    def _run(self, job: Job[Owned], owned: Owned) -> None:
        self._current.append(job)
        self.running = job.name
        result: object = None
        error: Exception | None = None
        try:
            result = self._run_steps(job, owned)
            if job.cancel.is_set() and result is None:
                error = InterruptedOperation(f'{job.name} was cancelled')
        except Exception as exc:  # noqa: BLE001 - the caller has to learn of whatever it was
            error = exc
        if error is not None and self._is_overdue(job):
            error = DeadlineError(f'{job.name} did not end in time')
        self._current.remove(job)
        self.running = self._current[-1].name if self._current else ''
        try:
            self._after_step(owned, is_end=True)  # first, so that who is told the end sees it
        except Exception:
            log.exception('what there is after %s cannot be seen', job.name)
        self._tell_end(job, result, error)

    def _run_steps(self, job: Job[Owned], owned: Owned) -> object:
        if job.cancel.is_set() or self._is_overdue(job):
            return None
        steps = job.run(owned, job.cancel)
        while True:
            try:
                with self._step(is_timed=job.is_timed):
                    value = next(steps)
            except StopIteration as end:
                return end.value
            job.on_value(value)
            self._after_step(owned, is_end=False)
            self._let_pass(job, owned)
            if self._is_overdue(job):
                job.cancel.set()

    def _let_pass(self, job: Job[Owned], owned: Owned) -> None:
        """Run what is more urgent than a job, between two of its steps."""
        while True:
            with self._changed:
                waiting = [
                    other.urgency
                    for other in self._jobs
                    if other.urgency < job.urgency
                    and (job.can_stand_still or other.urgency is Urgency.STORE)
                ]
                if not waiting:
                    return
                other = self._take(min(waiting))
            self._run(other, owned)

    def _is_overdue(self, job: Job[Owned]) -> bool:
        if job.deadline_s is None or self._clock() < job.deadline_s:
            return False
        job.cancel.set()
        return True

    @contextmanager
    def _step(self, *, is_timed: bool = True) -> Iterator[None]:
        """Note when a step began, for the watchdog."""
        self._step_began_s = self._clock() if is_timed else None
        try:
            yield
        finally:
            self._step_began_s = None

    def _tell_end(self, job: Job[Owned], result: object, error: BaseException | None) -> None:
        with self._changed:
            was_told, job.is_told = job.is_told, True
        if was_told:
            return
        try:
            job.on_end(result, error)
        except Exception:
            log.exception('the end of %s could not be told', job.name)

    def _end_all(self, error: CwmError) -> None:
        with self._changed:
            self._is_closing = True
            jobs, self._jobs = list(self._jobs), deque()
        for job in jobs:
            self._tell_end(job, None, error)
