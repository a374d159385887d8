# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A catalog and a state with surprises."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from cwm_ros.store import Store
from cwm_ros.store.catalog import CATALOG_VERSION, WindowRecord
from tests.store import makers

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    b'{', b'null', b'[]', b'{"nonsense": 1}', b'[' * 100_000, b'{"name": 1}', b'\xff\xfe',
    json.dumps({'chunks': 'abc', 'usable_chunks': [], 'manifest_stamp': []}).encode(),
    json.dumps({**asdict(WindowRecord()), 'name': 1}).encode(),
]  # fmt: skip
STATES = [
    'CREATE VIEW windows AS SELECT 1 AS id, 2 AS last_use, 3 AS is_pinned',
    "CREATE TABLE windows (id, last_use, is_pinned); INSERT INTO windows VALUES ('x', 'y', 'z')",
    'CREATE TABLE written (day, bytes); INSERT INTO written VALUES (1e300, NULL)',
    'CREATE TABLE unrelated (x)',
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        makers.commit(store, 'w')
    (tmp_path / 'profiles' / 'default' / 'listing').unlink()
    return tmp_path / 'profiles' / 'default'


def check(root: Path) -> None:
    for writable in (False, True, False):
        with Store.open(makers.settings(root), writable=writable, clock=makers.clock) as store:
            assert [(info.name, info.turns) for info in store.windows()] == [('w', 2)]
            assert store.verify(None, makers.check_payload).ok
            if writable:
                makers.commit(store, 'w', count=22)


@pytest.mark.parametrize('row', ROWS, ids=range(len(ROWS)))
def test_a_catalog_of_lies_costs_time_alone(tmp_path: Path, folder: Path, row: bytes) -> None:
    with closing(sqlite3.connect(folder / 'catalog.sqlite')) as database, database:
        database.execute('UPDATE windows SET record = ?', (row,))
        database.execute(f'PRAGMA user_version = {CATALOG_VERSION}')

    check(tmp_path)


@pytest.mark.parametrize('script', STATES, ids=range(len(STATES)))
def test_a_state_of_other_tables_loses_pins_alone(
    tmp_path: Path, folder: Path, script: str
) -> None:
    (folder / 'state.sqlite').unlink()
    with closing(sqlite3.connect(folder / 'state.sqlite')) as database:
        database.executescript(script)

    check(tmp_path)
