# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever instant the power goes: what was acknowledged is there, the rest is old or new."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
import re
import subprocess
import sys
from typing import Any, TYPE_CHECKING
from unittest import mock

import pytest

from cwm_ros.errors import FormatError
from cwm_ros.store import files, keeper, staterows, Store, store
from cwm_ros.store.eviction import EvictionOrder
from cwm_ros.store.inventory import Inventory
from tests.powercut.__main__ import parse_arguments
import tests.powercut.assistant  # noqa: F401 - adds a scenario
from tests.powercut.door import READING, WATCHED
from tests.powercut.harness import cut_scenario, Harness
from tests.powercut.promises import Note, Promises
from tests.powercut.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEAST_STATES = 2000
SHORT = {'erasure': 7, 'first_start': 10}
"""Every how many operations are cut in the fast test, where it is not every 83rd."""

pytestmark = pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger('cwm_ros')
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


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


def every_window_is_fair_game(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EvictionOrder, 'is_protected', lambda *_: False)


def the_warmest_go_first(patch: pytest.MonkeyPatch) -> None:
    def use(order: EvictionOrder, window_id: str) -> None:
        for queue in (order._middle, order._rest):
            queue[window_id] = None
            queue.move_to_end(window_id, last=False)

    patch.setattr(EvictionOrder, 'use', use)


def a_scrub_believes_nothing(patch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_args: object) -> None:
        raise FormatError(path, 'is not liked')

    patch.setattr(keeper, 'check_chunk_file', refuse)


def chunks_are_never_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, 'sync_chunks', lambda _store: None)


def quarantine_is_not_searched(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, 'kept', lambda _folder: {})


def all_is_garbage(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Inventory, 'orphans', lambda inventory, *, keep: set(inventory.sizes) - keep)


def what_is_forgotten_goes_in_its_own_time(patch: pytest.MonkeyPatch) -> None:
    remove = Store._remove_traces

    def remove_without_syncing(self: Store, *args: Any) -> None:
        with mock.patch.object(files, 'sync_folder'):
            remove(self, *args)

    patch.setattr(Store, '_remove_traces', remove_without_syncing)


def what_is_deleted_goes_in_its_own_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, '_sync_deletions', lambda _store: None)


@pytest.mark.parametrize(
    ('plant', 'scenario', 'sentence'),
    [
        (every_window_is_fair_game, 'eviction', r'pinned: \d chunks are missing'),
        (the_warmest_go_first, 'eviction', r'big2: \d chunks are missing'),
        (a_scrub_believes_nothing, 'optimise', r'warm: \d chunks are missing'),
        (chunks_are_never_durable, 'importing', r'sent: \d chunks are missing'),
        (all_is_garbage, 'forgetting', r'warm: \d chunks are missing'),
        (quarantine_is_not_searched, 'forgetting', r'told: what was forgotten is in .*quarantine'),
        (what_is_forgotten_goes_in_its_own_time, 'forgetting', r'told: what was forgotten is in'),
        (what_is_deleted_goes_in_its_own_time, 'deletion', r'pinned: what was forgotten is in'),
    ],
)
def test_the_oracle_names_what_a_planted_fault_broke(
    ram_path: Path, plant: Callable[[pytest.MonkeyPatch], None], scenario: str, sentence: str
) -> None:
    harness = Harness(SCENARIOS[scenario], ram_path)
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        trace = harness.record()
    harness.simulate(trace, every=3, is_enough=True)

    assert any(re.search(sentence, broken) for broken in harness.report.broken)


def test_nothing_may_be_evicted_from_a_pinned_window() -> None:
    with pytest.raises(AssertionError, match='pinned is pinned'):
        Promises.of([Note('pin', 'pinned', value=1, is_done=True), Note('evict', 'pinned')])


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


@pytest.mark.parametrize('mode', [['--every', '99'], ['--live'], ['--check', 'said']])
def test_a_drive_that_is_not_mounted_is_not_replaced_by_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: list[str]
) -> None:
    there = tmp_path / 'mistyped' / 'folder'
    with (
        mock.patch.object(sys, 'argv', ['powercut', '--store', str(there), *mode]),
        pytest.raises(SystemExit, match='2'),
    ):
        parse_arguments()
    assert 'mounted' in capsys.readouterr().err
    assert not there.parent.exists()
