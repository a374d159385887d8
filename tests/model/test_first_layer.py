# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Keys and values of layer 0 in NumPy against the graph, for every family."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.config import EngineSettings
from cwm_ros.engine import LogitRows
from cwm_ros.engine.ort import OrtEngine
from cwm_ros.model import build_graph, first_layer, FirstLayer
from tests.families import FAMILIES, open_family

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = EngineSettings(threads=1, prefill_slice=64)
STARTS = (0, 300, 2000)
NUM_TOKENS = 40


@pytest.mark.parametrize('family', list(FAMILIES))
def test_the_first_layer_is_what_the_graph_computes(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family.startswith(('qwen', 'gemma')):  # as with an embedding that is not kept
        monkeypatch.setattr(first_layer, 'SMALL_EMBEDDING_BYTES', 0)
    checkpoint = open_family(family, tmp_path)
    graph = build_graph(checkpoint, 'delta', tmp_path / 'graphs')
    tokens = np.random.default_rng(3).integers(0, 262, NUM_TOKENS).astype(np.int32)
    with (
        OrtEngine(graph, checkpoint.kv_spec, checkpoint.identity, SETTINGS) as engine,
        FirstLayer(checkpoint.folder, checkpoint.spec) as first,
    ):
        for start in STARTS:
            engine.run(tokens, start, rows=LogitRows.NONE)
            truth = engine.export_kv(start, start + NUM_TOKENS).kv[0]
            order = np.random.default_rng(start).permutation(NUM_TOKENS)
            found = first.kv(tokens[order], start + order)

            assert found.dtype == np.float32
            np.testing.assert_allclose(found, truth[:, :, order], atol=2e-5)
            assert np.abs(first.kv(tokens[order], start + order + 1)[0] - found[0]).max() > 0.05


@pytest.mark.parametrize(
    ('num_rows', 'depth', 'width'), [(0, 8, 4), (1, 256, 256), (5, 300, 70), (66, 4096, 51)]
)
def test_a_product_in_pieces_is_the_product(num_rows: int, depth: int, width: int) -> None:
    rng = np.random.default_rng(width)
    x = rng.normal(size=(num_rows, depth)).astype(np.float32)
    matrix = rng.normal(size=(width, depth)).astype(np.float32)
    found = first_layer.product(x, matrix)
    assert (found.shape, found.dtype) == ((num_rows, width), np.float32)
    np.testing.assert_allclose(found, x.astype(np.float64) @ matrix.T, atol=1e-3)
