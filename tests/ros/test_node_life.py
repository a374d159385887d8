# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle of the node, and what it says while it is not active."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from action_msgs.msg import GoalStatus
import pytest

from cwm_interfaces.action import Generate
from cwm_interfaces.msg import ErrorCode, ResponseEvent, Usability
from cwm_interfaces.srv import ListWindows
from tests.ros.vehicle import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, SHUTDOWN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

FACT = 'Remember: the code of the garage is 4711.'


def test_each_transition_and_back(start_node: StartNode, client: Client) -> None:
    start_node()
    client.meet()

    assert client.state() == 'unconfigured'
    assert client.change(CONFIGURE)
    assert client.state() == 'inactive'
    assert client.change(ACTIVATE)
    client.wait_state(Usability.NO_WINDOW)
    assert client.change(DEACTIVATE)
    assert client.change(CLEANUP)
    assert client.state() == 'unconfigured'
    assert client.change(CONFIGURE)
    assert client.change(ACTIVATE)
    assert client.change(SHUTDOWN)
    assert client.state() == 'finalized'


def test_a_transition_that_the_state_does_not_have_is_refused(
    start_node: StartNode, client: Client
) -> None:
    node = start_node()
    client.meet()

    assert not client.change(ACTIVATE)
    assert not client.change(250)
    assert client.change(CONFIGURE)
    assert not client.change(CONFIGURE)
    assert client.state() == 'inactive'
    assert 'a transition is refused' in node.output


def test_what_was_said_survives_a_restart(start_node: StartNode, client: Client) -> None:
    node = start_node()
    client.meet()
    client.bring_up()
    said = client.ask(FACT)
    assert said.kind == ResponseEvent.END
    assert said.text
    turns = client.wait_for('usability', lambda m: m.committed_turn >= 3).committed_turn
    node.signal(signal.SIGTERM)
    assert node.wait() == 0

    start_node()
    client.forget('usability')
    client.meet()
    client.bring_up()
    client.wait_state(Usability.NO_WINDOW)
    thawed = client.thaw()

    assert thawed.status == GoalStatus.STATUS_SUCCEEDED
    assert client.wait_usable().committed_turn == turns


def test_goals_and_prompts_before_activation_are_told_why(
    start_node: StartNode, client: Client
) -> None:
    start_node()
    client.meet()

    early = client.run(Generate, 'generate', text='hello')
    assert early.status == GoalStatus.STATUS_ABORTED
    assert early.result.error_code == ErrorCode.NOT_ACTIVE
    assert client.ask('hello').error_code == ErrorCode.NOT_ACTIVE
    assert client.call(ListWindows, 'list_windows').error_code == ErrorCode.NOT_ACTIVE


def test_a_store_that_another_process_holds_fails_configure(
    start_node: StartNode, client: Client, tmp_path: Path
) -> None:
    from cwm_ros.config import StorageSettings
    from cwm_ros.store import Store

    node = start_node(params={'storage.lock_timeout_s': 0.1})
    client.meet()
    held = StorageSettings(root=tmp_path / 'store', free_floor_mib=0)
    with Store.open(held, profile='default', writable=True, clock=lambda: 1):
        assert not client.change(CONFIGURE)
        assert client.state() == 'unconfigured'
        assert 'on_configure: ' in node.output
    assert client.change(CONFIGURE)
