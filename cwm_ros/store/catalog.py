# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What is in a profile, found by reading its files.

The result is kept in catalog.sqlite when a writer closes, as a pure cache: a row counts only
while size, time and inode of the window's files are those it was made from, so a missing,
damaged or old catalog costs time and nothing else.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, replace
import json
import logging
import sqlite3
from typing import TYPE_CHECKING

from cwm_ros.errors import CwmError, FormatError, FormatTooNewError
from cwm_ros.store import files, layout
from cwm_ros.store.manifest import Manifest, unpack_manifest
from cwm_ros.store.turnlog import TurnLog, unpack_log

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST_SUFFIX = '.cwm'
LOG_SUFFIX = '.log'
GONE_SUFFIX = '.gone'
CATALOG_VERSION = 1

Stamp = tuple[int, int, int]
NO_FILE: Stamp = (0, 0, 0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRecord:
    """
    What the store needs to know of a window without reading it again.

    Parameters
    ----------
    name
        Empty when no file of it could be read.
    manifest_stamp, log_stamp
        Which files it was made from; `NO_FILE` when missing.
    log_turns, log_bytes
        Whole records in the log, and where the last one ends.
    chunks
        File names of the chunk table.
    problem
        Why the window cannot be read; empty when it can.
    is_log_whole
        Whether the turns are all there, so that a damaged manifest can be made anew from them.

    """

    name: str = ''
    manifest_stamp: Stamp = NO_FILE
    log_stamp: Stamp = NO_FILE
    log_turns: int = 0
    log_bytes: int = 0
    num_turns: int = 0
    num_tokens: int = 0
    model: str = ''
    created_ms: int = 0
    updated_ms: int = 0
    revision: int = 0
    chunks: tuple[str, ...] = ()
    problem: str = ''
    is_log_whole: bool = True

    @property
    def own_bytes(self) -> int:
        """Size of manifest and log [bytes]."""
        return self.manifest_stamp[0] + self.log_stamp[0]


def read_manifest(folder: Path, window_id: str) -> Manifest | None:
    """Return a window's manifest; None when there is none."""
    path = folder / (window_id + MANIFEST_SUFFIX)
    try:
        data = files.read_file(path, limit_bytes=layout.MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    return unpack_manifest(path, data)


def read_log(folder: Path, window_id: str) -> TurnLog | None:
    """Return a window's turn log; None when there is none."""
    path = folder / (window_id + LOG_SUFFIX)
    try:
        data = files.read_file(path, limit_bytes=layout.MAX_LOG_BYTES)
    except FileNotFoundError:
        return None
    log = unpack_log(path, data)
    if log.window_id.hex() != window_id:
        raise FormatError(path, f'window id is {log.window_id.hex()}: the log of another window')
    return log


def check_pair(folder: Path, window_id: str, manifest: Manifest, log: TurnLog | None) -> None:
    """Refuse a manifest and a log that do not belong together."""
    path = folder / (window_id + MANIFEST_SUFFIX)
    held = len(log.turns) if log else 0
    if held < manifest.num_turns:
        raise FormatError(path, f'covers {manifest.num_turns} turns but the log holds {held}')
    if log and log.window != manifest.window:
        raise FormatError(path, f'is of window {manifest.window!r}, the log of {log.window!r}')


def _stamp(path: Path) -> Stamp:
    try:
        return files.stamp(path)
    except FileNotFoundError:
        return NO_FILE


def scan_window(folder: Path, window_id: str) -> WindowRecord:
    """Read a window's files; what is wrong with them is in the record."""
    record = WindowRecord()
    problems = []
    log: TurnLog | None = None
    try:
        record = replace(
            record,
            manifest_stamp=_stamp(folder / (window_id + MANIFEST_SUFFIX)),
            log_stamp=_stamp(folder / (window_id + LOG_SUFFIX)),
        )
        log = read_log(folder, window_id)
    except CwmError as exc:
        problems.append(str(exc))
        record = replace(record, is_log_whole=False)
    if log:
        record = replace(
            record, name=log.window, log_turns=len(log.turns), log_bytes=log.valid_bytes
        )
    try:
        manifest = read_manifest(folder, window_id)
        if manifest:
            record = with_manifest(record, manifest)
            is_whole = log is not None and len(log.turns) >= manifest.num_turns
            record = replace(record, is_log_whole=is_whole)
            if not problems:
                check_pair(folder, window_id, manifest, log)
    except FormatTooNewError as exc:
        problems.append(str(exc))
        record = replace(record, is_log_whole=False)
    except CwmError as exc:
        problems.append(str(exc))
    for problem in problems:
        _log.warning('window=%s problem=%s', window_id, problem)
    return replace(record, problem='; '.join(problems))


def with_manifest(record: WindowRecord, manifest: Manifest) -> WindowRecord:
    """Return ``record`` with what a manifest says."""
    return replace(
        record,
        name=manifest.window,
        num_turns=manifest.num_turns,
        num_tokens=len(manifest.tokens),
        model=manifest.identity.name,
        created_ms=manifest.created_ms,
        updated_ms=manifest.updated_ms,
        revision=manifest.revision,
        chunks=tuple(entry.file_name for entry in manifest.chunks),
        problem='',
    )


def scan_windows(folder: Path, known: Mapping[str, WindowRecord]) -> dict[str, WindowRecord]:
    """
    Return the windows of a folder by id.

    Parameters
    ----------
    folder
        The windows folder.
    known
        Records to use where the files have not changed.

    """
    stems: set[str] = set()
    gone: set[str] = set()
    for name in files.list_sizes(folder):
        stem, dot, suffix = name.partition('.')
        if dot + suffix in (MANIFEST_SUFFIX, LOG_SUFFIX):
            stems.add(stem)
        elif dot + suffix == GONE_SUFFIX:
            gone.add(stem)
    records = {}
    for window_id in sorted(stems - gone):
        record = known.get(window_id)
        if record is None or not is_current(folder, window_id, record):
            record = scan_window(folder, window_id)
        if record.own_bytes:
            records[window_id] = record
    return records


def is_current(folder: Path, window_id: str, record: WindowRecord) -> bool:
    """Say whether a window's files are those that ``record`` was made from."""
    return (
        not record.problem
        and _stamp(folder / (window_id + MANIFEST_SUFFIX)) == record.manifest_stamp
        and _stamp(folder / (window_id + LOG_SUFFIX)) == record.log_stamp
    )


def load_catalog(path: Path) -> dict[str, WindowRecord]:
    """Return the cached records; none when the catalog is missing, damaged or another's."""
    try:
        files.stamp(path)
        with closing(sqlite3.connect(f'{path.as_uri()}?mode=ro', uri=True)) as db:
            ((version,),) = db.execute('PRAGMA user_version').fetchall()
            if version != CATALOG_VERSION:
                return {}
            rows = db.execute('SELECT id, record FROM windows').fetchall()
        return {str(window_id): _parse(record) for window_id, record in rows}
    except FileNotFoundError:
        return {}
    except (sqlite3.Error, ValueError, TypeError, KeyError) as exc:
        _log.warning('path=%s problem=%s the catalog is made anew', path, exc)
        return {}


def _parse(text: str) -> WindowRecord:
    values = json.loads(text)
    for name in ('manifest_stamp', 'log_stamp', 'chunks'):
        values[name] = tuple(values[name])
    return WindowRecord(**values)


def save_catalog(path: Path, records: Mapping[str, WindowRecord]) -> None:
    """Replace the catalog; a failure costs the next opening some time."""
    rows = [(window_id, json.dumps(asdict(record))) for window_id, record in records.items()]
    try:
        _write_catalog(path, rows)
    except sqlite3.OperationalError as exc:
        _log.warning('path=%s problem=%s the catalog is not stored', path, exc)
    except sqlite3.DatabaseError:
        files.unlink(path)
        _write_catalog(path, rows)


def _write_catalog(path: Path, rows: list[tuple[str, str]]) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f'PRAGMA user_version = {CATALOG_VERSION}')
        db.execute('CREATE TABLE IF NOT EXISTS windows (id TEXT PRIMARY KEY, record TEXT)')
        db.execute('DELETE FROM windows')
        db.executemany('INSERT INTO windows VALUES (?, ?)', rows)
