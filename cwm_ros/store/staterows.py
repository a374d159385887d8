# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of state.sqlite: in tables that anybody can read, or sealed one by one."""

from __future__ import annotations

from dataclasses import dataclass
import json
from typing import TYPE_CHECKING

from cwm_ros.errors import FormatError
from cwm_ros.store.seal import FileKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    import sqlite3

    from cwm_ros.store.seal import Seal

# Small pages, for a commit writes whole ones, twice: 7 KB instead of 50 KB with SQLite's 4096.
# EXTRA syncs the folder when the journal is gone: else a power cut may bring it back, and with it
# the state before the last commit.
_PRAGMAS = """
PRAGMA page_size = 512;
PRAGMA journal_mode = DELETE;
PRAGMA synchronous = EXTRA;
"""
_PLAIN_SCHEMA = """
CREATE TABLE IF NOT EXISTS windows (
    id TEXT PRIMARY KEY, last_use INTEGER NOT NULL, is_pinned INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS used (id TEXT PRIMARY KEY, day INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS written (day INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS exports (path TEXT PRIMARY KEY);
"""
_SEALED_SCHEMA = 'CREATE TABLE IF NOT EXISTS sealed (id TEXT PRIMARY KEY, row BLOB NOT NULL);'
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


def read_rows(db: sqlite3.Connection, path: Path, seal: Seal) -> list[Row]:
    """
    Return all rows.

    Raises
    ------
    FormatError
        A row is not authentic, or not one that `write_rows` wrote.

    """
    try:
        return _read_sealed(db, path, seal) if seal.is_encrypted else _read_plain(db)
    except (ValueError, TypeError) as exc:
        raise FormatError(path, f'a row is wrong: {exc}') from exc


def _read_plain(db: sqlite3.Connection) -> list[Row]:
    found = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    # What is stored in every version must be there; other tables are younger.
    tables = [t for t in _KEYS if (t,) in found or t in ('windows', 'written')]
    return [
        Row(table, str(name), tuple(map(int, numbers)))
        for table in tables
        for name, *numbers in db.execute(f'SELECT * FROM {table}')  # noqa: S608 - our own names
    ]


def _read_sealed(db: sqlite3.Connection, path: Path, seal: Seal) -> list[Row]:
    rows = []
    for row_id, data in db.execute('SELECT id, row FROM sealed'):
        plain = seal.unwrap(path, FileKind.STATE_ROW, str(row_id), bytes(data))
        table, name, *numbers = json.loads(plain)
        rows.append(Row(table, name, tuple(numbers)))
    return rows


def write_rows(
    db: sqlite3.Connection, rows: Sequence[Row], gone: Sequence[Row], seal: Seal
) -> None:
    """Store rows in place of those of the same names, and remove ``gone``, as one act."""
    schema = _SEALED_SCHEMA if seal.is_encrypted else _PLAIN_SCHEMA
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
