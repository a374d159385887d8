# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the store's figures say, where they do not depend on the machine."""

from __future__ import annotations

from dataclasses import asdict
import sys
from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench.header import format_headers, measure_header
from cwm_ros.bench.store import format_scaling, measure_scaling
from cwm_ros.bench.synthetic_windows import CHUNK_TOKENS, tokens_of, wall_ms, write_window
from cwm_ros.config import StorageSettings
from cwm_ros.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def calls_of(work: Callable[[], object]) -> int:
    """Return how many calls ``work`` makes, which is the same on every machine."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ('call', 'c_call')

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def work_with(root: Path, count: int) -> tuple[int, int, int]:
    """Return the calls of a freeze and of evictions, and how many, with ``count`` windows."""
    settings = StorageSettings(root=root, quota_mib=64, free_floor_mib=0)
    grown = tokens_of(1 << 31, CHUNK_TOKENS * 2)
    with Store.open(settings, writable=True, clock=wall_ms) as store:
        for number in range(count):
            write_window(store, f'w{number}', tokens_of(number, 4 * CHUNK_TOKENS))
        write_window(store, 'live', grown[:CHUNK_TOKENS])
        freeze = calls_of(lambda: write_window(store, 'live', grown))
        evict_some(store)  # from here on the order of eviction is known
        before = store.storage().evictions
        evict = calls_of(lambda: evict_some(store))
        return freeze, evict, store.storage().evictions - before


def evict_some(store: Store) -> None:
    report = store.storage()
    store.reserve_room(report.quota_bytes * 31 // 32 - report.used_bytes + 10_000)


def test_freezing_and_evicting_are_the_same_work_with_many_windows(tmp_path: Path) -> None:
    few, many = work_with(tmp_path / 'few', 50), work_with(tmp_path / 'many', 200)
    assert few[2] == many[2] > 0
    assert few[0] == many[0]
    assert few[1] <= many[1] < 1.5 * few[1]


@pytest.mark.parametrize('is_encrypted', [False, True])
def test_a_header_is_measured_with_what_was_written(tmp_path: Path, *, is_encrypted: bool) -> None:
    row = measure_header(tmp_path, is_encrypted=is_encrypted, tokens=1024, rounds=1)
    assert (row.tokens, row.chunks, row.turns) == (1024, 4, 32)
    assert row.bytes > 4 * 1024 + 32 * 128
    assert 'with 32 turns' in format_headers([row])


@pytest.mark.slow
def test_the_curve_has_a_row_for_each_count(tmp_path: Path) -> None:
    rows = measure_scaling(tmp_path, (2, 4), rounds=2)
    assert [row.windows for row in rows] == [2, 4]
    assert all(value > 0 for row in rows for value in asdict(row).values())
    assert len(format_scaling(rows).splitlines()) == 3
