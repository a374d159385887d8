# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Plans by their properties, and thaws on simulated boards against the two fixed strategies."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
import re

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.balance import Balance
from cwm_ros.bench.simulated_board import (
    BoardSpeed,
    learned_book,
    make_entries,
    new_book,
    simulate_thaw,
)
from cwm_ros.config import ThawSettings
from cwm_ros.plan import order_chunks, ThawStep, usable_bounds, Way
from cwm_ros.rates import Rates, UNKNOWN
from cwm_ros.schedule import plan_thaw, ThawPlan

SIZE = 256
SETTINGS = ThawSettings(io_threads=2)
KNOWN = Rates(load_s_per_byte=1e-6, decode_s_per_byte=1e-7, token_s=1e-4, reach_s=1e-8)


@st.composite
def all_rates(draw: st.DrawFn) -> Rates:
    """Rates from one end to the other, known or not."""
    if draw(st.booleans()):
        known = draw(st.sampled_from(['load_s_per_byte', 'token_s', 'nothing']))
        return UNKNOWN if known == 'nothing' else replace(UNKNOWN, **{known: 1e-6})
    exponents = st.floats(-9, -1)
    return Rates(
        load_s_per_byte=10 ** draw(exponents),
        token_s=10 ** draw(exponents),
        reach_s=10 ** draw(st.floats(-12, -6)),
        load_loss=draw(st.sampled_from([0.0, 0.25, 0.5])),
        drag=draw(st.sampled_from([1.0, 1.5, 2.0])),
    )


