# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The engine on a GPU: what every engine must do, and what ONNX Runtime says to the same."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
import json
from pathlib import Path
import shutil
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.bench.recall import measure_recall, Outcome, RecallTask
from cwm_ros.codec import CodecId, encode_chunk, encode_quantized, open_quantized, Scratch
from cwm_ros.config import Settings
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.engine.plans import engine_folder
from cwm_ros.errors import EngineError, NotFoundError, OutOfMemoryError
from cwm_ros.kv import QuantizedKV
from cwm_ros.model import build_graph, Checkpoint, find_model
from tests.engine.contract import EngineContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.config import EngineSettings
    from cwm_ros.engine import Engine
    from cwm_ros.engine.cuda import Device
    from cwm_ros.kv import TokenArray


def open_as(settings: EngineSettings, cache: Path) -> Engine:
    checkpoint = Checkpoint(find_model(settings.model), cache)
    return open_engine(
        lambda name: build_graph(checkpoint, name, cache),
        checkpoint.kv_spec,
        checkpoint.identity,
        settings,
    )


class GpuContract(EngineContract):
    precision: str

    @pytest.fixture
    def make_engine(
        self,
        built: Callable[..., EngineSettings],
        tiny_settings: EngineSettings,
        hil_cache: Path,
    ) -> Iterator[Callable[[], Engine]]:
        settings = built(replace(tiny_settings, precision=self.precision), group_layers=1)
        with ExitStack() as closing:
            yield lambda: closing.enter_context(open_as(settings, hil_cache))


class TestContractFp32(GpuContract):
    precision = 'fp32'


class TestContractFp16(GpuContract):
    precision = 'fp16'
    tolerance = 2e-2


@pytest.fixture
def reference(reference_fp16: EngineSettings, hil_cache: Path) -> Iterator[Engine]:
    with open_as(reference_fp16, hil_cache) as engine:
        yield engine


@pytest.fixture(scope='module')
def on_cpu(reference_fp16: EngineSettings, hil_cache: Path) -> Iterator[Engine]:
    with open_as(replace(reference_fp16, kind='onnxruntime'), hil_cache) as engine:
        yield engine


@pytest.fixture(scope='module')
def tokens() -> TokenArray:
    return np.random.default_rng(0).integers(0, 2000, 4096).astype(np.int32)


def test_logits_are_those_of_onnx_runtime(
    reference: Engine, on_cpu: Engine, tokens: TokenArray
) -> None:
    on_cpu.reset()
    expected = on_cpu.run(tokens[:1024], 0, rows=LogitRows.ALL)
    found = reference.run(tokens[:1024], 0, rows=LogitRows.ALL)
    worst = np.abs(found - expected).max() / np.abs(expected).max()
    print(f'worst logit, relative: {worst:.1e}')

    assert worst <= 5e-3


def greedy(engine: Engine, prompt: TokenArray, count: int) -> list[int]:
    said = [int(engine.run(prompt, 0)[0].argmax())]
    for position in range(len(prompt), len(prompt) + count - 1):
        said.append(int(engine.run(np.array(said[-1:], np.int32), position)[0].argmax()))
    return said


def test_greedy_text_is_that_of_onnx_runtime(
    reference: Engine, on_cpu: Engine, hil_cache: Path
) -> None:
    checkpoint = Checkpoint(find_model('reference'), hil_cache)
    text = 'The tyre pressure of the left rear wheel is low. My name is Ada and I live in Bern. '
    prompt = np.array(checkpoint.tokenizer.encode(text * 4), np.int32)
    on_cpu.reset()

    assert greedy(reference, prompt, 256) == greedy(on_cpu, prompt, 256)


def test_holes_are_as_in_onnx_runtime(
    reference: Engine, on_cpu: Engine, tokens: TokenArray
) -> None:
    """Chunks arrive from codec int8 in another order; two never do."""
    on_cpu.reset()
    on_cpu.run(tokens[:2048], 0)
    reference.reserve(2100)
    for start in (0, 1792, 512, 1024, 1280, 1536):
        payload = encode_chunk(
            on_cpu.export_kv(start, start + 256).kv, CodecId.INT8, 'lz4', Scratch()
        )
        quantized = open_quantized(
            payload,
            spec=reference.spec,
            start=start,
            num_tokens=256,
            is_half=True,
            scratch=Scratch(allocate=reference.staging),
            source=Path('x'),
        )
        reference.import_quantized(quantized)
        reference.mark_resident(start, start + 256)
    for start in (256, 768):
        on_cpu.drop(start, start + 256)
    assert list(reference.resident) == list(on_cpu.resident)
    expected = on_cpu.run(tokens[2048:2080], 2048, rows=LogitRows.ALL)
    found = reference.run(tokens[2048:2080], 2048, rows=LogitRows.ALL)

    assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()


@pytest.mark.parametrize('num_tokens', [1, 128, 200, 256])
def test_what_is_exported_is_what_the_codec_writes(
    reference: Engine, tokens: TokenArray, num_tokens: int
) -> None:
    reference.run(tokens[:600], 0)
    kv = np.ascontiguousarray(reference.export_kv(300, 300 + num_tokens).kv)
    expected = bytes(encode_chunk(kv, CodecId.INT8, 'lz4', Scratch()))
    found = reference.export_quantized(300, 300 + num_tokens)

    assert bytes(encode_quantized(found, reference.spec, 'lz4', Scratch())) == expected


