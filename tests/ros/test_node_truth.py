# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Usability cannot lie: a process that is stopped, killed or stuck is known within 3 s."""

from __future__ import annotations

import signal
from threading import Event
import time
from typing import Any, TYPE_CHECKING

from action_msgs.msg import GoalStatus
import pytest
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

from cwm_interfaces.action import Generate
from cwm_interfaces.msg import ErrorCode, ResponseEvent, Usability
from cwm_interfaces.srv import ListWindows
from tests.ros.vehicle import Client as AnyClient
from tests.ros.vehicle import LATCHED, WAIT_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

FACT = 'Remember: the code of the garage is 4711.'
WITHIN_S = 3.0
STUCK = 'tests.ros.stuck_node'
GUARDED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    deadline=Duration(seconds=2.0),
    liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
    liveliness_lease_duration=Duration(seconds=3.0),
)


class Guard:
    """Does as docs/interfaces.md says: trusts `is_usable` only while the writer keeps its word."""

    def __init__(self, client: Client) -> None:
        self.lost_s = 0.0
        self.lost = Event()
        self._is_usable = False
        events = SubscriptionEventCallbacks(deadline=self._lose, liveliness=self._on_liveliness)
        client.watch(Usability, 'usability', GUARDED, event_callbacks=events)
        client.node.create_subscription(Usability, client.name('usability'), self._see, GUARDED)

    def _see(self, message: Usability) -> None:
        if self._is_usable and not message.is_usable:
            self._lose(message)
        self._is_usable = message.is_usable

    def _on_liveliness(self, event: Any) -> None:
        if event.alive_count == 0:
            self._lose(event)

    def _lose(self, _why: object) -> None:
        if self._is_usable and not self.lost.is_set():
            self.lost_s = time.monotonic()
            self.lost.set()


@pytest.fixture
def stuck_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / 'stuck'
    monkeypatch.setenv('STUCK_FILE', str(path))
    return path


def bring_up_usable(client: Client) -> int:
    client.meet()
    client.bring_up()
    client.wait_state(Usability.NO_WINDOW)
    assert client.ask(FACT).kind == ResponseEvent.END
    return int(client.wait_for('usability', lambda m: m.committed_turn >= 3).committed_turn)


@pytest.mark.parametrize('number', [signal.SIGSTOP, signal.SIGKILL])
def test_a_process_that_stands_still_is_missed(
    start_node: StartNode, client: Client, number: signal.Signals
) -> None:
    node = start_node()
    turns = bring_up_usable(client)
    guard = Guard(client)
    client.wait_for('usability', lambda m: m.sequence > 3)
    time.sleep(1.5)  # the guard has seen a heartbeat of its own
    began_s = time.monotonic()
    node.signal(number)

    assert guard.lost.wait(WAIT_S)
    assert guard.lost_s - began_s <= WITHIN_S

    with AnyClient() as late:
        late.watch(Usability, 'usability', LATCHED)
        time.sleep(2.0)
        assert not [m for m in late.seen('usability') if m.is_usable]

    if number is signal.SIGKILL:
        node.wait()
        start_node()
        client.forget('usability')
        client.meet()
        client.bring_up()
        assert client.thaw().status == GoalStatus.STATUS_SUCCEEDED
        assert client.wait_usable().committed_turn == turns


def test_an_engine_stuck_in_c_is_missed_and_ends_the_process(
    start_node: StartNode, client: Client, stuck_file: Path
) -> None:
    node = start_node(module=STUCK, params={'engine.watchdog': 4.0})
    turns = bring_up_usable(client)
    guard = Guard(client)
    time.sleep(1.5)
    client.forget('usability')
    stuck_file.write_text('release')
    handle = client.send(Generate, 'generate', text='What is the code?')
    while stuck_file.exists():
        time.sleep(0.01)
    began_s = time.monotonic()

    assert guard.lost.wait(WAIT_S)
    assert guard.lost_s - began_s <= WITHIN_S
    end = client.end(handle)
    assert end.status == GoalStatus.STATUS_ABORTED
    assert end.result.error_code == ErrorCode.ENGINE_HUNG
    assert not client.wait_state(Usability.ENGINE_HUNG).is_usable
    assert node.wait() == 70

    start_node()
    client.forget('usability')
    client.meet()
    client.bring_up()
    assert client.thaw().status == GoalStatus.STATUS_SUCCEEDED
    assert client.wait_usable().committed_turn == turns + 1  # what was asked is there


def test_an_engine_that_holds_the_interpreter_ends_the_process_too(
    start_node: StartNode, client: Client, stuck_file: Path
) -> None:
    node = start_node(module=STUCK, params={'engine.watchdog': 1.0})
    bring_up_usable(client)
    guard = Guard(client)
    time.sleep(1.5)
    stuck_file.write_text('hold')
    client.prompt('What is the code?')
    while stuck_file.exists():
        time.sleep(0.01)
    began_s = time.monotonic()

    assert guard.lost.wait(WAIT_S)
    assert guard.lost_s - began_s <= WITHIN_S
    assert node.wait() == 1

    again = start_node()
    client.meet()
    client.bring_up()
    assert 'held the interpreter' in again.output
    assert 'get_stuck' in again.output


def test_after_three_hangs_the_windows_can_be_listed_still(
    start_node: StartNode, client: Client, stuck_file: Path
) -> None:
    for _ in range(3):
        node = start_node(module=STUCK, params={'engine.watchdog': 0.5})
        client.meet()
        client.bring_up()
        stuck_file.write_text('release')
        client.prompt(FACT)
        assert node.wait() == 70

    start_node()
    client.forget('usability')
    client.meet()
    client.bring_up()
    told = client.wait_state(Usability.STORE_ONLY)
    assert 'hung 3 times' in told.reason
    assert not told.is_usable
    listed = client.call(ListWindows, 'list_windows')
    assert [window.name for window in listed.windows] == ['assistant']
    assert client.ask('hello').error_code == ErrorCode.ENGINE


def test_a_model_that_cannot_be_loaded_leaves_the_store(
    start_node: StartNode, client: Client
) -> None:
    start_node(params={'engine.model': '/nowhere'})
    client.meet()
    client.bring_up()
    told = client.wait_state(Usability.STORE_ONLY)
    assert '/nowhere' in told.reason
    assert not told.is_usable
    assert not client.call(ListWindows, 'list_windows').error_code
    refused = client.ask('hello')
    assert (refused.kind, refused.error_code) == (ResponseEvent.ERROR, ErrorCode.ENGINE)
    assert '/nowhere' in refused.text
