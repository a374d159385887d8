# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A catalog and a state with surprises."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
import json
import sqlite3
import struct
from typing import TYPE_CHECKING

import pytest

from cwm_ros.config_privacy import PrivacySettings
from cwm_ros.errors import FormatError
from cwm_ros.store import layout, Store
from cwm_ros.store.catalog import CATALOG_VERSION, load_catalog, WindowRecord
from cwm_ros.store.database import read_database, Table
from cwm_ros.store.seal import Seal
from cwm_ros.store.state import load_state
from tests.store import makers

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    b'{', b'null', b'[]', b'{"nonsense": 1}', b'[' * 100_000, b'{"name": 1}', b'\xff\xfe',
    json.dumps({'chunks': 'abc', 'usable_chunks': [], 'manifest_stamp': []}).encode(),
    *(
        json.dumps({**asdict(WindowRecord()), name: value}).encode()
        for name, value in (
            ('name', 1), ('num_tokens', 'x'), ('revision', 1.5), ('is_log_whole', None),
            ('chunks', [1]), ('log_stamp', [1, 2]), ('log_stamp', [1, 2, True]),
        )
    ),
]  # fmt: skip
STATES = [
    'CREATE VIEW windows AS SELECT 1 AS id, 2 AS last_use, 3 AS is_pinned',
    "CREATE TABLE windows (id, last_use, is_pinned); INSERT INTO windows VALUES ('x', 'y', 'z')",
    'CREATE TABLE written (day, bytes); INSERT INTO written VALUES (1e300, NULL)',
    'CREATE TABLE unrelated (x)',
]
ENDLESS = 'WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT'
TRIGGER = 'CREATE TRIGGER t AFTER {} ON windows BEGIN DELETE FROM windows; END'
# What runs, or asks for memory without end, in the place of a table or beside it.
CATALOGS = [
    f'DROP TABLE windows; CREATE VIEW windows AS {ENDLESS} n AS id, n AS record FROM c',
    f'CREATE VIEW v AS {ENDLESS} n FROM c',
    TRIGGER.format('DELETE'),
    TRIGGER.format('INSERT'),
    'DROP TABLE windows; CREATE TABLE windows (id TEXT, record AS (zeroblob(1000000000)))',
    'CREATE INDEX i ON windows (hex(zeroblob(length(id))))',
    'DROP TABLE windows; CREATE VIRTUAL TABLE windows USING fts3(id, record)',
    'UPDATE windows SET record = 50000000000',
    'UPDATE windows SET record = NULL',
    "UPDATE windows SET id = CAST(x'ff' AS TEXT)",
    'PRAGMA journal_mode = WAL',
]
PLAIN_STATES = [
    f'DROP TABLE windows; CREATE VIEW windows AS {ENDLESS} n, n, n FROM c',
    f'DROP TABLE written; CREATE VIEW written AS {ENDLESS} n, n FROM c',
    f'DROP TABLE exports; CREATE VIEW exports AS {ENDLESS} n FROM c',
    f'CREATE VIEW v AS {ENDLESS} n FROM c',
    TRIGGER.format('INSERT'),
    'DROP TABLE exports; CREATE TABLE EXPORTS (path TEXT PRIMARY KEY, x AS (zeroblob(1 << 29)))',
    'UPDATE windows SET last_use = 9223372036854775807',
    "UPDATE windows SET last_use = 'x'",
    "UPDATE windows SET id = CAST(x'ff' AS TEXT)",
]
SEALED_STATES = [
    f'DROP TABLE sealed; CREATE VIEW sealed AS {ENDLESS} n, n FROM c',
    'UPDATE sealed SET row = 50000000000',
    "UPDATE sealed SET row = 'x'",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        makers.commit(store, 'w')
    (tmp_path / 'profiles' / 'default' / 'listing').unlink()
    return tmp_path / 'profiles' / 'default'


def check(root: Path, privacy: PrivacySettings | None = None) -> None:
    for writable in (False, True, False):
        with Store.open(
            makers.settings(root), writable=writable, clock=makers.clock, privacy=privacy
        ) as store:
            assert [(info.name, info.turns) for info in store.windows()] == [('w', 2)]
            assert store.verify(None, makers.check_payload).ok
            if writable:
                makers.commit(store, 'w', count=22)


@pytest.mark.parametrize('is_right', [False, True], ids=['wrong', 'right'])
@pytest.mark.parametrize('row', ROWS, ids=range(len(ROWS)))
def test_a_catalog_of_lies_costs_time_alone(
    tmp_path: Path, folder: Path, row: bytes, *, is_right: bool
) -> None:
    checksum = layout.checksum(row) if is_right else 0
    with closing(sqlite3.connect(folder / 'catalog.sqlite')) as database, database:
        database.execute('UPDATE windows SET record = ?', (checksum.to_bytes(8, 'little') + row,))
        database.execute(f'PRAGMA user_version = {CATALOG_VERSION}')

    check(tmp_path)


def test_a_flipped_bit_of_the_catalog_costs_no_turn(tmp_path: Path, folder: Path) -> None:
    """Who believed it would cut the log, or give the next turn the wrong number."""
    path = folder / 'catalog.sqlite'
    whole = path.read_bytes()
    (log,) = folder.glob('windows/*.log')
    turns = log.read_bytes()
    for field in (b'"log_bytes": ', b'"log_turns": ', b'"num_turns": ', b'"num_tokens": '):
        digit = whole.index(field) + len(field)
        for bit in range(4):
            data = bytearray(whole)
            data[digit] ^= 1 << bit
            path.write_bytes(data)
            with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
                assert [(i.turns, i.tokens) for i in store.windows()] == [(2, 20)]
            assert log.read_bytes() == turns


def test_a_log_is_not_cut_where_a_catalog_says_it_ends(tmp_path: Path, folder: Path) -> None:
    (log,) = folder.glob('windows/*.log')
    turns = log.read_bytes()
    with closing(sqlite3.connect(folder / 'catalog.sqlite')) as database, database:
        ((row,),) = database.execute('SELECT record FROM windows')
        values = {**json.loads(row[8:]), 'log_bytes': len(turns) - 48}
        text = json.dumps(values).encode()
        lie = layout.checksum(text).to_bytes(8, 'little') + text
        database.execute('UPDATE windows SET record = ?', (lie,))
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        assert store.commit_turns('w', makers.turns_of(3)[2:]) == 3
        assert store.window('w').turns == tuple(makers.turns_of(3))
    assert log.read_bytes().startswith(turns)


def change(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)


@pytest.mark.parametrize('script', CATALOGS, ids=range(len(CATALOGS)))
def test_a_catalog_with_something_that_runs_is_made_anew(
    tmp_path: Path, folder: Path, script: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / 'catalog.sqlite'
    change(path, script)
    assert load_catalog(path, Seal(bytes(32))) == {}
    assert f'path={path} problem={path}: ' in caplog.text

    check(tmp_path)
    assert len(load_catalog(path, Seal(bytes(32)))) == 1


@pytest.mark.parametrize('script', PLAIN_STATES, ids=range(len(PLAIN_STATES)))
def test_a_state_with_something_that_runs_is_set_aside(
    tmp_path: Path, folder: Path, script: str
) -> None:
    change(folder / 'state.sqlite', script)

    check(tmp_path)
    assert (folder / 'state.sqlite.damaged').exists()
    assert not load_state(folder / 'state.sqlite', Seal(bytes(32)), writable=False).problem


@pytest.mark.parametrize('script', STATES, ids=range(len(STATES)))
def test_a_state_of_other_tables_loses_pins_alone(
    tmp_path: Path, folder: Path, script: str
) -> None:
    (folder / 'state.sqlite').unlink()
    with closing(sqlite3.connect(folder / 'state.sqlite')) as database:
        database.executescript(script)

    check(tmp_path)


@pytest.mark.parametrize('script', SEALED_STATES, ids=range(len(SEALED_STATES)))
def test_a_sealed_state_with_something_that_runs_is_set_aside(tmp_path: Path, script: str) -> None:
    privacy = PrivacySettings(encrypt=True, key_dir=str(tmp_path.parent / f'{tmp_path.name}-keys'))
    with Store.open(
        makers.settings(tmp_path), writable=True, clock=makers.clock, privacy=privacy
    ) as store:
        makers.commit(store, 'w')
    folder = tmp_path / 'profiles' / 'default'
    change(folder / 'state.sqlite', script)

    check(tmp_path, privacy)
    assert (folder / 'state.sqlite.damaged').exists()


ROWS_OF_OURS = Table('ours', 'name TEXT PRIMARY KEY', (str,))


def ours(path: Path, *more: str) -> None:
    change(path, f'PRAGMA page_size = 512; {ROWS_OF_OURS.sql}; {"; ".join(more)}')


def test_a_younger_table_is_passed_over(tmp_path: Path) -> None:
    ours(tmp_path / 'x', 'CREATE TABLE younger (y)', "INSERT INTO ours VALUES ('n')")
    found = read_database(tmp_path / 'x', {'ours': ROWS_OF_OURS}, limit_bytes=1 << 20)
    assert found.tables == {'ours': [('n',)]}


def test_a_database_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    ours(tmp_path / 'x')
    with pytest.raises(FormatError, match='more than the limit of 1000 bytes'):
        read_database(tmp_path / 'x', {'ours': ROWS_OF_OURS}, limit_bytes=1000)


def test_pages_that_lead_to_one_another_end(tmp_path: Path) -> None:
    """Pages with sixty ways to the next: 60 ** 8 rows in 6 KB."""
    path = tmp_path / 'x'
    ours(path, "INSERT INTO ours VALUES ('n')")
    with closing(sqlite3.connect(path)) as database:
        ((root,),) = database.execute("SELECT rootpage FROM sqlite_master WHERE type = 'table'")
    pages = [path.read_bytes()[at : at + 512] for at in range(0, path.stat().st_size, 512)]
    leaf, first = pages[root - 1], len(pages) + 1
    pages[root - 1] = inner_page(first)
    pages += [inner_page(first + level) for level in range(1, 8)]
    pages.append(leaf)
    data = bytearray(b''.join(pages))
    struct.pack_into('>I', data, 28, len(pages))
    path.write_bytes(data)

    with pytest.raises(FormatError, match='takes longer than its size explains'):
        read_database(path, {'ours': ROWS_OF_OURS}, limit_bytes=1 << 20)


def inner_page(child: int, ways: int = 60) -> bytes:
    cells = struct.pack('>IB', child, 1) * ways
    start = 512 - len(cells)
    head = struct.pack('>BHHHBI', 5, 0, ways, start, 0, child)
    pointers = struct.pack(f'>{ways}H', *range(start, 512, 5))
    return (head + pointers).ljust(start, b'\0') + cells
