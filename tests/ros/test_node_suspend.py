# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Suspend to memory: no thaw, a check of the window's end, then usable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from action_msgs.msg import GoalStatus
import pytest

from cwm_interfaces.action import PrepareShutdown
from cwm_interfaces.msg import IgnitionState, ResponseEvent, Usability

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

SLEEPY = 'tests.ros.sleepy_node'
SUSPEND = PrepareShutdown.Goal.SUSPEND_RAM


@pytest.mark.usefixtures('long_window')
@pytest.mark.parametrize('how', ['ignition', 'kept', 'lost'])
def test_a_window_that_was_asleep_is_usable_once_it_was_checked(
    start_node: StartNode, client: Client, tmp_path: Path, how: str
) -> None:
    file = tmp_path / 'sleep'
    node = start_node(module=SLEEPY, env={'SLEEP_FILE': str(file)})
    client.meet()
    client.bring_up()
    client.wait_state(Usability.NO_WINDOW)
    assert client.thaw().status == GoalStatus.STATUS_SUCCEEDED
    before = client.wait_for('usability', lambda m: m.state == Usability.COMPLETE)

    client.forget('usability')
    saved = client.run(PrepareShutdown, 'prepare_shutdown', reason=SUSPEND)
    assert saved.result.saved == ['assistant'], saved.result.error_msg
    asleep = client.wait_for('usability', lambda m: 'memory was kept' in m.reason)
    assert (asleep.state, asleep.is_usable) == (Usability.THAWING, False)

    client.forget('usability')
    if how == 'ignition':
        client.ignition(IgnitionState.ON)
    else:
        file.write_text(how)
    awake = client.wait_for('usability', lambda m: m.state == Usability.COMPLETE)
    assert awake.generation == before.generation + (how == 'lost')
    assert ('RESTORE_NOT_EFFECTIVE' in node.output) == (how == 'lost')
    assert client.ask('Hello').kind == ResponseEvent.END
