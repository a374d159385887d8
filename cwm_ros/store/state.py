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

from cwm_ros.errors import CwmError
from cwm_ros.store import files

if TYPE_CHECKING:
    from pathlib import Path

DAY_MS = 86_400_000
DAMAGED_SUFFIX = '.damaged'

_SCHEMA = """
PRAGMA journal_mode = DELETE;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS windows (
    id TEXT PRIMARY KEY, last_use INTEGER NOT NULL, is_pinned INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS written (day INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
"""

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class State:
    """
    Pins, uses and the ledger of bytes written.

    Parameters
    ----------
    last_use
        By window id: when it was last used, in uses (not in time).
    pins
        Ids of the windows that are never evicted.
    written
        By day since 1970 (UTC): bytes that the store wrote.

    """

    last_use: dict[str, int] = field(default_factory=dict)
    pins: set[str] = field(default_factory=set)
    written: dict[int, int] = field(default_factory=dict)
    is_dirty: bool = False

    def touch(self, window: str) -> None:
        """Record that a window is used now."""
        self.last_use[window] = max(self.last_use.values(), default=0) + 1
        self.is_dirty = True

    def add_written(self, time_ms: int, num_bytes: int) -> None:
        """Add to the ledger."""
        day = time_ms // DAY_MS
        self.written[day] = self.written.get(day, 0) + num_bytes
        self.is_dirty = True

    def written_today(self, time_ms: int) -> int:
        """Return the bytes written on the day of ``time_ms``."""
        return self.written.get(time_ms // DAY_MS, 0)

    def forget(self, window: str) -> None:
        """Drop what is known about a deleted window."""
        self.last_use.pop(window, None)
        self.pins.discard(window)
        self.is_dirty = True


def load_state(path: Path, *, writable: bool) -> State:
    """
    Read the state; a missing one is empty.

    A damaged one is empty too (windows do not depend on it), and the log says so. Only a writer
    can read it right after another was killed while storing it, for that has to be undone first.
    """
    try:
        files.stamp(path)
        with closing(
            sqlite3.connect(f'{path.as_uri()}?mode={"rw" if writable else "ro"}', uri=True)
        ) as db:
            rows = db.execute('SELECT id, last_use, is_pinned FROM windows').fetchall()
            written = db.execute('SELECT day, bytes FROM written').fetchall()
    except FileNotFoundError:
        return State()
    except sqlite3.Error as exc:
        _log.warning('path=%s problem=%s pins and ledger are not known', path, exc)
        return State()
    return State(
        last_use={str(row[0]): int(row[1]) for row in rows},
        pins={str(row[0]) for row in rows if row[2]},
        written={int(day): int(count) for day, count in written},
    )


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
        return False
    state.is_dirty = False
    return True


def _write_state(path: Path, state: State) -> None:
    windows = state.last_use.keys() | state.pins
    with closing(sqlite3.connect(path)) as db:
        db.executescript(_SCHEMA)
        with db:
            db.execute('DELETE FROM windows')
            db.executemany(
                'INSERT INTO windows VALUES (?, ?, ?)',
                [(w, state.last_use.get(w, 0), int(w in state.pins)) for w in windows],
            )
            db.executemany('REPLACE INTO written VALUES (?, ?)', state.written.items())


def _set_aside(path: Path) -> None:
    try:
        files.rename(path, path.with_name(path.name + DAMAGED_SUFFIX))
    except (FileNotFoundError, CwmError) as exc:
        _log.warning('path=%s problem=%s', path, exc)
