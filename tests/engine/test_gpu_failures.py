# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A GPU that fails while an engine opens or a window comes back; see `tests.engine.fake_gpu`."""

from __future__ import annotations

from contextlib import ExitStack, suppress
import ctypes
import gc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros import loaded as loaded_module
from cwm_ros.answer import When
from cwm_ros.engine import cuda
from cwm_ros.errors import EngineError, OutOfMemoryError
from tests.engine.fake_gpu import build_fake, open_fake_engine
from tests.fakes import complete, make_window, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cwm_ros.engine.gpu import GpuEngine
    from cwm_ros.kv import FloatArray, QuantizedKV
    from cwm_ros.manager import Manager
    from cwm_ros.model import Checkpoint
    from tests.conftest import OpenManager

    Import = Callable[[GpuEngine, QuantizedKV], None]

NUM_TURNS = 6
ILLEGAL_ADDRESS = 700
INT8_ERROR = 0.1
QUESTION = 'What did I say?'


@pytest.fixture(scope='module')
def parts_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('parts')


@pytest.fixture
def driver(parts_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    path = build_fake(parts_dir, is_half=True)
    monkeypatch.setattr(cuda, 'LIBRARY', str(path))
    library = ctypes.CDLL(str(path))
    library.fake_used.restype = ctypes.c_size_t
    yield library
    library.fake_break(0)
    library.fake_fail(b'', 0, 0)


@pytest.fixture
def open_on_gpu(
    driver: ctypes.CDLL,
    open_tiny: OpenManager,
    tiny: Checkpoint,
    parts_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> OpenManager:
    """Return a function that opens a manager whose engine is on the fake GPU."""
    assert driver

    def open_engine(*_: object) -> GpuEngine:
        return open_fake_engine(tiny, parts_dir)

    monkeypatch.setattr(loaded_module, 'open_engine', open_engine)
    return lambda: open_tiny(codec={'kind': 'int8', 'compression': 'lz4'})


def on_import(manager: Manager, monkeypatch: pytest.MonkeyPatch, before: Import) -> None:
    """Have something done before each chunk goes into the engine."""
    engine = manager.engine
    real = engine.import_quantized

    def import_quantized(kv: QuantizedKV) -> None:
        before(engine, kv)  # type: ignore[arg-type]
        real(kv)

    monkeypatch.setattr(engine, 'import_quantized', import_quantized)


def thaw_all(manager: Manager) -> None:
    manager.open_window('trip')
    complete(manager)


def kv_of(manager: Manager) -> FloatArray:
    session = manager.session
    return session.engine.export_kv(0, session.num_tokens).kv


def frozen(open_on_gpu: OpenManager) -> FloatArray:
    """Freeze a window, and return the KV of a healthy thaw."""
    with open_on_gpu() as manager:
        make_window(manager, 'trip', NUM_TURNS)
    with open_on_gpu() as manager:
        thaw_all(manager)
        assert manager.thaw is not None
        assert manager.thaw.result().reused_tokens > 256
        return kv_of(manager)


@pytest.mark.parametrize('name', ['cuMemAlloc_v2', 'cuMemHostAlloc'])
def test_an_engine_that_cannot_open_gives_all_memory_back(
    driver: ctypes.CDLL, tiny: Checkpoint, parts_dir: Path, name: str
) -> None:
    with ExitStack() as closing:
        closing.enter_context(open_fake_engine(tiny, parts_dir))
        before, calls = driver.fake_used(), driver.fake_calls(name.encode())
        closing.enter_context(open_fake_engine(tiny, parts_dir))
        num_calls = driver.fake_calls(name.encode()) - calls
        after = driver.fake_used()
        assert num_calls > 3
        for number in range(num_calls):
            driver.fake_fail(name.encode(), number, cuda.OUT_OF_MEMORY)
            with pytest.raises(OutOfMemoryError, match='GPU is out of memory') as error:
                open_fake_engine(tiny, parts_dir)
            assert 'context_tokens' in error.value.hint
            assert driver.fake_used() == after
    assert before > 0
    assert driver.fake_used() == 0


def test_chunks_are_read_into_memory_that_the_gpu_reaches(
    open_on_gpu: OpenManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen(open_on_gpu)
    reached = []

    def note(engine: GpuEngine, kv: QuantizedKV) -> None:
        sizes = np.array([block.nbytes for block in kv.blocks], np.int64)
        reached.append(engine._transfer._mapped(kv.addresses(), sizes))

    with open_on_gpu() as manager:
        on_import(manager, monkeypatch, note)
        manager.open_window('trip')
        complete(manager)
    assert len(reached) >= 3
    assert all(places is not None for places in reached)


@pytest.mark.parametrize(
    ('name', 'status', 'kind'),
    [
        ('cuMemcpyHtoDAsync_v2', ILLEGAL_ADDRESS, EngineError),
        ('cuLaunchKernel', ILLEGAL_ADDRESS, EngineError),
        ('cuStreamSynchronize', ILLEGAL_ADDRESS, EngineError),
        ('cuMemAlloc_v2', cuda.OUT_OF_MEMORY, OutOfMemoryError),
    ],
)
def test_a_failure_in_the_middle_of_a_thaw_loses_nothing(
    open_on_gpu: OpenManager,
    driver: ctypes.CDLL,
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str,
    status: int,
    kind: type[EngineError],
) -> None:
    expected = frozen(open_on_gpu)
    armed = []

    def fail_once(engine: GpuEngine, kv: QuantizedKV) -> None:
        del engine, kv
        if not armed:
            armed.append(name)
            driver.fake_fail(name.encode(), 0, status)

    with open_on_gpu() as manager:
        on_import(manager, monkeypatch, fail_once)
        with pytest.raises(kind, match=name):
            thaw_all(manager)
        complete(manager)  # what was lost is computed
        np.testing.assert_allclose(kv_of(manager), expected, atol=INT8_ERROR)
        assert say(manager, QUESTION, When.COMPLETE, max_tokens=4).text
    del manager
    gc.collect()
    assert driver.fake_used() == 0


def test_a_gpu_that_breaks_in_the_middle_of_a_thaw_leaves_the_window_as_it_is(
    open_on_gpu: OpenManager, driver: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an illegal address: each call fails until the engine is opened anew."""
    expected = frozen(open_on_gpu)

    manager = open_on_gpu()
    on_import(manager, monkeypatch, lambda *_: driver.fake_break(ILLEGAL_ADDRESS))
    with pytest.raises(EngineError, match='the GPU failed') as error:
        thaw_all(manager)
    assert 'open it again' in error.value.hint
    with pytest.raises(EngineError, match='the GPU failed'):
        say(manager, QUESTION, When.COMPLETE, max_tokens=4)
    with suppress(EngineError):  # of chunks that were on their way, if there were
        manager.close()
    driver.fake_break(0)
    with open_on_gpu() as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.result().rejected_chunks == 0
        assert manager.session.turns[-1].text == QUESTION
        kept = kv_of(manager)[:, :, :, : expected.shape[3]]
        np.testing.assert_allclose(kept, expected, atol=INT8_ERROR)
