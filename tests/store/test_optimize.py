# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Garbage goes, every chunk is read, slowly, and a cut costs nothing."""

from __future__ import annotations

from itertools import pairwise
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cwm_ros.errors import ConfigError
from cwm_ros.optimize import check_rate, optimize
from cwm_ros.store import Store
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cwm_ros.optimize import OptimizeProgress

FAST = 1e12


def open_store(root: Path) -> Iterator[Store]:
    with Store.open(makers.settings(root), writable=True, clock=makers.clock) as store:
        yield store


def run(store: Store) -> OptimizeProgress:
    *_, last = optimize(store, makers.check_payload, bytes_per_s=FAST)
    return last


def test_garbage_goes_and_every_chunk_is_read(ram_path: Path) -> None:
    for store in open_store(ram_path):
        makers.write_chunks(store, makers.tokens_of(24, seed=5))
    for store in open_store(ram_path):
        makers.commit(store, 'a')
        makers.commit(store, 'b', seed=1)
        last = run(store)
        assert (last.garbage_bytes, last.chunks_done, last.chunks_total) == (3 * 292, 6, 6)
        assert last.bytes_read == sum(store._inventory.sizes.values())
        assert last.is_done
        assert last.problems == ()
        assert run(store).chunks_done == 6


def test_damaged_chunks_are_set_aside_and_written_again(ram_path: Path) -> None:
    for store in open_store(ram_path):
        manifest = makers.commit(store, 'w', count=40)
        for entry, offset in zip(manifest.chunks[:3], (-1, 30, 200), strict=True):
            path = store.chunk_path(entry.id, entry.codec)
            data = bytearray(path.read_bytes())
            data[offset] ^= 1
            path.write_bytes(data)
        last = run(store)
        assert len(last.problems) == 3
        report = store.verify('w', makers.check_payload)
        assert (report.ok, report.missing_chunks) == (True, 3)
        makers.write_chunks(store, manifest.tokens)
        assert store.verify('w', makers.check_payload).missing_chunks == 0


def test_the_rate_is_kept_and_each_pause_is_a_step(ram_path: Path) -> None:
    now = [0.0]
    pauses = []

    def sleep(duration: float) -> None:
        now[0] += duration
        pauses.append(duration)

    for store in open_store(ram_path):
        makers.commit(store, 'w', count=80, payload_bytes=10_000)
        steps = optimize(
            store, makers.check_payload, bytes_per_s=20_000, clock=lambda: now[0], sleep=sleep,
        )  # fmt: skip
        read = [(now[0], progress.bytes_read, len(pauses)) for progress in steps]
    assert len(pauses) > 50
    assert max(pauses) <= 0.05
    assert all(after[2] - before[2] <= 1 for before, after in pairwise(read))
    for when, num_bytes, _ in read[:-1]:
        assert num_bytes <= 20_000 * (when + 1e-9) + 10_200
    assert now[0] < 6


def test_a_rate_at_which_a_scrub_never_ends_is_refused() -> None:
    check_rate(64 * 1024)
    for rate in (1, 64 * 1024 - 1):
        with pytest.raises(ConfigError, match=f'rate is {rate}.*65536'):
            check_rate(rate)


def test_a_cancelled_optimise_goes_on_where_it_was(ram_path: Path) -> None:
    cancel = threading.Event()
    for store in open_store(ram_path):
        makers.commit(store, 'w', count=80)
        steps = optimize(store, makers.check_payload, bytes_per_s=FAST, cancel=cancel)
        assert [next(steps).chunks_done for _ in range(4)] == [1, 2, 3, 4]
        cancel.set()
        (last,) = steps
        assert not last.is_done
    for store in open_store(ram_path):
        assert run(store).chunks_done == 6
        assert run(store).chunks_done == 10


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_a_killed_optimise_leaves_whole_windows(ram_path: Path) -> None:
    chance = random.Random(4)
    for store in open_store(ram_path):
        makers.commit(store, 'w', count=200, payload_bytes=3000)
        makers.write_chunks(store, makers.tokens_of(200, seed=9), payload_bytes=3000)
    for _ in range(15):
        pid = os.fork()
        if not pid:
            try:
                for store in open_store(ram_path):
                    while True:
                        run(store)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.005, 0.04))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for store in open_store(ram_path):
            report = store.verify(None, makers.check_payload)
            assert (report.problems, report.missing_chunks) == ((), 0)
    for store in open_store(ram_path):
        run(store)
        assert run(store).chunks_done == 25
