# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The table of promises: its verdicts, and where its figures come from."""

from __future__ import annotations

import subprocess
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench import targets
from cwm_ros.bench.energy import find_meter, Ina3221, Rapl
from cwm_ros.bench.tables import Report, Row
from cwm_ros.bench.targets import energy_rows, stages, TargetRow, TargetTable
from cwm_ros.bench.targets_memory import measure_peak, Peak
from cwm_ros.config import Settings
from cwm_ros.errors import EngineError
from tests.fakes import make_window

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cwm_ros.bench.thaw import ThawBench
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
    for row in energy_rows(Settings(), None, lambda _: None):
        assert row.verdict == 'not measured'
        assert row.note


def measure_some(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, failing: bool
) -> tuple[dict[str, TargetRow], list[str]]:
    """Make the table with benches that tell at once, or fail at 8K, in freeze, and in memory."""

    def thaw(bench: ThawBench, _: Callable[[str], None]) -> Report:
        (case,) = bench.cases
        if failing and case.endswith('8192'):
            raise EngineError('the accelerator is gone')
        times = {'header': 0.001, 'usable': 0.6 if '16384' in case else 0.1, 'complete': 1.0}
        rows = [Row.of((case, 'cwm', 'cold', stage), [time], 1) for stage, time in times.items()]
        return Report(machine={}, rows=tuple(rows))

    def freeze(*_: object, lengths: list[int], **__: object) -> list[SimpleNamespace]:
        if failing:
            raise OSError('no space left')
        return [SimpleNamespace(tokens=lengths[0], whole_s=0.2)]

    def peak(*_: object) -> Peak:
        if failing:
            raise subprocess.TimeoutExpired('measure', 600)
        return Peak(resident=400_000_000, weights=100_000_000, cache=100_000_000)

    demo = SimpleNamespace(tokens=4200, cold_start_s=1.5)
    for name, fake in (
        ('bench_thaw', thaw),
        ('measure_freeze', freeze),
        ('run_demo', lambda *_: demo),
        ('write_window', lambda *_: None),
        ('measure_peak', peak),
        ('find_meter', lambda: None),
    ):
        monkeypatch.setattr(targets, name, fake)
    told: list[str] = []
    table = targets.measure_targets(Settings(), folder, rounds=1, note=told.append)
    return {row.target: row for row in table.rows}, told


PROMISED = (
    *('header', 'usable', 'thaw 4K', 'thaw 8K', 'thaw 16K', 'thaw 32K', 'freeze', 'cold start'),
    *('peak memory', 'energy, thaw', 'energy, recompute'),
)


def test_the_table_has_all_that_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, told = measure_some(monkeypatch, tmp_path, failing=False)
    assert tuple(rows) == PROMISED
    limits = {name: row.limit for name, row in rows.items() if row.limit is not None}
    assert limits == {
        'header': 0.01, 'usable': 0.5, 'thaw 4K': 2, 'thaw 8K': 5, 'thaw 16K': 3, 'thaw 32K': 10,
        'freeze': 1, 'cold start': 2, 'peak memory': 500,
    }  # fmt: skip
    assert rows['usable'].verdict == 'FAIL'
    assert rows['usable'].case == 'reference-16384, worst'
    assert rows['thaw 32K'].case == 'synthetic-32768, model geometry'
    assert rows['peak memory'].measured == 200
    assert rows['freeze'].measured == 0.2
    assert {row.verdict for name, row in rows.items() if 'energy' in name} == {'not measured'}
    assert rows['thaw 4K'].as_text() in told


def test_a_bench_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, told = measure_some(monkeypatch, tmp_path, failing=True)
    assert tuple(rows) == PROMISED
    failed = {name: row.note for name, row in rows.items() if row.note.startswith('failed')}
    assert failed == {
        'thaw 8K': 'failed: EngineError: the accelerator is gone',
        'freeze': 'failed: OSError: no space left',
        'peak memory': failed['peak memory'],
    }
    assert 'timed out' in failed['peak memory']
    assert all(rows[name].verdict == 'not measured' for name in failed)
    assert rows['thaw 16K'].verdict == rows['cold start'].verdict == 'pass'
    assert rows['header'].note == 'without [8192]'
    assert any('accelerator is gone' in line for line in told)


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
