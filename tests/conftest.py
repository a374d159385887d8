# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Managers over two models: one of random weights in ONNX Runtime, and one that cannot be fooled.

``open_fake`` and ``open_tiny`` open a `Manager` on the test's store; each call is a new ignition
cycle, after the one before was closed.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
import shutil
from typing import TYPE_CHECKING

from hypothesis import settings as hypothesis_settings
import pytest

from cwm_ros import loaded as loaded_module
from cwm_ros.config import (
    AssistantSettings,
    CodecSettings,
    EngineSettings,
    Settings,
    StorageSettings,
    ThawSettings,
)
from cwm_ros.engine import open_engine
from cwm_ros.manager import Manager
from cwm_ros.model import build_graph, Checkpoint, find_model
from tests.fakes import HashEngine, HashFirstLayer, NumpyKernels
from tests.soak import Oracle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.engine import Engine
    from cwm_ros.kv import KVSpec, ModelIdentity

    OpenManager = Callable[..., Manager]

TINY = Path(__file__).parent / 'model' / 'golden' / 'tiny'

hypothesis_settings.register_profile('cwm', deadline=None)
hypothesis_settings.load_profile('cwm')


@pytest.fixture(scope='session')
def compiled(pytestconfig: pytest.Config) -> Kernels:
    """Compiled kernels, kept between test runs: compiling takes about ten seconds."""
    pytest.importorskip('numba')
    from cwm_ros.codec.native import numba_kernels

    assert pytestconfig.cache is not None
    return numba_kernels(pytestconfig.cache.mkdir('kernels'))


@pytest.fixture(scope='session')
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('model-cache')


@pytest.fixture(scope='session')
def tiny_model(model_cache: Path) -> Checkpoint:
    return Checkpoint(TINY, model_cache)


@pytest.fixture
def settings(tmp_path: Path, model_cache: Path) -> Settings:
    """Small chunks and small bounds, so that few tokens make many chunks."""
    return Settings(
        storage=StorageSettings(
            root=tmp_path / 'store', free_floor_mib=0, lock_timeout_s=0.0, quota_mib=100
        ),
        codec=CodecSettings(kind='raw', chunk_tokens=128, compression='none'),
        thaw=ThawSettings(
            first_tokens=100,
            last_tokens=200,
            relevant_chunks=2,
            io_threads=2,
            strategy='load',  # a fake engine is quicker than any drive
        ),
        engine=EngineSettings(
            model=str(TINY), threads=1, prefill_slice=64, cache_dir=str(model_cache)
        ),
        assistant=AssistantSettings(max_tokens=24),
    )


@pytest.fixture
def open_tiny(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenManager]:
    """Return a function that opens a manager on the tiny model; keywords replace settings."""
    monkeypatch.setattr(loaded_module, 'KernelLoader', NumpyKernels)
    with ExitStack() as closing:
        yield lambda **changes: closing.enter_context(_open(settings, changes))


@pytest.fixture
def open_fake(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenManager]:
    """Return a function that opens a manager on a `HashEngine`."""

    identities: list[ModelIdentity] = []

    def open_engine(
        find_graph: object, spec: KVSpec, identity: ModelIdentity, given: EngineSettings
    ) -> Engine:
        del find_graph, spec
        identities.append(identity)
        return HashEngine(
            identity,
            capacity=given.context_tokens or 8192,
            prefill_slice=given.prefill_slice,
        )

    monkeypatch.setattr(loaded_module, 'KernelLoader', NumpyKernels)
    monkeypatch.setattr(loaded_module, 'open_engine', open_engine)
    monkeypatch.setattr(
        loaded_module, 'FirstLayer', lambda *_, **__: HashFirstLayer(identities[-1])
    )
    with ExitStack() as closing:
        yield lambda **changes: closing.enter_context(_open(settings, changes))


def _open(settings: Settings, changes: dict[str, dict[str, object]]) -> Manager:
    groups = {name: replace(getattr(settings, name), **new) for name, new in changes.items()}
    return Manager(replace(settings, **groups), wall_ms=lambda: 1_700_000_000_000)


@pytest.fixture
def other_weights(tmp_path: Path) -> str:
    """Return a model of the same tokenizer whose weights differ in one bit."""
    folder = tmp_path / 'other-weights'
    shutil.copytree(TINY, folder)
    path = folder / 'model.safetensors'
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    return str(folder)


@pytest.fixture
def other_template(tmp_path: Path) -> str:
    """Return a model of the same weights that says turns otherwise."""
    folder = tmp_path / 'other-template'
    shutil.copytree(TINY, folder)
    path = folder / 'chat_template.jinja'
    path.write_text(path.read_text(encoding='utf-8').replace("'|> '", "'|> - '"), encoding='utf-8')
    return str(folder)


@pytest.fixture
def strict_template(tmp_path: Path) -> str:
    """Return a model that wants prompts and answers to take turns, as many do."""
    folder = tmp_path / 'strict-template'
    shutil.copytree(TINY, folder)
    path = folder / 'chat_template.jinja'
    check = (
        "{% for m in messages %}{% set before = '' if loop.first else "
        "messages[loop.index0 - 1]['role'] %}{% if m['role'] == before or "
        "(m['role'] == 'assistant' and before != 'user') %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}{% endfor %}"
    )
    path.write_text(check + path.read_text(encoding='utf-8'), encoding='utf-8')
    return str(folder)


@pytest.fixture
def one_engine(model_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Oracle]:
    """Let all managers of a test use one engine, reset; return an oracle with others."""
    checkpoint = lru_cache(Checkpoint)
    settings = EngineSettings(threads=1, cache_dir=str(model_cache))

    def open_reference() -> Engine:
        model = checkpoint(find_model('reference'), model_cache)
        return open_engine(
            lambda formulation: build_graph(model, formulation, model_cache),
            model.kv_spec,
            model.identity,
            settings,
        )

    engine = open_reference()
    close = engine.close
    monkeypatch.setattr(engine, 'close', engine.reset)
    monkeypatch.setattr(loaded_module, 'open_engine', lambda *_: engine)
    monkeypatch.setattr(loaded_module, 'Checkpoint', checkpoint)
    monkeypatch.setattr(loaded_module, 'KernelLoader', NumpyKernels)
    oracle = Oracle(open_reference)
    yield oracle
    oracle.close()
    close()
