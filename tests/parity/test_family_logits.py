# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every family's logits, in both formulations, against transformers in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.config import EngineSettings
from cwm_ros.engine import LogitRows
from cwm_ros.engine.ort import OrtEngine
from cwm_ros.model import build_graph
from tests.families import FAMILIES, GOLDEN, open_family

pytest.importorskip('torch')
pytest.importorskip('transformers')

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cwm_ros.model import Checkpoint
    from tests.parity.family_models import FamilyModel

    Case = tuple[OrtEngine, FamilyModel]

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module', params=list(FAMILIES))
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, FamilyModel]:
    from tests.parity.family_models import FamilyModel

    checkpoint = open_family(request.param, tmp_path_factory.mktemp('families'))
    return checkpoint, FamilyModel(checkpoint.folder)


@pytest.fixture(params=['scatter', 'delta'])
def case(
    request: pytest.FixtureRequest,
    opened: tuple[Checkpoint, FamilyModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Case]:
    checkpoint, model = opened
    graph = build_graph(checkpoint, request.param, tmp_path_factory.getbasetemp() / 'graphs')
    settings = EngineSettings(threads=1, prefill_slice=64)
    with OrtEngine(graph, checkpoint.kv_spec, checkpoint.identity, settings) as engine:
        yield engine, model


def random_tokens(num_tokens: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 262, num_tokens).astype(np.int32)


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


def test_prefill_and_steps_with_their_own_masks(case: Case) -> None:
    """No mask is given, so the windows are those that transformers itself makes."""
    engine, model = case
    tokens = random_tokens(200)
    expected = model.logits(tokens)
    prefill = engine.run(tokens[:150], 0, rows=LogitRows.ALL)
    steps = [engine.run(tokens[i : i + 1], i)[0] for i in range(150, 200)]

    assert expected.std() > 0.3
    assert_close(np.concatenate([prefill, steps]), expected)


def test_holes(case: Case) -> None:
    engine, model = case
    tokens = random_tokens(200)
    allowed = np.tri(200, dtype=np.bool_)
    allowed[120:, 30:70] = False
    allowed[120:, 100:110] = False
    allowed[180:, 5:10] = False
    expected = model.logits(tokens, allowed=allowed)
    engine.run(tokens[:120], 0)
    engine.drop(30, 70)
    engine.drop(100, 110)
    actual = [engine.run(tokens[120:180], 120, rows=LogitRows.ALL)]
    engine.drop(5, 10)
    actual += [engine.run(tokens[i : i + 1], i) for i in range(180, 200)]

    assert_close(np.concatenate(actual), expected[120:])


def test_late_positions(case: Case) -> None:
    engine, model = case
    start = engine.capacity - 100
    tokens = random_tokens(100)
    expected = model.logits(tokens, start=start)
    prefill = engine.run(tokens[:90], start, rows=LogitRows.ALL)
    steps = [engine.run(tokens[i : i + 1], start + i)[0] for i in range(90, 100)]

    assert_close(np.concatenate([prefill, steps]), expected)


def test_golden_logits_are_those_of_transformers(opened: tuple[Checkpoint, FamilyModel]) -> None:
    checkpoint, model = opened
    golden = np.load(GOLDEN / 'families' / f'{checkpoint.folder.name}.npz')
    for name, expected in model.golden().items():
        np.testing.assert_allclose(golden[name], expected, atol=2e-5, rtol=0)


def test_longrope_within_the_original_length_takes_the_short_factors(tmp_path: Path) -> None:
    from tests.parity.family_models import FamilyModel

    checkpoint = open_family('phi-3-long', tmp_path, max_position_embeddings=1024)
    model = FamilyModel(checkpoint.folder)
    graph = build_graph(checkpoint, 'delta', tmp_path)
    tokens = random_tokens(90)
    assert checkpoint.spec.rope.wave_factors[-1] == 1.5
    with OrtEngine(
        graph, checkpoint.kv_spec, checkpoint.identity, EngineSettings(threads=1)
    ) as engine:
        assert_close(engine.run(tokens, 900, rows=LogitRows.ALL), model.logits(tokens, start=900))
