# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The logic around a GPU, without one: see `tests.engine.fake_gpu`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.codec import (
    CodecId,
    decode_chunk,
    encode_chunk,
    encode_quantized,
    open_quantized,
    Scratch,
)
from cwm_ros.config import EngineSettings
from cwm_ros.engine import cuda, LogitRows
from cwm_ros.engine.gpu import GpuEngine
from cwm_ros.errors import EngineError, OutOfMemoryError
from cwm_ros.kv import QuantizedKV
from tests.engine.contract import EngineContract, random_tokens
from tests.engine.fake_gpu import build_fake, FakePlan, open_fake_engine
from tests.engine.test_ort import open_tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.model import Checkpoint

    OpenGpu = Callable[..., GpuEngine]


@pytest.fixture(scope='module')
def parts_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('parts')


@pytest.fixture
def open_gpu(
    tiny: Checkpoint, parts_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OpenGpu]:
    """Open engines of one precision in a test; all must give all memory back."""
    libraries = set()
    with ExitStack() as closing:

        def make(precision: str = 'fp16', **options: int | bool) -> GpuEngine:
            path = build_fake(parts_dir, is_half=precision != 'fp32')
            monkeypatch.setattr(cuda, 'LIBRARY', str(path))
            engine = open_fake_engine(tiny, parts_dir, precision=precision, **options)
            libraries.add(engine._device._library)
            return closing.enter_context(engine)

        yield make
    for library in libraries:
        library.fake_limit(1 << 40)
        assert library.fake_used() == 0


class TestContractFp32(EngineContract):
    @pytest.fixture
    def make_engine(self, open_gpu: OpenGpu) -> Callable[[], GpuEngine]:
        return lambda: open_gpu('fp32')


@pytest.mark.slow
class TestContractFp16(EngineContract):
    tolerance = 2e-2

    @pytest.fixture
    def make_engine(self, open_gpu: OpenGpu) -> Callable[[], GpuEngine]:
        return lambda: open_gpu('fp16')


def test_parts_give_what_the_whole_gives(
    open_gpu: OpenGpu, tiny: Checkpoint, graph_dir: Path
) -> None:
    settings = EngineSettings(threads=1, prefill_slice=64, context_tokens=1024)
    with open_tiny(tiny, graph_dir, settings) as whole:
        tokens = random_tokens(whole, 200)
        expected = whole.run(tokens, 0, rows=LogitRows.ALL)
    for precision, tolerance in (('fp32', 2e-5), ('fp16', 5e-3), ('int8', 0.15)):
        for group in (1, 2):
            found = open_gpu(precision, group_layers=group).run(tokens, 0, rows=LogitRows.ALL)
            assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_a_step_is_recorded_once_for_each_size(open_gpu: OpenGpu) -> None:
    engine = open_gpu()
    tokens = random_tokens(engine, 300)
    calls = engine._device._library.fake_calls
    names = (b'cuGraphLaunch', b'cuStreamBeginCapture_v2')
    before = [calls(name) for name in names]  # the driver is one for all tests
    for position in range(300):
        engine.run(tokens[position : position + 1], position)
    launched, recorded = (calls(name) - count for name, count in zip(names, before, strict=True))

    assert launched == 300 - 2  # the first of each size is not recorded
    assert recorded == 2


