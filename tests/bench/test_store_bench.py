# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the store's figures say, where they do not depend on the machine."""

from __future__ import annotations

from pathlib import Path
import tempfile

import pytest

from cwm_ros.bench.header import format_headers, measure_header
from cwm_ros.bench.store import format_scaling, measure_scaling


@pytest.mark.slow
def test_freezing_and_evicting_cost_the_same_with_many_windows() -> None:
    shared = Path('/dev/shm')  # noqa: S108 - the folder made in it is our own
    folder = shared if shared.is_dir() else Path(tempfile.gettempdir())
    few, many = measure_scaling(folder, (10, 10_000))
    print(format_scaling([few, many]))  # noqa: T201
    assert many.freeze_ms < 3 * few.freeze_ms
    assert many.evict_ms < 3 * few.evict_ms
    assert many.list_ms < 50


@pytest.mark.parametrize('is_encrypted', [False, True])
def test_a_header_is_measured_with_what_was_written(tmp_path: Path, *, is_encrypted: bool) -> None:
    row = measure_header(tmp_path, is_encrypted=is_encrypted, tokens=1024, rounds=1)
    assert (row.tokens, row.chunks, row.turns) == (1024, 4, 32)
    assert row.bytes > 4 * 1024 + 32 * 128
    assert 'with 32 turns' in format_headers([row])


def test_the_curve_has_a_row_for_each_count(tmp_path: Path) -> None:
    rows = measure_scaling(tmp_path, (2, 4), rounds=2)
    assert [row.windows for row in rows] == [2, 4]
    assert len(format_scaling(rows).splitlines()) == 3
