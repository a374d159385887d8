# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A process that is given cores and priorities, and boards that report heat or do not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from cwm_ros.config_vehicle import RuntimeSettings
from cwm_ros.errors import ConfigError, OutOfMemoryError
from cwm_ros.runtime import apply_runtime, check_memory, hottest_zone_c, power_mode

if TYPE_CHECKING:
    from pathlib import Path

CHILD = """
import json, pathlib, psutil, threading
from cwm_ros.config_vehicle import RuntimeSettings
from cwm_ros.runtime import apply_runtime
problems = apply_runtime(RuntimeSettings(**{settings}))
seen = {{}}
def look():
    thread = psutil.Process()
    seen.update(nice=thread.nice(), io=int(thread.ionice().ioclass), cores=thread.cpu_affinity())
worker = threading.Thread(target=look)
worker.start(); worker.join()
seen['oom'] = int(pathlib.Path('/proc/self/oom_score_adj').read_text())
print(json.dumps([problems, seen]))
"""


def run_child(**settings: object) -> tuple[list[str], dict[str, object]]:
    done = subprocess.run(
        [sys.executable, '-c', CHILD.format(settings=settings)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    problems, seen = json.loads(done.stdout)
    return problems, seen


def test_cores_and_priorities_are_applied() -> None:
    core = min(psutil.Process().cpu_affinity())

    problems, seen = run_child(cpu_affinity=f'{core}', nice=5, io_class='idle', oom_score_adj=300)

    assert problems == []
    assert seen == {'nice': 5, 'io': 3, 'cores': [core], 'oom': 300}


def test_what_cannot_be_applied_is_a_warning_that_names_it() -> None:
    problems, seen = run_child(cpu_affinity='4095', nice=3)

    assert len(problems) == 1
    assert 'runtime.cpu_affinity 4095' in problems[0]
    assert seen['nice'] == 3


def test_the_defaults_change_nothing() -> None:
    before = psutil.Process().nice()

    assert apply_runtime(RuntimeSettings()) == []
    assert psutil.Process().nice() == before


def test_a_thaw_that_would_take_the_last_memory_is_refused() -> None:
    available = psutil.virtual_memory().available
    settings = RuntimeSettings(min_mem_available_mib=64)

    check_memory(settings)
    check_memory(RuntimeSettings(), wanted_bytes=2 * available)
    with pytest.raises(OutOfMemoryError, match='min_mem_available_mib is 64'):
        check_memory(settings, wanted_bytes=2 * available)


def test_the_hottest_zone_counts_and_a_zone_that_sleeps_does_not(tmp_path: Path) -> None:
    for number, text in enumerate(('41000\n', '57500\n', 'N/A\n')):
        (tmp_path / f'thermal_zone{number}').mkdir()
        (tmp_path / f'thermal_zone{number}' / 'temp').write_text(text)

    assert hottest_zone_c(tmp_path) == 57.5
    assert hottest_zone_c(tmp_path / 'absent') is None


def test_a_jetsons_power_mode_is_read_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / 'status').write_text('pmode:0002\n')

    assert power_mode(tmp_path / 'status') == 'pmode:0002'
    assert power_mode(tmp_path / 'absent') == ''


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'cpu_affinity': '-1'}, "runtime.cpu_affinity is '-1'"),
        ({'cpu_affinity': '0-'}, "runtime.cpu_affinity is '0-'"),
        ({'cpu_affinity': '0-9999'}, 'runtime.cpu_affinity is 4096'),
        ({'nice': 20}, 'runtime.nice is 20'),
        ({'io_class': 'realtime'}, "runtime.io_class is 'realtime'"),
        ({'oom_score_adj': -1001}, 'runtime.oom_score_adj is -1001'),
    ],
)
def test_values_that_are_not_allowed_are_refused(change: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RuntimeSettings(**change)  # type: ignore[arg-type]


def test_cores_are_read_as_taskset_writes_them() -> None:
    assert RuntimeSettings(cpu_affinity='4,0-2,1').cores == (0, 1, 2, 4)
    assert RuntimeSettings().cores == ()