@pytest.mark.parametrize('host_memory', ['copied', 'mapped'])
def test_a_thousand_steps_beside_a_thaw_do_not_drift(
    reference_fp16: EngineSettings, hil_cache: Path, tokens: TokenArray, host_memory: str
) -> None:
    settings = replace(reference_fp16, host_memory=host_memory)
    with open_as(settings, hil_cache) as engine, open_as(settings, hil_cache) as quiet:
        for each in (engine, quiet):
            each.reserve(4096)
            each.run(tokens[:256], 0)
        kv = quiet.export_quantized(0, 256)
        copies = [block.copy() for block in kv.blocks], kv.scales.copy()
        is_over, count, errors = threading.Event(), [0], []

        def traffic(start: int) -> None:
            blocks = [engine.staging(block.nbytes) for block in copies[0]]
            for block, source in zip(blocks, copies[0], strict=True):
                block[:] = source
            moved = QuantizedKV(
                start=start, num_tokens=256, blocks=tuple(blocks), scales=copies[1]
            )
            try:
                while not is_over.is_set():
                    engine.import_quantized(moved)
                    count[0] += 1
            except EngineError as exc:
                errors.append(exc)

        threads = [threading.Thread(target=traffic, args=(start,)) for start in (256, 512)]
        for thread in threads:
            thread.start()
        try:
            for position in range(2048, 3048):
                token = tokens[position : position + 1]
                np.testing.assert_array_equal(
                    engine.run(token, position), quiet.run(token, position)
                )
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        print(f'{count[0]} chunks imported meanwhile')
        assert errors == []
        assert count[0] > 100


def test_recall_is_that_of_onnx_runtime(reference_fp16: EngineSettings) -> None:
    task = RecallTask(context=4096, questions=60, seed=1, codec='', resident=1.0)
    right = []
    for kind in ('onnxruntime', 'tensorrt'):
        settings = Settings(engine=replace(reference_fp16, kind=kind))
        result = measure_recall(settings, task)
        right.append(
            sum(n for (_, outcome), n in result.counts.items() if outcome is Outcome.EXACT)
        )
    print(f'recall: {right} of {task.questions}')

    assert abs(right[0] - right[1]) <= max(1, task.questions // 100)


def damaged(
    settings: EngineSettings, hil_cache: Path, folder: Path
) -> tuple[EngineSettings, Path]:
    """Return settings of a copy of an engine, and its folder."""
    checkpoint = Checkpoint(find_model(settings.model), hil_cache)
    source = engine_folder(hil_cache, checkpoint.identity, settings.precision)
    target = engine_folder(folder, checkpoint.identity, settings.precision)
    shutil.copytree(source, target)
    return replace(settings, cache_dir=str(folder)), target


def test_engines_that_do_not_fit_are_refused_by_name(
    built: Callable[..., EngineSettings],
    tiny_settings: EngineSettings,
    hil_cache: Path,
    tmp_path: Path,
) -> None:
    settings = built(replace(tiny_settings, precision='fp16'), group_layers=1)
    other, folder = damaged(settings, hil_cache, tmp_path)
    plan = folder / 'part-001.plan'
    whole = plan.read_bytes()
    plan.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EngineError, match=r'part-001\.plan has'):
        open_as(other, hil_cache)
    plan.write_bytes(bytes(len(whole)))
    with pytest.raises(EngineError, match='cannot load'):
        open_as(other, hil_cache)
    plan.write_bytes(whole)
    sidecar = folder / 'engine.json'
    document = json.loads(sidecar.read_text())
    document['machine']['capability'] = '8.7'
    sidecar.write_text(json.dumps(document))
    with pytest.raises(EngineError, match=r'capability 8\.7'):
        open_as(other, hil_cache)
    sidecar.unlink()
    with pytest.raises(NotFoundError, match='no engine'):
        open_as(other, hil_cache)
    with open_as(replace(other, cpu_fallback=True), hil_cache) as engine:
        assert type(engine).__name__ == 'OrtEngine'


def test_without_memory_the_conversation_stays(
    reference: Engine, gpu: Device, tokens: TokenArray
) -> None:
    reference.run(tokens[:200], 0)
    hog = gpu.memory(gpu.free_bytes() - (32 << 20))
    try:
        with pytest.raises(OutOfMemoryError):
            reference.reserve(4096)
    finally:
        hog.free()
    assert reference.resident.covers(0, 200)
    found = reference.run(tokens[200:300], 200)
    reference.reset()

    reference.run(tokens[:200], 0)
    np.testing.assert_array_equal(reference.run(tokens[200:300], 200), found)


def test_closing_gives_all_memory_back(
    reference_fp16: EngineSettings, hil_cache: Path, gpu: Device, tokens: TokenArray
) -> None:
    def once() -> int:
        with open_as(reference_fp16, hil_cache) as engine:
            engine.run(tokens[:1000], 0)
        return gpu.free_bytes()

    once()
    before = once()
    for _ in range(3):
        after = once()
    assert before - after < 8 << 20
