# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
import shutil

import pytest

from cwm_ros.model import Checkpoint

GOLDEN = Path(__file__).parent / 'golden'


@pytest.fixture(scope='session')
def graph_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('graphs')


@pytest.fixture(scope='session')
def tiny(graph_dir: Path) -> Checkpoint:
    return Checkpoint(GOLDEN / 'tiny', graph_dir)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a checkpoint folder that a test may damage."""
    return shutil.copytree(GOLDEN / 'tiny', tmp_path / 'tiny')
