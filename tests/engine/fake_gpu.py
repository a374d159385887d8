# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A GPU that is none, for the logic around one: see ``fake_cuda.cpp``; plans run in ONNX Runtime.

What passes here says nothing about a GPU. `tests/hil` does.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from cwm_ros.engine import cuda
from cwm_ros.engine.gpu import GpuEngine
from cwm_ros.model.graph_parts import part_layers, write_part
from cwm_ros.model.weights import Weights

if TYPE_CHECKING:
    from cwm_ros.model import Checkpoint

SOURCE = Path(__file__).with_name('fake_cuda.cpp')
ENGINE_DIR = Path(cuda.__file__).parent
DTYPES = {
    'tensor(float)': np.float32,
    'tensor(float16)': np.float16,
    'tensor(int32)': np.int32,
}
HostCall = ctypes.CFUNCTYPE(None)


def build_fake(folder: Path, *, is_half: bool) -> Path:
    """Compile the fake driver, once."""
    compiler = shutil.which('g++')
    if compiler is None:
        pytest.skip('there is no C++ compiler')
    target = folder / f'fake-cuda-{int(is_half)}.so'
    if not target.exists():
        flags = ['-O1', '-std=c++17', '-shared', '-fPIC', '-ffp-contract=off', '-x', 'c++']
        subprocess.run(
            [
                *(compiler, *flags, f'-DCWM_HALF={int(is_half)}'),
                *(f'-I{ENGINE_DIR}', SOURCE, '-o', target),
            ],
            check=True,
        )
    return target


class FakePlan:
    """Stands for a compiled part, and runs its graph in ONNX Runtime."""

    scratch_bytes = 1024

    def __init__(self, path: Path, library: ctypes.CDLL) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]
        self.library = library
        self.is_open = True

    def shape(self, name: str) -> tuple[int, ...]:
        value = self.inputs.get(name) or self.outputs[name]
        return tuple(-1 if isinstance(size, str) else size for size in value.shape)

    def runner(self, profile: int, stream: int) -> FakeRunner:
        del profile, stream
        return FakeRunner(self)

    def close(self) -> None:
        self.is_open = False


class FakeRunner:
    """Runs a `FakePlan` on what lies at the bound addresses when it is its turn."""

    def __init__(self, plan: FakePlan) -> None:
        self.plan = plan
        self.bound: dict[str, tuple[int, tuple[int, ...] | None]] = {}
        self.call = HostCall(self.infer)
        self.failure = ''

    def give_scratch(self, address: int) -> None:
        assert address

    def bind(self, name: str, address: int, shape: tuple[int, ...] | None = None) -> None:
        assert name in self.plan.names
        assert address % 256 == 0
        assert (shape is not None) == (name in self.plan.inputs)
        self.bound[name] = address, shape

    def run(self, stream: int) -> None:
        assert stream
        self.plan.library.fake_host_call(self.call)

    def infer(self) -> None:
        feeds = {}
        for name, value in self.plan.inputs.items():
            address, shape = self.bound[name]
            assert shape is not None
            feeds[name] = self.array(address, DTYPES[value.type], shape)
        for name, result in zip(
            self.plan.outputs, self.plan.session.run(None, feeds), strict=True
        ):
            self.array(self.bound[name][0], result.dtype, result.shape)[...] = result

    @staticmethod
    def array(address: int, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = (ctypes.c_uint8 * size).from_address(address)
        return np.frombuffer(raw, dtype).reshape(shape)


def open_fake_engine(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    precision: str = 'fp16',
    group_layers: int = 1,
    capacity: int = 1024,
    slice_tokens: int = 64,
    is_mapped: bool = False,
) -> GpuEngine:
    """Open an engine over the fake; `cuda.LIBRARY` must name it."""
    device = cuda.Device()
    device._library.fake_limit.argtypes = [ctypes.c_size_t]
    device._library.fake_used.restype = ctypes.c_size_t
    spec = checkpoint.spec
    plans, layers = [], []
    for part in part_layers(spec.num_layers, group_layers):
        target = folder / f'{precision}-{part.start}-{part.stop}'
        if not target.exists():
            target.mkdir()
            with Weights(checkpoint.folder, spec.tensor_shapes()) as weights:
                write_part(target, spec, weights, part, precision)
        plans.append(FakePlan(target / 'part.onnx', device._library))
        layers.append({layer: layer for layer in part})
    return GpuEngine(
        device,
        device.kernels(b''),
        plans,
        layers,
        spec=checkpoint.kv_spec,
        identity=checkpoint.identity,
        capacity=capacity,
        slice_tokens=slice_tokens,
        is_half=precision != 'fp32',
        is_mapped=is_mapped,
    )
