# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a thaw takes beyond model and cache, and what it leaves in the page cache."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench.thaw_synthetic import Geometry, write_window
from cwm_ros.config import CodecSettings
from cwm_ros.store import files
from tests.fakes import complete, make_window
from tests.thawing_child import open_store, SPEC

if TYPE_CHECKING:
    from tests.conftest import OpenManager

CHILD = Path(__file__).parent / 'thawing_child.py'
RING_MIB = 8
"""Room for two chunks of 2 MiB and what decoding them takes."""
OTHER_MIB = 6
"""For eight threads, the plan, and all else that Python does."""


def thaw_in_child(
    root: Path, num_tokens: int, staging_mib: int, kind: str
) -> subprocess.CompletedProcess:
    numbers = map(str, (num_tokens, staging_mib, RING_MIB + OTHER_MIB))
    return subprocess.run(
        [sys.executable, str(CHILD), str(root), *numbers, kind],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        # An arena for each thread would be promised memory that nobody uses.
        env={**os.environ, 'MALLOC_ARENA_MAX': '1'},
    )


@pytest.mark.parametrize(
    ('num_tokens', 'kind'),
    [
        (512, 'plain'),
        (4096, 'plain'),
        (4096, 'encrypted'),
        pytest.param(16384, 'plain', marks=pytest.mark.slow),
        pytest.param(16384, 'encrypted', marks=pytest.mark.slow),
    ],
)
def test_a_thaw_takes_no_more_than_its_ring_whatever_the_window(
    tmp_path: Path, num_tokens: int, kind: str
) -> None:
    """
    The KV is 4, 32 and 128 MiB; without a ring eight threads would take 24.

    An encrypted payload is decrypted where it lies, so its bound is the same.
    """
    with open_store(tmp_path, kind) as store:
        write_window(store, Geometry(spec=SPEC, num_tokens=num_tokens), CodecSettings())
    bounded = thaw_in_child(tmp_path, num_tokens, RING_MIB, kind)

    assert bounded.stdout == 'complete\n', bounded.stderr
    if num_tokens > 512:
        unbounded = thaw_in_child(tmp_path, num_tokens, 1024, kind)
        told = 'MemoryError' in unbounded.stderr or 'start new thread' in unbounded.stderr
        # Or a library that did not look at what it was given ended by a signal.
        assert unbounded.returncode < 0 or (unbounded.returncode and told)


# --- page cache ---------------------------------------------------------------------------------


def resident_pages(path: Path) -> int:
    """Return how many pages of a file the page cache holds."""
    size = path.stat().st_size
    with path.open('r+b') as file, mmap.mmap(file.fileno(), size) as view:
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0
        count = sum(page & 1 for page in pages)
        del address
    return count


def chunk_paths(manager_root: Path) -> list[Path]:
    return sorted((manager_root / 'profiles' / 'default' / 'chunks').iterdir())


def can_drop(folder: Path) -> bool:
    """Say whether the file system lets go of pages when asked; one in memory cannot."""
    probe = folder / 'probe'
    files.write_file(probe, [bytes(mmap.PAGESIZE)])
    files.drop_pages(probe)
    return resident_pages(probe) == 0


@pytest.mark.parametrize('drops', [False, True])
def test_a_thaw_lets_go_of_pages_when_asked_and_of_no_neighbour_s(
    open_fake: OpenManager, tmp_path: Path, *, drops: bool
) -> None:
    if not can_drop(tmp_path):
        pytest.skip('the file system keeps all pages')
    with open_fake() as manager:
        make_window(manager, 'trip', 12)
    neighbour = tmp_path / 'map.bin'
    files.write_file(neighbour, [os.urandom(1 << 20)])
    root = tmp_path / 'store'
    for path in [*chunk_paths(root), neighbour]:
        path.read_bytes()
        assert resident_pages(path) > 0
    with open_fake(thaw={'drop_page_cache': drops}) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.progress().recomputed_tokens == 0

    kept = [resident_pages(path) for path in chunk_paths(root)]
    assert all(count == 0 for count in kept) if drops else all(kept)
    assert resident_pages(neighbour) == (1 << 20) // mmap.PAGESIZE