def test_steps_go_on_where_recording_fails(open_gpu: OpenGpu) -> None:
    engine, other = open_gpu(), open_gpu()
    tokens = random_tokens(engine, 20)
    engine._device._library.fake_fail(b'cuGraphInstantiateWithFlags', 0, 900)
    for position in range(20):
        np.testing.assert_array_equal(
            engine.run(tokens[position : position + 1], position),
            other.run(tokens[position : position + 1], position),
        )


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize('num_tokens', [1, 100, 128, 256, 300])
@pytest.mark.parametrize('compression', ['none', 'lz4'])
def test_what_is_exported_is_what_the_codec_writes(
    open_gpu: OpenGpu, precision: str, num_tokens: int, compression: str
) -> None:
    engine = open_gpu(precision)
    engine.run(random_tokens(engine, 400), 0)
    kv = np.ascontiguousarray(engine.export_kv(50, 50 + num_tokens).kv)
    expected = bytes(encode_chunk(kv, CodecId.INT8, compression, Scratch()))
    found = engine.export_quantized(50, 50 + num_tokens)

    assert (found.start, found.stop) == (50, 50 + num_tokens)
    assert bytes(encode_quantized(found, engine.spec, compression, Scratch())) == expected


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize('is_mapped', [False, True])
@pytest.mark.parametrize('compression', ['none', 'lz4'])
def test_what_is_imported_is_what_the_codec_reads(
    open_gpu: OpenGpu, precision: str, *, is_mapped: bool, compression: str
) -> None:
    engine = open_gpu(precision, is_mapped=is_mapped)
    rng = np.random.default_rng(0)
    kv = rng.normal(size=engine.spec.shape(200)).astype(np.float32)
    kv[0, 1] = 1.5  # compresses
    kv[1, 0, 0, :, 3] *= 1e-6
    kv[1, 0, 0, :, 4] *= 65504 / np.abs(kv[1, 0, 0, :, 4]).max()
    payload = encode_chunk(kv, CodecId.INT8, compression, Scratch())
    expected = np.empty(kv.shape, np.float16 if engine.is_half else np.float32)
    options = {'spec': engine.spec, 'num_tokens': 200, 'source': Path('x')}
    decode_chunk(payload, codec=CodecId.INT8, out=expected, scratch=Scratch(), **options)
    staged = engine.staging(payload.nbytes + 3)[3:]  # at an odd address
    staged[:] = np.frombuffer(payload, np.uint8)
    engine.reserve(600)
    quantized = open_quantized(
        staged.data,
        start=300,
        is_half=engine.is_half,
        scratch=Scratch(allocate=engine.staging),
        **options,
    )
    engine.import_quantized(quantized)
    engine.mark_resident(300, 500)

    np.testing.assert_array_equal(engine.export_kv(300, 500).kv, expected.astype(np.float32))


def test_chunks_come_in_from_threads_while_steps_run(open_gpu: OpenGpu) -> None:
    engine, quiet = open_gpu(), open_gpu()
    tokens = random_tokens(engine, 900)
    for each in (engine, quiet):
        each.reserve(900)
        each.run(tokens[:64], 0)
        each.run(tokens[64:128], 700)
    source = engine.export_quantized(0, 64)
    copy = QuantizedKV(
        start=128,
        num_tokens=64,
        blocks=tuple(block.copy() for block in source.blocks),
        scales=source.scales.copy(),
    )
    is_over = threading.Event()
    errors = []

    def load() -> None:
        try:
            while not is_over.is_set():
                engine.import_quantized(copy)
        except EngineError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for position in range(764, 800):
            token = tokens[position : position + 1]
            np.testing.assert_array_equal(engine.run(token, position), quiet.run(token, position))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert errors == []


def test_neighbours_that_were_allocated_apart_are_copied_apart(open_gpu: OpenGpu) -> None:
    """As a driver lays out small allocations; one copy over both is an invalid argument."""
    engine = open_gpu()
    engine.run(random_tokens(engine, 64), 0)
    kv = engine.export_quantized(0, 64)
    expected = engine.export_kv(0, 64).kv
    size = kv.blocks[0].nbytes
    whole = engine.staging(size * len(kv.blocks))
    blocks = [whole[i * size : (i + 1) * size] for i in range(len(kv.blocks))]
    for block, source in zip(blocks, kv.blocks, strict=True):
        block[:] = source
    lent = engine._transfer._lent
    for block in blocks[1:]:
        lent[int(block.ctypes.data)] = lent[int(whole.ctypes.data)]
    before = engine._device._library.fake_calls(b'cuMemcpyHtoDAsync_v2')
    apart = QuantizedKV(start=100, num_tokens=64, blocks=tuple(blocks), scales=kv.scales)
    engine.import_quantized(apart)
    copies = engine._device._library.fake_calls(b'cuMemcpyHtoDAsync_v2') - before
    for block in blocks[1:]:
        del lent[int(block.ctypes.data)]
    engine.mark_resident(100, 164)

    assert copies == len(blocks) + 2  # and the scales, and where all of it is
    np.testing.assert_allclose(engine.export_kv(100, 164).kv, expected, atol=0.05)


def test_import_where_something_is_or_nothing_can_be_is_refused(open_gpu: OpenGpu) -> None:
    engine = open_gpu()
    engine.run(random_tokens(engine, 20), 0)
    kv = engine.export_quantized(0, 20)
    with pytest.raises(EngineError, match='is resident'):
        engine.import_quantized(kv)
    engine.reset()
    beyond = QuantizedKV(start=250, num_tokens=20, blocks=kv.blocks, scales=kv.scales)
    with pytest.raises(EngineError, match='outside'):
        engine.import_quantized(beyond)


def test_values_that_do_not_fit_are_refused(open_gpu: OpenGpu) -> None:
    engine = open_gpu()
    engine.import_view(0, 4)[:] = 70000
    with pytest.raises(EngineError, match='does not fit'):
        engine.mark_resident(0, 4)

    assert list(engine.resident) == []


