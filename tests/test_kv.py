# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.kv import KVChunk, KVSpec, TokenRanges

SIZE = 20
spans = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))
edits = st.lists(st.tuples(st.sampled_from(['add', 'remove']), spans), max_size=25)


def run_edits(steps: list[tuple[str, tuple[int, int]]]) -> tuple[TokenRanges, set[int]]:
    ranges, oracle = TokenRanges(), set()
    for kind, (start, stop) in steps:
        positions = set(range(start, stop))
        if kind == 'add':
            ranges.add(start, stop)
            oracle |= positions
        else:
            ranges.remove(start, stop)
            oracle -= positions
    return ranges, oracle


def positions(pairs: object) -> list[int]:
    return [p for a, b in pairs for p in range(a, b)]  # type: ignore[attr-defined]


@given(edits)
def test_ranges_equal_a_set_of_positions(steps: list[tuple[str, tuple[int, int]]]) -> None:
    ranges, oracle = run_edits(steps)

    assert positions(ranges) == sorted(oracle)
    assert len(ranges) == len(oracle)
    assert all(a < b for a, b in ranges)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


@given(edits, spans)
def test_queries_equal_those_of_a_set(
    steps: list[tuple[str, tuple[int, int]]], span: tuple[int, int]
) -> None:
    ranges, oracle = run_edits(steps)
    asked = set(range(*span))

    assert ranges.covers(*span) == (asked <= oracle)
    assert positions(ranges.overlap(*span)) == sorted(asked & oracle)
    assert positions(ranges.missing(*span)) == sorted(asked - oracle)


@given(edits)
def test_equal_sets_are_equal_however_they_were_made(
    steps: list[tuple[str, tuple[int, int]]],
) -> None:
    ranges, oracle = run_edits(steps)

    assert ranges == TokenRanges((p, p + 1) for p in oracle)
    assert ranges == TokenRanges(ranges)
    assert ranges != TokenRanges([*ranges, (99, 100)])


def test_ranges_may_change_while_they_are_walked() -> None:
    """A repair adds what it has computed to the ranges that it walks through."""
    ranges = TokenRanges([(0, 2), (4, 6)])
    seen = []
    for start, stop in ranges:
        ranges.add(0, 10)
        seen.append((start, stop))

    assert seen == [(0, 2), (4, 6)]


def test_ranges_can_change_and_have_no_hash() -> None:
    with pytest.raises(TypeError):
        hash(TokenRanges())
    assert TokenRanges() != ()
    assert repr(TokenRanges([(1, 2)])) == 'TokenRanges([(1, 2)])'


def test_a_spec_knows_its_shape_and_size() -> None:
    spec = KVSpec(num_layers=2, num_kv_heads=3, head_dim=4, max_tokens=8)

    assert spec.shape(5) == (2, 2, 3, 5, 4)
    assert spec.elements_per_token() * 5 == int(np.prod(spec.shape(5)))
    assert KVChunk(start=7, kv=np.zeros(spec.shape(5), np.float32)).stop == 12
