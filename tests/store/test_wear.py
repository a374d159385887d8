# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is written to flash, and that the ledger tells it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench.drive import measure_drive
from cwm_ros.config import MIB
from cwm_ros.store import Store
from tests.fakes import complete, freeze, ingest
from tests.store import makers

if TYPE_CHECKING:
    from tests.conftest import OpenManager

DAY_MS = 86_400_000


def written_by_process() -> int:
    lines = Path('/proc/self/io').read_text(encoding='ascii').splitlines()
    return int(dict(line.split(': ') for line in lines)['wchar'])


@pytest.mark.skipif(not Path('/proc/self/io').exists(), reason='the system does not tell')
def test_the_ledger_agrees_with_the_system(ram_path: Path) -> None:
    before = written_by_process()
    with Store.open(makers.settings(ram_path), writable=True, clock=makers.clock) as store:
        for count in range(8, 200, 8):
            makers.commit(store, 'w', count=count, payload_bytes=5000)
        store.clone_window('w', 'v')
        store.set_pinned('v', is_pinned=True)
        store.delete_window('w')
    written = written_by_process() - before
    with Store.open(makers.settings(ram_path), writable=False, clock=makers.clock) as store:
        ledger = store.storage().lifetime_bytes
        assert store.storage().written_today_bytes == ledger
    # The last state that is stored cannot count itself; the key and the lock are not counted.
    assert written - 30_000 < ledger <= written


def test_the_ledger_counts_by_day_and_for_ever(ram_path: Path) -> None:
    now = [makers.NOW_MS]
    with Store.open(makers.settings(ram_path), writable=True, clock=lambda: now[0]) as store:
        makers.commit(store, 'w', payload_bytes=5000)
        first = store.storage().written_today_bytes
        now[0] += DAY_MS
        assert store.storage().written_today_bytes == 0
        makers.commit(store, 'v', seed=1, payload_bytes=5000)
        report = store.storage()
        assert 15_000 < report.written_today_bytes == report.lifetime_bytes - first


def test_a_spent_budget_is_said_until_the_next_day(ram_path: Path) -> None:
    now = [makers.NOW_MS]
    settings = replace(makers.settings(ram_path), daily_budget_mib=1)
    with Store.open(settings, writable=True, clock=lambda: now[0]) as store:
        assert store.budget_problem() == ''
        makers.commit(store, 'w', count=40, payload_bytes=300_000)
        assert f'the daily budget is {MIB}' in store.budget_problem()
        assert store.storage().daily_budget_bytes == MIB
    with Store.open(settings, writable=True, clock=lambda: now[0]) as store:
        assert store.budget_problem()
        now[0] += DAY_MS
        assert store.budget_problem() == ''


def test_without_a_clock_the_budget_counts_from_the_opening(ram_path: Path) -> None:
    settings = replace(makers.settings(ram_path), daily_budget_mib=1)
    with Store.open(settings, writable=True, clock=lambda: 5) as store:
        makers.commit(store, 'w', count=40, payload_bytes=300_000)
        assert store.budget_problem()
    with Store.open(settings, writable=True, clock=lambda: 5) as store:
        assert store.budget_problem() == ''


def test_a_spent_budget_defers_freezes_but_not_turns_nor_the_final_save(
    open_tiny: OpenManager,
) -> None:
    with open_tiny(storage={'daily_budget_mib': 4}) as manager:
        manager.create('trip')
        ingest(manager, 4)
        complete(manager)
        manager.store._state.add_written(1_700_000_000_000, 4 * MIB)
        *_, deferred = manager.freeze(is_final=False)
        assert 'daily budget' in deferred.deferred
        assert not deferred.is_committed
        assert manager.store.window('trip').manifest is None
        assert list(manager.store.turns('trip')) == list(manager.session.turns)
        assert freeze(manager).is_committed
        assert manager.store.window('trip').manifest is not None


def test_a_freeze_that_is_not_final_writes_full_chunks_only(open_tiny: OpenManager) -> None:
    with open_tiny() as manager:
        manager.create('trip')
        ingest(manager, 4)
        complete(manager)
        full, tail = divmod(manager.session.num_tokens, manager.settings.codec.chunk_tokens)
        assert tail
        *_, last = manager.freeze(is_final=False)
        assert (last.chunks_done, last.chunks_total, last.is_committed) == (full, full + 1, True)
        assert freeze(manager).chunks_done == full + 1


def test_an_hour_of_driving_writes_little_more_than_what_is_kept(ram_path: Path) -> None:
    large = measure_drive(ram_path, '64 KiB a token', turns=30)
    small = measure_drive(ram_path, 'reference')
    assert large.amplification < 1.3
    assert small.amplification < 1.6
    for drive in (large, small):
        assert 0.98 < drive.ledger_bytes / drive.system_bytes <= 1
