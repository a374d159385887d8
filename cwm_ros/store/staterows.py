# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of state.sqlite: in tables that anybody can read, or sealed one by one."""

from __future__ import annotations

from dataclasses import dataclass
import json
from typing import cast, TYPE_CHECKING

from cwm_ros.errors import FormatError
from cwm_ros.store.database import read_database, Table
from cwm_ros.store.seal import FileKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    import sqlite3

    from cwm_ros.store.database import Value
    from cwm_ros.store.seal import Seal

# Small pages, for a commit writes whole ones, twice: 7 KB instead of 50 KB with SQLite's 4096.
# EXTRA syncs the folder when the journal is gone: else a power cut may bring it back, and with it
# the state before the last commit.
_PRAGMAS = """
PRAGMA page_size = 512;
PRAGMA journal_mode = DELETE;
PRAGMA synchronous = EXTRA;
"""
_PLAIN = (
    Table(
        'windows',
        'id TEXT PRIMARY KEY, last_use INTEGER NOT NULL, is_pinned INTEGER NOT NULL',
        (str, int, int),
    ),
    Table('used', 'id TEXT PRIMARY KEY, day INTEGER NOT NULL', (str, int)),
    Table('written', 'day INTEGER PRIMARY KEY, bytes INTEGER NOT NULL', (int, int)),
    Table('counts', 'name TEXT PRIMARY KEY, value INTEGER NOT NULL', (str, int)),
    Table('exports', 'path TEXT PRIMARY KEY', (str,)),
)
_SEALED = (Table('sealed', 'id TEXT PRIMARY KEY, row BLOB NOT NULL', (str, bytes)),)
_MAX_BYTES = 1 << 26
_KEYS = {'windows': 'id', 'used': 'id', 'written': 'day', 'counts': 'name', 'exports': 'path'}


@dataclass(frozen=True, slots=True)
class Row:
    """
    A row.

    Parameters
    ----------
    table
        Which table: a key of `_KEYS`.
    name
        What the row is about.
    numbers
        Its other columns.

    """

    table: str
    name: str
    numbers: tuple[int, ...] = ()


def read_rows(path: Path, seal: Seal, *, writable: bool) -> list[Row]:
    """
    Return all rows; none of a database that holds nothing, for its first commit was cut.

    Parameters
    ----------
    path
        The database.
    seal
        Between rows and disk.
    writable
        Whether what a killed writer left half stored may be undone.

    Raises
    ------
    FileNotFoundError
        There is no database.
    FormatError
        It holds something else than our tables, or a row is not authentic, or not one that
        `write_rows` wrote.
    sqlite3.Error
        SQLite cannot read it.

    """
    ours = {table.name: table for table in (_SEALED if seal.is_encrypted else _PLAIN)}
    tables = read_database(path, ours, limit_bytes=_MAX_BYTES, writable=writable).tables
    if tables is None:
        return []
    for name in ('sealed',) if seal.is_encrypted else ('windows', 'written'):
        if name not in tables:  # the others are younger
            raise FormatError(path, f'table {name} is missing')
    try:
        return _open_rows(path, seal, tables['sealed']) if seal.is_encrypted else _plain(tables)
    except (ValueError, TypeError) as exc:
        raise FormatError(path, f'a row is wrong: {exc}') from exc


def _plain(tables: dict[str, list[tuple[Value, ...]]]) -> list[Row]:
    return [
        Row(table, str(name), tuple(map(int, numbers)))
        for table, rows in tables.items()
        for name, *numbers in rows
    ]


def _open_rows(path: Path, seal: Seal, sealed: list[tuple[Value, ...]]) -> list[Row]:
    rows = []
    for row_id, data in sealed:
        plain = seal.unwrap(path, FileKind.STATE_ROW, str(row_id), cast('bytes', data))
        table, name, *numbers = json.loads(plain)
        rows.append(Row(table, name, tuple(numbers)))
    return rows


def write_rows(
    db: sqlite3.Connection, rows: Sequence[Row], gone: Sequence[Row], seal: Seal
) -> None:
    """Store rows in place of those of the same names, and remove ``gone``, as one act."""
    tables = _SEALED if seal.is_encrypted else _PLAIN
    schema = ' '.join(table.sql_if_missing for table in tables)
    db.executescript(f'{_PRAGMAS} BEGIN; {schema} COMMIT;')
    with db:
        for row in gone:
            table, key = ('sealed', 'id') if seal.is_encrypted else (row.table, _KEYS[row.table])
            name = _sealed_id(row, seal) if seal.is_encrypted else row.name
            db.execute(f'DELETE FROM {table} WHERE {key} = ?', (name,))  # noqa: S608
        for row in rows:
            if seal.is_encrypted:
                row_id = _sealed_id(row, seal)
                plain = json.dumps([row.table, row.name, *row.numbers]).encode()
                data = seal.wrap(FileKind.STATE_ROW, row_id, plain)
                db.execute('REPLACE INTO sealed VALUES (?, ?)', (row_id, data))
            else:
                marks = ', '.join('?' * (1 + len(row.numbers)))
                values = (row.name, *row.numbers)
                db.execute(f'REPLACE INTO {row.table} VALUES ({marks})', values)  # noqa: S608


def _sealed_id(row: Row, seal: Seal) -> str:
    return seal.row_name(f'{row.table} {row.name}')
