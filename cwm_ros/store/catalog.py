# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What is in a profile, found by reading its files.

The result is kept in catalog.sqlite when a writer closes, as a pure cache: a row counts only
while its checksum matches and size, time and inode of the window's files are those it was made
from, so a missing, damaged or old catalog costs time and nothing else.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, replace
import json
import logging
import sqlite3
from typing import cast, TYPE_CHECKING

from cwm_ros.errors import CwmError, FormatError, FormatTooNewError
from cwm_ros.store import files, layout
from cwm_ros.store.database import read_database, Table
from cwm_ros.store.manifest import Manifest, unpack_manifest, USABLE_PRIORITY
from cwm_ros.store.seal import FileKind
from cwm_ros.store.turnlog import TurnLog, unpack_log

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cwm_ros.store.seal import Seal

MANIFEST_SUFFIX = '.cwm'
LOG_SUFFIX = '.log'
GONE_SUFFIX = '.gone'
_SUFFIXES = (MANIFEST_SUFFIX, LOG_SUFFIX)
SCAN_ATTEMPTS = 5
CATALOG_VERSION = 4
MAX_CATALOG_BYTES = 1 << 28
_CHECKSUM_BYTES = 8
_WINDOWS = Table('windows', 'id TEXT PRIMARY KEY, record BLOB', (str, bytes))

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
    usable_chunks
        Those among them without which the window is not usable.
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
    usable_chunks: tuple[str, ...] = ()
    problem: str = ''
    is_log_whole: bool = True

    @property
    def own_bytes(self) -> int:
        """Size of manifest and log [bytes]."""
        return self.manifest_stamp[0] + self.log_stamp[0]

    @property
    def middle_chunks(self) -> list[str]:
        """The chunks whose loss leaves the window usable."""
        usable = set(self.usable_chunks)
        return [name for name in self.chunks if name not in usable]


_FIELD_TYPES = {name: type(value) for name, value in asdict(WindowRecord()).items()}


def read_manifest(folder: Path, window_id: str, seal: Seal) -> Manifest | None:
    """Return a window's manifest; None when there is none."""
    path = folder / (window_id + MANIFEST_SUFFIX)
    try:
        limit = layout.MAX_MANIFEST_BYTES + seal.file_overhead
        data = files.read_file(path, limit_bytes=limit)
    except FileNotFoundError:
        return None
    return unpack_manifest(path, seal.unwrap(path, FileKind.MANIFEST, window_id, data))


def read_log(folder: Path, window_id: str, seal: Seal) -> TurnLog | None:
    """Return a window's turn log, with bytes as on the disk; None when there is none."""
    path = folder / (window_id + LOG_SUFFIX)
    try:
        data = files.read_file(path, limit_bytes=layout.MAX_LOG_BYTES)
    except FileNotFoundError:
        return None
    plain, ends = seal.unwrap_log(path, window_id, data)
    log = unpack_log(path, plain)
    if log.window_id.hex() != window_id:
        raise FormatError(path, f'window id is {log.window_id.hex()}: the log of another window')
    valid_bytes = ends.get(log.valid_bytes, log.valid_bytes)
    return replace(log, valid_bytes=valid_bytes, torn_bytes=len(data) - valid_bytes)


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


def scan_window(folder: Path, window_id: str, seal: Seal) -> WindowRecord:
    """Read a window's files; what is wrong with them is in the record."""
    for _ in range(SCAN_ATTEMPTS):
        stamps = _stamps(folder, window_id)
        record = replace(
            _scan_once(folder, window_id, seal), manifest_stamp=stamps[0], log_stamp=stamps[1]
        )
        # A writer that commits between two reads makes them disagree.
        if not record.problem or _stamps(folder, window_id) == stamps:
            break
    if record.problem:
        _log.warning('window=%s problem=%s', window_id, record.problem)
    return record


def _stamps(folder: Path, window_id: str) -> tuple[Stamp, Stamp]:
    return _stamp(folder / (window_id + MANIFEST_SUFFIX)), _stamp(
        folder / (window_id + LOG_SUFFIX)
    )


def _scan_once(folder: Path, window_id: str, seal: Seal) -> WindowRecord:
    record = WindowRecord()
    problems = []
    log: TurnLog | None = None
    try:
        log = read_log(folder, window_id, seal)
    except CwmError as exc:
        problems.append(exc.message)
        record = replace(record, is_log_whole=False)
    if log:
        record = replace(
            record, name=log.window, log_turns=len(log.turns), log_bytes=log.valid_bytes
        )
    try:
        manifest = read_manifest(folder, window_id, seal)
        if manifest:
            record = with_manifest(record, manifest)
            is_whole = log is not None and len(log.turns) >= manifest.num_turns
            record = replace(record, is_log_whole=is_whole)
            if not problems:
                check_pair(folder, window_id, manifest, log)
    except FormatTooNewError as exc:
        problems.append(exc.message)
        record = replace(record, is_log_whole=False)
    except CwmError as exc:
        problems.append(exc.message)
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
        usable_chunks=tuple(
            entry.file_name for entry in manifest.chunks if entry.priority == USABLE_PRIORITY
        ),
        problem='',
    )


