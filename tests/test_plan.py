# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
import numpy as np

from cwm_ros.config import ThawSettings
from cwm_ros.kv import ChunkId
from cwm_ros.plan import order_chunks, prioritize, ThawStep, usable_bounds
from cwm_ros.store import ChunkEntry

SIZE = 4


def entry(start: int, stop: int) -> ChunkEntry:
    return ChunkEntry(
        id=ChunkId(bytes(16)),
        start=start,
        stop=stop,
        codec='raw',
        payload_bytes=1,
        file_bytes=1,
    )


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[ChunkEntry], int, list[int], ThawSettings]:
    num_tokens = draw(st.integers(0, 80))
    starts = draw(st.sets(st.integers(0, max(0, (num_tokens - 1) // SIZE))))
    entries = [
        entry(i * SIZE, min(i * SIZE + SIZE, num_tokens)) for i in starts if i * SIZE < num_tokens
    ]
    stops = sorted(draw(st.sets(st.integers(1, max(1, num_tokens)), max_size=6)))
    stops = [*[s for s in stops if s < num_tokens], num_tokens] if num_tokens else []
    settings = ThawSettings(
        first_tokens=draw(st.integers(1, 20)), last_tokens=draw(st.integers(1, 20))
    )
    return draw(st.permutations(entries)), num_tokens, stops, settings


def plan_of(
    window: tuple[list[ChunkEntry], int, list[int], ThawSettings],
) -> tuple[ThawStep, ...]:
    entries, num_tokens, stops, settings = window
    return order_chunks(
        entries, num_tokens=num_tokens, chunk_tokens=SIZE, turn_stops=stops, settings=settings
    )


@given(windows())
def test_each_chunk_comes_exactly_once(
    window: tuple[list[ChunkEntry], int, list[int], ThawSettings],
) -> None:
    entries, num_tokens, _, _ = window
    steps = plan_of(window)
    spans = sorted((step.start, step.stop) for step in steps)

    assert [position for a, b in spans for position in range(a, b)] == list(range(num_tokens))
    assert all(b - a == SIZE for a, b in spans[:-1])
    stored = {e.start for e in entries}
    assert {s.start for s in steps if s.entry} == stored
    assert all(
        s.entry is None or (s.entry.start, s.entry.stop) == (s.start, s.stop) for s in steps
    )


@given(windows())
def test_usable_parts_come_first_then_the_newest_and_computed_ones_last(
    window: tuple[list[ChunkEntry], int, list[int], ThawSettings],
) -> None:
    steps = plan_of(window)
    groups = [(not s.is_usable_part, s.entry is None) for s in steps]

    assert groups == sorted(groups)
    for a, b in pairwise(steps):
        if (a.is_usable_part, a.entry is None) == (b.is_usable_part, b.entry is None):
            is_ascending = a.is_usable_part or a.entry is None
            assert (a.start < b.start) == is_ascending


@given(windows())
def test_usable_parts_hold_the_first_and_last_tokens_and_turns_and_no_more(
    window: tuple[list[ChunkEntry], int, list[int], ThawSettings],
) -> None:
    _, num_tokens, stops, settings = window
    needed = set(range(min(settings.first_tokens, num_tokens)))
    needed |= set(range(max(0, num_tokens - settings.last_tokens), num_tokens))
    if stops:
        needed |= set(range(stops[0]))
        needed |= set(range(stops[-2] if len(stops) > 1 else 0, num_tokens))
    for step in plan_of(window):
        assert step.is_usable_part == bool(needed & set(range(step.start, step.stop)))


def test_a_long_system_prompt_and_a_long_last_turn_are_whole_in_the_bounds() -> None:
    settings = ThawSettings(first_tokens=256, last_tokens=512)

    assert usable_bounds(8000, [300, 7000, 8000], settings=settings) == (300, 7000)
    assert usable_bounds(8000, [30, 7900, 8000], settings=settings) == (256, 7488)
    assert usable_bounds(100, [100], settings=settings) == (100, 0)
    assert usable_bounds(0, [], settings=settings) == (0, 0)


def test_an_entry_of_another_length_is_not_taken() -> None:
    """Such a chunk was short, and tokens followed."""
    (step, _) = order_chunks(
        [entry(0, 3)],
        num_tokens=6,
        chunk_tokens=SIZE,
        turn_stops=[6],
        settings=ThawSettings(),
    )

    assert step.entry is None
    assert 'not stored' in step.reason


@given(windows(), st.integers(0, 8), st.randoms(use_true_random=False))
def test_relevant_chunks_come_right_after_what_is_usable(
    window: tuple[list[ChunkEntry], int, list[int], ThawSettings], count: int, random: object
) -> None:
    steps = plan_of(window)
    scores = np.array([random.choice([0.0, 1.0, 2.5]) for _ in range(20)])  # type: ignore[attr-defined]
    order, num_wanted = prioritize(steps, scores, chunk_tokens=SIZE, count=count)
    usable = [s for s in steps if s.is_usable_part]
    others = [s for s in steps if not s.is_usable_part]
    positive = sorted((scores[s.start // SIZE] for s in others), reverse=True)
    relevant = order[len(usable) : num_wanted]

    assert Counter(s.start for s in order) == Counter(s.start for s in steps)
    assert list(order[: len(usable)]) == usable
    assert [scores[s.start // SIZE] for s in relevant] == [s for s in positive[:count] if s > 0]
    assert all(s.reason == 'relevant to the prompt' for s in relevant)
    chosen = {s.start for s in relevant}
    assert list(order[num_wanted:]) == [s for s in others if s.start not in chosen]
