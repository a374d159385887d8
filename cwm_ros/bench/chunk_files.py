# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Compare cold reads of one file per chunk with one file per freeze.

``python -m cwm_ros.bench.chunk_files [FOLDER]`` prints one row per case; figures and the choice
made from them are in docs/decisions/chunk-files.md. As root the page cache is dropped as a
whole before each repetition (file metadata too), else file by file.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
import os
from pathlib import Path
import statistics
import sys
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CASES = ((64, 400_000), (32, 1_000_000), (64, 1_000_000), (32, 4_000_000))
REPETITIONS = 9
READERS = ((1, 0), (1, 4), (2, 2))
DROP_CACHES = Path('/proc/sys/vm/drop_caches')

Span = tuple[Path, int]
"""A chunk: the file and its offset there."""


def write_chunks(folder: Path, count: int, size: int) -> dict[str, list[Span]]:
    """Write the same chunks in every layout; return the spans of each."""
    data = os.urandom(size)
    names = [f'{os.urandom(16).hex()}.int8' for _ in range(count)]
    flat = [folder / 'flat' / name for name in names]
    sharded = [folder / 'sharded' / name[:2] / name for name in names]
    for path in (*flat, *sharded):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    pack = folder / 'pack'
    with pack.open('wb') as file:
        for _ in range(count):
            file.write(data)
    os.sync()
    return {
        'files, one folder': [(path, 0) for path in flat],
        'files, 256 folders': [(path, 0) for path in sharded],
        'one file': [(pack, size * index) for index in range(count)],
    }


def drop_cache(spans: Sequence[Span]) -> None:
    """Make the next read of ``spans`` cold."""
    if os.access(DROP_CACHES, os.W_OK):
        DROP_CACHES.write_text('3')
        return
    for path in {path for path, _ in spans}:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_spans(spans: Sequence[Span], size: int, *, ahead: int) -> None:
    """Read in order into one reused buffer, hinting ``ahead`` chunks before each."""
    buffer = bytearray(size)
    opened: dict[Path, int] = {}

    def hint(index: int) -> None:
        if index < len(spans):
            path, offset = spans[index]
            if path not in opened:
                opened[path] = os.open(path, os.O_RDONLY)
            if ahead:
                os.posix_fadvise(opened[path], offset, size, os.POSIX_FADV_WILLNEED)

    for index in range(ahead):
        hint(index)
    for index, (path, offset) in enumerate(spans):
        hint(index + ahead)
        os.preadv(opened[path], [buffer], offset)
        if offset == 0 and path != spans[-1][0]:
            os.close(opened.pop(path))
    for descriptor in opened.values():
        os.close(descriptor)


def read_with_threads(spans: Sequence[Span], size: int, *, ahead: int, threads: int) -> None:
    """Deal the chunks out to ``threads`` readers, each with a buffer of its own."""
    with ThreadPoolExecutor(threads) as pool:
        shares = [spans[index::threads] for index in range(threads)]
        list(pool.map(lambda share: read_spans(share, size, ahead=ahead), shares))


def measure(read: Callable[[], None], spans: Sequence[Span]) -> list[float]:
    """Return cold durations [ms]."""
    durations = []
    for _ in range(REPETITIONS):
        drop_cache(spans)
        begin = time.perf_counter()
        read()
        durations.append((time.perf_counter() - begin) * 1e3)
    return durations


def run_case(folder: Path, count: int, size: int) -> None:
    """Print one row for each layout, order and read-ahead."""
    layouts = write_chunks(folder, count, size)
    # A thaw takes the first chunk and the last two, then the newest before the older.
    thaw = [0, count - 2, count - 1, *range(count - 3, 0, -1)]
    orders = {'file order': list(range(count)), 'thaw order': thaw}
    for order_name, order in orders.items():
        for layout, spans in layouts.items():
            planned = [spans[index] for index in order]
            for threads, ahead in READERS:
                times = measure(
                    partial(read_with_threads, planned, size, ahead=ahead, threads=threads),
                    planned,
                )
                median = statistics.median(times)
                print(
                    f'{count:3} x {size / 1e6:.1f} MB  {order_name}  {layout:18}  '
                    f'threads {threads} ahead {ahead}  median {median:6.1f} ms  '
                    f'min {min(times):6.1f} ms  {count * size / median / 1e6:5.2f} GB/s'
                )


def main() -> None:
    """Measure in a temporary folder inside the one that is named."""
    parent = sys.argv[1] if len(sys.argv) > 1 else '.'
    for count, size in CASES:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            run_case(Path(folder), count, size)


if __name__ == '__main__':
    main()