def test_without_memory_to_grow_all_stays_as_it_is(open_gpu: OpenGpu) -> None:
    engine = open_gpu()
    tokens = random_tokens(engine, 300)
    engine.run(tokens[:200], 0)
    library = engine._device._library
    used = library.fake_used()
    library.fake_limit(used + 1000)
    with pytest.raises(OutOfMemoryError, match='GPU memory'):
        engine.run(tokens[200:], 200)
    assert library.fake_used() == used
    assert engine.resident.covers(0, 200)
    library.fake_limit(1 << 40)
    found = engine.run(tokens[200:], 256 - 56)

    other = open_gpu()
    np.testing.assert_array_equal(found, other.run(tokens, 0))


def test_memory_that_goes_meanwhile_leaves_an_empty_engine(open_gpu: OpenGpu) -> None:
    engine = open_gpu()
    tokens = random_tokens(engine, 300)
    engine.run(tokens[:200], 0)
    engine._device._library.fake_fail(b'cuMemAlloc_v2', 1, cuda.OUT_OF_MEMORY)
    with pytest.raises(OutOfMemoryError):
        engine.reserve(600)

    assert list(engine.resident) == []
    np.testing.assert_array_equal(engine.run(tokens, 0), open_gpu().run(tokens, 0))


@pytest.mark.parametrize('name', ['cuMemcpyHtoDAsync_v2', 'cuLaunchKernel', 'cuStreamSynchronize'])
def test_a_failure_in_the_middle_leaves_no_position_behind(open_gpu: OpenGpu, name: str) -> None:
    engine = open_gpu()
    tokens = random_tokens(engine, 100)
    engine.run(tokens[:60], 0)
    expected = engine.run(tokens[60:], 60)
    engine.drop(60, 100)
    engine._device._library.fake_fail(name.encode(), 0, 700)
    with pytest.raises(EngineError, match=name):
        engine.run(tokens[60:], 60)

    assert list(engine.resident) == [(0, 60)]
    np.testing.assert_array_equal(engine.run(tokens[60:], 60), expected)


def test_values_that_are_not_finite_are_found_and_zeroed(open_gpu: OpenGpu) -> None:
    engine = open_gpu()
    tokens = random_tokens(engine, 100)
    expected = engine.run(tokens[:90], 0)
    engine.run(tokens[90:], 90)
    layer = engine._cache._layers[1]
    bits = np.array([0x7E00], np.uint16)
    engine._stream.upload(layer.address + 2 * (17 * engine.spec.head_dim + 3), bits)
    with pytest.raises(EngineError, match='17, 18'):
        engine.run(tokens[90:], 90)

    assert list(engine.resident) == [(0, 17), (18, 90)]
    engine.run(tokens[17:18], 17)
    engine.drop(18, 90)
    assert np.abs(engine.run(tokens[18:90], 18) - expected).max() < 1e-2


def test_an_engine_of_another_geometry_is_refused(
    open_gpu: OpenGpu, parts_dir: Path, tiny: Checkpoint
) -> None:
    engine = open_gpu()
    device = engine._device
    plan = FakePlan(parts_dir / 'fp16-0-1' / 'part.onnx', device._library)
    options = {
        'spec': tiny.kv_spec,
        'identity': tiny.identity,
        'capacity': 256,
        'slice_tokens': 64,
    }
    with pytest.raises(EngineError, match='whole model'):
        GpuEngine(device, engine._kernels, [plan], [{0: 0}], **options)
    with pytest.raises(EngineError, match=r'file 0 has not the tensors .*past_key_1'):
        GpuEngine(device, engine._kernels, [plan], [{0: 1}], **options)
    with pytest.raises(EngineError, match=r'file 1 has not the tensors hidden_in'):
        GpuEngine(device, engine._kernels, [plan, plan], [{0: 0}, {1: 0}], **options)
    options['spec'] = replace(tiny.kv_spec, head_dim=tiny.kv_spec.head_dim + 4)
    with pytest.raises(EngineError, match='geometry'):
        GpuEngine(device, engine._kernels, [plan], [{0: 0}], **options)


def test_no_driver_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, 'LIBRARY', 'libcuda-of-nobody.so.1')
    with pytest.raises(EngineError, match='no NVIDIA driver') as error:
        cuda.Device()

    assert 'onnxruntime' in error.value.hint


def test_no_gpu_is_said_clearly(parts_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build_fake(parts_dir, is_half=True)
    monkeypatch.setattr(cuda, 'LIBRARY', str(path))
    import ctypes

    ctypes.CDLL(str(path)).fake_fail(b'cuInit', 0, cuda.NO_DEVICE)
    with pytest.raises(EngineError, match='no NVIDIA GPU'):
        cuda.Device()
