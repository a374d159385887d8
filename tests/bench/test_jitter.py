# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The bench of a neighbour's jitter: what it counts, and that its processes live and end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench import jitter
from cwm_ros.config import Settings
from cwm_ros.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_row_counts_lateness_from_the_undisturbed_period() -> None:
    late = [0.001] * 97 + [0.003] * 2 + [0.021]
    row = jitter._row('kind', late, 0.001, [0.2, 0.1, 0.3])

    assert row.p50_s == 0
    assert 0.002 < row.p99_s <= row.max_s == pytest.approx(0.02)
    assert row.overruns == pytest.approx(0.01)
    assert (row.thaw_s, row.periods) == (0.2, 100)


def test_a_neighbour_wakes_a_hundred_times_a_second_and_skips_what_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    def work(_data: bytes) -> object:
        nonlocal now_s
        now_s += 0.025 if now_s == pytest.approx(0.05) else 0.001  # once it takes long
        return type('Digest', (), {'digest': bytes})

    monkeypatch.setattr(jitter, 'blake2b', work)
    monkeypatch.setattr(jitter.time, 'sleep', sleep)
    monkeypatch.setattr(jitter.time, 'monotonic', lambda: now_s)
    late = jitter._be_neighbour(0.095)

    assert late == pytest.approx([0.001] * 4 + [0.025] + [0.001] * 3)


def test_settings_that_are_compared_are_named_and_differ() -> None:
    given = jitter.kinds(3)

    assert next(iter(given.values())) == Settings()
    assert len(set(map(repr, given.values()))) == len(given) == 5
    assert given['runtime.cpu_affinity 3'].runtime.cores == (3,)


@pytest.mark.slow
def test_each_kind_is_measured_beside_real_thaws(tmp_path: Path) -> None:
    rows = jitter.measure_jitter(Settings(), tmp_path, tokens=600, rounds=1, seconds=0.5)

    assert [row.kind for row in rows] == [jitter.ALONE, *jitter.kinds(max_core())]
    for row in rows:
        assert (row.thaw_s > 0) == (row.kind != jitter.ALONE)
        assert 0 <= row.p50_s <= row.p99_s
        assert row.periods > 10
    assert len(jitter.format_jitter(rows).splitlines()) == 2 + len(rows)
    assert not list(tmp_path.iterdir())


def max_core() -> int:
    import os

    return max(os.sched_getaffinity(0))


@pytest.mark.slow
def test_a_process_that_cannot_thaw_is_an_error(tmp_path: Path) -> None:
    from dataclasses import replace

    from cwm_ros.config import StorageSettings

    settings = replace(Settings(), storage=StorageSettings(root=tmp_path / 'empty'))
    with pytest.raises(EngineError, match='that thaws failed'):
        jitter._beside_thaws(settings, 0.1)
