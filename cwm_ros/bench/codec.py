# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How fast the codec is, against copying the same bytes, and what it costs in size and accuracy.

``python -m cwm_ros.bench.codec [--json] [--kv FILE.npy]`` measures two geometries with made-up
KV, and the quality of the KV in FILE, an array (L, 2, H, T, D). Cases take turns, so that a slow
moment of the machine meets all of them; arrays are larger than the last-level cache.
"""

from __future__ import annotations

from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
import json
import os
from pathlib import Path
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.codec_quality import (
    block_ratios,
    CHUNK_TOKENS,
    measure_quality,
    Quality,
    SOURCE,
)
from cwm_ros.codec import (
    CodecId,
    decode_chunk,
    encode_chunk,
    KernelLoader,
    numpy_kernels,
    Scratch,
)
from cwm_ros.config import COMPRESSIONS, EngineSettings
from cwm_ros.kv import KVSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.kv import FloatArray

REPETITIONS = 5
KINDS = ('float32', 'float16')
CASES = {
    'synthetic-16x8x64': (KVSpec(num_layers=16, num_kv_heads=8, head_dim=64, max_tokens=8192), 8),
    'reference-6x2x64': (KVSpec(num_layers=6, num_kv_heads=2, head_dim=64, max_tokens=8192), 64),
}
"""Geometry, and how many chunks make more than 100 MB of float32."""

Key = tuple[str, str, int]
"""Path, name of the kernels, number of threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """
    One row: a pass over all chunks.

    Parameters
    ----------
    case, path, kernels, threads
        What ran.
    median_s, min_s
        Time of a pass [s].
    bytes
        Float bytes that went in (encode) or came out (decode, memcpy) in a pass.
    memcpy_ratio
        Speed relative to copying as many bytes on one thread in the same run.

    """

    case: str
    path: str
    kernels: str
    threads: int
    median_s: float
    min_s: float
    bytes: int
    memcpy_ratio: float


def make_kv(spec: KVSpec, num_tokens: int, seed: int = 1) -> FloatArray:
    """
    Make up KV that compresses as that of a trained model does.

    Channels differ in size, and the values of layer 0 depend on the token alone: here one of 403
    words, more frequent the earlier. Shape (L, 2, H, T, D), float32.
    """
    rng = np.random.default_rng(seed)
    kv = rng.standard_normal(spec.shape(num_tokens), dtype=np.float32)
    kv *= np.exp(rng.standard_normal((*kv.shape[:3], 1, kv.shape[4]), dtype=np.float32) / 2)
    words = (403 * rng.random(num_tokens) ** 3).astype(np.int64)
    kv[0, 1] = kv[0, 1][:, words % num_tokens]
    return kv


def measure_speed(
    case: str, kv: FloatArray, kernels: Callable[[], Kernels], thread_counts: Sequence[int]
) -> list[Speed]:
    """
    Time encoding and decoding of whole chunks.

    Parameters
    ----------
    case
        Name of the rows.
    kv
        A cache, shape (L, 2, H, T, D), float32; T is a multiple of 256.
    kernels
        Compiled ones; the NumPy path is measured beside them on one thread.
    thread_counts
        Numbers of threads that share the chunks.

    """
    chunks = _Chunks(kv)
    works = {(f'memcpy {kind}', '', 1): chunks.memcpy(kind) for kind in KINDS}
    for threads in thread_counts:
        works.update(chunks.works(kernels, threads))
    works.update(chunks.works(numpy_kernels, 1))
    times = take_turns(works)
    copies = {kind: statistics.median(times[f'memcpy {kind}', '', 1]) for kind in KINDS}
    rows = []
    for (path, name, threads), measured in times.items():
        kind = path.split()[-1]
        rows.append(
            Speed(
                case=case,
                path=path,
                kernels=name,
                threads=threads,
                median_s=statistics.median(measured),
                min_s=min(measured),
                bytes=chunks.outs[kind].nbytes,
                memcpy_ratio=copies[kind] / statistics.median(measured),
            )
        )
    return rows


def take_turns(works: dict[Key, Callable[[], None]]) -> dict[Key, list[float]]:
    """Run everything once unmeasured, then in turn; return the times of each [s]."""
    times: dict[Key, list[float]] = {key: [] for key in works}
    for turn in range(REPETITIONS + 1):
        for key, work in works.items():
            begin = time.perf_counter()
            work()
            if turn:
                times[key].append(time.perf_counter() - begin)
    return times


