# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.config import EngineSettings
from cwm_ros.engine import LogitRows
from cwm_ros.engine.ort import OrtEngine
from cwm_ros.errors import ConfigError, ModelError
from cwm_ros.model import build_graph, Checkpoint
from tests.families import open_family
from tests.model.conftest import GOLDEN
from tests.oracle_model import OracleModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=['scatter', 'delta'])
def engine(
    request: pytest.FixtureRequest, tiny: Checkpoint, graph_dir: Path
) -> Iterator[OrtEngine]:
    path = build_graph(tiny, request.param, graph_dir)
    with OrtEngine(path, tiny.kv_spec, tiny.identity, EngineSettings(threads=1)) as engine:
        yield engine


def test_logits_are_the_golden_ones_of_transformers(engine: OrtEngine) -> None:
    golden = np.load(GOLDEN / 'tiny-logits.npz')
    tokens = golden['tokens']
    whole = engine.run(tokens, 0, rows=LogitRows.ALL)
    engine.reset()
    engine.run(tokens[:24], 0)
    engine.drop(8, 16)
    holes = engine.run(tokens[24:], 24, rows=LogitRows.ALL)
    engine.reset()
    late = engine.run(tokens, 7000, rows=LogitRows.ALL)

    np.testing.assert_allclose(whole, golden['whole'], atol=1e-4)
    np.testing.assert_allclose(holes, golden['holes'], atol=1e-4)
    np.testing.assert_allclose(late[40:], golden['late'], atol=1e-4)


def test_logits_are_those_of_the_float64_oracle(engine: OrtEngine) -> None:
    """A prefill, a hole, then steps; every row within 1e-5 of the largest logit."""
    tokens = np.random.default_rng(5).integers(0, engine.vocab_size, 32).astype(np.int32)

    def sees(index: int) -> list[int]:
        return [j for j in range(index + 1) if index < 20 or not 4 <= j < 12]

    expected = OracleModel(GOLDEN / 'tiny').logits(tokens.tolist(), list(range(32)), sees)
    actual = [engine.run(tokens[:20], 0, rows=LogitRows.ALL)]
    engine.drop(4, 12)
    actual += [engine.run(tokens[20:26], 20, rows=LogitRows.ALL)]
    actual += [engine.run(tokens[i : i + 1], i) for i in range(26, 32)]

    error = np.abs(np.concatenate(actual) - expected).max() / np.abs(expected).max()
    assert error < 1e-5


def test_a_whole_graph_is_used_again_and_a_torn_one_is_not(
    tiny: Checkpoint, tmp_path: Path
) -> None:
    path = build_graph(tiny, 'delta', tmp_path)
    before = path.stat().st_mtime_ns
    assert build_graph(tiny, 'delta', tmp_path) == path
    assert path.stat().st_mtime_ns == before

    data = path.with_name('model.onnx.data')
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    assert build_graph(tiny, 'delta', tmp_path) == path
    assert data.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == [path.parent.name]


def test_a_failed_build_leaves_nothing(tiny: Checkpoint, copy: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint(copy, tmp_path / 'cache')
    weights = copy / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match='not whole'):
        build_graph(checkpoint, 'delta', tmp_path / 'graphs')

    assert list((tmp_path / 'graphs').iterdir()) == []
    assert build_graph(tiny, 'delta', tmp_path / 'graphs').is_file()


def test_an_unknown_formulation_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="formulation is 'beta'"):
        build_graph(tiny, 'beta', tmp_path)


def test_the_length_of_blocks_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of projections that are stored as one, and with biases."""
    for family in ('phi-3', 'qwen2', 'gemma-2', 'llama-2'):
        checkpoint = open_family(family, tmp_path / 'models')
        data = []
        for block_bytes in (1 << 25, 1000):
            monkeypatch.setattr('cwm_ros.model.weights.BLOCK_BYTES', block_bytes)
            path = build_graph(checkpoint, 'delta', tmp_path / str(block_bytes))
            data.append(path.with_name('model.onnx.data').read_bytes() + path.read_bytes())

        assert data[0] == data[1]


def test_a_conversion_holds_a_few_blocks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_family(
        'llama-2', tmp_path, vocab_size=8192, hidden_size=256, intermediate_size=2048
    )
    assert (checkpoint.folder / 'model.safetensors').stat().st_size > 30 << 20
    monkeypatch.setattr('cwm_ros.model.weights.BLOCK_BYTES', 1 << 18)
    tracemalloc.start()
    try:
        build_graph(checkpoint, 'delta', tmp_path / 'graphs')
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8 << 20
