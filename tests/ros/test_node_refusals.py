# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What cannot be done, each with its code: too early, unknown, no memory, no time, no power."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
import pytest
from sensor_msgs.msg import BatteryState
from std_msgs.msg import String

from cwm_interfaces.action import (
    FreezeWindow,
    Generate,
    OptimizeStorage,
    PrepareShutdown,
    ThawWindow,
    VerifyWindows,
)
from cwm_interfaces.msg import (
    ErrorCode,
    IgnitionState,
    PowerStatus,
    ResponseEvent,
    Usability,
    WindowInfoArray,
)
from cwm_interfaces.srv import (
    CloneWindow,
    DeleteWindow,
    EraseProfile,
    GetWindow,
    ListWindows,
    PinWindow,
    PlanThaw,
    SetPowerPolicy,
    SetProfile,
)
from tests.ros.vehicle import ACTIVATE, CONFIGURE, LATCHED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

SLOW = 'tests.ros.stuck_node'
FACT = 'My gate code is 4821.'
SUCCEEDED, ABORTED = GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_ABORTED
MOMENT, PAST = Duration(nanosec=1), Duration(sec=-5)
ALL_MEMORY_MIB = 1 << 20
MAX_TEXT = 1 << 16
GOALS: tuple[tuple[type, str, dict[str, Any]], ...] = (
    (Generate, 'generate', {'text': 'hello'}),
    (ThawWindow, 'thaw_window', {'window': 'unknown'}),
    (FreezeWindow, 'freeze_window', {}),
    (PrepareShutdown, 'prepare_shutdown', {}),
    (VerifyWindows, 'verify_windows', {}),
    (OptimizeStorage, 'optimize_storage', {}),
)
SERVICES: tuple[tuple[type, str, dict[str, Any]], ...] = (
    (GetWindow, 'get_window', {'window': 'unknown'}),
    (CloneWindow, 'clone_window', {'window': 'unknown', 'new_name': 'copy'}),
    (DeleteWindow, 'delete_window', {'window': 'unknown'}),
    (PinWindow, 'pin_window', {'window': 'unknown', 'pinned': True}),
    (PlanThaw, 'plan_thaw', {'window': 'unknown'}),
)


def bring_up(client: Client) -> None:
    client.meet()
    client.bring_up()
    client.wait_state(Usability.NO_WINDOW)


def test_goals_and_services_in_the_wrong_state_and_for_nothing(
    start_node: StartNode, client: Client
) -> None:
    start_node()
    client.meet()
    for _ in range(2):  # unconfigured, then inactive
        for kind, name, fields in GOALS:
            end = client.run(kind, name, **fields)
            assert (end.status, end.result.error_code) == (ABORTED, ErrorCode.NOT_ACTIVE), name
            assert end.result.error_msg
        early = client.call(SetProfile, 'set_profile', profile='anna')
        assert early.error_code == ErrorCode.NOT_ACTIVE
        if client.state() == 'unconfigured':
            for kind, name, fields in SERVICES:
                assert client.call(kind, name, **fields).error_code == ErrorCode.NOT_ACTIVE, name
            assert client.change(CONFIGURE)
    assert not client.call(ListWindows, 'list_windows').error_code

    assert client.change(ACTIVATE)
    client.wait_state(Usability.NO_WINDOW)
    for kind, name, fields in SERVICES:
        assert client.call(kind, name, **fields).error_code == ErrorCode.NOT_FOUND, name
    for kind, name in ((ThawWindow, 'thaw_window'), (VerifyWindows, 'verify_windows')):
        end = client.run(kind, name, window='unknown')
        assert (end.status, end.result.error_code) == (ABORTED, ErrorCode.NOT_FOUND), name
    gone = client.call(EraseProfile, 'erase_profile', profile='unknown')
    assert gone.error_code == ErrorCode.NOT_FOUND
    past = client.call(SetPowerPolicy, 'set_power_policy', policy=0, duration=PAST)
    assert past.error_code == ErrorCode.BAD_VALUE
    late = client.run(Generate, 'generate', text=FACT, timeout=PAST)
    assert (late.status, late.result.error_code) == (ABORTED, ErrorCode.DEADLINE)
    saved = client.run(PrepareShutdown, 'prepare_shutdown', budget=PAST)
    assert (saved.status, saved.result.error_code) == (SUCCEEDED, ErrorCode.NONE)


