# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A large model on a GPU: prefill, decode, freeze and thaw, against recomputing on the same GPU.

The geometry is Llama-3.1-8B's and the weights are random: times do not depend on values. Only
the first, one middle and the last part are built; the middle one stands for all of its structure,
with the same weights. Run it with ``python -m cwm_ros.bench.gpu``.
"""

from __future__ import annotations

from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
from statistics import median
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.codec import encode_quantized, open_quantized, Scratch
from cwm_ros.engine import LogitRows
from cwm_ros.engine.compile_part import options_json
from cwm_ros.engine.cuda import Device
from cwm_ros.engine.gpu import GpuEngine
from cwm_ros.engine.gpu_cache import GpuCache
from cwm_ros.engine.gpu_transfer import Transfer
from cwm_ros.engine.trt import Dialect, import_tensorrt, Plan
from cwm_ros.engine_build import compile_kernels, profiles, run_compiler
from cwm_ros.errors import EngineError
from cwm_ros.kv import ModelIdentity, QuantizedKV
from cwm_ros.model.graph_parts import part_layers, write_part
from cwm_ros.model.spec import ModelSpec, RopeSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.kv import FloatArray

CHUNK = 256
USABLE_TOKENS = 768
PINNED_BYTES = 256 << 20
REPEATS = 5
IDENTITY = ModelIdentity(model=bytes(32), rendering=bytes(32), name='random')
LLAMA_8B = ModelSpec(
    architecture='LlamaForCausalLM',
    vocab_size=128256,
    hidden_size=4096,
    ffn_size=14336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    max_tokens=131072,
    rope=RopeSpec(
        theta=500000.0,
        kind='llama3',
        factor=8.0,
        low_factor=1.0,
        high_factor=4.0,
        original_tokens=8192,
    ),
    norm_eps=1e-5,
)


class RandomWeights:
    """Stands for a checkpoint's weights: the same random block again and again."""

    def __init__(self, spec: ModelSpec) -> None:
        self._shapes = spec.tensor_shapes()
        self._noise = np.random.default_rng(0).normal(scale=0.02, size=1 << 22).astype(np.float32)

    def has(self, name: str) -> bool:
        """Say whether there is a tensor of this name."""
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._shapes[name]

    def get(self, name: str) -> FloatArray:
        """Return a tensor: ones for norms, else noise."""
        shape = self._shapes[name]
        return np.ones(shape, np.float32) if len(shape) == 1 else self._block(shape)

    def rows(self, name: str) -> Iterator[FloatArray]:
        """Yield a matrix in blocks of rows."""
        num_rows, num_columns = self._shapes[name]
        step = max(1, self._noise.size // num_columns)
        for start in range(0, num_rows, step):
            yield self._block((min(step, num_rows - start), num_columns))

    def columns(self, name: str, start: int, stop: int) -> FloatArray:
        """Return columns of a matrix."""
        return self._block((self._shapes[name][0], stop - start))

    def _block(self, shape: tuple[int, ...]) -> FloatArray:
        return np.resize(self._noise, shape)


@dataclass(kw_only=True)
class GpuReport:
    """
    What was measured.

    Parameters
    ----------
    facts
        Versions, clocks, geometry, build times.
    rows
        Name, value and unit of each figure.

    """

    facts: dict[str, object] = field(default_factory=dict)
    rows: list[tuple[str, float, str]] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str) -> float:
        """Note a figure, and say it at once."""
        self.rows.append((name, value, unit))
        print(f'{name}: {value:.4g} {unit}', flush=True)
        return value

    def as_json(self) -> dict[str, object]:
        """Return all of it."""
        rows = [{'case': name, 'value': value, 'unit': unit} for name, value, unit in self.rows]
        return {'machine': self.facts, 'rows': rows}


