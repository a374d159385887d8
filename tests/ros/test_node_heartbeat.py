# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The executor stays free while the engine works, and latched state finds who comes late."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from action_msgs.msg import GoalStatus
import pytest
from sensor_msgs.msg import BatteryState

from cwm_interfaces.action import Generate, ThawWindow
from cwm_interfaces.msg import PowerStatus, StorageStatus, Usability, WindowInfoArray
from cwm_interfaces.srv import ListWindows
from tests.ros.vehicle import Client as AnyClient
from tests.ros.vehicle import LATCHED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

MOST_S = 0.05
TRIES = 3
"""A callback may be late because the machine is busy; not three times in a row."""


@pytest.mark.usefixtures('long_window')
def test_no_callback_takes_long_while_a_thaw_and_an_answer_run(
    start_node: StartNode, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = tmp_path / 'times'
    monkeypatch.setenv('TIMES_FILE', str(times))
    longest = []
    for _ in range(TRIES):
        node = start_node(module='tests.ros.timed_node')
        client.forget('usability')
        client.meet()
        client.bring_up()
        client.wait_state(Usability.NO_WINDOW)
        strategy = ThawWindow.Goal.RECOMPUTE
        thaw = client.send(ThawWindow, 'thaw_window', window='assistant', strategy=strategy)
        answer = client.send(Generate, 'generate', text="What's the code for the gate?")
        for _ in range(30):
            client.publish(BatteryState, 'battery_state', BatteryState(percentage=0.9))
            assert client.call(ListWindows, 'list_windows').windows
        assert client.end(answer).status == GoalStatus.STATUS_SUCCEEDED
        assert client.end(thaw).status == GoalStatus.STATUS_SUCCEEDED
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
        lines = [line.split(' ', 1) for line in times.read_text(encoding='utf-8').splitlines()]
        assert len(lines) > 50
        longest.append(max((float(seconds), name) for seconds, name in lines))
        if longest[-1][0] <= MOST_S:
            return
    pytest.fail(f'longest callbacks: {longest}')


@pytest.mark.usefixtures('long_window')
def test_who_comes_late_learns_what_is(start_node: StartNode, client: Client) -> None:
    start_node()
    client.meet()
    client.bring_up()
    client.wait_state(Usability.NO_WINDOW)
    assert client.thaw().status == GoalStatus.STATUS_SUCCEEDED

    with AnyClient() as late:
        late.watch(WindowInfoArray, 'windows', LATCHED)
        late.watch(StorageStatus, 'storage', LATCHED)
        late.watch(PowerStatus, 'power_policy', LATCHED)
        assert late.wait_usable().window == 'assistant'
        assert late.wait_for('is_usable', lambda m: m.data)
        windows = late.wait_for('windows', lambda _m: True)
        assert [(w.name, w.is_open) for w in windows.windows] == [('assistant', True)]
        assert late.wait_for('storage', lambda m: m.can_store).used > 0
        assert late.wait_for('power_policy', lambda _m: True).reason
