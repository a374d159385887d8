# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Transitions that fail: where the node is afterwards, what it says, and what still works."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from action_msgs.msg import GoalStatus
import pytest

from cwm_interfaces.action import Generate
from cwm_interfaces.msg import ErrorCode, ResponseEvent, Usability
from cwm_interfaces.srv import ListWindows
from tests.ros.vehicle import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

FAILING, STUCK = 'tests.ros.failing_node', 'tests.ros.stuck_node'


@pytest.fixture
def fail_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / 'fail'
    monkeypatch.setenv('FAIL_FILE', str(path))
    return path


def test_a_transition_that_fails_leaves_the_state_before_it(
    start_node: StartNode, client: Client, fail_file: Path
) -> None:
    node = start_node(module=FAILING)
    client.meet()
    fail_file.write_text('refuse-configure')
    assert not client.change(CONFIGURE)
    assert client.state() == 'unconfigured'
    assert 'on_configure: it was told to refuse' in node.output

    fail_file.write_text('configure')  # an error that nobody expects: error processing, then over
    assert not client.change(CONFIGURE)
    assert client.state() == 'unconfigured'
    assert 'RuntimeError: configure was told to fail' in node.output

    fail_file.write_text('refuse-activate')
    assert client.change(CONFIGURE)
    assert not client.change(ACTIVATE)
    assert client.state() == 'inactive'
    goal = client.run(Generate, 'generate', text='hello')
    assert goal.status == GoalStatus.STATUS_ABORTED
    assert goal.result.error_code == ErrorCode.NOT_ACTIVE

    fail_file.write_text('activate')
    assert not client.change(ACTIVATE)
    assert client.state() == 'unconfigured'
    told = client.wait_state(Usability.STORE_ONLY)
    assert not told.is_usable
    assert not client.call(ListWindows, 'list_windows').error_code

    fail_file.unlink()
    client.bring_up()
    assert client.ask('My gate code is 4821.').kind == ResponseEvent.END


def test_a_cleanup_that_hangs_ends_in_time_and_the_windows_are_listed(
    start_node: StartNode, client: Client, fail_file: Path
) -> None:
    node = start_node(module=FAILING, params={'storage.lock_timeout_s': 0.1})
    client.meet()
    client.bring_up()
    assert client.ask('My gate code is 4821.').kind == ResponseEvent.END
    assert client.change(DEACTIVATE)
    fail_file.write_text('close')
    assert not client.change(CLEANUP)

    assert client.state() == 'unconfigured'
    assert 'the engine did not end in time' in node.output
    assert client.wait_state(Usability.STORE_ONLY).reason
    listed = client.call(ListWindows, 'list_windows')
    assert [window.name for window in listed.windows] == ['assistant']
    assert not client.change(CONFIGURE)  # the thread that hangs still has the store
    assert client.state() == 'unconfigured'
    assert 'on_configure: ' in node.output


def test_an_error_that_cannot_be_handled_finalizes(
    start_node: StartNode, client: Client, fail_file: Path
) -> None:
    node = start_node(module=FAILING)
    client.meet()
    fail_file.write_text('configure fail')
    assert not client.change(CONFIGURE)

    assert client.state() == 'finalized'
    assert 'on_error: RuntimeError: fail was told to fail' in node.output


def test_a_deactivation_that_cannot_save_leaves_the_node_active(
    start_node: StartNode, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / 'stuck'
    monkeypatch.setenv('STUCK_FILE', str(stuck))
    params = {'engine.watchdog': 0.0, 'shutdown.budget': 0.5}
    node = start_node(module=STUCK, params=params)
    client.meet()
    client.bring_up()
    client.wait_state(Usability.NO_WINDOW)
    stuck.write_text('release')
    client.send(Generate, 'generate', text='My gate code is 4821.')
    while stuck.exists():
        time.sleep(0.01)

    assert not client.change(DEACTIVATE)
    assert client.state() == 'active'
    assert 'on_deactivate: cannot save now: the engine is busy' in node.output
