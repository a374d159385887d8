# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a subscriber of thaw_progress sees: every state, and numbers that lead to the end."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from action_msgs.msg import GoalStatus
import pytest

from cwm_interfaces.action import ThawWindow
from cwm_interfaces.msg import ErrorCode, ThawProgress, Usability
from cwm_interfaces.srv import PinWindow

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures('long_window')]

SLOW = 'tests.ros.stuck_node'
SUCCEEDED, ABORTED = GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_ABORTED
QUEUED, LOADING, USABLE = ThawProgress.QUEUED, ThawProgress.LOADING, ThawProgress.USABLE
COMPLETE, PAUSED = ThawProgress.COMPLETE, ThawProgress.PAUSED
CANCELLED, FAILED = ThawProgress.CANCELLED, ThawProgress.FAILED
BEATS = 3


def bring_up(client: Client) -> None:
    client.meet()
    client.bring_up()
    client.wait_state(Usability.NO_WINDOW)


def states(client: Client) -> list[int]:
    """Return the states that were told, one after the other."""
    return [state for state, _ in groupby(m.state for m in client.seen('thaw_progress'))]


def is_over(message: ThawProgress) -> bool:
    return message.state in (COMPLETE, CANCELLED, FAILED)


def test_a_thaw_waits_loads_is_usable_and_complete(start_node: StartNode, client: Client) -> None:
    start_node()
    bring_up(client)
    assert client.thaw(strategy=ThawWindow.Goal.LOAD).status == SUCCEEDED
    client.wait_for('thaw_progress', is_over)

    assert states(client) == [QUEUED, LOADING, USABLE, COMPLETE]
    seen = client.seen('thaw_progress')
    assert {m.window for m in seen} == {'assistant'}
    assert {m.generation for m in seen} == {1}
    moving = [m for m in seen if m.state != QUEUED]
    loaded = [m.bytes_loaded for m in moving]
    assert loaded == sorted(loaded)
    assert len({m.bytes_total for m in moving}) == 1  # all is loaded, so the sum stays
    assert moving[-1].bytes_loaded == moving[-1].bytes_total > 0
    assert (moving[-1].time_remaining.sec, moving[-1].time_remaining.nanosec) == (0, 0)

    # There is nothing to do any more, which is told as well.
    client.forget('thaw_progress')
    assert client.thaw().status == SUCCEEDED
    client.wait_for('thaw_progress', is_over)
    assert states(client) == [QUEUED, COMPLETE]


def test_a_thaw_stands_still_is_cancelled_and_goes_on(
    start_node: StartNode, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('SLOW_S', '0.3')
    start_node(module=SLOW)
    bring_up(client)
    computing = ThawWindow.Goal.RECOMPUTE
    handle = client.send(ThawWindow, 'thaw_window', window='assistant', strategy=computing)
    estimated = client.wait_for('thaw_progress', lambda m: m.time_remaining.nanosec > 0)
    assert estimated.tokens_loaded < estimated.tokens_total
    assert estimated.bytes_total == 0  # nothing is to be read
    assert not client.call(PinWindow, 'pin_window', window='assistant', pinned=True).error_code
    client.wait_for('thaw_progress', lambda m: m.state == PAUSED)
    client.forget('thaw_progress')
    client.wait_for('thaw_progress', lambda m: m.state in (LOADING, USABLE))
    client.result(handle.cancel_goal_async())
    assert client.end(handle).result.error_code == ErrorCode.CANCELLED
    kept = client.wait_for('thaw_progress', is_over)
    assert kept.state == CANCELLED
    assert 0 < kept.tokens_loaded < kept.tokens_total

    # It stays where it was until somebody asks for it.
    client.forget('thaw_progress')
    beats = client.seen('usability')[-1].sequence
    client.wait_for('usability', lambda m: m.sequence > beats + BEATS)
    assert not client.seen('thaw_progress')
    assert client.thaw(strategy=computing).status == SUCCEEDED
    client.wait_for('thaw_progress', is_over)
    assert states(client)[0] == QUEUED
    assert states(client)[-1] == COMPLETE
    assert client.seen('thaw_progress')[0].tokens_loaded == kept.tokens_loaded
    assert {m.generation for m in client.seen('thaw_progress')} == {kept.generation}


def test_a_thaw_that_fails_says_so(start_node: StartNode, client: Client, tmp_path: Path) -> None:
    start_node()
    bring_up(client)
    for path in (tmp_path / 'store').rglob('*.log'):
        path.write_bytes(b'this is no log of turns' * 10)
    for path in (tmp_path / 'store').rglob('*.cwm'):
        path.write_bytes(b'this is no manifest' * 10)
    end = client.thaw()

    assert (end.status, end.result.error_code) == (ABORTED, ErrorCode.CORRUPT)
    last = client.wait_for('thaw_progress', is_over)
    assert (last.state, last.window) == (FAILED, 'assistant')
    assert states(client) == [QUEUED, FAILED]
