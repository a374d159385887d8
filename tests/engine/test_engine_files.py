# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Engine files and graphs that are not what they should be, refused without a GPU.

The driver is `tests.engine.fake_gpu`'s; TensorRT is a stand-in that refuses as the real one does:
it returns None and says why to its logger.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest.mock import MagicMock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cwm_ros import engine_build
from cwm_ros.config import EngineSettings
from cwm_ros.engine import cuda, gpu_open, open_engine
from cwm_ros.engine.plans import engine_folder, Machine, PARTS_VERSION, Recipe, Sidecar
from cwm_ros.engine.trt import build_plan, BuildOptions, Dialect, Plan, Profile
from cwm_ros.errors import EngineError, ModelError
from cwm_ros.model import build_graph, Checkpoint
from tests.conftest import TINY
from tests.engine.fake_gpu import build_fake

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VERSION = '10.3.0'
MACHINE = Machine(tensorrt=VERSION, gpu='Fake GPU', capability='8.7')
CONTENT = b'not a plan'


class Logger:
    ERROR, INTERNAL_ERROR = 'error', 'internal error'


class Runtime:
    """Takes no plan for its own."""

    def __init__(self, log: Logger) -> None:
        self.log = log

    def deserialize_cuda_engine(self, data: bytes) -> None:
        assert data
        self.log.log(Logger.ERROR, 'magicTag does not match')  # type: ignore[attr-defined]


@pytest.fixture
def tensorrt() -> SimpleNamespace:
    return SimpleNamespace(__version__=VERSION, ILogger=Logger, Runtime=Runtime)


@pytest.fixture
def driver(
    tmp_path: Path, tensorrt: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> ctypes.CDLL:
    path = build_fake(tmp_path, is_half=True)
    monkeypatch.setattr(cuda, 'LIBRARY', str(path))
    for module in (gpu_open, engine_build):
        monkeypatch.setattr(module, 'import_tensorrt', lambda: tensorrt)
    return ctypes.CDLL(str(path))


@pytest.fixture
def settings(tmp_path: Path) -> EngineSettings:
    return EngineSettings(
        kind='tensorrt',
        model=str(TINY),
        context_tokens=1024,
        prefill_slice=64,
        cache_dir=str(tmp_path),
    )


@pytest.fixture
def folder(tiny: Checkpoint, settings: EngineSettings) -> Path:
    """Write the files of an engine for the machine of the fakes; plans are none."""
    folder = engine_folder(settings.cache_path, tiny.identity, settings.gpu_precision)
    folder.mkdir(parents=True)
    recipe = Recipe(
        model=tiny.identity.model.hex(),
        name='tiny',
        precision=settings.gpu_precision,
        context_tokens=1024,
        slice_tokens=64,
        group_layers=1,
        level=2,
        parts_version=PARTS_VERSION,
    )
    parts = [f'part-{index:03}.plan' for index in range(tiny.spec.num_layers)]
    files = dict.fromkeys([*parts, 'kernels.cubin'], len(CONTENT))
    for name in files:
        (folder / name).write_bytes(CONTENT)
    sidecar = Sidecar(recipe=recipe, machine=MACHINE, files=files, build_s=1)
    (folder / 'engine.json').write_text(sidecar.to_json())
    return folder


@pytest.mark.usefixtures('driver')
def test_files_that_do_not_fit_are_refused_by_name(
    tiny: Checkpoint, settings: EngineSettings, folder: Path, tmp_path: Path
) -> None:
    def open_it(given: EngineSettings = settings) -> object:
        return open_engine(
            lambda name: build_graph(tiny, name, tmp_path), tiny.kv_spec, tiny.identity, given
        )

    with pytest.raises(EngineError, match=r'part-000\.plan: .*magicTag does not match') as error:
        open_it()
    assert 'cwm engine build' in error.value.hint
    (folder / 'part-001.plan').write_bytes(CONTENT[:-3])
    with pytest.raises(EngineError, match=r'part-001\.plan has 7 bytes, not 10'):
        open_it()
    with pytest.raises(EngineError, match='holds 1024 tokens, not 4096'):
        open_it(replace(settings, context_tokens=4096))
    text = (folder / 'engine.json').read_text()
    (folder / 'engine.json').write_text(text.replace('Fake GPU', 'Thor'))
    with pytest.raises(EngineError, match='built for gpu Thor, here is Fake GPU'):
        open_it()
    with open_it(replace(settings, cpu_fallback=True)) as engine:  # type: ignore[attr-defined]
        assert type(engine).__name__ == 'OrtEngine'


def test_a_plan_that_is_none_is_refused_with_the_reason(tensorrt: SimpleNamespace) -> None:
    dialect = Dialect(tensorrt)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r'x: TensorRT .* cannot load it: magicTag'):
        Plan(dialect, Path('x'), CONTENT)
    assert dialect.log.problems == []


