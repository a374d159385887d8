# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The table of promises: its verdicts, and where its figures come from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench.energy import find_meter, Ina3221, Rapl
from cwm_ros.bench.tables import Row
from cwm_ros.bench.targets import energy_rows, stages, TargetRow, TargetTable
from cwm_ros.bench.targets_memory import measure_peak, Peak
from cwm_ros.config import Settings
from cwm_ros.errors import EngineError
from tests.fakes import make_window

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import OpenManager


def row_of(measured: float | None, limit: float | None) -> TargetRow:
    return TargetRow(target='t', case='c', unit='s', measured=measured, limit=limit)


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f'{content}\n', encoding='ascii')
    return folder


@pytest.mark.parametrize(
    ('measured', 'limit', 'verdict'),
    [
        (0.9, 1.0, 'pass'),
        (1.0, 1.0, 'FAIL'),
        (2.0, 1.0, 'FAIL'),
        (2.0, None, 'no limit'),
        (None, 1.0, 'not measured'),
    ],
)
def test_a_promise_is_kept_below_its_limit(
    measured: float | None, limit: float | None, verdict: str
) -> None:
    row = row_of(measured, limit)
    assert row.verdict == verdict
    table = TargetTable(machine={'cpu': 'one of mine'}, rows=(row,))
    (told,) = table.as_json()['rows']  # type: ignore[misc, attr-defined]
    assert (told['verdict'], told['measured'], told['limit']) == (verdict, measured, limit)
    assert verdict in table.as_text()
    assert 'one of mine' in table.as_text()


def test_only_our_cold_thaw_counts() -> None:
    rows = [
        Row.of((case, path, state, stage), [seconds], 1)
        for case, path, state, stage, seconds in (
            ('a', 'cwm', 'cold', 'usable', 1.0),
            ('a', 'cwm', 'cold', 'complete', 2.0),
            ('a', 'cwm', 'warm', 'usable', 3.0),
            ('a', 'recompute', 'cold', 'complete', 4.0),
            ('b', 'cwm', 'cold', 'usable', 5.0),
        )
    ]
    assert stages(rows, 'a') == {'usable': 1.0, 'complete': 2.0}


def test_energy_of_all_packages_is_counted_over_a_wrap(tmp_path: Path) -> None:
    zones = tmp_path / 'class/powercap'
    limit = {'max_energy_range_uj': 10_000_000}
    first = write(zones / 'intel-rapl:0', name='package-0', energy_uj=9_000_000, **limit)
    second = write(zones / 'intel-rapl:1', name='package-1', energy_uj=1_000_000, **limit)
    write(zones / 'intel-rapl:0:0', name='core', energy_uj=5, **limit)
    meter = find_meter(tmp_path)
    assert isinstance(meter, Rapl)

    def work() -> None:
        write(first, energy_uj=2_000_000)
        write(second, energy_uj=1_500_000)

    assert meter.measure(work) == pytest.approx(3.5)


def test_energy_of_a_jetson_is_its_power_by_time(tmp_path: Path) -> None:
    write(tmp_path / 'class/hwmon/hwmon0', name='coretemp')
    rails = {'in1_label': 'VDD_CPU', 'in2_label': 'VDD_IN', 'in2_input': 5000, 'curr2_input': 2000}
    write(tmp_path / 'class/hwmon/hwmon1', name='ina3221', **rails)
    meter = find_meter(tmp_path)
    assert isinstance(meter, Ina3221)
    began = time.perf_counter()
    joules = meter.measure(lambda: time.sleep(0.03))
    assert 0.3 <= joules <= 10 * (time.perf_counter() - began)


def test_without_a_meter_energy_is_not_measured(tmp_path: Path) -> None:
    write(tmp_path / 'class/powercap/intel-rapl:0', name='package-0', energy_uj='')
    write(tmp_path / 'class/hwmon/hwmon0', name='ina3221', in1_label='VDD_CPU')
    assert find_meter(tmp_path) is None
    assert find_meter(tmp_path / 'nowhere') is None
    for row in energy_rows(Settings(), None):
        assert row.verdict == 'not measured'
        assert row.note


def test_the_peak_is_that_of_a_whole_process(open_tiny: OpenManager) -> None:
    with open_tiny() as manager:
        make_window(manager, 'trip')
        settings = manager.settings
    peak = measure_peak(settings, 'trip')
    assert peak.resident > peak.weights + peak.cache
    assert min(peak.weights, peak.cache, peak.above) > 0
    assert Peak(resident=10, weights=2, cache=3).above == 5
    with pytest.raises(EngineError, match='does not exist'):
        measure_peak(settings, 'absent')