def scan_windows(
    folder: Path, known: Mapping[str, WindowRecord], seal: Seal
) -> dict[str, WindowRecord]:
    """
    Return the windows of a folder by id.

    Parameters
    ----------
    folder
        The windows folder.
    known
        Records to use where the files have not changed.
    seal
        Between files and disk.

    """
    stamps = files.list_stamps(folder)
    stems = {name[: -len(s)] for name in stamps for s in _SUFFIXES if name.endswith(s)}
    stems -= {name[: -len(GONE_SUFFIX)] for name in stamps if name.endswith(GONE_SUFFIX)}
    records = {}
    for window_id in sorted(stems):
        record = known.get(window_id)
        if (
            record is None
            or record.problem
            or stamps.get(window_id + MANIFEST_SUFFIX, NO_FILE) != record.manifest_stamp
            or stamps.get(window_id + LOG_SUFFIX, NO_FILE) != record.log_stamp
        ):
            record = scan_window(folder, window_id, seal)
        if record.own_bytes:
            records[window_id] = record
    return records


def load_catalog(path: Path, seal: Seal) -> dict[str, WindowRecord]:
    """Return the cached records; none when the catalog is missing, damaged or another's."""
    try:
        contents = read_database(
            path, {'windows': _WINDOWS}, limit_bytes=MAX_CATALOG_BYTES, version=CATALOG_VERSION
        )
        return {
            str(window_id): _parse(
                seal.unwrap(path, FileKind.CATALOG_ROW, str(window_id), cast('bytes', record))
            )
            for window_id, record in (contents.tables or {}).get('windows', [])
        }
    except FileNotFoundError:
        return {}
    except (sqlite3.Error, FormatError, ValueError, TypeError, KeyError, RecursionError) as exc:
        _log.warning('path=%s problem=%s the catalog is made anew', path, exc)
        return {}


def _parse(row: bytes) -> WindowRecord:
    text = row[_CHECKSUM_BYTES:]
    if int.from_bytes(row[:_CHECKSUM_BYTES], 'little') != layout.checksum(text):
        raise ValueError('the checksum of a record does not match')
    values = json.loads(text)
    for name in ('manifest_stamp', 'log_stamp', 'chunks', 'usable_chunks'):
        values[name] = tuple(values[name])
    record = WindowRecord(**values)
    stamps = (*record.manifest_stamp, *record.log_stamp)
    words = (*record.chunks, *record.usable_chunks)
    of_fields = {name: type(value) for name, value in values.items()}
    if (
        of_fields != _FIELD_TYPES
        or [*map(type, stamps)] != [int] * 6
        or {*map(type, words)} - {str}
    ):
        raise TypeError('a value of a record has another type')
    return record


def pack_record(record: WindowRecord) -> bytes:
    """Return a row of the catalog: a checksum, and the record in JSON."""
    text = json.dumps(asdict(record)).encode()
    return layout.checksum(text).to_bytes(_CHECKSUM_BYTES, 'little') + text


def save_catalog(
    path: Path,
    records: Mapping[str, WindowRecord],
    known: Mapping[str, WindowRecord],
    seal: Seal,
) -> None:
    """
    Bring the catalog up to date; a failure costs the next opening some time.

    Parameters
    ----------
    path
        The catalog.
    records
        What it shall hold.
    known
        What `load_catalog` found in it: only what differs is written.
    seal
        Between rows and disk.

    """
    try:
        _write_catalog(path, records, known, seal)
    except sqlite3.OperationalError as exc:
        _log.warning('path=%s problem=%s the catalog is not stored', path, exc)
    except sqlite3.DatabaseError:
        files.unlink(path)
        _write_catalog(path, records, {}, seal)


def _row(seal: Seal, window_id: str, record: WindowRecord) -> bytes:
    return seal.wrap(FileKind.CATALOG_ROW, window_id, pack_record(record))


def _write_catalog(
    path: Path,
    records: Mapping[str, WindowRecord],
    known: Mapping[str, WindowRecord],
    seal: Seal,
) -> None:
    changed = [
        (window_id, _row(seal, window_id, record))
        for window_id, record in records.items()
        if known.get(window_id) != record and window_id.isascii()  # else no name of ours
    ]
    if not known:  # missing, or a cache that could not be read: nothing in it is needed
        files.unlink(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute('PRAGMA page_size = 1024')  # a commit writes whole pages, twice
        db.execute(f'PRAGMA user_version = {CATALOG_VERSION}')
        db.execute(_WINDOWS.sql_if_missing)
        db.executemany(
            'DELETE FROM windows WHERE id = ?', [(w,) for w in known if w not in records]
        )
        db.executemany('REPLACE INTO windows VALUES (?, ?)', changed)