def network_of(inputs: Sequence[tuple[str, tuple[int | str, ...]]]) -> MagicMock:
    """Return what stands for a TensorRT that parsed a graph with these inputs."""
    module = MagicMock(__version__=VERSION, ILogger=Logger)
    network = module.Builder.return_value.create_network.return_value
    network.num_inputs = len(inputs)
    tensors = []
    for name, dims in inputs:
        tensor = MagicMock(shape=tuple(-1 if isinstance(d, str) else d for d in dims))
        tensor.name = name
        tensor.get_dimension_name.side_effect = dims.__getitem__
        tensors.append(tensor)
    network.get_input.side_effect = tensors.__getitem__
    return module


def test_a_graph_with_other_inputs_is_refused_by_name() -> None:
    options = BuildOptions(
        precision='fp16', profiles=[Profile(ranges={'T': (1, 1, 1), 'S': (1, 2, 3)})]
    )
    right = network_of([('input_ids', (1, 'T')), ('attn_mask', (1, 1, 1, 'S'))])
    dialect = Dialect(right)
    build_plan(dialect, Path('part.onnx'), options, b'')
    wrong = Dialect(network_of([('input_ids', (1, 'T')), ('pixels', ('batch', 3, 224, 'width'))]))
    with pytest.raises(
        EngineError, match=r'part\.onnx: input pixels varies in batch, width, .* none of S, T'
    ):
        build_plan(wrong, Path('part.onnx'), options, b'')


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Stand for the compilers; what they were asked for is noted."""
    built: list[str] = []

    def compile_part(graph: Path, plan: Path, timings: Path, options: str) -> None:
        assert graph.exists()
        assert options
        built.append(plan.name)
        plan.write_bytes(CONTENT)
        timings.write_bytes(b'')

    def compile_kernels(capability: str, target: Path, *, is_half: bool) -> None:
        assert (capability, is_half) == ('8.7', True)
        target.write_bytes(CONTENT)

    monkeypatch.setattr(engine_build, 'run_compiler', compile_part)
    monkeypatch.setattr(engine_build, 'compile_kernels', compile_kernels)
    return built


@pytest.mark.usefixtures('driver')
@pytest.mark.parametrize(
    'name', ['model.layers.1.self_attn.v_proj.weight', 'model.layers.1.mlp.down_proj.weight']
)
def test_weights_that_are_not_finite_are_refused_at_the_build(
    settings: EngineSettings, tmp_path: Path, compiler: list[str], name: str
) -> None:
    source = tmp_path / 'poisoned'
    shutil.copytree(TINY, source)
    tensors = load_file(source / 'model.safetensors')
    tensors[name][2, 3] = np.nan
    save_file(tensors, source / 'model.safetensors', metadata={'format': 'pt'})
    checkpoint = Checkpoint(source, tmp_path)
    with pytest.raises(ModelError, match=rf'{name} holds values that are not finite'):
        list(engine_build.build_engine(checkpoint, settings, group_layers=1))

    assert compiler == ['part-000.plan'], 'what is before it is kept for the next try'
    assert list((tmp_path / 'engines').glob('*/engine.json')) == []


@pytest.mark.usefixtures('driver')
def test_a_build_goes_on_where_it_was_interrupted(
    tiny: Checkpoint, settings: EngineSettings, compiler: list[str]
) -> None:
    first = engine_build.build_engine(tiny, settings, group_layers=1)
    next(first)
    first.close()
    *parts, last = engine_build.build_engine(tiny, settings, group_layers=1)

    assert [part.is_reused for part in parts] == [True, *[False] * (len(parts) - 1)]
    assert compiler == [f'part-{index:03}.plan' for index in range(tiny.spec.num_layers)]
    assert (Path(last.folder) / 'engine.json').exists()
