# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A wall clock that jumps, as when a receiver sets it at last."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from builtin_interfaces.msg import Duration
import pytest

from cwm_interfaces.action import FreezeWindow, Generate
from cwm_interfaces.msg import ErrorCode, IgnitionState, ResponseEvent, Usability

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

YEAR_S = 366 * 86400
TIME = Duration(sec=60)
FACT = 'My gate code is 4821.'
QUESTION = "What's the code for the gate?"


def test_a_wall_clock_that_jumps_moves_no_deadline_and_loses_no_turn(
    start_node: StartNode, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / 'jump'
    file.write_text('0')
    node = start_node(
        module='tests.ros.jumpy_node',
        env={'JUMP_FILE': str(file)},
        params={'ignition.debounce': 0.2},
    )
    client.meet()
    client.bring_up()
    assert client.ask(FACT).kind == ResponseEvent.END

    for jump_s in (20 * YEAR_S, -50 * YEAR_S, -3600):
        file.write_text(str(jump_s))
        client.forget('usability')
        said = client.run(Generate, 'generate', text=QUESTION, timeout=TIME)
        assert said.result.error_code == ErrorCode.NONE, said.result.error_msg
        assert '4821' in said.result.text
        kept = client.run(FreezeWindow, 'freeze_window', deadline=TIME)
        assert kept.result.complete, kept.result.error_msg
        beat = client.wait_for('usability', lambda m: m.is_usable)
        client.wait_for('usability', lambda m, n=beat.sequence: m.sequence >= n + 2)
        assert client.seen('usability')[-1].time_valid == (jump_s > -YEAR_S)

    turns = client.seen('usability')[-1].committed_turn
    client.ignition(IgnitionState.ON)
    client.ignition(IgnitionState.OFF)
    client.wait_state(Usability.FREEZING)
    node.signal(signal.SIGTERM)
    assert node.wait() == 0

    start_node()
    client.forget('usability')
    client.meet()
    client.bring_up()
    client.wait_state(Usability.NO_WINDOW)
    client.thaw()
    assert client.wait_usable().committed_turn == turns
    assert '4821' in client.ask(QUESTION).text
