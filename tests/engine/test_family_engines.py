# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the contract says about KV, on every family."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cwm_ros.config import EngineSettings
from cwm_ros.engine.ort import OrtEngine
from cwm_ros.model import build_graph
from tests.engine.contract import EngineContract
from tests.families import FAMILIES, open_family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cwm_ros.engine import Engine
    from cwm_ros.model import Checkpoint

SETTINGS = EngineSettings(threads=1, prefill_slice=64, context_tokens=1024)


@pytest.fixture(scope='module', params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_family(request.param, tmp_path_factory.mktemp('families'))


@pytest.fixture(params=['scatter', 'delta'])
def make_engine(
    request: pytest.FixtureRequest, family: Checkpoint, graph_dir: Path
) -> Iterator[Callable[[], Engine]]:
    opened = []

    def make() -> Engine:
        graph = build_graph(family, request.param, graph_dir)
        opened.append(OrtEngine(graph, family.kv_spec, family.identity, SETTINGS))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


@pytest.mark.parametrize(
    'promise',
    [
        EngineContract.test_slices_equal_one_another,
        EngineContract.test_holes_are_not_seen,
        EngineContract.test_holes_are_not_seen_by_steps,
        EngineContract.test_later_positions_are_not_seen,
        EngineContract.test_dropped_positions_can_be_computed_again,
        EngineContract.test_kv_moves_to_another_engine,
    ],
)
def test_the_contract(
    promise: Callable[[EngineContract, Callable[[], Engine]], None],
    make_engine: Callable[[], Engine],
) -> None:
    promise(EngineContract(), make_engine)
