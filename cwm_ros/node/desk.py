# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The session that is open, and the way to its engine; knows nothing of ROS."""

from __future__ import annotations

from functools import partial
from threading import Lock, Thread
from typing import cast, TYPE_CHECKING

from cwm_ros.errors import BusyError, EngineHungError, NotActiveError
from cwm_ros.node import jobs
from cwm_ros.node.waiting import Waiting
from cwm_ros.node.worker import Urgency

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.config import Settings
    from cwm_ros.manager import Manager
    from cwm_ros.node.core import Core, OnEnd, OnValue, Run
    from cwm_ros.node.state import Shelf
    from cwm_ros.node.worker import Job

CALL_TIMEOUT_S = 5.0
SAVE_GRACE_S = 2.0
"""A chunk that was begun is finished."""


class Desk:
    """
    Takes work for the engine's thread, and says what it last saw.

    Parameters
    ----------
    wake
        Called, from any thread, when something changed.
    clock
        Steady clock [s].

    Attributes
    ----------
    core
        The manager's thread; None before configure and after cleanup.
    kept
        What the store held when an error ended the core; None while there was none.
    is_active
        Whether goals are served.
    is_hung
        Whether the watchdog gave the engine up.

    """

    def __init__(self, wake: Callable[[], None], clock: Callable[[], float]) -> None:
        self.core: Core | None = None
        self.kept: Shelf | None = None
        self.is_active = False
        self.is_hung = False
        self._settings: Settings | None = None
        self._wake = wake
        self._clock = clock
        self._starting = Lock()

    @property
    def settings(self) -> Settings:
        """Of the last configure."""
        if self._settings is None:
            raise NotActiveError('the node is not configured', hint='configure it first')
        return self._settings

    @property
    def was_configured(self) -> bool:
        """Whether there are settings."""
        return self._settings is not None

    def use(self, settings: Settings) -> None:
        """Take settings: all at configure, later those of which a change counts at once."""
        self._settings = settings

    # --- work ---------------------------------------------------------------------------------

    def need_core(self) -> Core:
        """Return the core; raise NotActiveError or EngineHungError when there is none."""
        if self.is_hung:
            raise EngineHungError('the engine does not answer', hint='the node is restarted')
        if self.core is None:
            raise NotActiveError('the node is not configured', hint='configure it first')
        return self.core

    def need_active(self) -> Core:
        """Return the core of an active node; raises as `need_core`."""
        core = self.need_core()
        if not self.is_active:
            raise NotActiveError('the node is not active', hint='activate it first')
        return core

    def start(
        self,
        name: str,
        urgency: Urgency,
        run: Run,
        *,
        on_value: OnValue = lambda _value: None,
        on_end: OnEnd,
        is_single: bool = False,
        on_accept: Callable[[], None] = lambda: None,
    ) -> Job[Manager]:
        """
        Have the engine's thread do something.

        Parameters
        ----------
        is_single
            Refuse it while other work of this urgency runs or waits.
        on_accept
            Called before it may begin, when it is not refused.

        Raises
        ------
        NotActiveError, BusyError, EngineError
            It cannot run now.

        """
        core = self.need_active()
        with self._starting:
            if is_single and core.is_busy_with(urgency):
                raise BusyError(
                    f'cannot {name} now: another one is running', hint='wait, or cancel it'
                )
            core.check(urgency)
            on_accept()
            return core.submit(name, urgency, run, on_value=on_value, on_end=on_end)

    def call(self, name: str, run: Callable[[Manager], object]) -> object:
        """
        Have the engine's thread do something short with the store, and wait for it.

        Raises
        ------
        CwmError
            As the work raised; BusyError when the engine did not come to it in time.

        """
        waiting = Waiting()
        self.need_core().submit(name, Urgency.STORE, jobs.short(run), on_end=waiting.end)
        return waiting.take(CALL_TIMEOUT_S, name)

    def save(
        self,
        budget_s: float,
        *,
        is_ram_kept: bool = False,
        on_value: OnValue = lambda _value: None,
    ) -> jobs.SaveResult:
        """
        Save the open window within a budget [s]; waits for it, and little longer.

        What was said is durable first, whatever the engine does. With ``is_ram_kept`` the machine
        is about to sleep: what memory holds is checked before it is used again.

        Raises
        ------
        CwmError
            The drive refuses, or the engine did not come to it in time.

        """
        waiting = Waiting()
        self.begin_save(budget_s, is_ram_kept=is_ram_kept, on_value=on_value, on_end=waiting.end)
        return cast('jobs.SaveResult', waiting.take(max(0.0, budget_s) + SAVE_GRACE_S, 'save'))

    def begin_save(
        self,
        budget_s: float,
        *,
        is_ram_kept: bool = False,
        on_value: OnValue = lambda _value: None,
        on_end: OnEnd,
    ) -> Job[Manager]:
        """
        Save as `save` does, without waiting for it.

        Raises
        ------
        NotActiveError, EngineError
            Nothing is open that could be saved.

        """
        core = self.need_core()
        # Not in the engine's thread, which may be at a long step.
        Thread(target=core.secure_turns, name='cwm-turns', daemon=True).start()
        core.cancel(Urgency.TALK, Urgency.THAW, Urgency.SAVE, Urgency.UPKEEP)

        def end(result: object, error: BaseException | None) -> None:
            self._wake()
            on_end(result, error)

        run = partial(
            jobs.save_for_shutdown,
            until_s=self._clock() + budget_s,
            on_saved=core.kept.doubt if is_ram_kept else lambda: None,
        )
        job = core.submit(
            'save for shutdown', Urgency.SHUTDOWN, run, on_value=on_value, on_end=end
        )
        self._wake()
        return job

    # --- what there is ------------------------------------------------------------------------

    @property
    def shelf(self) -> Shelf:
        """All windows of the profile."""
        return self.kept or self.need_core().shelf

    @property
    def open_window(self) -> str:
        """Name of the open window, else empty."""
        return self.core.view.window if self.core else ''

    @property
    def is_engine_idle(self) -> bool:
        """Whether the engine has nothing to do."""
        return self.core is None or self.core.is_idle
