# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A large model for measuring on a GPU: random weights of a published geometry.

Times do not depend on values. Only the first, one middle and the last part are built; the middle
one stands for all of its structure, with the same weights.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import time
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.engine.compile_part import options_json
from cwm_ros.engine.gpu import GpuEngine
from cwm_ros.engine.gpu_cache import GpuCache
from cwm_ros.engine.gpu_transfer import Transfer
from cwm_ros.engine.trt import Plan
from cwm_ros.engine_build import compile_kernels, profiles, run_compiler
from cwm_ros.kv import ModelIdentity
from cwm_ros.model.graph_parts import part_layers, write_part
from cwm_ros.model.spec import ModelSpec, RopeSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cwm_ros.bench.gpu_report import GpuReport
    from cwm_ros.engine.cuda import Device
    from cwm_ros.engine.trt import Dialect
    from cwm_ros.kv import FloatArray

CHUNK = 256
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
        taken = folder / f'{name}.seconds'
        if plan.exists():
            report.add(f'build {name}', float(taken.read_text(encoding='ascii')), 's')
            return
        graph_dir.mkdir(exist_ok=True)
        graph = write_part(graph_dir, shape.spec, weights, layers, 'fp16')  # type: ignore[arg-type]
        began = time.perf_counter()
        taken.write_text('0', encoding='ascii')
        run_compiler(graph, plan, folder / f'timings-{name}.bin', options)
        seconds = report.add(f'build {name}', time.perf_counter() - began, 's')
        taken.write_text(str(seconds), encoding='ascii')
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

    is_half = True

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
