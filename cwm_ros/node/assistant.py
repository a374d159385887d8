# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the vehicle asks of the assistant, and when it may have it: lifecycle, ignition, power.

Called from the executor's threads. Knows nothing of ROS but the numbers in its messages.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
import logging
from threading import Event, RLock, Thread
import time
from typing import cast, TYPE_CHECKING

from cwm_interfaces.msg import WindowInfo as WindowInfoMsg
from cwm_ros.config import MIB
from cwm_ros.errors import (
    BusyError,
    ConfigError,
    CwmError,
    DeferredPowerError,
    EngineHungError,
    ExistsError,
    InterruptedOperation,
    NotActiveError,
    NotFoundError,
)
from cwm_ros.ignition import Edge, Ignition, IgnitionTracker
from cwm_ros.node import convert, jobs
from cwm_ros.node.confirm import Confirmations, open_verifier, Told
from cwm_ros.node.core import Core
from cwm_ros.node.failures import Failures
from cwm_ros.node.state import Deferred, Phase, read_shelf, Shelf, Snapshot
from cwm_ros.node.voice import refusal, Voice
from cwm_ros.node.worker import Urgency
from cwm_ros.optimize import check_rate
from cwm_ros.power import Cost, decide, Override, Policy, PowerReading, PowerState
from cwm_ros.power import Urgency as PowerUrgency
from cwm_ros.preview import preview_thaw
from cwm_ros.runtime import check_memory, hottest_zone_c
from cwm_ros.store.profiles import erase_profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_interfaces.msg import ResponseEvent
    from cwm_interfaces.msg import ThawProgress as ThawProgressMsg
    from cwm_ros.answer import Request
    from cwm_ros.config import Settings
    from cwm_ros.manager import Manager
    from cwm_ros.node.core import OnEnd, OnValue, Run
    from cwm_ros.node.voice import OnDelta
    from cwm_ros.node.worker import Job
    from cwm_ros.progress import ThawProgress
    from cwm_ros.schedule import ThawPlan
    from cwm_ros.session import Fidelity

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 0.4
CLOSE_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 5.0
SAVE_GRACE_S = 2.0
"""A chunk that was begun is finished."""
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
    core
        The manager's thread; None before configure and after cleanup.
    failures
        How often the engine of this store hung; None before the first configure.
    is_hung
        Whether the watchdog gave the engine up.

    """

    def __init__(
        self,
        wake: Callable[[], None],
        speak: Callable[[ResponseEvent], None],
        *,
        why_no_engine: str = '',
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.core: Core | None = None
        self.failures: Failures | None = None
        self._why_no_engine = why_no_engine
        self.is_hung = False
        self._settings: Settings | None = None
        self._profile = ''
        self._context = ''
        self._cut_s: float | None = None
        self._confirmations = Confirmations()
        self._wake = wake
        self._speak = speak
        self._clock = clock
        self._lock = RLock()
        self._is_active = False
        self._power = PowerState()
        self._reading = PowerReading()
        self._ignition = IgnitionTracker()
        self._saving: Job[Manager] | None = None
        self._voice: Voice | None = None
        self._kept: Shelf | None = None
        self._deferred: dict[str, tuple[float, Deferred, Callable[[], None]]] = {}

    # --- lifecycle ----------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """Of the last configure."""
        if self._settings is None:
            raise NotActiveError('the node is not configured', hint='configure it first')
        return self._settings

    @property
    def is_active(self) -> bool:
        """Whether goals are served."""
        return self._is_active

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
        core = Core(settings, profile=profile, on_change=self._wake, problem=problem)
        try:
            core.open(OPEN_TIMEOUT_S + settings.storage.lock_timeout_s)
        except BaseException:
            core.close(CLOSE_TIMEOUT_S)
            raise
        self._settings, self._profile, self.core = settings, profile, core
        self.failures, self._kept = failures, None
        self._voice = Voice(
            core,
            self._speak,
            window=lambda: self.settings.assistant.window,
            context=lambda: self._context,
        )
        core.on_review = self._voice.tell_review
        self._wake()

    def use(self, settings: Settings) -> None:
        """Take settings of which only those changed that may while configured."""
        self._settings = settings

    def activate(self) -> None:
        """Serve goals; thaw the default window if the settings ask for it."""
        self._is_active = True
        if self.settings.assistant.auto_thaw:
            self.thaw_default('the node was activated')
        elif self._ignition.is_on:
            self.thaw_default('the ignition was on when the node was activated')
        self._wake()

    def deactivate(self, budget_s: float) -> jobs.SaveResult:
        """Cancel what runs, save within a budget, and serve goals no more."""
        self._is_active = False
        saved = self.save(budget_s)
        self._wake()
        return saved

    def fail(self) -> None:
        """After an error: close what is open, and keep what the store holds for reading."""
        core, settings = self.core, self._settings
        kept = core.shelf if core else Core.EMPTY[1]
        self.cleanup()
        if settings is not None:
            with suppress(CwmError):
                kept = read_shelf(settings, self._profile)
        self._kept = kept
        self._wake()

    def cleanup(self) -> bool:
        """Close store and engine; say whether the engine's thread ended in time."""
        core, self.core = self.core, None
        self._is_active = False
        with self._lock:
            self._deferred.clear()
        self._wake()
        return core is None or core.close(CLOSE_TIMEOUT_S)

    def save(self, budget_s: float, *, on_value: OnValue = lambda _value: None) -> jobs.SaveResult:
        """
        Save the open window within a budget [s]; waits for it, and little longer.

        What was said is durable first, whatever the engine does.

        Raises
        ------
        CwmError
            The drive refuses, or the engine did not come to it in time.

        """
        waiting = _Box()
        self.begin_save(budget_s, on_value=on_value, on_end=waiting.end)
        return cast('jobs.SaveResult', waiting.wait(budget_s + SAVE_GRACE_S, 'save'))

    def begin_save(
        self, budget_s: float, *, on_value: OnValue = lambda _value: None, on_end: OnEnd
    ) -> Job[Manager]:
        """
        Save as `save` does, without waiting for it.

        Raises
        ------
        NotActiveError, EngineError
            Nothing is open that could be saved.

        """
        core = self._need_core()
        # Not in the engine's thread, which may be at a long step.
        Thread(target=core.secure_turns, name='cwm-turns', daemon=True).start()
        core.cancel(Urgency.TALK, Urgency.THAW, Urgency.SAVE, Urgency.UPKEEP)

        def end(result: object, error: BaseException | None) -> None:
            self._wake()
            on_end(result, error)

        run = partial(jobs.save_for_shutdown, until_s=self._clock() + budget_s)
        job = core.submit(
            'save for shutdown', Urgency.SHUTDOWN, run, on_value=on_value, on_end=end
        )
        self._wake()
        return job

    # --- what the engine is asked -------------------------------------------------------------

    def start(
        self,
        name: str,
        urgency: Urgency,
        run: Run,
        *,
        on_value: OnValue = lambda _value: None,
        on_end: OnEnd,
        is_single: bool = False,
    ) -> Job[Manager]:
        """
        Have the engine's thread do something.

        Parameters
        ----------
        is_single
            Refuse it while other work of this urgency runs or waits.

        Raises
        ------
        NotActiveError, BusyError, EngineError
            It cannot run now.

        """
        core = self._need_active()
        if is_single and core.is_busy_with(urgency):
            raise BusyError(
                f'cannot {name} now: another one is running', hint='wait, or cancel it'
            )
        return core.submit(name, urgency, run, on_value=on_value, on_end=on_end)

    def call(self, name: str, run: Callable[[Manager], object]) -> object:
        """
        Have the engine's thread do something short with the store, and wait for it.

        Raises
        ------
        CwmError
            As the work raised; BusyError when the engine did not come to it in time.

        """
        waiting = _Box()
        self._need_core().submit(name, Urgency.STORE, jobs.short(run), on_end=waiting.end)
        return waiting.wait(CALL_TIMEOUT_S, name)

    def thaw(
        self,
        window: str,
        *,
        strategy: str,
        stop_at_usable: bool,
        on_value: OnValue = lambda _value: None,
        on_end: OnEnd,
    ) -> Job[Manager]:
        """
        Bring a window back.

        Raises
        ------
        NotActiveError, BusyError, NotFoundError
            It cannot be done now, or there is no such window.
        DeferredPowerError, OutOfMemoryError
            Battery or memory do not allow it.

        """
        core = self._need_active()
        info = core.shelf.find(window)
        if info is None:
            raise NotFoundError(f'there is no window {window!r}')
        self.check_power('thaw', Cost(bytes_read=info.bytes), PowerUrgency.USER)
        check_memory(self.settings.runtime, wanted_bytes=self.settings.thaw.staging_mib * MIB)
        run = partial(
            jobs.thaw,
            window=window,
            strategy=strategy,
            stop_at_usable=stop_at_usable,
            on_begin=core.note_thaw,
        )
        return self.start(
            f'thaw {window}',
            Urgency.THAW,
            run,
            on_value=on_value,
            on_end=on_end,
            is_single=True,
        )

    def ask(
        self,
        request_id: str,
        request: Request,
        *,
        timeout_s: float | None = None,
        on_delta: OnDelta = lambda _text: None,
        on_answer: OnEnd = lambda _answer, _error: None,
    ) -> Job[Manager]:
        """
        Answer a prompt; see `Voice.ask`.

        Raises
        ------
        NotActiveError, EngineError, DeferredPowerError
            It cannot be answered now.

        """
        self._need_active()
        tokens = len(request.text) // 2 + self.settings.assistant.max_tokens
        self.check_power('answer', Cost(tokens_computed=tokens), PowerUrgency.USER)
        assert self._voice is not None
        return self._voice.ask(
            request_id, request, timeout_s=timeout_s, on_delta=on_delta, on_answer=on_answer
        )

    def refuse(self, request_id: str, error: Exception) -> None:
        """Publish that a prompt cannot be answered."""
        self._speak(refusal(request_id, error))

    def freeze(
        self,
        window: str,
        *,
        tags: tuple[str, ...],
        codec: str,
        deadline_s: float | None,
        overwrite: bool,
        on_value: OnValue,
        on_end: OnEnd,
    ) -> Job[Manager]:
        """
        Write the open window, under its own name or as a copy under another one.

        Raises
        ------
        NotActiveError, BusyError, ExistsError, ConfigError
            It cannot be done now, or is not allowed.

        """
        core = self._need_active()
        if not core.view.window:
            raise NotFoundError('no window is open', hint='thaw one, or send a prompt')
        if codec and codec != self.settings.codec.kind:
            raise ConfigError(
                f'codec is {codec!r}, the store writes {self.settings.codec.kind!r}',
                hint='set codec.kind and configure again',
            )
        copy = window if window and window != core.view.window else ''
        if copy and not overwrite and core.shelf.find(copy) is not None:
            raise ExistsError(
                f'window {copy!r} exists', hint='set overwrite, or take another name'
            )
        until_s = None if deadline_s is None else self._clock() + deadline_s
        run = partial(jobs.freeze, tags=tags, until_s=until_s, copy=copy)
        return self.start(
            'freeze', Urgency.SAVE, run, on_value=on_value, on_end=on_end, is_single=True
        )

    def prepare_shutdown(
        self, budget_s: float, *, is_ram_kept: bool, on_value: OnValue
    ) -> jobs.SaveResult:
        """
        Save within a budget [s].

        The session stays open, so that after a resume nothing has to come back.

        Raises
        ------
        NotActiveError
            The node is not active.

        """
        self._need_active()
        log.info('preparing for shutdown, memory is %s', 'kept' if is_ram_kept else 'lost')
        return self.save(budget_s, on_value=on_value)

    def optimize(self, rate: int, *, on_value: OnValue, on_end: OnEnd) -> Job[Manager]:
        """
        Collect garbage and scrub, at most so many bytes a second; 0 for as the settings say.

        Raises
        ------
        ConfigError
            The rate is too low.
        DeferredPowerError, NotActiveError, BusyError
            It cannot run now.

        """
        if rate:
            check_rate(rate)
        storage = self._need_active().shelf.storage
        used = storage.used_bytes if storage else 0
        try:
            self.check_power('optimize', Cost(bytes_read=used), PowerUrgency.BACKGROUND)
        except DeferredPowerError as exc:
            again = partial(self._optimize_unasked, rate)
            self._defer('optimize', '', str(exc), again, num_bytes=used)
            raise
        bytes_per_s = float(rate or self.settings.storage.scrub_mib_per_s * MIB)
        run = partial(jobs.optimize_storage, bytes_per_s=bytes_per_s)
        return self.start(
            'optimize', Urgency.UPKEEP, run, on_value=on_value, on_end=on_end, is_single=True
        )

    def _optimize_unasked(self, rate: int) -> None:
        """Try again what was deferred; what fails is logged."""

        def end(_result: object, error: BaseException | None) -> None:
            log.info('the deferred optimize has ended: %s', error or 'done')

        try:
            self.optimize(rate, on_value=lambda _value: None, on_end=end)
        except CwmError as exc:
            log.info('the deferred optimize does not run: %s', exc)

    def plan(self, window: str, *, prompt: str, strategy: str) -> ThawPlan:
        """
        Say what a thaw would do.

        Raises
        ------
        CwmError
            As `cwm_ros.preview.preview_thaw`; EngineError while the model is being loaded.

        """
        settings = self.settings

        def look(manager: Manager) -> ThawPlan:
            return preview_thaw(
                manager.store,
                manager.checkpoint,
                settings,
                window,
                prompt=prompt,
                strategy=strategy,
            )

        return cast('ThawPlan', self.call('plan', look))

    def set_context(self, text: str) -> None:
        """Take the vehicle's state now; the assistant is told it after the next thaw."""
        self._context = text

    # --- profiles -----------------------------------------------------------------------------

    def set_profile(self, profile: str, token: str) -> None:
        """
        Save and leave the open window, and open another driver's profile.

        Raises
        ------
        NotActiveError, KeyMissingError, BadNameError
            It cannot be done.
        ConfigError
            The verifier does not accept the token.

        """
        core = self._need_active()
        verifier = open_verifier(self.settings.privacy.verifier)
        if not verifier(profile, token):
            raise ConfigError(f'profile {profile!r}: the token is not accepted')
        core.cancel(Urgency.TALK, Urgency.THAW)
        waiting = _Box()
        run = partial(jobs.use_profile, profile=profile)
        core.submit('change the profile', Urgency.SAVE, run, on_end=waiting.end)
        waiting.wait(self.settings.shutdown.budget + CALL_TIMEOUT_S, 'change the profile')
        self._profile = profile
        self._wake()

    def erase_profile(self, profile: str, token: str) -> Told:
        """
        Say what erasing a profile destroys; with the token that was told, do it.

        Raises
        ------
        BusyError
            It is the open one.
        NotFoundError, KeyMissingError
            There is no such profile, or its key cannot be destroyed here.
        ConfigError
            The token is not the one that was told, or too old.

        """
        settings = self.settings
        if profile == self._profile:
            raise BusyError(f'profile {profile!r} is open', hint='set another profile first')
        if token and not self._confirmations.take(profile, token, self._clock()):
            raise ConfigError('the token is not valid', hint='ask again without a token')
        erasure = erase_profile(
            settings.storage.root,
            profile,
            settings.privacy,
            is_confirmed=bool(token),
            lock_timeout_s=OPEN_TIMEOUT_S,
        )
        told = '' if token else self._confirmations.give(profile, self._clock())
        return Told(
            confirm_token=told,
            erased=(
                f'{erasure.windows} windows, {erasure.bytes} bytes',
                f'{erasure.quarantine_files} damaged files that were set aside',
                *(('its key',) if erasure.is_encrypted else ()),
            ),
            remains=erasure.bundles,
        )

    # --- what the store holds -----------------------------------------------------------------

    @property
    def shelf(self) -> Shelf:
        """All windows of the profile."""
        return self._kept or self._need_core().shelf

    @property
    def open_window(self) -> str:
        """Name of the open window, else empty."""
        return self.core.view.window if self.core else ''

    @property
    def fidelity(self) -> Fidelity | None:
        """Of an answer given now; None without a window."""
        return self.core.view.fidelity if self.core else None

    @property
    def is_engine_idle(self) -> bool:
        """Whether the engine has nothing to do."""
        return self.core is None or self.core.is_idle

    def describe(self, name: str) -> WindowInfoMsg:
        """Return the message of a window; an empty one when there is none of this name."""
        info = self.shelf.find(name)
        if info is None:
            return WindowInfoMsg()
        return convert.to_window(info, self.shelf, open_window=self.open_window)

    def progress(self, progress: ThawProgress) -> ThawProgressMsg:
        """Return the message of a thaw's progress."""
        core = self._need_core()
        view = replace(core.view, progress=progress)
        return convert.to_progress(
            progress,
            window=view.window,
            generation=view.generation,
            state=convert.thaw_state(view),
        )

    def thaw_default(self, why: str) -> None:
        """Thaw the default window if there is one and none is open; what fails is logged."""
        core, name = self._need_core(), self.settings.assistant.window
        if core.view.window or core.shelf.find(name) is None:
            return

        def end(_result: object, error: BaseException | None) -> None:
            if error is not None:
                log.warning('the thaw of %s did not end: %s', name, error)

        try:
            self.thaw(name, strategy='', stop_at_usable=False, on_end=end)
            log.info('thawing %s: %s', name, why)
        except DeferredPowerError as exc:
            info = core.shelf.find(name)
            size = info.bytes if info else 0
            again = partial(self.thaw_default, why)
            self._defer('thaw', name, str(exc), again, num_bytes=size)
        except CwmError as exc:
            log.warning('%s is not thawed: %s', name, exc)

    # --- ignition and power -------------------------------------------------------------------

    def on_ignition(self, position: Ignition, cut_s: float | None) -> None:
        """Take the ignition's position, and how long power stays at OFF [s]."""
        with self._lock:
            self._ignition, edge = self._ignition.after(position, self._clock())
            self._reading = replace(self._reading, ignition=position)
        self._cut_s = cut_s
        self._update_power()
        if edge is Edge.ON:
            with self._lock:
                saving, self._saving = self._saving, None
            if saving is not None:
                saving.cancel.set()  # the chunk that is being written is finished
            if self._is_active:
                self.thaw_default('the ignition is on')

    def on_battery(self, reading: PowerReading) -> None:
        """Take what the battery reports."""
        with self._lock:
            self._reading = replace(reading, ignition=self._reading.ignition)
        self._update_power()

    def tick(self) -> None:
        """Let time pass: debounce the ignition, retry what was deferred; a few times a second."""
        now_s = self._clock()
        with self._lock:
            debounce_s = self.settings.ignition.debounce if self._settings else 0.5
            self._ignition, edge = self._ignition.tick(now_s, debounce_s)
            due = [key for key, (at_s, _, _) in self._deferred.items() if at_s <= now_s]
            again = [self._deferred.pop(key)[2] for key in due]
        for retry in again:
            retry()
        if edge is Edge.OFF and self._is_active:
            self._save_for_ignition()

    def _save_for_ignition(self) -> None:
        """Save because the ignition is off; what fails is logged, and the session stays open."""
        cut_s, budget_s = self._cut_s, self.settings.shutdown.budget

        def end(saved: object, error: BaseException | None) -> None:
            if isinstance(error, InterruptedOperation):
                log.info('the ignition is on again; what was saved until then counts')
            elif error is not None:
                log.error('the ignition is off, but the save did not end: %s', error)
            else:
                log.info('the ignition is off, saved: %s', saved)

        try:
            saving = self.begin_save(min(budget_s, cut_s) if cut_s else budget_s, on_end=end)
        except CwmError as exc:
            log.error('the ignition is off, but nothing is saved: %s', exc)  # noqa: TRY400
            return
        with self._lock:
            self._saving = saving

    def give_up(self, timeout_s: float) -> None:
        """
        Say that the engine hangs, to everybody who waits for it; the process is about to end.

        What was said is made durable, if that takes no longer than a time [s].
        """
        self.is_hung = True
        self._wake()
        core = self.core
        if core is None:
            return
        securing = Thread(target=core.secure_turns, name='cwm-turns', daemon=True)
        securing.start()
        core.give_up(EngineHungError('the engine does not answer', hint='the node is restarted'))
        if self.failures is not None:
            self.failures.note()
        securing.join(timeout_s)

    def override_power(self, policy: Policy | None, duration_s: float) -> None:
        """Set a policy by hand for a while; None ends that."""
        until_s = self._clock() + duration_s
        override = None if policy is None else Override(policy=policy, until_s=until_s)
        with self._lock:
            self._power = replace(self._power, override=override)
        self._retry_soon()

    def check_power(self, operation: str, cost: Cost, urgency: PowerUrgency) -> None:
        """Raise DeferredPowerError when the policy does not allow an operation now."""
        choice = self._power.choice(self._clock())
        decision = decide(choice, cost, urgency, self.settings.power)
        if not decision.is_allowed:
            raise DeferredPowerError(f'{operation} is deferred: {decision.reason}')

    def _update_power(self) -> None:
        if self._settings is None:
            return
        with self._lock:
            before = self._power.by_readings.policy
            reading = replace(self._reading, temperature_c=hottest_zone_c())
            self._power = self._power.with_reading(reading, self._settings.power)
            is_eased = self._power.by_readings.policy < before
        if is_eased:
            self._retry_soon()
        self._wake()

    def _defer(
        self,
        operation: str,
        window: str,
        reason: str,
        retry: Callable[[], None],
        *,
        num_bytes: int,
    ) -> None:
        retry_s = self.settings.power.retry_s
        item = Deferred(
            operation=operation,
            window=window,
            num_bytes=num_bytes,
            reason=reason,
            retry_s=retry_s,
        )
        with self._lock:
            self._deferred[f'{operation} {window}'] = self._clock() + retry_s, item, retry
        self._wake()

    def _retry_soon(self) -> None:
        with self._lock:
            for key, (_, item, retry) in self._deferred.items():
                self._deferred[key] = self._clock(), item, retry
        self._wake()

    # --- what is told -------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return what is true now."""
        core, now_s = self.core, self._clock()
        with self._lock:
            deferred = tuple(item for _, item, _ in self._deferred.values())
            power, override = self._power.choice(now_s), self._power.override
        phase, reason = self._phase(core)
        empty = Core.EMPTY
        return Snapshot(
            phase=phase,
            reason=reason,
            view=core.view if core else empty[0],
            shelf=core.shelf if core else self._kept or empty[1],
            profile=self._profile,
            power=power,
            override_left_s=max(0.0, override.until_s - now_s) if override else 0.0,
            deferred=deferred,
            is_late=core is not None and core.step_age_s() > LATE_S,
            is_read_only=core is None and self._kept is not None,
        )

    def _phase(self, core: Core | None) -> tuple[Phase, str]:
        if self.is_hung:
            return Phase.ENGINE_HUNG, 'the engine does not answer; the process ends'
        if core is None and self._kept is not None:
            return Phase.STORE_ONLY, 'an error ended the assistant; the windows can be listed'
        if core is None:
            return Phase.INACTIVE, 'the node is not configured'
        if core.problem:
            return Phase.STORE_ONLY, core.problem
        if not self._is_active and core.phase is not Phase.FREEZING:
            return Phase.INACTIVE, 'the node is not active'
        phase = core.phase
        return phase, REASONS.get(phase, '')

    def _need_core(self) -> Core:
        if self.is_hung:
            raise EngineHungError('the engine does not answer', hint='the node is restarted')
        if self.core is None:
            raise NotActiveError('the node is not configured', hint='configure it first')
        return self.core

    def _need_active(self) -> Core:
        core = self._need_core()
        if not self._is_active:
            raise NotActiveError('the node is not active', hint='activate it first')
        return core


class _Box:
    """Waits for a short job's end."""

    def __init__(self) -> None:
        self._ended = Event()
        self._result: object = None
        self._error: BaseException | None = None

    def end(self, result: object, error: BaseException | None) -> None:
        self._result, self._error = result, error
        self._ended.set()

    def wait(self, timeout_s: float, name: str) -> object:
        if not self._ended.wait(timeout_s):
            raise BusyError(f'cannot {name} now: the engine is busy', hint='try again')
        if self._error is not None:
            raise self._error
        return self._result


REASONS = {
    Phase.LOADING_ENGINE: 'the model is being loaded',
    Phase.NO_WINDOW: 'no window is open',
    Phase.THAWING: 'too little of the window is there to answer',
    Phase.USABLE: 'enough of the window is there to answer; the rest is on its way',
    Phase.COMPLETE: 'all of the window is there',
    Phase.STORE_ONLY: 'the thread of the engine ended; see the log',
    Phase.FREEZING: 'the window is being saved',
}
