# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Battery, ignition and heat -> policy -> decision: pure functions of values, no clock, no device.

A policy follows from what is known of the vehicle's power, with hysteresis, so that a reading at
a threshold does not make it flap. A decision follows from a policy and from what an operation
costs, in bytes and joules; its name does not matter. What a driver waits for is cut last, and
the save at shutdown never.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
import math
from typing import TYPE_CHECKING

from cwm_ros.ignition import Ignition

if TYPE_CHECKING:
    from cwm_ros.config_vehicle import PowerSettings

GB = 1_000_000_000
NOTHING_KNOWN = 'neither battery nor ignition is known'
NO_HEAT_KNOWN = 'temperature unknown'


class Policy(IntEnum):
    """How freely energy may be spent; a higher number is stricter."""

    AGGRESSIVE = 0
    BALANCED = 1
    CONSERVATIVE = 2
    CRITICAL = 3


class Urgency(Enum):
    """Who waits for an operation."""

    SHUTDOWN = 'shutdown'
    USER = 'user'
    BACKGROUND = 'background'


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerReading:
    """
    What is known of the vehicle's power; None where it is not.

    Parameters
    ----------
    charge
        State of charge, 0 to 1. NaN, usual for a 12 V battery, and values outside are unknown.
    is_charging
        Whether the battery is being charged, or is full on a charger.
    ignition
        Position of the ignition.
    temperature_c
        Hottest of the board's thermal zones [°C].

    """

    charge: float | None = None
    is_charging: bool | None = None
    ignition: Ignition = Ignition.UNDEFINED
    temperature_c: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'charge', _known(self.charge, 0.0, 1.0))
        object.__setattr__(self, 'temperature_c', _known(self.temperature_c, -273.15, 1000.0))

    @property
    def has_supply(self) -> bool:
        """Whether energy comes in: from a charger, or from an engine that runs."""
        if self.is_charging is not None:
            return self.is_charging
        return self.ignition is Ignition.ON


