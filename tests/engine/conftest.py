# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from cwm_ros.model import Checkpoint

TINY = Path(__file__).parents[1] / 'model' / 'golden' / 'tiny'


@pytest.fixture(scope='session')
def graph_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('graphs')


@pytest.fixture(scope='session')
def tiny(graph_dir: Path) -> Checkpoint:
    return Checkpoint(TINY, graph_dir)