@st.composite
def questions(draw: st.DrawFn) -> dict[str, object]:
    """All that `plan_thaw` takes."""
    num_tokens = draw(st.integers(0, 30 * SIZE))
    entries = [e for e in make_entries(num_tokens, 1000) if draw(st.integers(0, 9))]
    entries = [replace(e, priority=draw(st.sampled_from([0, 1, 1, 1, 255]))) for e in entries]
    num_chunks = -(-num_tokens // SIZE)
    scores = np.array([draw(st.sampled_from([0.0, 1.0, 2.0])) for _ in range(num_chunks)])
    stops = sorted(draw(st.sets(st.integers(1, max(1, num_tokens)), max_size=5)))
    return {
        'entries': draw(st.permutations(entries)),
        'num_tokens': num_tokens,
        'chunk_tokens': SIZE,
        'turn_stops': [*[s for s in stops if s < num_tokens], num_tokens] if num_tokens else [],
        'settings': SETTINGS,
        'scores': scores if draw(st.booleans()) else None,
        'rates': draw(all_rates()),
        'strategy': draw(st.sampled_from(['auto', 'load', 'recompute'])),
        'deadline_s': draw(st.sampled_from([None, -1.0, 0.0, 0.01, 1.0, 1e9])),
    }


def answer(question: dict[str, object]) -> ThawPlan:
    return plan_thaw(**question)  # type: ignore[arg-type]


@given(questions())
def test_each_chunk_comes_once_and_what_makes_usable_comes_first(
    question: dict[str, object],
) -> None:
    plan = answer(question)
    num_tokens = question['num_tokens']
    assert isinstance(num_tokens, int)
    spans = sorted((step.start, step.stop) for step in plan.steps)
    flags = [step.is_usable_part for step in plan.steps]
    first, last = usable_bounds(num_tokens, question['turn_stops'], settings=SETTINGS)  # type: ignore[arg-type]

    assert [p for a, b in spans for p in range(a, b)] == list(range(num_tokens))
    assert flags == sorted(flags, reverse=True)
    for step in plan.steps:
        assert step.is_usable_part == (step.start < first or step.stop > last)
        assert step.reason
    assert sum(flags) <= plan.num_wanted <= len(plan.steps)


@given(questions())
def test_a_plan_is_the_same_each_time(question: dict[str, object]) -> None:
    assert answer(question) == answer(question)
    shuffled = {**question, 'entries': sorted(question['entries'], key=lambda e: e.start)}  # type: ignore[call-overload]
    assert answer(question) == answer(shuffled)


@given(questions())
def test_costs_add_up(question: dict[str, object]) -> None:
    plan, rates = answer(question), question['rates']
    assert isinstance(rates, Rates)
    reach = question['num_tokens']
    assert isinstance(reach, int)
    loads = [step for step in plan.steps if step.way is Way.LOAD]
    computed = [step for step in plan.steps if step.way is Way.COMPUTE]
    for step in plan.steps:
        is_known = rates.can_load if step.way is Way.LOAD else rates.can_compute
        assert (step.cost_s is not None) == (step.done_s is not None) == is_known
        if step.cost_s is None:
            continue
        if step.way is Way.LOAD:
            assert step.entry is not None
            assert step.cost_s == pytest.approx(step.entry.file_bytes * rates.load_s_per_byte)
        else:
            token_s = rates.token_s + reach * rates.reach_s
            assert step.cost_s == pytest.approx((step.stop - step.start) * token_s)
    if rates.can_load and loads:
        total_s = sum(step.cost_s or 0.0 for step in loads)
        assert plan.load_s == pytest.approx(total_s)
        assert max(step.done_s or 0.0 for step in loads) == pytest.approx(total_s)
        done = sorted(step.done_s or 0.0 for step in loads)
        assert done == pytest.approx(np.cumsum([s.cost_s for s in loads_in_order(loads)]))
    if rates.is_known:
        assert plan.usable_s is not None
        assert plan.answerable_s is not None
        assert plan.complete_s is not None
        assert plan.repair_s is not None
        assert plan.usable_s <= plan.answerable_s <= plan.complete_s
        ends = [step.done_s or 0.0 for step in plan.steps]
        assert plan.complete_s == pytest.approx(max(ends, default=0.0) + plan.repair_s)
        assert plan.complete_s >= sum(s.cost_s or 0.0 for s in computed) + plan.repair_s - 1e-9


def loads_in_order(loads: list[ThawStep]) -> list[ThawStep]:
    return sorted(loads, key=lambda step: step.done_s or 0.0)


@given(questions())
def test_strategies_do_what_they_say(question: dict[str, object]) -> None:
    plan, rates = answer(question), question['rates']
    assert isinstance(rates, Rates)
    stored = {entry.start for entry in question['entries']}  # type: ignore[attr-defined]
    loaded = {step.start for step in plan.steps if step.way is Way.LOAD}
    if question['strategy'] == 'recompute':
        assert not loaded
    elif question['strategy'] == 'load' or not rates.is_known:
        assert loaded == stored
    else:
        assert loaded <= stored


@given(questions())
def test_a_deadline_says_what_is_there_by_then(question: dict[str, object]) -> None:
    plan, deadline_s = answer(question), question['deadline_s']
    in_time = plan.in_time()
    if deadline_s is None:
        assert in_time == plan.steps
    elif isinstance(deadline_s, float) and deadline_s <= 0:
        assert in_time == ()
    elif in_time is None:
        assert any(step.done_s is None for step in plan.steps)
    else:
        late = set(plan.steps) - set(in_time)
        assert all(step.done_s is not None and step.done_s <= deadline_s for step in in_time)  # type: ignore[operator]
        assert all(step.done_s is not None and step.done_s > deadline_s for step in late)  # type: ignore[operator]


def test_a_window_of_no_turns_needs_nothing() -> None:
    plan = plan_thaw(
        [], num_tokens=0, chunk_tokens=SIZE, turn_stops=[], settings=SETTINGS, rates=KNOWN
    )

    assert plan.steps == ()
    assert (plan.usable_s, plan.answerable_s, plan.complete_s) == (0.0, 0.0, 0.0)


def test_stored_priority_counts_before_age() -> None:
    entries = make_entries(20 * SIZE, 1000)
    entries[5] = replace(entries[5], priority=0)
    entries[15] = replace(entries[15], priority=9)
    steps = order_chunks(
        entries,
        num_tokens=20 * SIZE,
        chunk_tokens=SIZE,
        turn_stops=[20, 20 * SIZE - 20, 20 * SIZE],
        settings=SETTINGS,
    )
    others = [step.start // SIZE for step in steps if not step.is_usable_part]

    assert others[0] == 5
    assert others[-1] == 15
    assert others[1:-1] == sorted(others[1:-1], reverse=True)


def ways(rates: Rates) -> str:
    """Return the window as letters, the oldest chunk first."""
    plan = plan_thaw(
        make_entries(20 * SIZE, 1000),
        num_tokens=20 * SIZE,
        chunk_tokens=SIZE,
        turn_stops=[20, 20 * SIZE - 20, 20 * SIZE],
        settings=replace(SETTINGS, io_threads=8),
        rates=rates,
    )
    steps = sorted(plan.steps, key=lambda step: step.start)
    return ''.join('L' if step.way is Way.LOAD else 'c' for step in steps)


def test_the_front_is_computed_while_the_back_is_loaded() -> None:
    # 1000 bytes take 1 ms, 256 tokens 0.2 ms, 1 ms, 5 ms and for ever
    token_s = 1e-3 / 256
    fast, equal, slow, never = (
        replace(KNOWN, token_s=factor * token_s, reach_s=0.0, decode_s_per_byte=0.0)
        for factor in (0.02, 1, 5, 1e6)
    )

    assert set(ways(fast)) == {'c'}
    assert re.fullmatch('L?c+L+', ways(equal)), ways(equal)
    assert 6 <= ways(equal).count('c') <= 12
    assert re.fullmatch('L?c+L+', ways(slow)), ways(slow)
    assert 1 <= ways(slow).count('c') <= 4
    assert set(ways(never)) == {'L'}


def step_at(index: int, *, is_usable: bool = False, way: Way = Way.LOAD) -> ThawStep:
    (entry,) = make_entries(SIZE, 1000)
    start = index * SIZE
    entry = replace(entry, start=start, stop=start + SIZE)
    return ThawStep(
        start=start,
        stop=start + SIZE,
        entry=entry if way is Way.LOAD else None,
        is_usable_part=is_usable,
        reason='because',
        way=way,
    )


def test_what_was_taken_and_put_back_is_taken_first_again() -> None:
    steps = [step_at(0, is_usable=True), step_at(9), step_at(8)]
    balance = Balance(steps, lambda: UNKNOWN, reach=1, ahead=4)
    first, second = balance.take_load(0.0, 0.0), balance.take_load(0.0, 0.0)
    assert (first, second) == (steps[0], steps[1])
    assert first is not None
    assert second is not None
    balance.put_back(second)
    balance.put_back(first)

    assert len(balance) == 3
    taken = [balance.take_load(0.0, 0.0) for _ in range(4)]
    assert taken == [*steps, None]
    assert len(balance) == 0


def test_a_usable_part_is_computed_when_all_before_it_is_there() -> None:
    steps = [
        step_at(0, is_usable=True),
        step_at(8, is_usable=True, way=Way.COMPUTE),
        step_at(9, is_usable=True),
    ]
    balance = Balance(steps, lambda: UNKNOWN, reach=1, ahead=4)

    assert balance.take_urgent(set()) is None, 'its beginning is not even asked for'
    assert balance.take_load(0.0, 0.0) == steps[0]
    assert balance.take_urgent({0}) is None, 'its beginning is on its way'
    assert balance.take_urgent({9 * SIZE}) == steps[1]


# --- simulated boards ---------------------------------------------------------------------------

DRIVES = (2e7, 1e8, 3e8, 1e9, 5e9)
TOKENS_S = (1e-5, 1e-4, 1e-3)
LENGTHS = (1024, 2048, 4096, 16384)
GRID = list(product(DRIVES, TOKENS_S, LENGTHS, (False, True)))


def board_of(drive: float, token_s: float, *, is_shared: bool) -> BoardSpeed:
    return BoardSpeed(
        drive_bytes_per_s=drive,
        token_s=token_s,
        position_s=token_s / 20_000,
        is_shared=is_shared,
    )


@pytest.mark.parametrize(('drive', 'token_s', 'num_tokens', 'is_shared'), GRID)
def test_a_plan_is_nearly_as_good_as_the_better_fixed_strategy(
    *, drive: float, token_s: float, num_tokens: int, is_shared: bool
) -> None:
    speed = board_of(drive, token_s, is_shared=is_shared)
    load = simulate_thaw(speed, num_tokens, 'load')
    recompute = simulate_thaw(speed, num_tokens, 'recompute')
    auto = simulate_thaw(speed, num_tokens, 'auto', learned_book(speed, 4096))

    assert auto.complete_s <= 1.1 * min(load.complete_s, recompute.complete_s)
    assert auto.usable_s <= 1.1 * min(load.usable_s, recompute.usable_s)
    assert load.recomputed_tokens == 0
    assert recompute.reused_tokens == 0
    assert auto.reused_tokens + auto.recomputed_tokens >= num_tokens


def test_both_lanes_together_are_better_than_either() -> None:
    speed = board_of(1e9, 1e-5, is_shared=False)
    fixed = [
        simulate_thaw(speed, 16384, strategy).complete_s for strategy in ('load', 'recompute')
    ]
    auto = simulate_thaw(speed, 16384, 'auto', learned_book(speed, 4096))

    assert auto.complete_s < 0.8 * min(fixed)


def test_a_board_that_is_not_known_loads() -> None:
    speed = board_of(2e7, 1e-5, is_shared=False)
    first = simulate_thaw(speed, 4096, 'auto', new_book(speed))

    assert first == simulate_thaw(speed, 4096, 'load')


@pytest.mark.parametrize('factor', [0.05, 20.0])
def test_a_drive_that_has_changed_is_noticed_in_the_middle(factor: float) -> None:
    """The book is of another drive, faster or slower."""
    speed = board_of(1e9, 1e-4, is_shared=False)
    book = learned_book(replace(speed, drive_bytes_per_s=1e9 * factor), 4096)
    load = simulate_thaw(speed, 16384, 'load')
    recompute = simulate_thaw(speed, 16384, 'recompute')
    auto = simulate_thaw(speed, 16384, 'auto', book)

    assert auto.complete_s <= 1.25 * min(load.complete_s, recompute.complete_s)


def test_entries_of_the_simulated_window_cover_it() -> None:
    entries = make_entries(1000, 1024)

    assert [entry.file_bytes for entry in entries] == [1024, 1024, 1024, 928]