def machine_facts(device: Device, dialect: Dialect) -> dict[str, object]:
    """Return versions, and what the GPU's clocks are now."""
    facts: dict[str, object] = {
        'gpu': device.info.name,
        'capability': '.'.join(map(str, device.info.capability)),
        'memory_gib': round(device.info.memory_bytes / 2**30, 1),
        'cuda_driver': device.info.driver,
        'tensorrt': str(dialect.trt.__version__),
        'cpus': os.cpu_count(),
    }
    query = 'driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu'
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(  # noqa: S603 - our own arguments
            ['nvidia-smi', f'--query-gpu={query}', '--format=csv,noheader'],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        facts['nvidia_smi'] = dict(
            zip(query.split(','), said.stdout.strip().split(', '), strict=False)
        )
    return facts


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large the engine is that is measured."""

    spec: ModelSpec
    group_layers: int
    level: int
    context: int
    slice_tokens: int


def build_parts(shape: Shape, folder: Path, report: GpuReport, capability: str) -> None:
    """Build the first, a middle and the last part; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    compile_kernels(capability, folder / 'kernels.cubin', is_half=True)
    parts = part_layers(shape.spec.num_layers, shape.group_layers)
    chosen = {'first': parts[0], 'middle': parts[1], 'last': parts[-1]}
    weights = RandomWeights(shape.spec)
    options = options_json(
        precision='fp16',
        level=shape.level,
        profiles=profiles(shape.context, shape.slice_tokens),
    )

    def build(name: str, layers: range) -> None:
        plan, graph_dir = folder / f'{name}.plan', folder / name
        if plan.exists():
            return
        graph_dir.mkdir(exist_ok=True)
        graph = write_part(graph_dir, shape.spec, weights, layers, 'fp16')  # type: ignore[arg-type]
        began = time.perf_counter()
        run_compiler(graph, plan, folder / f'timings-{name}.bin', options)
        report.add(f'build {name}', time.perf_counter() - began, 's')
        for file in graph_dir.iterdir():
            file.unlink()

    with ThreadPoolExecutor(len(chosen)) as pool:
        for built in [pool.submit(build, name, layers) for name, layers in chosen.items()]:
            built.result()


def open_model(shape: Shape, folder: Path, device: Device, dialect: Dialect) -> GpuEngine:
    """Return an engine of all layers."""
    device.activate()
    first, middle, last = (
        Plan(dialect, path, path.read_bytes())
        for path in (folder / f'{name}.plan' for name in ('first', 'middle', 'last'))
    )
    parts = part_layers(shape.spec.num_layers, shape.group_layers)
    plans = [first, *[middle] * (len(parts) - 2), last]
    numbered = [parts[0], *[parts[1]] * (len(parts) - 2), parts[-1]]
    layers = [dict(zip(a, b, strict=True)) for a, b in zip(parts, numbered, strict=True)]
    return GpuEngine(
        device,
        device.kernels((folder / 'kernels.cubin').read_bytes()),
        plans,
        layers,
        spec=shape.spec.kv_spec,
        identity=IDENTITY,
        capacity=shape.context,
        slice_tokens=shape.slice_tokens,
    )


class CacheOnly:
    """A cache without a model, for what does not depend on one: freezing and thawing."""

    def __init__(self, shape: Shape, device: Device, folder: Path) -> None:
        self.spec, self.capacity = shape.spec.kv_spec, shape.context
        self.slice_tokens = shape.slice_tokens
        kernels = device.kernels((folder / 'kernels.cubin').read_bytes())
        stream = device.stream(-1)
        self.cache = GpuCache(device, kernels, stream, self.spec, shape.context, is_half=True)
        self.transfer = Transfer(device, kernels, stream, self.cache, is_mapped=False, priority=0)
        self.staging = self.transfer.staging
        self.import_quantized = self.transfer.import_quantized
        self.export_quantized = self.transfer.export_quantized
        self.mark_resident, self.drop = self.cache.add, self.cache.drop

    def fill(self, num_tokens: int) -> None:
        """Put noise into the cache."""
        self.cache.reserve(num_tokens)
        noise = np.random.default_rng(0).normal(size=self.spec.shape(CHUNK)).astype(np.float32)
        for start in range(0, num_tokens, CHUNK):
            self.transfer.import_floats(noise, start, is_half=True)
            self.cache.add(start, start + CHUNK)

    def reserve(self, num_tokens: int) -> None:
        """Make room."""
        self.cache.reserve(num_tokens)

    def reset(self) -> None:
        """Forget all."""
        self.cache.drop(0, self.cache.slots)

    def close(self) -> None:
        """Give the memory back."""
        self.transfer.close()
        self.cache.close()


class GpuBench:
    """Measures one engine, figure by figure; each is reported as soon as it is there."""

    def __init__(
        self, engine: GpuEngine | CacheOnly, device: Device, report: GpuReport, folder: Path
    ) -> None:
        self.engine, self.device, self.report, self.folder = engine, device, report, folder
        rng = np.random.default_rng(0)
        self.tokens = rng.integers(0, 1000, engine.capacity).astype(np.int32)
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

    def measure_prefill(self, sizes: list[int]) -> None:
        """Time recomputing so many tokens, from nothing."""
        assert isinstance(self.engine, GpuEngine)
        self.engine.run(self.tokens[: self.engine.slice_tokens], 0)
        for size in sizes:
            self.engine.reset()
            began = time.perf_counter()
            self.engine.run(self.tokens[:size], 0, rows=LogitRows.NONE)
            self.recompute_s[size] = time.perf_counter() - began
            self.report.add(f'recompute {size}', self.recompute_s[size], 's')
            self.report.add(f'prefill {size}', size / self.recompute_s[size], 'tokens/s')
            self.measure_decode(size - 200)

    def measure_decode(self, start: int, count: int = 64) -> float:
        """Time single tokens at a position; return the median [s]."""
        assert isinstance(self.engine, GpuEngine)
        times = []
        for position in range(start, start + count):
            began = time.perf_counter()
            self.engine.run(self.tokens[position : position + 1], position)
            times.append(time.perf_counter() - began)
        step = median(times[8:])
        self.report.add(f'decode at {start}', 1 / step, 'tokens/s')
        return step

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
        name = 'disk' if to_disk else 'RAM'
        self.report.add(f'freeze {num_tokens} to {name}', time.perf_counter() - began, 's')
        self.report.add(f'freeze {num_tokens}: quantise and fetch', quantized_s, 's')
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
                is_half=True,
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
        self._report_thaw(num_tokens, 'RAM', times)
        best = num_bytes / median(total for _, total in times) / 1e9
        self.report.add(f'thaw {num_tokens} from RAM, with a copy to pinned', best, 'GB/s')
        self.freeze(num_tokens, to_disk=True)
        cold = []
        for _ in range(2):
            self._drop_pages()
            cold.append(self.thaw(num_tokens, self._from_disk, threads=8))
        self._report_thaw(num_tokens, 'disk', cold)
        raw = self._raw_read(num_tokens)
        share = num_bytes / median(total for _, total in cold) / raw
        self.report.add(f'thaw {num_tokens} from disk, of the raw read', share, '')
        self.measure_import(num_tokens, link)

    def _report_thaw(self, num_tokens: int, source: str, times: list[tuple[float, float]]) -> None:
        usable, total = (median(values) for values in zip(*times, strict=True))
        recompute = self.recompute_s.get(num_tokens, 0.0)
        name = f'thaw {num_tokens} from {source}'
        self.report.add(f'{name}: usable', usable, 's')
        self.report.add(f'{name}: complete', total, 's')
        if recompute:
            self.report.add(f'{name}: usable, recompute is longer', recompute / usable, 'times')
            self.report.add(f'{name}: complete, recompute is longer', recompute / total, 'times')

    def measure_import(self, num_tokens: int, link: float) -> None:
        """Time imports from pinned memory alone, and decoding meanwhile."""
        engine = self.engine
        exported = engine.export_quantized(0, CHUNK)
        lead, size = exported.scales.nbytes, sum(block.nbytes for block in exported.blocks)
        staged = engine.staging(lead + size)  # as in a payload: scales, and the blocks behind
        scales = staged[:lead].view(np.uint16).reshape(exported.scales.shape)
        scales[...] = exported.scales
        blocks = tuple(staged[lead:].reshape(len(exported.blocks), -1))
        for block, source in zip(blocks, exported.blocks, strict=True):
            block[:] = source
        engine.reset()
        starts = list(range(0, num_tokens, CHUNK))

        def load(start: int) -> None:
            engine.import_quantized(
                QuantizedKV(start=start, num_tokens=CHUNK, blocks=blocks, scales=scales)
            )

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(load, starts[:8]))
            spent = self.timed(lambda: list(pool.map(load, starts)), REPEATS)
        rate = size * len(starts) / spent
        self.report.add(f'import {num_tokens} from pinned', rate / 1e9, 'GB/s')
        self.report.add(f'import {num_tokens}, of the link', rate / link, '')
        if isinstance(engine, GpuEngine):
            self._measure_slowdown(num_tokens, load, starts)

    def _measure_slowdown(
        self, num_tokens: int, load: Callable[[int], None], starts: list[int]
    ) -> None:
        engine, is_over = self.engine, threading.Event()
        quiet = self.measure_decode(num_tokens)

        def traffic() -> None:
            while not is_over.is_set():
                for start in starts:
                    if is_over.is_set():
                        return
                    load(start)

        engine.drop(0, num_tokens)
        threads = [threading.Thread(target=traffic) for _ in range(2)]
        for thread in threads:
            thread.start()
        busy = self.measure_decode(num_tokens + 64)
        is_over.set()
        for thread in threads:
            thread.join()
        self.report.add(f'decode beside a thaw at {num_tokens}, slower by', busy / quiet - 1, '')

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
        return self.report.add(f'raw read of {num_tokens}', rate / 1e9, 'GB/s') * 1e9


