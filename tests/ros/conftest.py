# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The node as a real process, and a client that sees it as an integrator does.

Without rclpy and cwm_interfaces the tests here are not collected, and pytest's header says so.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from itertools import count
import os
from pathlib import Path
import shutil
from typing import TYPE_CHECKING

import pytest

LONG_TOKENS = 3000
MISSING = [name for name in ('rclpy', 'cwm_interfaces') if find_spec(name) is None]
if 'cwm_interfaces' not in MISSING and find_spec('cwm_interfaces.msg') is None:
    MISSING.append('cwm_interfaces (built)')  # the folder of that name is not the package
collect_ignore_glob = ['test_node_*.py', 'test_launch.py'] if MISSING else []

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.ros.vehicle import Client, NodeProcess

    StartNode = Callable[..., NodeProcess]


def pytest_report_header() -> str:
    if MISSING:
        return f'ROS tests of the node skipped: {" and ".join(MISSING)} cannot be imported'
    return 'ROS tests of the node: found rclpy and cwm_interfaces'


@pytest.fixture(scope='session')
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs are built once for all nodes; ``$CWM_HIL_CACHE`` has engines for a GPU."""
    kept = os.environ.get('CWM_HIL_CACHE')
    return Path(kept) if kept else tmp_path_factory.mktemp('engine-cache')


@pytest.fixture
def start_node(tmp_path: Path, engine_cache: Path) -> Iterator[StartNode]:
    """Return a function that starts a node; keywords as `NodeProcess`."""
    from tests.ros.vehicle import NodeProcess

    numbers = count()
    with ExitStack() as ending:

        def start(**given: object) -> NodeProcess:
            node = NodeProcess(
                tmp_path, engine_cache, log=tmp_path / f'node{next(numbers)}.log', **given
            )
            return ending.enter_context(node)

        yield start


@pytest.fixture(scope='session')
def long_store(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Path:
    """Return the folder of a store whose window 'assistant' has some thousand tokens."""
    from cwm_ros.bench.dialogues import demo_dialogue
    from cwm_ros.config import EngineSettings, Settings, StorageSettings
    from cwm_ros.manager import Manager

    root = tmp_path_factory.mktemp('long') / 'store'
    settings = Settings(
        storage=StorageSettings(root=root, free_floor_mib=0),
        engine=EngineSettings(threads=1, cache_dir=str(engine_cache)),
    )
    system, *turns = demo_dialogue(LONG_TOKENS).turns
    with Manager(settings) as manager:
        manager.create('assistant', system.text)
        manager.add_turns(turns)
        for _ in manager.idle():
            pass
        for _ in manager.freeze():
            pass
    return root


@pytest.fixture
def long_window(long_store: Path, tmp_path: Path) -> None:
    """Give the test's node a store of its own with a long window."""
    shutil.copytree(long_store, tmp_path / 'store')


@pytest.fixture
def client() -> Iterator[Client]:
    """Return a client of /cwm."""
    from tests.ros.vehicle import Client

    with Client() as found:
        yield found