class _Chunks:
    """The chunks of a cache, and passes over all of them."""

    def __init__(self, kv: FloatArray) -> None:
        layers, _, heads, tokens, dim = kv.shape
        self.kv = kv
        self.spec = KVSpec(num_layers=layers, num_kv_heads=heads, head_dim=dim, max_tokens=tokens)
        self.parts = [np.s_[:, :, :, t : t + CHUNK_TOKENS] for t in range(0, tokens, CHUNK_TOKENS)]
        self.outs = {kind: np.ones(kv.shape, dtype=kind) for kind in KINDS}
        scratch = Scratch()
        self.payloads = {
            codec: [bytes(encode_chunk(kv[part], codec, 'lz4', scratch)) for part in self.parts]
            for codec in CodecId
        }

    def memcpy(self, kind: str) -> Callable[[], None]:
        target = self.outs[kind]
        source = np.ones_like(target)
        return partial(np.copyto, target, source)

    def works(self, kernels: Callable[[], Kernels], threads: int) -> dict[Key, Callable[[], None]]:
        calls: dict[str, Callable[[int, Scratch], object]] = {}
        for codec in CodecId:
            name = codec.name.lower()
            for packed in COMPRESSIONS:
                calls[f'encode {name} {packed} float32'] = partial(self.encode, codec, packed)
            for kind in KINDS:
                calls[f'decode {name} lz4 {kind}'] = partial(self.decode, codec, kind)
        pool = ThreadPoolExecutor(threads) if threads > 1 else None
        scratches = [Scratch(kernels) for _ in range(threads)]
        return {
            (path, kernels().name, threads): partial(self.run, call, scratches, pool)
            for path, call in calls.items()
        }

    def run(
        self,
        call: Callable[[int, Scratch], object],
        scratches: list[Scratch],
        pool: ThreadPoolExecutor | None,
    ) -> None:
        def work(thread: int) -> None:
            for index in range(thread, len(self.parts), len(scratches)):
                call(index, scratches[thread])

        if pool is None:
            work(0)
        else:
            list(pool.map(work, range(len(scratches))))

    def encode(self, codec: CodecId, compression: str, index: int, scratch: Scratch) -> object:
        return encode_chunk(self.kv[self.parts[index]], codec, compression, scratch)

    def decode(self, codec: CodecId, kind: str, index: int, scratch: Scratch) -> None:
        decode_chunk(
            memoryview(self.payloads[codec][index]),
            spec=self.spec,
            num_tokens=CHUNK_TOKENS,
            codec=codec,
            out=self.outs[kind][self.parts[index]],
            scratch=scratch,
            source=SOURCE,
        )


def measure_loading() -> dict[str, float]:
    """Time import and loading of the compiled kernels, from nothing and from the cache [s]."""
    script = (
        'import sys, time; a = time.perf_counter(); import numpy; b = time.perf_counter();'
        'from pathlib import Path; from cwm_ros.codec.native import numba_kernels;'
        'c = time.perf_counter(); numba_kernels(Path(sys.argv[1]));'
        'print(c - b, time.perf_counter() - c)'
    )
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        for state in ('cold', 'warm'):
            command = [sys.executable, '-c', script, folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            output = done.stdout
            times[f'import_{state}_s'], times[f'load_{state}_s'] = map(float, output.split())
    return times


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print; ``options`` are those of the process when None."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
    parser.add_argument('--kv', type=Path, help='.npy of KV (L, 2, H, T, D) for quality')
    arguments = parser.parse_args(options)
    loader = KernelLoader(EngineSettings().cache_path / 'kernels')
    loader.start()
    loader.wait()
    caches = {name: make_kv(spec, CHUNK_TOKENS * count) for name, (spec, count) in CASES.items()}
    speeds = [
        row for name, kv in caches.items() for row in measure_speed(name, kv, loader, (1, 2))
    ]
    kv = caches['reference-6x2x64'][:, :, :, :2048]
    if arguments.kv:
        kv = np.load(arguments.kv, allow_pickle=False)
    quality = measure_quality(kv)
    if arguments.json:
        report = {
            'machine': f'{platform.machine()} {os.cpu_count()} cores',
            'loading': measure_loading(),
            'rows': [asdict(row) for row in speeds],
            'quality': [asdict(row) for row in quality],
            'lz4_by_layer': block_ratios(kv),
        }
        print(json.dumps(report))
        return
    print_tables(speeds, quality, block_ratios(kv), measure_loading())


def print_tables(
    speeds: list[Speed],
    quality: list[Quality],
    ratios: list[tuple[float, float]],
    loading: dict[str, float],
) -> None:
    """Print for people."""
    for row in speeds:
        print(
            f'{row.case:18} {row.path:26} {row.kernels:6} {row.threads} thread(s)'
            f'{row.bytes / row.median_s / 1e9:7.2f} GB/s {row.memcpy_ratio:6.3f} x memcpy'
        )
    for item in quality:
        print(
            f'{item.codec:5} {item.compression:5} {item.bytes_per_token:8.1f} bytes/token'
            f' {item.ratio_to_fp16:5.2f} x fp16, RMS error K {item.key_error_percent:.3f} %'
            f' V {item.value_error_percent:.3f} %, largest {item.max_error:.3g}'
        )
    print('LZ4 on int8, K and V by layer:', ', '.join(f'{k:.2f}/{v:.2f}' for k, v in ratios))
    print('compiled kernels:', ', '.join(f'{name} {value:.2f}' for name, value in loading.items()))


if __name__ == '__main__':
    main()
