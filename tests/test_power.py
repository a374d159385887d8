# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Power policies: what readings lead to, over simulated days of a battery and of heat."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from cwm_ros.config_vehicle import PowerSettings
from cwm_ros.errors import ConfigError
from cwm_ros.ignition import Ignition
from cwm_ros.power import (
    choose_by_charge,
    Cost,
    decide,
    Override,
    Policy,
    PolicyChoice,
    PowerReading,
    PowerState,
    Urgency,
)

SETTINGS = PowerSettings()
charges = st.one_of(st.none(), st.floats(), st.floats(0, 1))
readings = st.builds(
    PowerReading,
    charge=charges,
    is_charging=st.sampled_from([None, True, False]),
    ignition=st.sampled_from(Ignition),
    temperature_c=st.one_of(st.none(), st.floats(), st.floats(-40, 120)),
)
policies = st.sampled_from(Policy)
costs = st.builds(
    Cost,
    bytes_read=st.integers(0, 1 << 40),
    bytes_written=st.integers(0, 1 << 40),
    tokens_computed=st.integers(0, 1 << 20),
)


def follow(values: list[PowerReading]) -> list[Policy]:
    """Return the policies that a series of readings leads to, from a state that knows nothing."""
    state, seen = PowerState(), []
    for value in values:
        state = state.with_reading(value, SETTINGS)
        seen.append(state.by_readings.policy)
    return seen


def changes(seen: list[Policy]) -> list[Policy]:
    """Return the series without repetitions."""
    return [p for i, p in enumerate(seen) if i == 0 or p is not seen[i - 1]]


def test_a_battery_that_empties_passes_every_policy_once() -> None:
    ripple = [0.01 * math.sin(i) for i in range(1000)]
    curve = [PowerReading(charge=1 - i / 1000 + ripple[i] / 2) for i in range(1000)]

    seen = follow([r for r in curve if r.charge is not None])

    assert changes(seen) == list(Policy)


def test_a_battery_that_fills_passes_them_back_with_hysteresis() -> None:
    fill = [PowerReading(charge=i / 1000, is_charging=False) for i in range(1001)]

    seen = follow(fill)

    assert changes(seen) == list(reversed(Policy))
    assert seen[199] is Policy.CRITICAL, 'left only at 0.15 + 0.05'
    assert seen[201] is Policy.CONSERVATIVE


def test_charging_eases_all_but_an_empty_battery() -> None:
    def policy(charge: float) -> Policy:
        reading = PowerReading(charge=charge, is_charging=True)
        return choose_by_charge(reading, SETTINGS, previous=Policy.AGGRESSIVE).policy

    assert policy(0.5) is Policy.AGGRESSIVE
    assert policy(0.2) is Policy.BALANCED
    assert policy(0.1) is Policy.CRITICAL


@pytest.mark.parametrize(
    ('ignition', 'policy'),
    [
        (Ignition.ON, Policy.AGGRESSIVE),
        (Ignition.START, Policy.BALANCED),
        (Ignition.ACC, Policy.BALANCED),
        (Ignition.OFF, Policy.CONSERVATIVE),
        (Ignition.LOCK, Policy.CONSERVATIVE),
        (Ignition.UNDEFINED, Policy.BALANCED),
    ],
)
def test_a_12_volt_battery_that_reports_nan_is_judged_by_ignition(
    ignition: Ignition, policy: Policy
) -> None:
    reading = PowerReading(charge=math.nan, ignition=ignition)

    choice = choose_by_charge(reading, SETTINGS, previous=Policy.BALANCED)

    assert choice.policy is policy
    assert 'known' in choice.reason


def test_heat_alone_makes_it_strict_and_cooling_needs_the_hysteresis() -> None:
    heats = [60, 84, 86, 84, 81, 79, 96, 91, 89, 79]

    seen = follow([PowerReading(charge=1.0, temperature_c=float(h)) for h in heats])

    aggressive, conservative, critical = Policy.AGGRESSIVE, Policy.CONSERVATIVE, Policy.CRITICAL
    assert seen == [
        aggressive,
        aggressive,
        conservative,
        conservative,
        conservative,
        aggressive,
        critical,
        critical,
        conservative,
        aggressive,
    ]


@given(st.floats(0, 1), st.floats(0, 1), policies, st.sampled_from([None, True, False]))
def test_less_charge_never_eases(
    a: float,
    b: float,
    previous: Policy,
    charging: bool | None,  # noqa: FBT001
) -> None:
    low, high = sorted((a, b))

    def policy(charge: float) -> Policy:
        reading = PowerReading(charge=charge, is_charging=charging)
        return choose_by_charge(reading, SETTINGS, previous=previous).policy

    assert policy(low) >= policy(high)