def _known(value: float | None, low: float, high: float) -> float | None:
    """Return a value that can be true, else None."""
    if value is None or math.isnan(value) or not low <= value <= high:
        return None
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChoice:
    """A policy, and for people why it is in force."""

    policy: Policy
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """
    A policy that was set by hand.

    Parameters
    ----------
    policy
        In force instead of what the readings say.
    until_s
        When it ends, on the caller's steady clock [s].

    """

    policy: Policy
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """
    What an operation takes.

    Parameters
    ----------
    bytes_read, bytes_written
        From and to the drive, estimated.
    tokens_computed
        Tokens that the engine computes.

    """

    bytes_read: int = 0
    bytes_written: int = 0
    tokens_computed: int = 0

    def joules(self, settings: PowerSettings) -> float:
        """Return the energy that it takes by the board's figures [J]."""
        return (
            self.bytes_read / GB * settings.joules_per_gb_read
            + self.bytes_written / GB * settings.joules_per_gb_written
            + self.tokens_computed * settings.joules_per_token
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    Whether an operation may run now.

    Parameters
    ----------
    is_allowed
        Whether it may.
    reason
        Why, for people.
    retry_s
        When to ask again at the latest [s]; 0 when it is allowed.

    """

    is_allowed: bool
    reason: str
    retry_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerState:
    """
    The policies by the readings, and an override if there is one; replaced by each event.

    Parameters
    ----------
    by_charge, by_heat
        What the last reading led to; kept while an override is in force. Each has its own
        hysteresis, and the stricter one counts.
    override
        Set by hand.

    """

    by_charge: PolicyChoice = field(
        default_factory=lambda: PolicyChoice(policy=Policy.BALANCED, reason=NOTHING_KNOWN)
    )
    by_heat: PolicyChoice = field(
        default_factory=lambda: PolicyChoice(policy=Policy.AGGRESSIVE, reason=NO_HEAT_KNOWN)
    )
    override: Override | None = None

    def with_reading(self, reading: PowerReading, settings: PowerSettings) -> PowerState:
        """Return the state after a reading."""
        return replace(
            self,
            by_charge=choose_by_charge(reading, settings, previous=self.by_charge.policy),
            by_heat=choose_by_heat(reading, settings, previous=self.by_heat.policy),
        )

    @property
    def by_readings(self) -> PolicyChoice:
        """The stricter of what charge and heat ask for."""
        return max(self.by_charge, self.by_heat, key=lambda choice: choice.policy)

    def choice(self, now_s: float) -> PolicyChoice:
        """Return the policy in force at a time of the caller's steady clock [s]."""
        if self.override is None or now_s >= self.override.until_s:
            return self.by_readings
        left = self.override.until_s - now_s
        return PolicyChoice(
            policy=self.override.policy, reason=f'set by hand for another {left:.0f} s'
        )


def choose_by_charge(
    reading: PowerReading, settings: PowerSettings, *, previous: Policy
) -> PolicyChoice:
    """
    Return the policy for what is known of the battery.

    Parameters
    ----------
    reading
        What is known now.
    settings
        Thresholds and hysteresis.
    previous
        The policy by the reading before. A looser one follows only when its threshold is passed
        by the hysteresis; a stricter one follows at once.

    """
    charge = reading.charge
    if charge is None:
        return _by_supply(reading)
    policy = Policy.AGGRESSIVE
    for level, threshold in (
        (Policy.BALANCED, settings.balanced_below),
        (Policy.CONSERVATIVE, settings.conservative_below),
        (Policy.CRITICAL, settings.critical_below),
    ):
        if charge < threshold + (settings.hysteresis if previous >= level else 0.0):
            policy = level
    reason = f'charge {charge:.0%}'
    if not reading.has_supply:
        return PolicyChoice(policy=policy, reason=reason)
    # Energy comes in: one step looser, but an empty battery has to be filled first.
    eased = policy if policy is Policy.CRITICAL else Policy(max(policy - 1, 0))
    return PolicyChoice(policy=eased, reason=f'{reason}, charging')


def _by_supply(reading: PowerReading) -> PolicyChoice:
    """Choose without a state of charge, which 12 V batteries seldom report."""
    if reading.has_supply:
        source = 'charging' if reading.is_charging else 'ignition on'
        return PolicyChoice(policy=Policy.AGGRESSIVE, reason=f'charge unknown, {source}')
    if reading.ignition in (Ignition.OFF, Ignition.LOCK):
        return PolicyChoice(policy=Policy.CONSERVATIVE, reason='charge unknown, ignition off')
    if reading.ignition is Ignition.UNDEFINED and reading.is_charging is None:
        return PolicyChoice(policy=Policy.BALANCED, reason=NOTHING_KNOWN)
    return PolicyChoice(policy=Policy.BALANCED, reason='charge unknown, nothing charges')


def choose_by_heat(
    reading: PowerReading, settings: PowerSettings, *, previous: Policy
) -> PolicyChoice:
    """Return the policy for the board's temperature; as `choose_by_charge`, with its own steps."""
    heat = reading.temperature_c
    policy = Policy.AGGRESSIVE
    if heat is None:
        return PolicyChoice(policy=policy, reason=NO_HEAT_KNOWN)
    for level, threshold in (
        (Policy.CONSERVATIVE, settings.conservative_above_c),
        (Policy.CRITICAL, settings.critical_above_c),
    ):
        if heat > threshold - (settings.hysteresis_c if previous >= level else 0.0):
            policy = level
    return PolicyChoice(policy=policy, reason=f'{heat:.0f} °C')


def decide(
    choice: PolicyChoice, cost: Cost, urgency: Urgency, settings: PowerSettings
) -> Decision:
    """
    Say whether an operation may run under a policy.

    Parameters
    ----------
    choice
        The policy in force.
    cost
        What the operation takes, estimated.
    urgency
        SHUTDOWN is always allowed. USER is bounded only when CRITICAL. BACKGROUND is not bounded
        when AGGRESSIVE and not allowed when CRITICAL.
    settings
        Energy that one operation may take in each policy.

    """
    policy = choice.policy
    if urgency is Urgency.SHUTDOWN:
        return Decision(is_allowed=True, reason='a save at shutdown is never refused')
    if urgency is Urgency.USER:
        limit = settings.critical_user_joules if policy is Policy.CRITICAL else math.inf
    else:
        limit = {
            Policy.AGGRESSIVE: math.inf,
            Policy.BALANCED: settings.balanced_joules,
            Policy.CONSERVATIVE: settings.conservative_joules,
            Policy.CRITICAL: 0.0,
        }[policy]
    joules = cost.joules(settings)
    name = policy.name.lower()
    if joules <= limit and not (limit == 0.0 and policy is Policy.CRITICAL):
        return Decision(is_allowed=True, reason=f'{joules:.2g} J under policy {name}')
    return Decision(
        is_allowed=False,
        reason=(
            f'takes {joules:.2g} J ({cost.bytes_read + cost.bytes_written} bytes, '
            f'{cost.tokens_computed} tokens), policy {name} ({choice.reason}) allows {limit:.2g} J'
        ),
        retry_s=settings.retry_s,
    )
