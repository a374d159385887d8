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
from cwm_ros.store import files, staterows

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.store.seal import Seal
    from cwm_ros.store.staterows import Row

DAY_MS = 86_400_000
CLOCK_IS_SET_MS = 1_577_836_800_000
"""2020: a clock before that is one that nobody has set."""
DAMAGED_SUFFIX = '.damaged'

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
    used_days
        By window id: the day of the last use since 1970 (UTC), as far as the clock was set.
    pins
        Ids of the windows that are never evicted.
    written
        By day since 1970 (UTC): bytes that the store wrote.
    evictions
        Chunks removed to make room, in all.
    scrub_position
        Where scrubbing goes on, as the number that chunk names begin with.
    exports
        Files that bundles of this profile were written to.
    problem
        Why what was stored is not known; empty when it is.
    changed
        Ids of windows, and days, whose rows are not stored yet.
    is_ledger_kept
        Whether bytes written are counted; those of a guest are not, for they wear no drive.

    """

    last_use: dict[str, int] = field(default_factory=dict)
    used_days: dict[str, int] = field(default_factory=dict)
    pins: set[str] = field(default_factory=set)
    written: dict[int, int] = field(default_factory=dict)
    evictions: int = 0
    scrub_position: int = 0
    exports: set[str] = field(default_factory=set)
    problem: str = ''
    changed: set[str | int] = field(default_factory=set)
    is_dirty: bool = False
    is_ledger_kept: bool = True

    def touch(self, window: str, time_ms: int) -> None:
        """Record that a window is used now."""
        self.note_day(window, time_ms)
        uses = self.last_use[next(reversed(self.last_use))] if self.last_use else 0
        self.last_use.pop(window, None)
        self.last_use[window] = uses + 1
        self._mark(window)

    def note_day(self, window: str, time_ms: int) -> None:
        """Record the day on which a window is used, or was first seen, if the clock is set."""
        day = time_ms // DAY_MS
        if time_ms >= CLOCK_IS_SET_MS and self.used_days.get(window) != day:
            self.used_days[window] = day
            self._mark(window)

    def add_export(self, path: str) -> None:
        """Record where a bundle was written."""
        self.exports.add(path)
        self.is_dirty = True

    def set_pinned(self, window: str, *, is_pinned: bool) -> None:
        """Protect a window from eviction, or no longer."""
        (self.pins.add if is_pinned else self.pins.discard)(window)
        self._mark(window)

    def add_written(self, time_ms: int, num_bytes: int) -> None:
        """Add to the ledger."""
        if not self.is_ledger_kept:
            return
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
        self.used_days.pop(window, None)
        self.pins.discard(window)
        self._mark(window)

    def mark_all(self) -> None:
        """Have everything stored anew."""
        self.changed |= self.last_use.keys() | self.used_days.keys() | self.pins
        self.changed |= self.written.keys()

    def _mark(self, row: str | int) -> None:
        self.changed.add(row)
        self.is_dirty = True


def load_state(path: Path, seal: Seal, *, writable: bool) -> State:
    """
    Read the state; a missing one is empty.

    A damaged one is empty too (windows do not depend on it), and the log says so. Only a writer
    can read it right after another was killed while storing it, for that has to be undone first.
    """
    try:
        return _build_state(staterows.read_rows(path, seal, writable=writable))
    except FileNotFoundError:
        return State()
    except (sqlite3.Error, FormatError) as exc:
        _log.warning('path=%s problem=%s pins and ledger are not known', path, exc)
        if writable and isinstance(exc, FormatError):
            _set_aside(path)
        return State(problem=str(exc))


def _build_state(rows: list[Row]) -> State:
    state = State()
    for row in sorted(rows, key=lambda row: row.numbers):
        if row.table == 'windows':
            last_use, is_pinned = row.numbers
            state.last_use[row.name] = last_use
            if is_pinned:
                state.pins.add(row.name)
        elif row.table == 'used':
            (state.used_days[row.name],) = row.numbers
        elif row.table == 'written':
            (state.written[int(row.name)],) = row.numbers
        elif row.table == 'exports':
            state.exports.add(row.name)
        elif row.name == _EVICTIONS:
            (state.evictions,) = row.numbers
        elif row.name == _SCRUB_POSITION:
            (state.scrub_position,) = row.numbers
    return state


def save_state(path: Path, state: State, seal: Seal) -> bool:
    """
    Store the state durably; return whether that was possible.

    A failure leaves it dirty, to be stored with the next commit.
    """
    try:
        _write_state(path, state, seal)
    except sqlite3.DatabaseError as exc:
        _log.warning('path=%s problem=%s the state is not stored', path, exc)
        if not isinstance(exc, sqlite3.OperationalError):
            _set_aside(path)
            state.mark_all()
        return False
    state.changed.clear()
    state.is_dirty = False
    return True


def _write_state(path: Path, state: State, seal: Seal) -> None:
    """Store the rows that changed, so that the cost does not depend on how many there are."""
    if not files.exists(path):
        state.mark_all()
    rows, gone = [], []
    for window in (row for row in state.changed if isinstance(row, str)):
        if window in state.last_use or window in state.pins:
            numbers = (state.last_use.get(window, 0), int(window in state.pins))
            rows.append(staterows.Row('windows', window, numbers))
        else:
            gone.append(staterows.Row('windows', window))
        if window in state.used_days:
            rows.append(staterows.Row('used', window, (state.used_days[window],)))
        else:
            gone.append(staterows.Row('used', window))
    days = [row for row in state.changed if isinstance(row, int)]
    rows += [staterows.Row('written', str(day), (state.written[day],)) for day in days]
    rows += [staterows.Row('exports', export, ()) for export in sorted(state.exports)]
    rows.append(staterows.Row('counts', _EVICTIONS, (state.evictions,)))
    rows.append(staterows.Row('counts', _SCRUB_POSITION, (state.scrub_position,)))
    with closing(sqlite3.connect(path)) as db:
        staterows.write_rows(db, rows, gone, seal)


def _set_aside(path: Path) -> None:
    try:
        files.rename(path, path.with_name(path.name + DAMAGED_SUFFIX))
    except (FileNotFoundError, CwmError) as exc:
        _log.warning('path=%s problem=%s', path, exc)
