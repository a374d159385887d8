# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a board can do, as far as it decides how long a window takes: given, or measured here."""

from __future__ import annotations

from dataclasses import dataclass, fields
import os
from pathlib import Path
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.codec import make_kv
from cwm_ros.codec import CodecId, decode_chunk, encode_chunk, KernelLoader, Scratch
from cwm_ros.kv import KVSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.config import Settings

MIB = 1 << 20
GIB = 1 << 30
ASSUMED_DRIVE_MIB_S = 1000.0
ROUNDS = 5
MATRIX = 768
PROBE_BYTES = 64 * MIB
PROBE_SPEC = KVSpec(num_layers=16, num_kv_heads=8, head_dim=64, max_tokens=256)
PROBE_TOKENS = 256
PROBE_CHUNKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """
    A board.

    Parameters
    ----------
    memory_gib
        For weights and KV [GiB].
    drive_mib_s
        Reading [MiB/s].
    decode_mib_s
        KV as float32 out of int8 payloads, all threads of a thaw [MiB/s].
    gflops
        Matrix products in float32 [1e9/s].

    """

    memory_gib: float
    drive_mib_s: float
    decode_mib_s: float
    gflops: float

    @property
    def memory_bytes(self) -> int:
        """Return the memory [bytes]."""
        return int(self.memory_gib * GIB)

    def read_s(self, payload_bytes: int, decoded_bytes: int) -> float:
        """Return how long reading and decoding take, side by side [s]."""
        return max(payload_bytes / MIB / self.drive_mib_s, decoded_bytes / MIB / self.decode_mib_s)

    def compute_s(self, flops: int) -> float:
        """Return how long computing takes, at the speed of matrix products [s]."""
        return flops / self.gflops / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a user says about a board; None is measured here, and the drive assumed."""

    memory_gib: float | None = None
    drive_mib_s: float | None = None
    decode_mib_s: float | None = None
    gflops: float | None = None


def find_board(settings: Settings, given: Given, *, is_drive_measured: bool) -> tuple[Board, str]:
    """
    Return the board, and in words where its figures are from.

    Measuring takes about a second; measuring the drive writes 64 MiB into the store's folder and
    removes them.
    """
    sources = {
        'memory_gib': ('of this machine', _memory_gib),
        'drive_mib_s': (
            ('measured', lambda: _drive_mib_s(settings.storage.root))
            if is_drive_measured
            else ('assumed', lambda: ASSUMED_DRIVE_MIB_S)
        ),
        'decode_mib_s': ('measured', lambda: _decode_mib_s(settings)),
        'gflops': ('measured', _gflops),
    }
    values: dict[str, float] = {}
    words = []
    for field in fields(Board):
        value: float | None = getattr(given, field.name)
        source, measure = sources[field.name]
        values[field.name] = measure() if value is None else value
        words.append(
            f'{field.name} {values[field.name]:.0f} ({source if value is None else "given"})'
        )
    return Board(**values), ', '.join(words)


def _memory_gib() -> float:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB


def _best_s(work: Callable[[], object]) -> float:
    """Return the shortest time of some rounds [s]."""
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def _gflops() -> float:
    a = np.random.default_rng(0).standard_normal((MATRIX, MATRIX), dtype=np.float32)
    return float(2e-9 * MATRIX**3 / _best_s(lambda: a @ a))


def _decode_mib_s(settings: Settings) -> float:
    loader = KernelLoader(settings.engine.cache_path / 'kernels')
    loader.start()
    loader.wait()
    kv = make_kv(PROBE_SPEC, PROBE_TOKENS)
    scratch = Scratch(loader)
    out = np.empty((PROBE_CHUNKS, *kv.shape), np.float32)  # larger than caches, as a real one
    payload = memoryview(bytes(encode_chunk(kv, CodecId.INT8, 'lz4', scratch)))

    def decode() -> None:
        for chunk in out:
            decode_chunk(
                payload,
                spec=PROBE_SPEC,
                num_tokens=PROBE_TOKENS,
                codec=CodecId.INT8,
                out=chunk,
                scratch=scratch,
                source=Path('probe'),
            )

    return out.nbytes / MIB / _best_s(decode) * settings.thaw.num_threads


def _drive_mib_s(folder: Path) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    content = np.random.default_rng(0).bytes(PROBE_BYTES)
    with tempfile.NamedTemporaryFile(dir=folder, prefix='probe.', suffix='.tmp') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

        def read() -> None:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            while file.read(MIB):
                pass

        return PROBE_BYTES / MIB / _best_s(read)
