# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The bench of a GPU goes all its ways; its figures here are of no GPU."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

from click.testing import CliRunner
import pytest

from cwm_ros.bench import gpu, gpu_measure
from cwm_ros.bench.gpu_report import (
    COMPLETE,
    GpuReport,
    LINK_SHARE,
    READ_SHARE,
    RECOMPUTE,
    SLOWDOWN,
    USABLE,
)
from cwm_ros.cli.app import cli
from cwm_ros.engine import cuda
from cwm_ros.errors import ConfigError
from tests.conftest import TINY
from tests.engine.fake_gpu import build_fake, open_fake_engine

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from cwm_ros.model import Checkpoint

TOKENS = 1024


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tmp_path / 'parts'
    parts.mkdir()
    module = SimpleNamespace(__version__='10.3.0', ILogger=object)
    monkeypatch.setattr(cuda, 'LIBRARY', str(build_fake(parts, is_half=True)))
    monkeypatch.setattr(gpu, 'import_tensorrt', lambda: module)
    monkeypatch.setattr(gpu, 'open_gpu_engine', lambda *_: open_fake_engine(tiny, parts))
    monkeypatch.setattr(gpu_measure, 'PINNED_BYTES', 1 << 20)
    monkeypatch.setattr(gpu_measure, 'STEPS', 10)


def ask(tmp_path: Path, *arguments: str) -> Result:
    config = tmp_path / 'cwm.yaml'
    config.write_text(f'/**:\n  ros__parameters:\n    engine: {{kind: tensorrt, model: {TINY}}}\n')
    command = ['--config', str(config), '--json', 'bench', 'engine', '--folder', str(tmp_path)]
    return CliRunner().invoke(cli, [*command, *arguments])


def test_the_table_has_recompute_and_thaw_of_one_run(tmp_path: Path) -> None:
    plot = tmp_path / 'plot.png'
    result = ask(tmp_path, '--tokens', str(TOKENS), '--plot', str(plot))
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    values = {row['case']: row['value'] for row in document['rows'] if row['tokens'] == TOKENS}

    for case in (RECOMPUTE, 'prefill', 'decode', 'freeze to RAM', 'freeze to disk', USABLE,
                 COMPLETE, 'from disk: usable', 'from disk: complete', 'raw read',
                 'import from pinned'):  # fmt: skip
        assert values[case] > 0, case
    for case in (LINK_SHARE, READ_SHARE, SLOWDOWN):
        assert case in values
    for source in ('RAM', 'disk'):
        ratio = values[f'from {source}: complete, recompute is longer']
        assert ratio == pytest.approx(values[RECOMPUTE] / values[f'from {source}: complete'])
    assert document['machine']['gpu'] == 'Fake GPU'
    assert document['host']['cores']
    assert plot.stat().st_size > 1000
    assert list(tmp_path.glob('chunks-*')) == [], 'what was written for it is gone'


def test_lengths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    result = ask(tmp_path, '--tokens', '4096')
    assert isinstance(result.exception, ConfigError)
    assert 'tokens is 4096: not in 1024 to 1024' in result.exception.message


def test_what_was_promised_for_long_windows_is_not_asked_of_short_ones() -> None:
    report = GpuReport()
    for tokens in (1024, 16384):
        report.add(COMPLETE, 1.0, 's', tokens)
        report.add(f'{COMPLETE}, recompute is longer', 2.0, 'times', tokens)
        report.add(SLOWDOWN, 0.1, '', tokens)
    assert [(target.measured, target.is_met) for target in report.targets()] == [
        (0.1, True),
        (0.1, True),
        (2.0, False),
    ]
    assert f'| {SLOWDOWN} | 0.1 | 0.1 |' in report.as_text()