def bench_gpu(shape: Shape, folder: Path, sizes: list[int]) -> GpuReport:
    """
    Build, and measure all.

    Raises
    ------
    EngineError
        There is no GPU or TensorRT, or a part cannot be built.

    """
    report = GpuReport()
    device, dialect = Device(), Dialect(import_tensorrt())
    report.facts = machine_facts(device, dialect)
    capability = '.'.join(map(str, device.info.capability))
    build_parts(shape, folder, report, capability)
    began = time.perf_counter()
    with closing(open_model(shape, folder, device, dialect)) as engine:
        report.add('load engine', time.perf_counter() - began, 's')
        bench = GpuBench(engine, device, report, folder)
        link = bench.measure_link()
        bench.measure_prefill(sizes)
        for size in sizes:
            if size >= 16384:
                engine.reset()
                engine.run(bench.tokens[:size], 0, rows=LogitRows.NONE)
                bench.measure_thaw(size, link)
        report.facts['at_the_end'] = machine_facts(device, dialect).get('nvidia_smi')
    return report


def bench_transfer(shape: Shape, folder: Path, sizes: list[int]) -> GpuReport:
    """Measure what needs no model: the link, freeze and thaw."""
    report, device = GpuReport(), Device()
    folder.mkdir(parents=True, exist_ok=True)
    report.facts = machine_facts(device, Dialect(import_tensorrt()))
    capability = '.'.join(map(str, device.info.capability))
    compile_kernels(capability, folder / 'kernels.cubin', is_half=True)
    with closing(CacheOnly(shape, device, folder)) as engine:
        bench = GpuBench(engine, device, report, folder)
        link = bench.measure_link()
        for size in sizes:
            engine.fill(size)
            bench.measure_thaw(size, link)
    return report


def main() -> None:
    """Run as a program."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path, help='for engine files and chunks; needs 12 GB')
    parser.add_argument('--layers', type=int, default=32)
    parser.add_argument('--group-layers', type=int, default=1)
    parser.add_argument('--level', type=int, default=0)
    parser.add_argument('--context', type=int, default=33024)
    parser.add_argument('--slice', type=int, default=512)
    parser.add_argument('--tokens', type=int, nargs='+', default=[4096, 16384, 32768])
    parser.add_argument('--json', type=Path)
    parser.add_argument('--build-only', action='store_true')
    parser.add_argument('--transfer-only', action='store_true')
    options = parser.parse_args()
    from dataclasses import replace

    shape = Shape(
        spec=replace(LLAMA_8B, num_layers=options.layers),
        group_layers=options.group_layers,
        level=options.level,
        context=options.context,
        slice_tokens=options.slice,
    )
    try:
        if options.build_only:
            device = Device()
            capability = '.'.join(map(str, device.info.capability))
            build_parts(shape, options.folder, GpuReport(), capability)
            return
        measure = bench_transfer if options.transfer_only else bench_gpu
        report = measure(shape, options.folder, options.tokens)
    except EngineError as exc:
        parser.error(str(exc))
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
