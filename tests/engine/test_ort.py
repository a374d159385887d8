# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.config import EngineSettings
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.engine.ort import choose_formulation, OrtEngine
from cwm_ros.errors import ConfigError, EngineError
from cwm_ros.model import build_graph
from tests.engine.contract import EngineContract, random_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cwm_ros.engine import Engine
    from cwm_ros.model import Checkpoint

SETTINGS = EngineSettings(threads=1, prefill_slice=64, context_tokens=1024)


def open_tiny(tiny: Checkpoint, graph_dir: Path, settings: EngineSettings) -> OrtEngine:
    engine = open_engine(
        lambda name: build_graph(tiny, name, graph_dir), tiny.kv_spec, tiny.identity, settings
    )
    assert isinstance(engine, OrtEngine)
    return engine


class OrtContract(EngineContract):
    formulation: str

    @pytest.fixture
    def make_engine(self, tiny: Checkpoint, graph_dir: Path) -> Iterator[Callable[[], Engine]]:
        opened = []

        def make() -> Engine:
            settings = replace(SETTINGS, formulation=self.formulation)
            opened.append(open_tiny(tiny, graph_dir, settings))
            return opened[-1]

        yield make
        for engine in opened:
            engine.close()

    def test_the_cache_stays_where_it_is_until_it_grows(
        self, make_engine: Callable[[], OrtEngine]
    ) -> None:
        """Steps write into the one buffer that views show; nothing is copied per step."""
        engine = make_engine()
        engine.reserve(512)
        address = engine._cache.array.ctypes.data
        engine.run(random_tokens(engine, 100), 0)
        view = engine.export_kv(0, 100).kv
        before = view.copy()
        engine.run(random_tokens(engine, 300), 100)
        engine.run(random_tokens(engine, 1), 400)

        assert address % 64 == 0
        assert engine._cache.array.ctypes.data == address == view.ctypes.data
        np.testing.assert_array_equal(view, before)
        assert engine.export_kv(400, 401).kv.any()

    @pytest.mark.parametrize('num_tokens', [1, 10])
    def test_what_is_not_finite_is_refused_and_cleaned(
        self, make_engine: Callable[[], OrtEngine], num_tokens: int
    ) -> None:
        engine = make_engine()
        tokens = random_tokens(engine, 20)
        clean = engine.run(tokens, 0)
        engine.drop(0, 20)
        engine.import_view(0, 10)[:] = np.nan
        engine.mark_resident(0, 10)
        with pytest.raises(EngineError, match=r'not finite.*\(0, '):
            engine.run(tokens[10 : 10 + num_tokens], 10)

        assert list(engine.resident) == []
        np.testing.assert_array_equal(engine.run(tokens, 0), clean)


class TestScatter(OrtContract):
    formulation = 'scatter'


class TestDelta(OrtContract):
    formulation = 'delta'


def test_formulations_agree(tiny: Checkpoint, graph_dir: Path) -> None:
    logits = []
    for formulation in ('scatter', 'delta'):
        with open_tiny(tiny, graph_dir, replace(SETTINGS, formulation=formulation)) as engine:
            tokens = random_tokens(engine, 200)
            engine.run(tokens[:100], 0)
            engine.drop(10, 70)
            logits.append(engine.run(tokens[100:], 100, rows=LogitRows.ALL))

    np.testing.assert_allclose(logits[0], logits[1], atol=2e-5)


def test_an_older_runtime_gets_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('onnxruntime.__version__', '1.23.2')

    assert choose_formulation(EngineSettings()) == 'delta'
    with pytest.raises(ConfigError, match='scatter'):
        choose_formulation(EngineSettings(formulation='scatter'))


def test_a_context_beyond_the_trained_length_is_refused(tiny: Checkpoint, graph_dir: Path) -> None:
    with pytest.raises(ConfigError, match='context_tokens is 8193'):
        open_tiny(tiny, graph_dir, EngineSettings(context_tokens=8193))
    with open_tiny(tiny, graph_dir, EngineSettings()) as engine:
        assert engine.capacity == 8192


def test_a_graph_of_another_geometry_is_refused(tiny: Checkpoint, graph_dir: Path) -> None:
    other = replace(tiny.kv_spec, num_layers=3)
    graph = build_graph(tiny, 'delta', graph_dir)
    with pytest.raises(EngineError, match='geometry'):
        OrtEngine(graph, other, tiny.identity, SETTINGS)


def test_a_damaged_graph_is_named(tiny: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / 'model.onnx'
    path.write_bytes(b'not a graph')
    with pytest.raises(EngineError, match=r'model\.onnx: cannot be loaded'):
        OrtEngine(path, tiny.kv_spec, tiny.identity, SETTINGS)
    with pytest.raises(EngineError, match='cannot be loaded'):
        OrtEngine(tmp_path / 'absent.onnx', tiny.kv_spec, tiny.identity, SETTINGS)
