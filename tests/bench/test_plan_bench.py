# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench.plan import format_plan_rows, measured_row, PlanRow
from cwm_ros.config import Settings

if TYPE_CHECKING:
    from pathlib import Path


def row(auto_s: float, *, load_s: float = 2.0, recompute_s: float = 4.0) -> PlanRow:
    seconds = {'load': load_s, 'recompute': recompute_s, 'auto': auto_s}
    return PlanRow(
        board='a board', tokens=512, usable_s=seconds, complete_s=seconds, recomputed_tokens=0
    )


def test_a_ratio_is_of_the_better_fixed_strategy() -> None:
    assert row(1.0).complete_ratio == 0.5
    assert row(3.0, load_s=9.0).usable_ratio == 0.75
    text = format_plan_rows([row(1.0), row(2.2), row(2.0)])
    assert 'best 0.50, median 1.00, worst 1.10' in text


@pytest.mark.slow
def test_strategies_are_timed_on_this_machine(tmp_path: Path) -> None:
    notes: list[str] = []
    found = measured_row(Settings(), tmp_path, num_tokens=600, rounds=1, note=notes.append)

    assert notes[-1] == 'round 1 of 1'
    assert set(found.complete_s) == {'auto', 'load', 'recompute'}
    assert all(found.usable_s[name] <= found.complete_s[name] for name in found.complete_s)
    assert list(tmp_path.iterdir()) == []
