# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What may be asked of the open session, and on what conditions; knows nothing of ROS."""

from __future__ import annotations

from functools import partial
import logging
from typing import cast, TYPE_CHECKING

from cwm_ros.config import MIB
from cwm_ros.errors import (
    ConfigError,
    CwmError,
    DeferredPowerError,
    ExistsError,
    NotFoundError,
    OutOfMemoryError,
)
from cwm_ros.node import jobs
from cwm_ros.node.state import Deferred
from cwm_ros.node.worker import Urgency
from cwm_ros.optimize import check_rate
from cwm_ros.power import Cost
from cwm_ros.power import Urgency as PowerUrgency
from cwm_ros.preview import preview_thaw

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.manager import Manager
    from cwm_ros.node.core import OnEnd, OnValue
    from cwm_ros.node.desk import Desk
    from cwm_ros.node.power_watch import PowerWatch
    from cwm_ros.node.thaw_report import ThawReport
    from cwm_ros.node.worker import Job
    from cwm_ros.schedule import ThawPlan

log = logging.getLogger(__name__)


class Requests:
    """
    Thaw, freeze and upkeep, as power, memory and what else runs allow.

    Parameters
    ----------
    desk
        Takes the work.
    power
        Says what the vehicle's power allows.
    thaws
        Follows thaws.
    clock
        Steady clock [s].

    """

    def __init__(
        self, desk: Desk, power: PowerWatch, thaws: ThawReport, clock: Callable[[], float]
    ) -> None:
        self._desk = desk
        self._power = power
        self._thaws = thaws
        self._clock = clock

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
        core = self._desk.need_active()
        info = core.shelf.find(window)
        if info is None:
            raise NotFoundError(f'there is no window {window!r}')
        self._check_power('thaw', Cost(bytes_read=info.bytes), PowerUrgency.USER)
        core.check_memory()
        run = partial(
            jobs.thaw,
            window=window,
            strategy=strategy,
            stop_at_usable=stop_at_usable,
            on_begin=core.note_thaw,
        )

        def queue() -> None:
            view = core.view
            is_open = view.window == window
            generation = view.generation if is_open else view.generation + 1
            self._thaws.queue(window, generation, view.progress if is_open else None)

        def end(result: object, error: BaseException | None) -> None:
            self._thaws.end(window, error)
            on_end(result, error)

        return self._desk.start(
            f'thaw {window}',
            Urgency.THAW,
            run,
            on_value=on_value,
            on_end=end,
            is_single=True,
            on_accept=queue,
        )

    def rest(self) -> None:
        """Leave a thaw that its caller cancels alone; one that a save cuts goes on when idle."""
        if self._desk.core is not None:
            self._desk.core.rest()

    def thaw_default(self, why: str) -> None:
        """Thaw the default window if there is one and none is open; what fails is logged."""
        core, name = self._desk.need_core(), self._desk.settings.assistant.window
        if core.is_unchecked:
            self.check_kept(why)
        if core.view.window or core.shelf.find(name) is None:
            return

        def end(_result: object, error: BaseException | None) -> None:
            if error is not None:
                log.warning('the thaw of %s did not end: %s', name, error)

        try:
            self.thaw(name, strategy='', stop_at_usable=False, on_end=end)
            log.info('thawing %s: %s', name, why)
        except (DeferredPowerError, OutOfMemoryError) as exc:
            info = core.shelf.find(name)
            size = info.bytes if info else 0
            again = partial(self.thaw_default, why)
            self._defer('thaw', name, str(exc), again, num_bytes=size)
        except CwmError as exc:
            log.warning('%s is not thawed: %s', name, exc)

    def check_kept(self, why: str) -> None:
        """Check the open window, which was asleep in memory, before anything needs it."""

        def end(_result: object, error: BaseException | None) -> None:
            if error is not None:
                log.warning('what memory kept was not checked: %s', error)

        run = jobs.short(lambda _manager: None)  # all work with a window begins with the check
        try:
            self._desk.start('check', Urgency.THAW, run, on_end=end, is_single=True)
            log.info('checking what memory kept: %s', why)
        except CwmError as exc:
            log.debug('what memory kept is not checked yet: %s', exc)

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
        DeferredPowerError
            The battery does not allow it: turns are durable, chunks are written when it does.

        """
        core = self._desk.need_active()
        if not core.view.window:
            raise NotFoundError('no window is open', hint='thaw one, or send a prompt')
        if codec and codec != self._desk.settings.codec.kind:
            raise ConfigError(
                f'codec is {codec!r}, the store writes {self._desk.settings.codec.kind!r}',
                hint='set codec.kind and configure again',
            )
        copy = window if window and window != core.view.window else ''
        if copy and not overwrite and core.shelf.find(copy) is not None:
            raise ExistsError(
                f'window {copy!r} exists', hint='set overwrite, or take another name'
            )
        try:
            cost = Cost(bytes_written=core.view.unsaved_bytes)
            self._check_power('freeze', cost, PowerUrgency.USER)
        except DeferredPowerError as exc:
            core.secure_turns()
            again = partial(self._freeze_unasked, core.view.window)
            self._defer('freeze', core.view.window, str(exc), again, num_bytes=cost.bytes_written)
            raise
        until_s = None if deadline_s is None else self._clock() + deadline_s
        run = partial(jobs.freeze, tags=tags, until_s=until_s, copy=copy)
        return self._desk.start(
            'freeze', Urgency.SAVE, run, on_value=on_value, on_end=on_end, is_single=True
        )

    def _freeze_unasked(self, window: str) -> None:
        """Try again what was deferred, if that window is still open; what fails is logged."""
        if self._desk.open_window != window:
            return

        def end(_result: object, error: BaseException | None) -> None:
            log.info('the deferred freeze of %s has ended: %s', window, error or 'done')

        try:
            self.freeze(
                window,
                tags=(),
                codec='',
                deadline_s=None,
                overwrite=False,
                on_value=lambda _value: None,
                on_end=end,
            )
        except CwmError as exc:
            log.info('the deferred freeze of %s does not run: %s', window, exc)

    def prepare_shutdown(
        self, budget_s: float, *, is_ram_kept: bool, on_value: OnValue
    ) -> jobs.SaveResult:
        """
        Save within a budget [s].

        The session stays open, so that after a resume nothing has to come back; when memory is
        kept, its end is checked then before it is used.

        Raises
        ------
        NotActiveError
            The node is not active.

        """
        self._desk.need_active()
        log.info('preparing for shutdown, memory is %s', 'kept' if is_ram_kept else 'lost')
        return self._desk.save(budget_s, is_ram_kept=is_ram_kept, on_value=on_value)

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
        storage = self._desk.need_active().shelf.storage
        used = storage.used_bytes if storage else 0
        try:
            self._check_power('optimize', Cost(bytes_read=used), PowerUrgency.BACKGROUND)
        except DeferredPowerError as exc:
            again = partial(self._optimize_unasked, rate)
            self._defer('optimize', '', str(exc), again, num_bytes=used)
            raise
        bytes_per_s = float(rate or self._desk.settings.storage.scrub_mib_per_s * MIB)
        run = partial(jobs.optimize_storage, bytes_per_s=bytes_per_s)
        return self._desk.start(
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
        settings = self._desk.settings

        def look(manager: Manager) -> ThawPlan:
            return preview_thaw(
                manager.store,
                manager.checkpoint,
                settings,
                window,
                prompt=prompt,
                strategy=strategy,
            )

        return cast('ThawPlan', self._desk.call('plan', look))

    def _check_power(self, operation: str, cost: Cost, urgency: PowerUrgency) -> None:
        self._power.check(operation, cost, urgency, self._desk.settings.power)

    def _defer(
        self,
        operation: str,
        window: str,
        reason: str,
        retry: Callable[[], None],
        *,
        num_bytes: int,
    ) -> None:
        item = Deferred(
            operation=operation,
            window=window,
            num_bytes=num_bytes,
            reason=reason,
            retry_s=self._desk.settings.power.retry_s,
        )
        self._power.defer(item, retry)
