# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The door through which the store's databases are read: nothing in them runs.

SQLite computes what a schema says. A view, a trigger, a generated column or a virtual table in
the place of a table of ours would make a read endless or ask for all memory, so a database is
read only while its tables are, to the letter, those that we make.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
import re
import sqlite3
from typing import TYPE_CHECKING

from cwm_ros.errors import FormatError
from cwm_ros.store import files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Value = int | str | bytes

MAX_ROWS = 1 << 20
MAX_NUMBER = 1 << 62
"""Numbers stay below it, so that counting on from one still fits a column."""

# A row of ours is longer than the steps of SQLite's machine that reading it takes.
_MIN_STEPS = 1_000_000
_STEPS_PER_BYTE = 4
_STEPS_PER_CALL = 10_000

_JOURNAL_FORMAT = slice(18, 20)
_ROLLBACK = 1
"""Versions of the header's format above it need a write-ahead log; a cut may leave zeros."""
_YOUNGER_TABLE = re.compile(r'CREATE TABLE (\w+) ?\(', re.ASCII)


@dataclass(frozen=True, slots=True)
class Table:
    """
    A table of ours.

    Parameters
    ----------
    name
        Its name.
    columns
        What stands in the brackets of CREATE TABLE.
    types
        What is in the columns.

    """

    name: str
    columns: str
    types: tuple[type[Value], ...]

    @property
    def sql(self) -> str:
        """What makes it, as SQLite keeps it."""
        return f'CREATE TABLE {self.name} ({self.columns})'

    @property
    def sql_if_missing(self) -> str:
        """What makes it where it is missing."""
        return f'CREATE TABLE IF NOT EXISTS {self.name} ({self.columns});'


@dataclass(frozen=True, slots=True)
class Contents:
    """
    What is in a database.

    Parameters
    ----------
    version
        Its user_version.
    tables
        Rows by table, of those tables that are there; None where it holds nothing at all.

    """

    version: int
    tables: dict[str, list[tuple[Value, ...]]] | None


def read_database(
    path: Path,
    tables: Mapping[str, Table],
    *,
    limit_bytes: int,
    version: int | None = None,
    writable: bool = False,
) -> Contents:
    """
    Return all rows of the tables that are there.

    Parameters
    ----------
    path
        The database.
    tables
        Those that are ours, by name. Plain tables of other names are of a younger version, and
        are passed over.
    limit_bytes
        How large the file may be, and what is in the rows together.
    version
        The only user_version whose rows are read; None for any.
    writable
        Whether what a killed writer left half stored may be undone.

    Raises
    ------
    FileNotFoundError
        There is none.
    FormatError
        It holds something else than our tables, or more than they may hold.
    sqlite3.Error
        SQLite cannot read it.

    """
    size = _check_file(path, limit_bytes)
    mode = 'rw' if writable else 'ro'
    with closing(sqlite3.connect(f'{path.as_uri()}?mode={mode}', uri=True)) as db:
        allowance = _Allowance(_MIN_STEPS + _STEPS_PER_BYTE * size)
        db.set_progress_handler(allowance.is_spent, _STEPS_PER_CALL)
        db.text_factory = bytes.decode  # text that is none is an error of ours, not of the device
        try:
            db.execute('PRAGMA trusted_schema = OFF')
            ((found,),) = db.execute('PRAGMA user_version').fetchall()
            if version not in (None, found):
                return Contents(found, None)
            names = _check_schema(db, path, tables)
            return Contents(found, _read_tables(db, path, [tables[n] for n in names], limit_bytes))
        except UnicodeDecodeError as exc:
            raise FormatError(path, f'a text is wrong: {exc}') from exc
        except sqlite3.OperationalError as exc:
            if allowance.steps >= 0:
                raise
            raise FormatError(path, 'reading it takes longer than its size explains') from exc


class _Allowance:
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def is_spent(self) -> bool:
        self.steps -= _STEPS_PER_CALL
        return self.steps < 0


def _check_file(path: Path, limit_bytes: int) -> int:
    files.check_plain(path)
    with files.open_regular(path) as (descriptor, size):
        if size > limit_bytes:
            raise FormatError(path, f'size {size} is more than the limit of {limit_bytes} bytes')
        head = bytearray(_JOURNAL_FORMAT.stop)
        count = files.read_into(descriptor, path, [head])
    if count == len(head) and max(head[_JOURNAL_FORMAT]) > _ROLLBACK:
        raise FormatError(path, 'is no database with a rollback journal, as ours are')
    return size


def _check_schema(db: sqlite3.Connection, path: Path, tables: Mapping[str, Table]) -> list[str]:
    """Return which of our tables are there, and refuse what could run or be another's."""
    names = []
    for kind, name, sql in db.execute('SELECT type, name, sql FROM sqlite_master'):
        if kind == 'index' and sql is None:  # of a primary key
            continue
        words = ' '.join(sql.split()) if isinstance(sql, str) else ''
        younger = _YOUNGER_TABLE.match(words)
        if kind == 'table' and name in tables and words == tables[name].sql:
            names.append(name)
        elif kind != 'table' or not younger or younger[1] != name or name.lower() in tables:
            raise FormatError(path, f'{kind!r:.20} {name!r:.40} is none of our tables')
    return names


def _read_tables(
    db: sqlite3.Connection, path: Path, tables: list[Table], limit_bytes: int
) -> dict[str, list[tuple[Value, ...]]] | None:
    if not tables and not db.execute('SELECT 1 FROM sqlite_master').fetchall():
        return None
    contents: dict[str, list[tuple[Value, ...]]] = {}
    room = limit_bytes
    for table in tables:
        rows = contents[table.name] = []
        for row in db.execute(f'SELECT * FROM {table.name}'):  # noqa: S608 - our own names
            room -= _check_row(path, table, row)
            if room < 0 or len(rows) == MAX_ROWS:
                raise FormatError(
                    path, f'table {table.name} has more in it than the file can hold'
                )
            rows.append(row)
    return contents


def _check_row(path: Path, table: Table, row: tuple[object, ...]) -> int:
    """Return a row's size [bytes] if its values are of the types they should be."""
    size = 0
    for value, kind in zip(row, table.types, strict=True):
        if type(value) is not kind:
            raise FormatError(
                path, f'table {table.name}: a {type(value).__name__} where {kind.__name__} belongs'
            )
        if isinstance(value, int):
            if not -MAX_NUMBER < value < MAX_NUMBER:
                raise FormatError(path, f'table {table.name}: {value} is no number of ours')
        elif isinstance(value, str | bytes):
            size += len(value)
    return size
