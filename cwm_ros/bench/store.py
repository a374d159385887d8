# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a store costs with many windows."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
import statistics
import tempfile
import time
from typing import TYPE_CHECKING

from cwm_ros.bench.synthetic_windows import (
    CHUNK_TOKENS,
    ROOMY_MIB,
    timed,
    tokens_of,
    wall_ms,
    write_window,
)
from cwm_ros.config import MIB, StorageSettings
from cwm_ros.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNKS_OF_WINDOW = 4
WINDOW_COUNTS = (10, 100, 1000, 10_000)
FIRST_LISTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """
    What operations cost in a store of so many windows; medians [ms].

    Parameters
    ----------
    windows
        How many.
    open_ms, list_ms, list_again_ms
        Opening for writing, with a catalog; the inventory of the writer after a commit; and of
        a reader that has looked before.
    first_list_ms
        Opening for reading and the inventory, in a process of its own that has just started.
    freeze_ms, evict_ms
        Writing one chunk and committing its window; the same when another chunk has to go.

    """

    windows: int
    open_ms: float
    list_ms: float
    list_again_ms: float
    first_list_ms: float
    freeze_ms: float
    evict_ms: float


def measure_scaling(
    folder: Path, counts: Sequence[int] = WINDOW_COUNTS, *, rounds: int = 15
) -> list[Scaling]:
    """
    Measure one store that grows.

    Parameters
    ----------
    folder
        Where the store is made; in RAM, what is left is our own cost.
    counts
        Numbers of windows, ascending.
    rounds
        Freezes and evictions for each figure.

    """
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as root:
        settings = StorageSettings(root=Path(root), quota_mib=ROOMY_MIB, free_floor_mib=0)
        made = 0
        for count in counts:
            with Store.open(settings, writable=True, clock=wall_ms) as store:
                for number in range(made, count):
                    tokens = tokens_of(number, CHUNKS_OF_WINDOW * CHUNK_TOKENS)
                    write_window(store, f'w{number}', tokens)
            made = count
            rows.append(_measure_one(settings, count, rounds))
    return rows


def _measure_one(settings: StorageSettings, count: int, rounds: int) -> Scaling:
    with get_context('spawn').Pool(1, maxtasksperchild=1) as processes:
        first_lists = [processes.apply(_list_first, (settings,)) for _ in range(FIRST_LISTS)]
    with Store.open(settings, writable=False, clock=wall_ms) as reader:
        reader.windows()
        list_again = statistics.median(timed(reader.windows) for _ in range(5))
    with ExitStack() as stack:
        opening = time.perf_counter()
        store = stack.enter_context(Store.open(settings, writable=True, clock=wall_ms))
        opened = (time.perf_counter() - opening) * 1e3
        store.windows()
        freezes, listed = _grow_one(store, rounds)
        used = store.storage().used_bytes
    # A full quota: each chunk that is written makes another go.
    full = replace(settings, quota_mib=max(1, used * 33 // 32 // MIB))
    with Store.open(full, writable=True, clock=wall_ms) as store:
        store.reserve_room(1)
        room = full.quota_mib * MIB * 31 // 32 - store.storage().used_bytes
        write_window(
            store, 'ballast', tokens_of(1 << 30, 256), payload_bytes=max(1, room - 20_000)
        )
        evictions, _ = _grow_one(store, rounds)
        store.delete_window('ballast')
    return Scaling(
        windows=count,
        open_ms=opened,
        list_ms=listed,
        list_again_ms=list_again,
        first_list_ms=statistics.median(first_lists),
        freeze_ms=freezes,
        evict_ms=evictions,
    )


def _list_first(settings: StorageSettings) -> float:
    """Return how long the first inventory of this process takes [ms]."""
    began = time.perf_counter()
    with Store.open(settings, writable=False, clock=wall_ms) as reader:
        reader.windows()
    return (time.perf_counter() - began) * 1e3


def _grow_one(store: Store, rounds: int) -> tuple[float, float]:
    """Return median times of freezing a window that has grown by a chunk, and of listing [ms]."""
    tokens = tokens_of(1 << 31, CHUNK_TOKENS * rounds)
    durations, listings = [], []
    for number in range(1, rounds + 1):
        grown = tokens[: CHUNK_TOKENS * number]
        durations.append(timed(lambda: write_window(store, 'live', grown)))  # noqa: B023
        listings.append(timed(store.windows))
    store.delete_window('live')
    return statistics.median(durations), statistics.median(listings)


def format_scaling(rows: Sequence[Scaling]) -> str:
    """Return a table for people."""
    names = [field.name for field in fields(Scaling)]
    lines = [' '.join(f'{name:>14}' for name in names)]
    for row in rows:
        figures = ' '.join(f'{getattr(row, name):14.2f}' for name in names[1:])
        lines.append(f'{row.windows:>14} {figures}')
    return '\n'.join(lines)
