# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is measured of an engine on a GPU, and how."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import os
from statistics import median
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.gpu_model import CHUNK
from cwm_ros.bench.gpu_report import LINK_SHARE, RATIO, READ_SHARE, RECOMPUTE, SLOWDOWN
from cwm_ros.codec import encode_quantized, open_quantized, Scratch
from cwm_ros.engine import LogitRows
from cwm_ros.engine.gpu import GpuEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cwm_ros.bench.gpu_model import CacheOnly
    from cwm_ros.bench.gpu_report import GpuReport
    from cwm_ros.engine.cuda import Device

USABLE_TOKENS = 768
PINNED_BYTES = 256 << 20
REPEATS = 5
STEPS = 64
RAM, DISK = 'from RAM', 'from disk'


class GpuBench:
    """Measures one engine, figure by figure; each is reported as soon as it is there."""

    def __init__(
        self, engine: GpuEngine | CacheOnly, device: Device, report: GpuReport, folder: Path
    ) -> None:
        self.engine, self.device, self.report, self.folder = engine, device, report, folder
        rng = np.random.default_rng(0)
        num_words = engine.vocab_size if isinstance(engine, GpuEngine) else 1
        self.tokens = rng.integers(0, num_words, engine.capacity).astype(np.int32)
        self.recompute_s: dict[int, float] = {}

    def timed(self, work: Callable[[], object], repeats: int = 1) -> float:
        """Return the median time of a few runs [s]."""
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return median(times)

    def measure_link(self) -> float:
        """Time copies from pinned memory; return bytes per second."""
        stream, pinned = self.device.stream(), self.device.pinned(PINNED_BYTES)
        there = self.device.memory(PINNED_BYTES)

        def copy() -> None:
            stream.upload(there.address, pinned.array)
            stream.wait()

        copy()
        rate = PINNED_BYTES / self.timed(copy, REPEATS)
        there.free()
        pinned.free()
        return self.report.add('pinned link', rate / 1e9, 'GB/s') * 1e9

    def measure_all(self, sizes: Sequence[int], link: float) -> None:
        """Recompute, freeze and thaw each number of tokens, one behind the other."""
        assert isinstance(self.engine, GpuEngine)
        self.engine.run(self.tokens[: self.engine.slice_tokens], 0)
        for size in sizes:
            self.engine.reset()
            began = time.perf_counter()
            self.engine.run(self.tokens[:size], 0, rows=LogitRows.NONE)
            self.recompute_s[size] = time.perf_counter() - began
            self.report.add(RECOMPUTE, self.recompute_s[size], 's', size)
            self.report.add('prefill', size / self.recompute_s[size], 'tokens/s', size)
            step_s = self.time_steps(size - 2 * STEPS)
            self.report.add('decode', 1 / step_s, 'tokens/s', size)
            self.measure_thaw(size, link)

    def time_steps(self, start: int) -> float:
        """Time single tokens from a position; return the median [s]."""
        assert isinstance(self.engine, GpuEngine)
        times = []
        for position in range(start, start + STEPS):
            began = time.perf_counter()
            self.engine.run(self.tokens[position : position + 1], position)
            times.append(time.perf_counter() - began)
        return median(times[8:])

    def freeze(self, num_tokens: int, *, to_disk: bool) -> list[bytes]:
        """Quantise, fetch and encode chunk by chunk; write and sync files when asked."""
        scratch, payloads = Scratch(), []
        quantized_s, began = 0.0, time.perf_counter()
        for start in range(0, num_tokens, CHUNK):
            before = time.perf_counter()
            kv = self.engine.export_quantized(start, start + CHUNK)
            quantized_s += time.perf_counter() - before
            payloads.append(encode_quantized(kv, self.engine.spec, 'none', scratch))
            if to_disk:
                with (self.folder / f'chunk-{start}').open('wb') as file:
                    file.write(payloads[-1])
                    os.fsync(file.fileno())
                payloads[-1] = memoryview(b'')
            else:
                payloads[-1] = memoryview(bytes(payloads[-1]))
        spent, name = time.perf_counter() - began, 'disk' if to_disk else 'RAM'
        self.report.add(f'freeze to {name}', spent, 's', num_tokens)
        self.report.add(f'freeze to {name}: quantise and fetch', quantized_s, 's', num_tokens)
        return [bytes(payload) for payload in payloads]

    def thaw(
        self, num_tokens: int, fetch: Callable[[int, memoryview], int], threads: int = 4
    ) -> tuple[float, float]:
        """
        Bring chunks back, usable ones first; return time to usable and to complete [s].

        ``fetch`` puts the payload of the chunk at a position into a buffer and returns its size.
        """
        engine = self.engine
        starts = list(range(0, num_tokens, CHUNK))
        starts = [starts[0], *starts[-2:], *starts[1:-2]]
        local = threading.local()
        engine.reserve(num_tokens)

        def load(start: int) -> int:
            if not hasattr(local, 'buffer'):
                local.buffer = buffers.pop()
                local.scratch = Scratch(allocate=engine.staging)
            size = fetch(start, local.buffer.data)
            quantized = open_quantized(
                local.buffer.data[:size],
                spec=engine.spec,
                start=start,
                num_tokens=CHUNK,
                is_half=engine.is_half,
                scratch=local.scratch,
                source=self.folder,
            )
            engine.import_quantized(quantized)
            return start

        most = CHUNK * engine.spec.elements_per_token() * 5 // 4
        buffers = [engine.staging(most) for _ in range(threads)]
        engine.reset()
        usable = 0.0
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            for done, start in enumerate(pool.map(load, starts), 1):
                engine.mark_resident(start, start + CHUNK)
                if done * CHUNK == USABLE_TOKENS:
                    usable = time.perf_counter() - began
        return usable, time.perf_counter() - began

    def measure_thaw(self, num_tokens: int, link: float) -> None:
        """Freeze and thaw, from RAM and from disk, against recomputing."""
        payloads = self.freeze(num_tokens, to_disk=False)
        num_bytes = sum(map(len, payloads))

        def from_ram(start: int, buffer: memoryview) -> int:
            payload = np.frombuffer(payloads[start // CHUNK], np.uint8)
            np.frombuffer(buffer, np.uint8)[: payload.nbytes] = payload
            return payload.nbytes

        times = [self.thaw(num_tokens, from_ram) for _ in range(3)]
        self._report_thaw(num_tokens, RAM, times)
        best = num_bytes / median(total for _, total in times) / 1e9
        self.report.add('from RAM, with a copy to pinned', best, 'GB/s', num_tokens)
        self.freeze(num_tokens, to_disk=True)
        cold = []
        for _ in range(2):
            self._drop_pages()
            cold.append(self.thaw(num_tokens, self._from_disk, threads=8))
        self._report_thaw(num_tokens, DISK, cold)
        raw = self._raw_read(num_tokens)
        share = num_bytes / median(total for _, total in cold) / raw
        self.report.add(READ_SHARE, share, '', num_tokens)
        self.measure_import(num_tokens, link)

    def _report_thaw(self, num_tokens: int, source: str, times: list[tuple[float, float]]) -> None:
        usable, total = (median(values) for values in zip(*times, strict=True))
        recompute = self.recompute_s.get(num_tokens)
        for stage, seconds in (('usable', usable), ('complete', total)):
            name = f'{source}: {stage}'
            self.report.add(name, seconds, 's', num_tokens)
            if recompute is not None:
                self.report.add(f'{name}{RATIO}', recompute / seconds, 'times', num_tokens)

    def measure_import(self, num_tokens: int, link: float) -> None:
        """Time imports from pinned memory alone, and decoding meanwhile."""
        engine = self.engine
        payload = encode_quantized(
            engine.export_quantized(0, CHUNK), engine.spec, 'none', Scratch()
        )
        staged = engine.staging(payload.nbytes)
        staged[:] = np.frombuffer(payload, np.uint8)
        chunk = open_quantized(
            staged.data,
            spec=engine.spec,
            start=0,
            num_tokens=CHUNK,
            is_half=engine.is_half,
            scratch=Scratch(allocate=engine.staging),
            source=self.folder,
        )
        engine.reset()
        starts = list(range(0, num_tokens, CHUNK))

        def load(start: int) -> None:
            engine.import_quantized(replace(chunk, start=start))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(load, starts[:8]))
            spent = self.timed(lambda: list(pool.map(load, starts)), REPEATS)
        size = sum(block.nbytes for block in chunk.blocks)
        rate = size * len(starts) / spent
        self.report.add('import from pinned', rate / 1e9, 'GB/s', num_tokens)
        self.report.add(LINK_SHARE, rate / link, '', num_tokens)
        if isinstance(engine, GpuEngine):
            self._measure_slowdown(num_tokens, load, starts)

    def _measure_slowdown(
        self, num_tokens: int, load: Callable[[int], None], starts: list[int]
    ) -> None:
        is_over, first = threading.Event(), num_tokens - 2 * STEPS
        quiet = self.time_steps(first)

        def traffic() -> None:
            while not is_over.is_set():
                for start in starts:
                    if is_over.is_set():
                        return
                    load(start)

        # Steps are computed behind all chunks that are imported.
        starts = [start for start in starts if start + CHUNK <= first]
        threads = [threading.Thread(target=traffic) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            busy = self.time_steps(first)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        self.report.add(SLOWDOWN, busy / quiet - 1, '', num_tokens)

    def _from_disk(self, start: int, buffer: memoryview) -> int:
        with (self.folder / f'chunk-{start}').open('rb', buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            done = 0
            while done < size:
                done += file.readinto(buffer[done:size])
        return size

    def _drop_pages(self) -> None:
        os.sync()
        for path in self.folder.glob('chunk-*'):
            with path.open('rb') as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _raw_read(self, num_tokens: int) -> float:
        """Read the same files without doing anything with them; return bytes per second."""
        self._drop_pages()
        buffers = threading.local()

        def read(start: int) -> int:
            if not hasattr(buffers, 'data'):
                buffers.data = memoryview(bytearray(40 << 20))
            return self._from_disk(start, buffers.data)

        with ThreadPoolExecutor(8) as pool:
            began = time.perf_counter()
            total = sum(pool.map(read, range(0, num_tokens, CHUNK)))
            rate = total / (time.perf_counter() - began)
        return self.report.add('raw read', rate / 1e9, 'GB/s', num_tokens) * 1e9
