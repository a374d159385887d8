# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a person types: the commands of `ros2` against the node."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.ros.vehicle import environment, WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(shutil.which('ros2') is None, reason='there is no command ros2'),
]

DIRECT = ('--no-daemon', '--spin-time', '1')
GOAL = ('/cwm/generate', 'cwm_interfaces/action/Generate', '{text: My gate code is 4821.}')


def ros2(*command: str) -> str:
    done = subprocess.run(
        ['ros2', *command],
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
    )
    return done.stdout + done.stderr


@pytest.fixture
def no_daemon() -> Iterator[None]:
    """End what `ros2 doctor` leaves running."""
    yield
    ros2('daemon', 'stop')


@pytest.mark.usefixtures('no_daemon')
def test_the_commands_of_ros2_do_what_they_say(start_node: StartNode, client: Client) -> None:
    start_node()
    client.meet()

    assert 'unconfigured' in ros2('lifecycle', 'get', '/cwm', *DIRECT)
    for transition in ('configure', 'activate'):
        told = ros2('lifecycle', 'set', '/cwm', transition, *DIRECT)
        assert 'Transitioning successful' in told
    assert '5.0' in ros2('param', 'get', '/cwm', 'shutdown.budget', *DIRECT)
    told = ros2('param', 'set', '/cwm', 'shutdown.budget', '7.5', *DIRECT)
    assert 'Set parameter successful' in told
    assert client.parameter('shutdown.budget').double_value == 7.5
    refused = ros2('param', 'set', '/cwm', 'storage.quota_mib', '600', *DIRECT)
    assert 'storage.quota_mib is read at configure' in refused
    described = ros2('param', 'describe', '/cwm', 'ignition.debounce', *DIRECT)
    assert '[s]' in described

    known = ros2('node', 'info', '/cwm', *DIRECT)
    assert '/cwm/generate: cwm_interfaces/action/Generate' in known
    assert '/cwm/list_windows: cwm_interfaces/srv/ListWindows' in known
    answered = ros2('action', 'send_goal', '--feedback', *GOAL)
    assert 'delta' in answered
    assert 'SUCCEEDED' in answered
    assert 'window: assistant' in ros2('topic', 'echo', '--once', '/cwm/usability', *DIRECT)
    quality = ros2('topic', 'info', '--verbose', '/cwm/usability', *DIRECT)
    assert 'Liveliness: MANUAL_BY_TOPIC' in quality
    assert '/cwm/usability' in ros2('doctor', '--report')
