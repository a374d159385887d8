# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The power policy as readings and people change it, and what waits for a better one; no ROS."""

from __future__ import annotations

from dataclasses import replace
from threading import RLock
from typing import TYPE_CHECKING

from cwm_ros.errors import DeferredPowerError
from cwm_ros.power import decide, Override, Policy, PowerReading, PowerState
from cwm_ros.runtime import hottest_zone_c

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.config_vehicle import PowerSettings
    from cwm_ros.ignition import Ignition
    from cwm_ros.node.state import Deferred
    from cwm_ros.power import Cost, PolicyChoice, Urgency

    Retry = Callable[[], None]


class PowerWatch:
    """
    What the vehicle's power allows now.

    Parameters
    ----------
    settings
        Gives the settings; None before the first configure, when readings are only kept.
    wake
        Called, from any thread, when something changed.
    clock
        Steady clock [s].

    """

    def __init__(
        self,
        settings: Callable[[], PowerSettings | None],
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._wake = wake
        self._clock = clock
        self._lock = RLock()
        self._state = PowerState()
        self._reading = PowerReading()
        self._deferred: dict[str, tuple[float, Deferred, Retry]] = {}

    # --- what it follows from -----------------------------------------------------------------

    def take_ignition(self, position: Ignition) -> None:
        """Take the position of the ignition."""
        with self._lock:
            self._reading = replace(self._reading, ignition=position)
        self._update()

    def take_battery(self, reading: PowerReading) -> None:
        """Take what the battery reports."""
        with self._lock:
            self._reading = replace(reading, ignition=self._reading.ignition)
        self._update()

    def override(self, policy: Policy | None, duration_s: float) -> None:
        """Set a policy by hand for a while; None ends that."""
        until_s = self._clock() + duration_s
        override = None if policy is None else Override(policy=policy, until_s=until_s)
        with self._lock:
            self._state = replace(self._state, override=override)
        self._retry_soon()

    def _update(self) -> None:
        settings = self._settings()
        if settings is None:
            return
        with self._lock:
            before = self._state.by_readings.policy
            reading = replace(self._reading, temperature_c=hottest_zone_c())
            self._state = self._state.with_reading(reading, settings)
            is_eased = self._state.by_readings.policy < before
        if is_eased:
            self._retry_soon()
        self._wake()

    # --- what it allows -----------------------------------------------------------------------

    @property
    def choice(self) -> PolicyChoice:
        """The policy in force."""
        return self._state.choice(self._clock())

    @property
    def override_left_s(self) -> float:
        """For how long the policy was set by hand [s]; 0 when it was not."""
        override = self._state.override
        return max(0.0, override.until_s - self._clock()) if override else 0.0

    def check(self, operation: str, cost: Cost, urgency: Urgency, settings: PowerSettings) -> None:
        """Raise DeferredPowerError when the policy does not allow an operation now."""
        decision = decide(self.choice, cost, urgency, settings)
        if not decision.is_allowed:
            raise DeferredPowerError(f'{operation} is deferred: {decision.reason}')

    # --- what waits ---------------------------------------------------------------------------

    @property
    def deferred(self) -> tuple[Deferred, ...]:
        """What waits for a better policy, oldest first."""
        with self._lock:
            return tuple(item for _, item, _ in self._deferred.values())

    def defer(self, item: Deferred, retry: Retry) -> None:
        """Call ``retry`` when the policy allows more, and after ``item.retry_s`` at the latest."""
        key = f'{item.operation} {item.window}'
        with self._lock:
            self._deferred[key] = self._clock() + item.retry_s, item, retry
        self._wake()

    def take_due(self) -> list[Retry]:
        """Return what is to be tried again now; it does not wait any more."""
        now_s = self._clock()
        with self._lock:
            due = [key for key, (at_s, _, _) in self._deferred.items() if at_s <= now_s]
            return [self._deferred.pop(key)[2] for key in due]

    def forget(self) -> None:
        """Let nothing wait any more."""
        with self._lock:
            self._deferred.clear()

    def _retry_soon(self) -> None:
        with self._lock:
            for key, (_, item, retry) in self._deferred.items():
                self._deferred[key] = self._clock(), item, retry
        self._wake()
