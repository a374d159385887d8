# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the files of a profile cannot tell: pins, last use, and how much was written.

Kept in memory and stored with the next commit; see docs/decisions/access-times-in-memory.md.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
import logging
import sqlite3
from typing import TYPE_CHECKING

from cwm_ros.errors import CwmError, FormatError
from cwm_ros.store import files

if TYPE_CHECKING:
    from pathlib import Path

DAY_MS = 86_400_000
DAMAGED_SUFFIX = '.damaged'

# Small pages, for a commit writes whole ones, twice: 7 KB instead of 50 KB with SQLite's 4096.
# EXTRA syncs the folder when the journal is gone: else a power cut may bring it back, and with it
# the state before the last commit.
_SCHEMA = """
PRAGMA page_size = 512;
PRAGMA journal_mode = DELETE;
PRAGMA synchronous = EXTRA;
BEGIN;
CREATE TABLE IF NOT EXISTS windows (
    id TEXT PRIMARY KEY, last_use INTEGER NOT NULL, is_pinned INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS written (day INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
COMMIT;
"""
_EVICTIONS = 'evictions'
_SCRUB_POSITION = 'scrub_position'

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class State:
    """
    Pins, uses and the ledger of bytes written.

    Parameters
    ----------
    last_use
        By window id, the one used last at the end: when it was used, in uses (not in time).
    pins
        Ids of the windows that are never evicted.
    written
        By day since 1970 (UTC): bytes that the store wrote.
    evictions
        Chunks removed to make room, in all.
    scrub_position
        Where scrubbing goes on, as the number that chunk names begin with.
    problem
        Why what was stored is not known; empty when it is.
    changed
        Ids of windows, and days, whose rows are not stored yet.

    """

    last_use: dict[str, int] = field(default_factory=dict)
    pins: set[str] = field(default_factory=set)
    written: dict[int, int] = field(default_factory=dict)
    evictions: int = 0
    scrub_position: int = 0
    problem: str = ''
    changed: set[str | int] = field(default_factory=set)
    is_dirty: bool = False

    def touch(self, window: str) -> None:
        """Record that a window is used now."""
        uses = self.last_use[next(reversed(self.last_use))] if self.last_use else 0
        self.last_use.pop(window, None)
        self.last_use[window] = uses + 1
        self._mark(window)

    def set_pinned(self, window: str, *, is_pinned: bool) -> None:
        """Protect a window from eviction, or no longer."""
        (self.pins.add if is_pinned else self.pins.discard)(window)
        self._mark(window)

    def add_written(self, time_ms: int, num_bytes: int) -> None:
        """Add to the ledger."""
        day = time_ms // DAY_MS
        self.written[day] = self.written.get(day, 0) + num_bytes
        self._mark(day)

    def add_overhead(self, time_ms: int, num_bytes: int) -> None:
        """Add what storing this state cost; stored when something else is."""
        was_dirty = self.is_dirty
        self.add_written(time_ms, num_bytes)
        self.is_dirty = was_dirty

    def written_today(self, time_ms: int) -> int:
        """Return the bytes written on the day of ``time_ms``."""
        return self.written.get(time_ms // DAY_MS, 0)

    def add_evictions(self, count: int) -> None:
        """Count chunks that were removed to make room."""
        self.evictions += count
        self.is_dirty = True

    def forget(self, window: str) -> None:
        """Drop what is known about a deleted window."""
        self.last_use.pop(window, None)
        self.pins.discard(window)
        self._mark(window)

    def mark_all(self) -> None:
        """Have everything stored anew."""
        self.changed |= self.last_use.keys() | self.pins | self.written.keys()

    def _mark(self, row: str | int) -> None:
        self.changed.add(row)
        self.is_dirty = True


def load_state(path: Path, *, writable: bool) -> State:
    """
    Read the state; a missing one is empty.

    A damaged one is empty too (windows do not depend on it), and the log says so. Only a writer
    can read it right after another was killed while storing it, for that has to be undone first.
    """
    try:
        files.check_plain(path)
        with closing(
            sqlite3.connect(f'{path.as_uri()}?mode={"rw" if writable else "ro"}', uri=True)
        ) as db:
            if not db.execute('SELECT 1 FROM sqlite_master').fetchall():
                return State()  # the first commit was cut
            rows = db.execute(
                'SELECT id, last_use, is_pinned FROM windows ORDER BY last_use'
            ).fetchall()
            written = db.execute('SELECT day, bytes FROM written').fetchall()
            counts = _read_counts(db)
    except FileNotFoundError:
        return State()
    except (sqlite3.Error, FormatError) as exc:
        _log.warning('path=%s problem=%s pins and ledger are not known', path, exc)
        if writable and isinstance(exc, FormatError):
            _set_aside(path)
        return State(problem=str(exc))
    return State(
        last_use={str(row[0]): int(row[1]) for row in rows},
        pins={str(row[0]) for row in rows if row[2]},
        written={int(day): int(count) for day, count in written},
        evictions=counts.get(_EVICTIONS, 0),
        scrub_position=counts.get(_SCRUB_POSITION, 0),
    )


def _read_counts(db: sqlite3.Connection) -> dict[str, int]:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'counts'").fetchall():
        return {}  # stored by an earlier version
    return {str(name): int(value) for name, value in db.execute('SELECT * FROM counts')}


def save_state(path: Path, state: State) -> bool:
    """
    Store the state durably; return whether that was possible.

    A failure leaves it dirty, to be stored with the next commit.
    """
    try:
        _write_state(path, state)
    except sqlite3.DatabaseError as exc:
        _log.warning('path=%s problem=%s the state is not stored', path, exc)
        if not isinstance(exc, sqlite3.OperationalError):
            _set_aside(path)
            state.mark_all()
        return False
    state.changed.clear()
    state.is_dirty = False
    return True


def _write_state(path: Path, state: State) -> None:
    """Store the rows that changed, so that the cost does not depend on how many there are."""
    if not files.exists(path):
        state.mark_all()
    windows = [row for row in state.changed if isinstance(row, str)]
    days = [row for row in state.changed if isinstance(row, int)]
    known = [w for w in windows if w in state.last_use or w in state.pins]
    with closing(sqlite3.connect(path)) as db:
        db.executescript(_SCHEMA)
        with db:
            db.executemany('DELETE FROM windows WHERE id = ?', [(w,) for w in windows])
            db.executemany(
                'INSERT INTO windows VALUES (?, ?, ?)',
                [(w, state.last_use.get(w, 0), int(w in state.pins)) for w in known],
            )
            db.executemany(
                'REPLACE INTO written VALUES (?, ?)', [(day, state.written[day]) for day in days]
            )
            db.executemany(
                'REPLACE INTO counts VALUES (?, ?)',
                [(_EVICTIONS, state.evictions), (_SCRUB_POSITION, state.scrub_position)],
            )


def _set_aside(path: Path) -> None:
    try:
        files.rename(path, path.with_name(path.name + DAMAGED_SUFFIX))
    except (FileNotFoundError, CwmError) as exc:
        _log.warning('path=%s problem=%s', path, exc)
