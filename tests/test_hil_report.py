# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a GPU machine comes about whatever its parts do; here they have no GPU."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench.gpu_report import GpuReport
from cwm_ros.engine.cuda import Device
from cwm_ros.errors import EngineError
from tests.hil import report
from tests.hil.page import write_page
from tests.hil.report import hand_over, Part, run, run_part

if TYPE_CHECKING:
    from collections.abc import Sequence

TESTS = """
import pytest

def test_right():
    print('worst logit, relative: 1e-3')

def test_wrong():
    assert 1 == 2, 'as it is'

def test_absent():
    pytest.skip('no GPU to test')
"""


def part(name: str, *command: str, seconds: float = 20, needs: str = '') -> Part:
    return Part(name=name, about=f'about {name}', command=command, seconds=seconds, needs=needs)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / 'results').mkdir()
    return tmp_path


def status_of(work: Path, given: Part, limit_s: float = 60) -> tuple[str, str]:
    result = run_part(given, work, limit_s)
    assert json.loads((work / 'results' / f'{given.name}.json').read_text())['name'] == given.name
    return result.status, result.reason


def test_a_part_ends_in_one_of_four_ways(work: Path) -> None:
    assert status_of(work, part('fine', 'true')) == ('passed', '')
    status, reason = status_of(work, part('bad', 'sh', '-c', 'echo so and so; exit 3'))
    assert status == 'failed'
    assert 'status 3' in reason
    assert 'so and so' in reason
    assert status_of(work, part('gone', 'no-such-program'))[0] == 'failed'
    lacking = part('lacking', 'true', needs='no-such-program')
    assert status_of(work, lacking) == ('skipped', 'no no-such-program here')
    ros = part('ros', 'echo', 'ROS tests skipped: rclpy cannot be imported')
    assert status_of(work, ros)[0] == 'skipped'


def test_a_part_that_hangs_is_ended_with_all_that_it_began(work: Path) -> None:
    pid = work / 'pid'
    hangs = part('hangs', 'sh', '-c', f'sleep 60 & echo $! > {pid}; wait', seconds=1)
    assert status_of(work, hangs) == ('timed out', 'after 1 s')
    stat = Path(f'/proc/{pid.read_text().strip()}/stat')
    deadline = time.monotonic() + 10
    while stat.exists() and stat.read_text().split()[2] != 'Z':
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_tests_are_counted_and_what_they_print_is_reported(work: Path) -> None:
    file = work / 'test_of_gpu.py'
    file.write_text(TESTS)
    given = report.tests('gpu', 'about', 60, str(file))
    result = run_part(given, work, 60)

    assert result.status == 'failed'
    assert result.counts == {'passed': 1, 'failed': 1, 'skipped': 1}
    assert 'as it is' in result.failures['test_wrong']
    assert 'worst logit, relative: 1e-3' in result.said
    write_page(work, ['gpu', 'other'])
    page = (work / 'report.md').read_text()
    assert '1 passed, 1 failed, 1 skipped' in page
    assert '- FAILED test_wrong: ' in page
    assert '- worst logit, relative: 1e-3' in page
    assert 'Not run: other.' in page


@pytest.fixture
def no_gpu() -> None:
    try:
        Device()
    except EngineError:
        return
    pytest.skip('there is a GPU')


def test_a_short_call_leaves_parts_for_the_next(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, 'RESERVE_S', 0.2)
    parts = [part('first', 'sleep', '5'), part('second', 'true')]
    run(parts, work, 0.7)
    assert json.loads((work / 'results' / 'first.json').read_text())['status'] == 'timed out'
    assert not (work / 'results' / 'second.json').exists()
    assert write_page(work, ['first', 'second']) == {'first': 'timed out', 'second': 'not run'}


def test_figures_and_plots_are_in_the_page_and_logs_are_cut(work: Path) -> None:
    figures = GpuReport(facts={'gpu': 'Fake GPU'})
    for tokens in (1024, 16384):
        figures.add('recompute', tokens / 1000, 's', tokens)
        figures.add('from RAM: complete', tokens / 100_000, 's', tokens)
        figures.add('from RAM: complete, recompute is longer', 100, 'times', tokens)
    figures.add('import, of the link', 0.7, '', 16384)
    status_of(work, part('8b', 'sh', '-c', 'yes | head -c 200000'))
    results = work / 'results'
    (results / '8b.figures.json').write_text(json.dumps(figures.as_json()))
    write_page(work, ['8b'])
    hand_over(work, work / 'out')
    page = (work / 'out' / 'report.md').read_text()

    assert '| recompute [s] | 1.024 | 16.38 |' in page
    assert '| import, of the link |  | 0.7 |' in page
    assert 'met     from RAM: complete, recompute is longer, 16384 tokens: 100' in page
    assert 'MISSED  import, of the link, 16384 tokens: 0.7 (target ≥ 0.8)' in page
    assert '![about 8b](8b.png)' in page
    assert (work / 'out' / '8b.png').stat().st_size > 1000
    with tarfile.open(work / 'out' / 'results.tar.gz') as archive:
        sizes = {entry.name: entry.size for entry in archive.getmembers()}
    assert sizes['8b.log'] == report.LOG_BYTES
    assert sizes['8b.json'] > 10


def ask(*arguments: str | Path) -> Sequence[str]:
    done = subprocess.run(
        [sys.executable, '-m', 'tests.hil.report', *map(str, arguments)],
        cwd=report.ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.usefixtures('no_gpu')
def test_the_program_reports_where_there_is_no_gpu(tmp_path: Path) -> None:
    lines = ask(tmp_path / 'work', '--part', 'kernels', '--out', tmp_path / 'out')
    assert 'kernels: skipped after' in lines[0]
    assert '# What ran on this GPU' in lines
    page = (tmp_path / 'out' / 'report.md').read_text()
    assert 'skipped: no GPU to test' in page
    assert 'no NVIDIA driver' in page
