# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the vehicle asks of the assistant, and when it may have it.

Called from the executor's threads. Knows nothing of ROS but the numbers in its messages.
"""

from __future__ import annotations

from contextlib import suppress
from threading import Thread
import time
from typing import TYPE_CHECKING

from cwm_interfaces.msg import WindowInfo as WindowInfoMsg
from cwm_ros.errors import CwmError, EngineHungError
from cwm_ros.node import convert
from cwm_ros.node.core import Core
from cwm_ros.node.desk import Desk
from cwm_ros.node.drivers import Drivers
from cwm_ros.node.failures import Failures
from cwm_ros.node.ignition_watch import IgnitionWatch
from cwm_ros.node.power_watch import PowerWatch
from cwm_ros.node.requests import Requests
from cwm_ros.node.state import Phase, read_shelf, Snapshot
from cwm_ros.node.thaw_report import state_of, ThawReport
from cwm_ros.node.voice import refusal, Voice
from cwm_ros.power import Cost
from cwm_ros.power import Urgency as PowerUrgency

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_interfaces.msg import ResponseEvent
    from cwm_interfaces.msg import ThawProgress as ThawProgressMsg
    from cwm_ros.answer import Request
    from cwm_ros.config import Settings
    from cwm_ros.config_vehicle import PowerSettings
    from cwm_ros.ignition import Ignition
    from cwm_ros.manager import Manager
    from cwm_ros.node import jobs
    from cwm_ros.node.confirm import Told
    from cwm_ros.node.core import OnEnd
    from cwm_ros.node.voice import OnDelta
    from cwm_ros.node.worker import Job
    from cwm_ros.progress import ThawProgress

OPEN_TIMEOUT_S = 0.4
CLOSE_TIMEOUT_S = 5.0
LATE_S = 0.5
"""A step of the engine that takes longer stops the heartbeat until it has ended."""


class Assistant:
    """
    One live session and its store, from configure to cleanup.

    Parameters
    ----------
    wake
        Called, from any thread, when `snapshot` changed.
    speak
        Publishes what the assistant says; called from any thread.
    why_no_engine
        Load no model, and say so; empty: load it.
    clock
        Steady clock [s].

    Attributes
    ----------
    desk
        Takes work for the engine's thread.
    requests
        Takes what needs conditions.
    power
        What the vehicle's power allows, and what waits.
    thaws
        What is to be told of thaws.
    failures
        How often the engine of this store hung; None before the first configure.

    """

    def __init__(
        self,
        wake: Callable[[], None],
        speak: Callable[[ResponseEvent], None],
        *,
        why_no_engine: str = '',
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures: Failures | None = None
        self.desk = Desk(wake, clock)
        self.power = PowerWatch(self._power_settings, wake, clock)
        self.thaws = ThawReport(wake, clock)
        self.requests = Requests(self.desk, self.power, self.thaws, clock)
        self._ignition = IgnitionWatch(self.requests.thaw_default, self.desk.begin_save, clock)
        self._drivers = Drivers(clock)
        self._why_no_engine = why_no_engine
        self._context = ''
        self._wake = wake
        self._speak = speak
        self._voice: Voice | None = None

    @property
    def settings(self) -> Settings:
        """Of the last configure."""
        return self.desk.settings

    def _power_settings(self) -> PowerSettings | None:
        return self.settings.power if self.desk.was_configured else None

    # --- lifecycle ----------------------------------------------------------------------------

    def configure(self, settings: Settings, *, profile: str = '') -> None:
        """
        Open the store and begin to load the model.

        Raises
        ------
        CwmError
            The store cannot be opened; nothing stays open.

        """
        profile = profile or settings.privacy.default_profile
        failures = Failures(settings.storage.root)
        failures.take_trace()
        problem = self._why_no_engine or failures.problem()
        core = Core(
            settings,
            profile=profile,
            on_change=self._wake,
            report=self.thaws,
            problem=problem,
        )
        try:
            core.open(OPEN_TIMEOUT_S + settings.storage.lock_timeout_s)
        except BaseException:
            core.close(CLOSE_TIMEOUT_S)
            raise
        self.desk.use(settings)
        self._drivers.profile, self.desk.core = profile, core
        self.failures, self.desk.kept = failures, None
        self._voice = Voice(
            core,
            self._speak,
            window=lambda: self.settings.assistant.window,
            context=lambda: self._context,
        )
        core.on_review = self._voice.tell_review
        self._wake()

    def activate(self) -> None:
        """Serve goals; thaw the default window if the settings ask for it."""
        settings = self.settings.assistant
        self.desk.is_active = True
        if settings.auto_thaw:
            self.requests.thaw_default('the node was activated')
        elif self._ignition.is_on:
            self.requests.thaw_default('the ignition was on when the node was activated')
        self._wake()

    def deactivate(self, budget_s: float) -> jobs.SaveResult:
        """
        Cancel what runs, save within a budget [s], and serve goals no more.

        Raises
        ------
        CwmError
            It could not be saved; goals are served still.

        """
        self.desk.is_active = False
        try:
            return self.desk.save(budget_s)
        except CwmError:
            self.desk.is_active = True
            raise
        finally:
            self._wake()

    def fail(self) -> None:
        """After an error: close what is open, and keep what the store holds for reading."""
        core = self.desk.core
        kept = core.shelf if core else Core.EMPTY[1]
        self.cleanup()
        if self.desk.was_configured:
            with suppress(CwmError):
                kept = read_shelf(self.settings, self._drivers.profile)
        self.desk.kept = kept
        self._wake()

    def cleanup(self) -> bool:
        """Close store and engine; say whether the engine's thread ended in time."""
        core, self.desk.core = self.desk.core, None
        self.desk.is_active = False
        self.power.forget()
        self._wake()
        return core is None or core.close(CLOSE_TIMEOUT_S)

    def give_up(self, timeout_s: float) -> None:
        """
        Say that the engine hangs, to everybody who waits for it; the process is about to end.

        What was said is made durable, if that takes no longer than a time [s].
        """
        self.desk.is_hung = True
        self._wake()
        core = self.desk.core
        if core is None:
            return
        securing = Thread(target=core.secure_turns, name='cwm-turns', daemon=True)
        securing.start()
        core.give_up(EngineHungError('the engine does not answer', hint='the node is restarted'))
        if self.failures is not None:
            self.failures.note()
        securing.join(timeout_s)

    # --- what it is told ----------------------------------------------------------------------

    def ask(
        self,
        request_id: str,
        request: Request,
        *,
        timeout_s: float | None = None,
        on_delta: OnDelta = lambda _text, _fidelity: None,
        on_answer: OnEnd = lambda _answer, _error: None,
    ) -> Job[Manager]:
        """
        Answer a prompt; see `Voice.ask`.

        Raises
        ------
        NotActiveError, EngineError, DeferredPowerError
            It cannot be answered now.

        """
        self.desk.need_active()
        tokens = len(request.text) // 2 + self.settings.assistant.max_tokens
        cost = Cost(tokens_computed=tokens)
        self.power.check('answer', cost, PowerUrgency.USER, self.settings.power)
        assert self._voice is not None
        return self._voice.ask(
            request_id, request, timeout_s=timeout_s, on_delta=on_delta, on_answer=on_answer
        )

    def refuse(self, request_id: str, error: Exception) -> None:
        """Publish that a prompt cannot be answered."""
        self._speak(refusal(request_id, error))

    def set_context(self, text: str) -> None:
        """Take the vehicle's state now; the assistant is told it after the next thaw."""
        self._context = text

    def on_ignition(self, position: Ignition, cut_s: float | None) -> None:
        """Take the ignition's position, and how long power stays at OFF [s]."""
        self.power.take_ignition(position)
        self._ignition.take(position, cut_s, is_active=self.desk.is_active)

    def tick(self) -> None:
        """Let time pass: debounce the ignition, retry what was deferred; a few times a second."""
        debounce_s = self.settings.ignition.debounce if self.desk.was_configured else 0.5
        is_off = self._ignition.tick(debounce_s)
        for retry in self.power.take_due():
            retry()
        core = self.desk.core
        if core is not None and self.desk.is_active and core.is_unchecked and core.kept.is_awake:
            self.requests.check_kept('the machine is awake')
        if is_off and self.desk.is_active:
            self._ignition.save(self.settings.shutdown.budget)

    def set_profile(self, profile: str, token: str) -> None:
        """Open another driver's profile; NotActiveError, and as `Drivers.change`."""
        self._drivers.change(self.desk.need_active(), self.settings, profile, token)
        self._wake()

    def erase_profile(self, profile: str, token: str) -> Told:
        """Erase a profile in two steps; NotActiveError, and as `Drivers.erase`."""
        return self._drivers.erase(self.settings, profile, token)

    # --- what is told -------------------------------------------------------------------------

    def describe(self, name: str) -> WindowInfoMsg:
        """Return the message of a window; an empty one when there is none of this name."""
        info = self.desk.shelf.find(name)
        if info is None:
            return WindowInfoMsg()
        return convert.to_window(info, self.desk.shelf, open_window=self.desk.open_window)

    def progress(self, progress: ThawProgress) -> ThawProgressMsg:
        """Return the message of a thaw's progress."""
        core = self.desk.need_core()
        return convert.to_progress(
            progress,
            window=core.view.window,
            generation=core.view.generation,
            state=state_of(progress),
        )

    def snapshot(self) -> Snapshot:
        """Return what is true now."""
        core = self.desk.core
        phase, reason = self._phase(core)
        empty = Core.EMPTY
        return Snapshot(
            phase=phase,
            reason=reason,
            view=core.view if core else empty[0],
            shelf=core.shelf if core else self.desk.kept or empty[1],
            profile=self._drivers.profile,
            power=self.power.choice,
            override_left_s=self.power.override_left_s,
            deferred=self.power.deferred,
            is_late=core is not None and core.step_age_s() > LATE_S,
            is_read_only=core is None and self.desk.kept is not None,
        )

    def _phase(self, core: Core | None) -> tuple[Phase, str]:
        if self.desk.is_hung:
            return Phase.ENGINE_HUNG, 'the engine does not answer; the process ends'
        if core is None and self.desk.kept is not None:
            return Phase.STORE_ONLY, 'an error ended the assistant; the windows can be listed'
        if core is None:
            return Phase.INACTIVE, 'the node is not configured'
        if core.problem:
            return Phase.STORE_ONLY, core.problem
        if not self.desk.is_active and core.phase is not Phase.FREEZING:
            return Phase.INACTIVE, 'the node is not active'
        phase = core.phase
        is_unchecked = phase is Phase.THAWING and core.is_unchecked
        return phase, UNCHECKED if is_unchecked else REASONS.get(phase, '')


UNCHECKED = 'memory was kept; the end of the window is checked before it is used'
REASONS = {
    Phase.LOADING_ENGINE: 'the model is being loaded',
    Phase.NO_WINDOW: 'no window is open',
    Phase.THAWING: 'too little of the window is there to answer',
    Phase.USABLE: 'enough of the window is there to answer; the rest is on its way',
    Phase.COMPLETE: 'all of the window is there',
    Phase.STORE_ONLY: 'the thread of the engine ended; see the log',
    Phase.FREEZING: 'the window is being saved',
}
