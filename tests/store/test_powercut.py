# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever instant the power goes: what was acknowledged is there, the rest is old or new."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
import subprocess
import sys

import pytest

from cwm_ros.store import files, staterows
import tests.powercut.assistant  # noqa: F401 - adds a scenario
from tests.powercut.door import READING, WATCHED
from tests.powercut.harness import cut_scenario, Harness
from tests.powercut.scenarios import SCENARIOS

LEAST_STATES = 2000
SHORT = {'erasure': 7}
"""Scenarios of few operations: every how many of them are cut in the fast test."""

pytestmark = pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger('cwm_ros').setLevel(logging.ERROR)


@pytest.mark.parametrize('name', SCENARIOS)
def test_some_cuts_of_every_scenario_keep_all_promises(name: str) -> None:
    every = SHORT.get(name, 83)
    report = cut_scenario(SCENARIOS[name], None, state_every=every, kill_every=every)

    assert report.broken == []
    assert report.states >= 2
    assert report.kills >= 1


@pytest.mark.slow
def test_thousands_of_cuts_keep_all_promises(capsys: pytest.CaptureFixture[str]) -> None:
    reports = [
        cut_scenario(scenario, None, state_every=7, kill_every=5, random_kills=10)
        for scenario in SCENARIOS.values()
    ]
    states, kills = sum(r.states for r in reports), sum(r.kills for r in reports)
    with capsys.disabled():
        print(f'\npower cuts: {states} states of the drive, {kills} killed processes')  # noqa: T201

    assert [sentence for report in reports for sentence in report.broken] == []
    assert states >= LEAST_STATES


def test_the_harness_sees_all_that_the_door_does() -> None:
    tree = ast.parse(Path(files.__file__).read_text(encoding='utf-8'))
    calls = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == 'os'
    }

    assert calls <= {*WATCHED, *READING}


@pytest.mark.parametrize(
    ('name', 'scenario'),
    [
        ('sync', 'freeze'),
        ('sync_folder', 'freeze'),
        ('sync', 'turn_commits'),
        ('sync_folder', 'deletion'),
        ('sync', 'drive'),
        ('sync_folder', 'drive'),
    ],
)
def test_the_harness_finds_a_sync_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, ram_path: Path, name: str, scenario: str
) -> None:
    harness = Harness(SCENARIOS[scenario], ram_path)
    with monkeypatch.context() as patch:
        patch.setattr(files, name, lambda _what: None)
        trace = harness.record()
    harness.simulate(trace, every=3, is_enough=True)

    assert harness.report.broken


def test_the_harness_finds_a_pin_that_a_journal_takes_back(
    monkeypatch: pytest.MonkeyPatch, ram_path: Path
) -> None:
    harness = Harness(SCENARIOS['database_update'], ram_path)
    with monkeypatch.context() as patch:
        patch.setattr(staterows, '_PRAGMAS', staterows._PRAGMAS.replace('EXTRA', 'FULL'))
        trace = harness.record()
    harness.simulate(trace, every=3, is_enough=True)

    assert harness.report.broken


def test_a_real_cut_can_be_checked_afterwards(tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'tests.powercut', '--store', str(tmp_path / 'store')]
    with subprocess.Popen([*command, '--live'], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(60)]
        writer.kill()
    said = tmp_path / 'said'
    said.write_text(''.join(lines), encoding='ascii')
    check = [*command, '--check', str(said)]
    good = subprocess.run(check, capture_output=True, text=True, check=False)
    said.write_text('turns live-1 2 1\n', encoding='ascii')
    bad = subprocess.run(check, capture_output=True, text=True, check=False)

    assert good.returncode == 0, good.stdout
    assert '0 promises broken' in good.stdout
    assert bad.returncode == 1
    assert 'live-1: is gone' in bad.stdout