@pytest.mark.usefixtures('long_window')
def test_without_memory_nothing_is_thawed(start_node: StartNode, client: Client) -> None:
    start_node(params={'runtime.min_mem_available_mib': ALL_MEMORY_MIB})
    bring_up(client)
    client.watch(PowerStatus, 'power_policy', LATCHED)

    thaw = client.thaw()
    assert (thaw.status, thaw.result.error_code) == (ABORTED, ErrorCode.MEMORY)
    assert 'runtime.min_mem_available_mib' in thaw.result.error_msg
    asked = client.ask("What's the code for the gate?")  # would have to bring the window back
    assert (asked.kind, asked.error_code) == (ResponseEvent.ERROR, ErrorCode.MEMORY)
    client.ignition(IgnitionState.ON)
    waits = client.wait_for('power_policy', lambda m: len(m.deferred) > 0).deferred[0]
    assert (waits.operation, waits.window) == ('thaw', 'assistant')
    assert 'MiB of memory' in waits.reason
    assert not client.seen('thaw_progress')


def test_a_freeze_without_time_or_power_says_which(start_node: StartNode, client: Client) -> None:
    start_node(params={'power.critical_user_joules': 0.0, 'power.retry_s': 1.0})
    bring_up(client)
    client.watch(PowerStatus, 'power_policy', LATCHED)
    client.watch(WindowInfoArray, 'windows', LATCHED)
    assert client.ask(FACT).kind == ResponseEvent.END
    for deadline in (MOMENT, PAST):
        cut = client.run(FreezeWindow, 'freeze_window', deadline=deadline)
        assert (cut.status, cut.result.error_code) == (ABORTED, ErrorCode.DEADLINE)
        assert (cut.result.complete, cut.result.info.turns) == (False, 3)

    client.publish(
        BatteryState,
        'battery_state',
        BatteryState(
            percentage=0.05, power_supply_status=BatteryState.POWER_SUPPLY_STATUS_DISCHARGING
        ),
    )
    client.wait_for('power_policy', lambda m: m.policy == PowerStatus.CRITICAL)
    put_off = client.run(FreezeWindow, 'freeze_window')
    assert (put_off.status, put_off.result.error_code) == (ABORTED, ErrorCode.DEFERRED_POWER)
    assert not put_off.result.complete
    waits = client.wait_for('power_policy', lambda m: len(m.deferred) > 0).deferred[0]
    assert (waits.operation, waits.window) == ('freeze', 'assistant')
    assert waits.bytes > 0
    assert not any(w.chunks for array in client.seen('windows') for w in array.windows)

    override = client.call(SetPowerPolicy, 'set_power_policy', policy=PowerStatus.AGGRESSIVE)
    assert override.status.is_override
    client.wait_for('windows', lambda m: any(w.chunks for w in m.windows))  # tried again
    whole = client.run(FreezeWindow, 'freeze_window')
    assert (whole.status, whole.result.complete) == (SUCCEEDED, True)


@pytest.mark.usefixtures('long_window')
def test_a_freeze_of_what_is_not_there_yet_is_told_to_come_later(
    start_node: StartNode, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('SLOW_S', '0.2')
    for path in (tmp_path / 'store').rglob('*.int8'):
        path.unlink()
    start_node(module=SLOW)
    bring_up(client)
    computing = ThawWindow.Goal.RECOMPUTE
    handle = client.send(ThawWindow, 'thaw_window', window='assistant', strategy=computing)
    client.wait_for('thaw_progress', lambda m: m.tokens_loaded > 0)
    frozen = client.run(FreezeWindow, 'freeze_window')

    assert (frozen.status, frozen.result.error_code) == (ABORTED, ErrorCode.BUSY)
    assert not frozen.result.complete
    assert 'not all there yet' in frozen.result.error_msg
    assert client.end(handle).status == SUCCEEDED
    whole = client.run(FreezeWindow, 'freeze_window')
    assert (whole.status, whole.result.complete) == (SUCCEEDED, True)


def test_text_that_is_huge_or_no_text_at_all(start_node: StartNode, client: Client) -> None:
    start_node()
    bring_up(client)
    assert client.ask('y' * (MAX_TEXT + 1)).error_code == ErrorCode.BAD_VALUE
    assert client.ask('y ' * (MAX_TEXT // 2)).error_code == ErrorCode.CONTEXT_FULL
    plan = client.call(PlanThaw, 'plan_thaw', window='assistant', prompt='y' * (MAX_TEXT + 1))
    assert plan.error_code == ErrorCode.BAD_VALUE
    client.publish(String, 'vehicle_context', String(data='z' * 2_000_000))
    client.forget('response_events')
    client.publish_bytes('prompt', b'\x00\x01\x00\x00\x05\x00\x00\x00hi\xff\xfe\x00')
    said = client.wait_for('response_events', lambda m: m.kind != ResponseEvent.SENTENCE)
    assert said.kind == ResponseEvent.END  # what is no UTF-8 is replaced, and answered
    tagged = client.run(FreezeWindow, 'freeze_window', tags=['x' * (1 << 20)])
    assert (tagged.status, tagged.result.error_code) == (ABORTED, ErrorCode.BAD_VALUE)
    assert len(tagged.result.error_msg) < 1000
    assert client.run(FreezeWindow, 'freeze_window', tags=['trip']).status == SUCCEEDED
