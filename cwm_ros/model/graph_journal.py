# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a graph's data file are on the drive, so that a killed conversion goes on."""

from __future__ import annotations

from contextlib import suppress
import json
import os
from typing import NamedTuple, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

SYNC_BYTES = 1 << 26
"""After so many bytes the data are synced, and then said to be there."""


class Entry(NamedTuple):
    """A tensor, and where it lies in the data file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int


class GraphJournal:
    """
    The data file of a graph in the making, and beside it a list of what of it is whole.

    Parameters
    ----------
    data, listing
        The two files; what an earlier attempt left in them is kept as far as it goes.

    """

    def __init__(self, data: Path, listing: Path) -> None:
        self._kept = {entry.name: entry for entry in _read(listing, data)}
        self.kept_bytes = max((e.start + e.length for e in self._kept.values()), default=0)
        self.data = data.open('r+b' if data.exists() else 'w+b')
        self.data.truncate(self.kept_bytes)
        self._listing = listing.open('w', encoding='utf-8')
        self._waiting: list[Entry] = list(self._kept.values())
        self._synced = 0
        self.sync()

    def has(self, entry: Entry) -> bool:
        """Say whether a tensor is there already, exactly so."""
        return self._kept.get(entry.name) == entry

    def add(self, entry: Entry) -> None:
        """Note a tensor that was written; it counts from the next sync on."""
        self._waiting.append(entry)
        if entry.start + entry.length - self._synced >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Bring the data to the drive, then the list of them."""
        self.data.flush()
        os.fsync(self.data.fileno())
        self._synced = max((e.start + e.length for e in self._waiting), default=self._synced)
        self._listing.writelines(json.dumps(entry) + '\n' for entry in self._waiting)
        self._waiting.clear()
        self._listing.flush()
        os.fsync(self._listing.fileno())

    def close(self) -> None:
        """Close both files."""
        self.data.close()
        self._listing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _read(listing: Path, data: Path) -> Sequence[Entry]:
    """Return the entries that the data file holds, up to the first that it does not."""
    entries: list[Entry] = []
    with suppress(OSError, ValueError, TypeError):
        size = data.stat().st_size
        for line in listing.read_text(encoding='utf-8').splitlines():
            name, dtype, shape, start, length = json.loads(line)
            if not 0 <= start <= start + length <= size:
                break
            entries.append(Entry(name, dtype, tuple(shape), start, length))
    return entries
