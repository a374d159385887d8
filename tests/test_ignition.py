# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Ignition positions over time: what counts as on and off, and what is only a dip."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cwm_ros.ignition import Edge, Ignition, IgnitionTracker

DEBOUNCE_S = 0.5
ACC, LOCK, OFF = Ignition.ACC, Ignition.LOCK, Ignition.OFF
ON, START, UNDEFINED = Ignition.ON, Ignition.START, Ignition.UNDEFINED


def drive(events: list[tuple[float, Ignition | None]]) -> list[tuple[float, Edge]]:
    """Feed positions at times (None: only time passes); return the edges with their times."""
    tracker, edges = IgnitionTracker(), []
    for now_s, position in events:
        found = []
        if position is not None:
            tracker, edge = tracker.after(position, now_s)
            found.append(edge)
        tracker, edge = tracker.tick(now_s, DEBOUNCE_S)
        edges += [(now_s, e) for e in (*found, edge) if e is not Edge.NONE]
    return edges


def test_on_counts_at_once_and_off_after_the_debounce() -> None:
    edges = drive([(0, ON), (10, OFF), (10.4, None), (10.5, None), (20, ACC)])

    assert edges == [(0, Edge.ON), (10.5, Edge.OFF), (20, Edge.ON)]


def test_cranking_is_not_off() -> None:
    edges = drive([(0, ON), (1, START), (1.1, OFF), (1.3, START), (1.8, None), (2, ON)])

    assert edges == [(0, Edge.ON)]


def test_a_bounce_is_not_off_and_repeated_off_starts_no_new_wait() -> None:
    edges = drive([(0, ON), (1, OFF), (1.2, ON), (1.6, None), (2, OFF), (2.3, LOCK), (2.5, OFF)])

    assert edges == [(0, Edge.ON), (2.5, Edge.OFF)]


def test_undefined_says_nothing() -> None:
    assert drive([(0, UNDEFINED), (9, None)]) == []
    assert drive([(0, ON), (1, OFF), (1.3, UNDEFINED), (1.5, None)]) == [
        (0, Edge.ON),
        (1.5, Edge.OFF),
    ]


positions = st.lists(st.tuples(st.floats(0, 0.3), st.sampled_from([*Ignition, None])))


@given(positions)
def test_edges_alternate_and_off_was_held(steps: list[tuple[float, Ignition | None]]) -> None:
    now_s, events = 0.0, []
    for delay_s, position in steps:
        now_s += delay_s
        events.append((now_s, position))

    edges = drive(events)

    kinds = [edge for _, edge in edges]
    assert all(a is not b for a, b in pairwise(kinds))
    for at_s, edge in edges:
        if edge is Edge.OFF:
            before = [p for t, p in events if at_s - DEBOUNCE_S < t < at_s and p is not None]
            assert not set(before) & {ON, ACC, START}