@given(readings, policies)
def test_a_reading_that_stays_leads_to_a_policy_that_stays(
    reading: PowerReading, previous: Policy
) -> None:
    before = PolicyChoice(policy=previous, reason='test')
    once = PowerState(by_charge=before, by_heat=before).with_reading(reading, SETTINGS)
    twice = once.with_reading(reading, SETTINGS)

    assert twice.with_reading(reading, SETTINGS) == twice


def test_heat_that_passes_does_not_hold_the_charge_back() -> None:
    hot = PowerReading(charge=0.17, temperature_c=99.0)
    cool = PowerReading(charge=0.17, temperature_c=40.0)

    assert follow([cool, hot, cool]) == [Policy.CONSERVATIVE, Policy.CRITICAL, Policy.CONSERVATIVE]


@given(st.floats(0, 1), policies)
def test_a_small_ripple_does_not_flap(charge: float, previous: Policy) -> None:
    ripple = SETTINGS.hysteresis / 2.5
    state = choose_by_charge(PowerReading(charge=charge), SETTINGS, previous=previous).policy
    seen = []
    for i in range(20):
        moved = min(1.0, max(0.0, charge + (ripple if i % 2 else -ripple)))
        state = choose_by_charge(PowerReading(charge=moved), SETTINGS, previous=state).policy
        seen.append(state)

    assert len(changes(seen)) <= 2


@given(readings, policies, costs)
def test_the_save_at_shutdown_is_never_refused(
    reading: PowerReading, previous: Policy, cost: Cost
) -> None:
    choice = choose_by_charge(reading, SETTINGS, previous=previous)

    assert decide(choice, cost, Urgency.SHUTDOWN, SETTINGS).is_allowed


@given(policies, policies, costs, costs, st.sampled_from(Urgency))
def test_a_stricter_policy_or_a_dearer_operation_is_never_allowed_more(
    a: Policy, b: Policy, cost: Cost, more: Cost, urgency: Urgency
) -> None:
    loose, strict = sorted((a, b))
    dearer = Cost(
        bytes_read=cost.bytes_read + more.bytes_read,
        bytes_written=cost.bytes_written + more.bytes_written,
        tokens_computed=cost.tokens_computed + more.tokens_computed,
    )

    def is_allowed(policy: Policy, cost: Cost) -> bool:
        choice = PolicyChoice(policy=policy, reason='test')
        return decide(choice, cost, urgency, SETTINGS).is_allowed

    assert is_allowed(strict, dearer) <= is_allowed(loose, dearer)
    assert is_allowed(strict, dearer) <= is_allowed(strict, cost)


def test_what_counts_is_bytes_and_tokens() -> None:
    choice = PolicyChoice(policy=Policy.CONSERVATIVE, reason='charge 20%')

    small = decide(choice, Cost(bytes_written=10**9), Urgency.BACKGROUND, SETTINGS)
    large = decide(choice, Cost(bytes_written=2 * 10**9), Urgency.BACKGROUND, SETTINGS)
    computed = decide(choice, Cost(tokens_computed=200), Urgency.BACKGROUND, SETTINGS)

    assert small.is_allowed
    assert not large.is_allowed
    assert not computed.is_allowed
    assert large.retry_s == SETTINGS.retry_s
    assert '6 J' in large.reason
    assert 'charge 20%' in large.reason
    assert 'conservative' in large.reason


def test_nothing_runs_in_the_background_when_critical() -> None:
    choice = PolicyChoice(policy=Policy.CRITICAL, reason='test')

    assert not decide(choice, Cost(), Urgency.BACKGROUND, SETTINGS).is_allowed
    assert decide(choice, Cost(bytes_read=10**9), Urgency.USER, SETTINGS).is_allowed
    assert not decide(choice, Cost(bytes_read=10**11), Urgency.USER, SETTINGS).is_allowed


def test_an_override_holds_until_it_expires_and_readings_go_on() -> None:
    state = PowerState(override=Override(policy=Policy.CRITICAL, until_s=10.0))
    state = state.with_reading(PowerReading(charge=0.9), SETTINGS)

    assert state.choice(9.9).policy is Policy.CRITICAL
    assert 'by hand' in state.choice(9.0).reason
    assert state.choice(10.0).policy is Policy.AGGRESSIVE


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'balanced_below': 1.5}, 'power.balanced_below is 1.5'),
        ({'hysteresis': math.nan}, 'power.hysteresis is nan'),
        ({'critical_below': 0.4}, 'power.critical_below is 0.4'),
        ({'critical_above_c': 50.0}, 'power.conservative_above_c is 85'),
        ({'retry_s': 0.0}, 'power.retry_s is 0'),
        ({'balanced_joules': -1.0}, 'power.balanced_joules is -1'),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(change: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        PowerSettings(**change)
