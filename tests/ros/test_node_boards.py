# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The parameter file of each board, loaded into the node as ROS loads it.

Models of boards are not here, nor are GPUs: what names them, and folders of root's, is overridden
after the numbers were compared, and the node then answers with the reference model.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.parameter import parameter_value_to_python
import yaml

from cwm_interfaces.msg import ResponseEvent
from tests.boards import BOARDS, CONFIG
from tests.ros.vehicle import ROOT, WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

HERE = {
    'engine.kind': 'onnxruntime',
    'engine.model': 'reference',
    'engine.context_tokens': 0,
    'runtime.min_mem_available_mib': 0,
}


@pytest.fixture(params=['default', *BOARDS])
def board(request: pytest.FixtureRequest, tmp_path: Path, engine_cache: Path) -> Iterator[str]:
    """Start a node with a board's file and nothing else."""
    folders = {
        'XDG_DATA_HOME': str(tmp_path / 'data'),
        'XDG_CONFIG_HOME': str(tmp_path / 'settings'),
        'XDG_CACHE_HOME': str(engine_cache),
        'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}',
    }
    file = str(CONFIG / f'{request.param}.yaml')
    process = subprocess.Popen(
        [sys.executable, '-m', 'cwm_ros.node.main', '--ros-args', '--params-file', file],
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != 'CWM_STORE'}, **folders},
    )
    try:
        yield request.param
    finally:
        process.terminate()
        process.wait(WAIT_S)


def given(board: str) -> dict[str, object]:
    document = yaml.safe_load((CONFIG / f'{board}.yaml').read_text(encoding='utf-8'))
    return {
        f'{group}.{name}': value
        for group, values in document['/**']['ros__parameters'].items()
        for name, value in values.items()
    }


def test_the_node_has_the_boards_numbers_and_answers(
    board: str, client: Client, tmp_path: Path
) -> None:
    client.meet()
    wanted = given(board)
    declared = client.call(ListParameters, 'list_parameters').result.names
    groups = {name.partition('.')[0] for name in wanted}
    names = [name for name in declared if name.partition('.')[0] in groups]
    values = client.call(GetParameters, 'get_parameters', names=names).values
    found = {n: parameter_value_to_python(v) for n, v in zip(names, values, strict=True)}

    assert set(found) - set(wanted) <= {'storage.root'}
    assert {name: found[name] for name in wanted} == wanted
    assert all(type(found[name]) is type(value) for name, value in wanted.items())

    folders = {'storage.root': tmp_path / 'store', 'privacy.key_dir': tmp_path / 'keys'}
    changes = {**HERE, **{name: str(folder) for name, folder in folders.items()}}
    if wanted['engine.cache_dir']:
        changes['engine.cache_dir'] = ''
    done = client.set_parameters(**{name.replace('.', '__'): v for name, v in changes.items()})
    assert done.successful, done.reason
    client.bring_up()
    said = client.ask('My gate code is 4821.')
    assert said.kind == ResponseEvent.END, said.text
    assert '4821' in said.text
    is_kept = any((tmp_path / 'store').rglob('*'))
    assert is_kept == (wanted['privacy.default_profile'] != 'guest')
