# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a profile holds, kept so that no answer depends on the number of windows."""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING

from cwm_ros.store import chunkfile
from cwm_ros.store.catalog import WindowRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

NO_WINDOW = WindowRecord()


class WindowInfo(NamedTuple):
    """
    A line of the inventory.

    Parameters
    ----------
    name
        Empty when no file of the window can be read.
    tokens, turns, chunks
        Tokens of the current segment, turns in the log, rows of the chunk table.
    chunks_present
        How many of the chunks are on the disk; the others were evicted.
    bytes
        Manifest, log and present chunks, shared ones in full.
    is_pinned
        Whether it is protected from eviction.
    model
        Name of the model; empty when there are only turns.
    updated_ms, revision
        Last commit of the window; 0 when there are only turns.
    problem
        Why it cannot be read; empty when it can.

    """

    name: str
    tokens: int
    turns: int
    chunks: int
    chunks_present: int
    bytes: int
    is_pinned: bool
    model: str
    updated_ms: int
    revision: int
    problem: str = ''


class Inventory:
    """
    Windows, chunk files, and which windows refer to which chunk.

    Parameters
    ----------
    records
        The windows by id.
    sizes
        The chunk files by name [bytes].

    Attributes
    ----------
    records, sizes
        To be read only; the methods change them.
    num_bytes
        All of it [bytes], each chunk counted once.
    changed
        Ids of windows of which something changed, a chunk file too; emptied by who reads it.

    """

    def __init__(
        self,
        records: Mapping[str, WindowRecord] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.records: dict[str, WindowRecord] = {}
        self.sizes: dict[str, int] = {}
        self.num_bytes = 0
        self.changed: set[str] = set()
        self._users: dict[str, set[str]] = {}
        self._orphans: dict[str, None] = {}
        self._num_unreadable = 0
        self.update(records or {}, sizes or {})

    def update(self, records: Mapping[str, WindowRecord], sizes: Mapping[str, int]) -> None:
        """Let these windows and chunk files be all; what is as before costs next to nothing."""
        for window_id in self.records.keys() - records.keys():
            self.drop_window(window_id)
        for window_id, record in records.items():
            if self.records.get(window_id) is not record:
                self.put_window(window_id, record)
        for name in self.sizes.keys() - sizes.keys():
            self.drop_chunk(name)
        for name, size in sizes.items():
            if self.sizes.get(name) != size:
                self.put_chunk(name, size)

    def window(self, window_id: str) -> WindowRecord:
        """Return what is known of a window; of one that does not exist, nothing."""
        return self.records.get(window_id, NO_WINDOW)

    def put_window(self, window_id: str, record: WindowRecord) -> None:
        """Add a window, or replace what is known of it."""
        before = self.window(window_id)
        self.records[window_id] = record
        self._count(window_id, before, record)

    def drop_window(self, window_id: str) -> WindowRecord:
        """Remove a window; return what was known of it."""
        before = self.records.pop(window_id, NO_WINDOW)
        self._count(window_id, before, NO_WINDOW)
        return before

    def _count(self, window_id: str, before: WindowRecord, after: WindowRecord) -> None:
        self.changed.add(window_id)
        self.num_bytes += after.own_bytes - before.own_bytes
        self._num_unreadable += bool(after.problem) - bool(before.problem)
        old, new = set(before.chunks), set(after.chunks)
        for name in new - old:
            self._users.setdefault(name, set()).add(window_id)
            self._orphans.pop(name, None)
        for name in old - new:
            users = self._users[name]
            users.discard(window_id)
            if not users:
                del self._users[name]
                if name in self.sizes:
                    self._orphans[name] = None

    def put_chunk(self, name: str, size: int) -> None:
        """Add a chunk file."""
        self.num_bytes += size - self.sizes.get(name, 0)
        self.sizes[name] = size
        self.changed |= self.users(name)
        if name not in self._users and chunkfile.is_chunk_name(name):
            self._orphans[name] = None

    def drop_chunk(self, name: str) -> int:
        """Remove a chunk file from the list; return its size [bytes]."""
        size = self.sizes.pop(name, 0)
        self.changed |= self.users(name)
        self.num_bytes -= size
        self._orphans.pop(name, None)
        return size

    def users(self, name: str) -> set[str]:
        """Return the ids of the windows that refer to a chunk."""
        return self._users.get(name, set())

    def orphans(self, *, keep: set[str]) -> list[str]:
        """
        Return the chunk files that no window refers to.

        None are, as long as one window cannot be read: it may be of a later version, and its
        chunks are not known.
        """
        if self._num_unreadable:
            return []
        return [name for name in self._orphans if name not in keep]

    def won_with(self, window_id: str, others: AbstractSet[str]) -> int:
        """Return what removing a window wins when ``others`` are removed, too [bytes]."""
        record = self.window(window_id)
        freed = {name for name in record.chunks if self.users(name) <= others | {window_id}}
        return record.own_bytes + sum(self.sizes.get(name, 0) for name in freed)

    def info(self, window_id: str, *, is_pinned: bool) -> WindowInfo:
        """Return the line of a window."""
        record = self.window(window_id)
        present = [self.sizes[name] for name in record.chunks if name in self.sizes]
        return WindowInfo(
            name=record.name,
            tokens=record.num_tokens,
            turns=record.log_turns,
            chunks=len(record.chunks),
            chunks_present=len(present),
            bytes=record.own_bytes + sum(present),
            is_pinned=is_pinned,
            model=record.model,
            updated_ms=record.updated_ms,
            revision=record.revision,
            problem=record.problem,
        )
