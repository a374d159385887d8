# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goals and services: feedback and edges, cancelling, codes of what cannot be done, bad input."""

from __future__ import annotations

from itertools import pairwise
import math
from typing import TYPE_CHECKING

from action_msgs.msg import GoalStatus
import pytest
from rosgraph_msgs.msg import Clock
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
    Fidelity,
    PowerStatus,
    ResponseEvent,
    ThawProgress,
    Usability,
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
from tests.ros.vehicle import CONFIGURE, LATCHED, STREAM, WAIT_S

if TYPE_CHECKING:
    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

SLOW = 'tests.ros.stuck_node'
QUESTION = "What's the code for the gate?"
CODE = '4821'
SUCCEEDED, ABORTED = GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_ABORTED
MIN_GAP_S = 0.05
MAX_TEXT = 1 << 16
PROGRESS_STATES = (ThawProgress.LOADING, ThawProgress.USABLE, ThawProgress.COMPLETE)


def bring_up(client: Client) -> None:
    client.meet()
    client.bring_up()
    client.wait_for('usability', lambda m: m.state != Usability.LOADING_ENGINE)
    client.wait_state(Usability.NO_WINDOW)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('SLOW_S', '0.2')


@pytest.mark.usefixtures('long_window', 'slow')
def test_feedback_of_a_thaw_is_paced_and_every_edge_is_told(
    start_node: StartNode, client: Client
) -> None:
    start_node(module=SLOW)
    bring_up(client)
    told = []
    handle = client.send(
        ThawWindow,
        'thaw_window',
        told.append,
        window='assistant',
        strategy=ThawWindow.Goal.RECOMPUTE,
    )
    second = client.run(ThawWindow, 'thaw_window', window='assistant')
    assert (second.status, second.result.error_code) == (ABORTED, ErrorCode.BUSY)
    end = client.end(handle)

    assert end.status == SUCCEEDED, end.result.error_msg
    assert end.result.recomputed_tokens > 2000
    states = [m.feedback.progress.state for m in told]
    assert states == sorted(states)
    assert set(states) >= {ThawProgress.USABLE, ThawProgress.COMPLETE}
    client.wait_for('thaw_progress', lambda m: m.state == ThawProgress.COMPLETE)
    seen = client.seen('thaw_progress')
    loaded = [m.tokens_loaded for m in seen]
    assert loaded == sorted(loaded)
    edges = sum(a.state != b.state for a, b in pairwise(seen))
    spent_s = seen[-1].elapsed.sec + seen[-1].elapsed.nanosec / 1e9
    assert len(seen) <= spent_s / MIN_GAP_S + edges + 2


@pytest.mark.usefixtures('long_window', 'slow')
def test_a_cancelled_thaw_keeps_what_is_there_and_goes_on(
    start_node: StartNode, client: Client
) -> None:
    start_node(module=SLOW)
    bring_up(client)
    strategy = ThawWindow.Goal.RECOMPUTE
    handle = client.send(ThawWindow, 'thaw_window', window='assistant', strategy=strategy)
    client.wait_for('thaw_progress', lambda m: m.tokens_loaded > 0)
    client.result(handle.cancel_goal_async())
    end = client.end(handle)
    assert end.status == GoalStatus.STATUS_CANCELED
    assert end.result.error_code == ErrorCode.CANCELLED

    again = client.thaw(strategy=strategy)
    assert again.status == SUCCEEDED, again.result.error_msg
    answer = client.run(Generate, 'generate', text=QUESTION)
    assert CODE in answer.result.text


@pytest.mark.usefixtures('long_window')
def test_a_question_is_answered_while_the_window_comes_back(
    start_node: StartNode, client: Client
) -> None:
    start_node()
    bring_up(client)
    client.watch(String, 'response', STREAM)
    loaded = client.thaw(stop_at_usable=True)
    assert loaded.status == SUCCEEDED
    assert client.wait_usable().window == 'assistant'

    answer = client.run(Generate, 'generate', text=QUESTION, request_id='mine')

    assert answer.status == SUCCEEDED, answer.result.error_msg
    assert CODE in answer.result.text
    assert answer.result.finish_reason == 'stop'
    client.wait_for('response', lambda m: CODE in m.data)
    events = [m for m in client.seen('response_events') if m.request_id == 'mine']
    assert [m.sequence for m in events] == list(range(len(events)))
    assert events[-1].kind in (ResponseEvent.END, ResponseEvent.REVIEW)
    stopped = client.run(Generate, 'generate', text=QUESTION, stop=[CODE])
    assert CODE not in stopped.result.text
    assert stopped.result.finish_reason == 'stop'
    assert client.thaw().status == SUCCEEDED


@pytest.mark.usefixtures('long_window')
def test_an_answer_of_partial_context_is_reviewed(start_node: StartNode, client: Client) -> None:
    start_node(params={'thaw.relevant_chunks': 0})
    bring_up(client)
    now = Generate.Goal.NOW  # nothing is resident when the answer begins
    answer = client.run(Generate, 'generate', text=QUESTION, request_id='early', when=now)

    assert answer.status == SUCCEEDED, answer.result.error_msg
    assert answer.result.provisional
    assert answer.result.fidelity.level == Fidelity.PARTIAL
    review = client.wait_for('response_events', lambda m: m.kind == ResponseEvent.REVIEW)
    assert review.request_id == 'early'
    is_right = CODE in answer.result.text
    assert review.verdict == (ResponseEvent.CONFIRMED if is_right else ResponseEvent.CHANGED)
    assert is_right or CODE in review.text


@pytest.mark.usefixtures('long_window')
def test_windows_are_listed_copied_pinned_frozen_and_deleted(
    start_node: StartNode, client: Client
) -> None:
    start_node()
    bring_up(client)
    [window] = client.call(ListWindows, 'list_windows').windows
    assert (window.name, window.codec, window.chunks_missing) == ('assistant', 'int8', 0)
    assert window.created.sec > 0
    assert client.call(CloneWindow, 'clone_window', window='assistant', new_name='b').info.tokens
    clash = client.call(CloneWindow, 'clone_window', window='assistant', new_name='b')
    assert clash.error_code == ErrorCode.EXISTS
    assert not client.call(PinWindow, 'pin_window', window='b', pinned=True).error_code
    assert client.call(GetWindow, 'get_window', window='b').info.pinned
    plan = client.call(PlanThaw, 'plan_thaw', window='b', prompt=QUESTION)
    assert plan.steps, plan.error_msg
    assert client.thaw('b').status == SUCCEEDED
    busy = client.call(DeleteWindow, 'delete_window', window='b')
    assert busy.error_code == ErrorCode.BUSY
    assert client.ask('Hello.').kind == ResponseEvent.END

    frozen = client.run(FreezeWindow, 'freeze_window', tags=['trip'])
    assert frozen.status == SUCCEEDED, frozen.result.error_msg
    assert frozen.result.complete
    assert list(frozen.result.info.tags) == ['trip']
    refused = client.run(FreezeWindow, 'freeze_window', window='assistant')
    assert refused.result.error_code == ErrorCode.EXISTS
    other = client.run(FreezeWindow, 'freeze_window', codec='fp64')
    assert other.result.error_code == ErrorCode.BAD_VALUE
    back = client.thaw('assistant')
    assert back.status == SUCCEEDED, back.result.error_msg
    assert not client.call(DeleteWindow, 'delete_window', window='b').error_code
    assert client.thaw('b').result.error_code == ErrorCode.NOT_FOUND
    assert client.run(VerifyWindows, 'verify_windows').result.windows == 1
    assert client.run(OptimizeStorage, 'optimize_storage').status == SUCCEEDED
    slow = client.run(OptimizeStorage, 'optimize_storage', rate=1)
    assert slow.result.error_code == ErrorCode.BAD_VALUE


@pytest.mark.usefixtures('long_window')
def test_a_thaw_that_is_less_faithful_than_asked_for_is_no_success(
    start_node: StartNode, client: Client
) -> None:
    start_node()
    bring_up(client)

    lossy = client.thaw(strategy=ThawWindow.Goal.LOAD, accept_fidelity=Fidelity.EXACT)
    assert lossy.result.error_code == ErrorCode.RESTORE_NOT_EFFECTIVE
    assert 'lossy' in lossy.result.error_msg
    assert client.thaw(accept_fidelity=Fidelity.LOSSY).status == SUCCEEDED


def test_input_that_is_wrong_ends_in_a_code(start_node: StartNode, client: Client) -> None:
    start_node()
    bring_up(client)

    for goal in (
        {'text': 'hi', 'temperature': math.nan},
        {'text': 'hi', 'temperature': -1.0},
        {'text': 'hi', 'when': 9},
        {'text': 'x' * (MAX_TEXT + 1)},
        {'text': 'hi', 'stop': ['x' * (MAX_TEXT + 1)]},
    ):
        assert not client.send(Generate, 'generate', **goal).accepted
    for name in ('', '../x', 'x' * 1000, 'a\x01b'):
        assert not client.send(ThawWindow, 'thaw_window', window=name).accepted
    assert not client.send(ThawWindow, 'thaw_window', window='a', strategy=7).accepted
    empty = client.run(Generate, 'generate', text='   ')
    assert (empty.status, empty.result.error_code) == (ABORTED, ErrorCode.BAD_VALUE)
    stop = client.run(Generate, 'generate', text='hi', stop=[''])
    assert stop.result.error_code == ErrorCode.BAD_VALUE
    assert client.run(FreezeWindow, 'freeze_window').result.error_code == ErrorCode.NOT_FOUND
    reason = client.run(PrepareShutdown, 'prepare_shutdown', reason=9)
    assert reason.result.error_code == ErrorCode.BAD_VALUE

    huge = '/' * 100_000
    for answer in (
        client.call(GetWindow, 'get_window', window=huge),
        client.call(CloneWindow, 'clone_window', window='a', new_name=huge),
        client.call(DeleteWindow, 'delete_window', window=huge),
        client.call(PinWindow, 'pin_window', window=huge),
        client.call(PlanThaw, 'plan_thaw', window=huge),
        client.call(SetProfile, 'set_profile', profile=huge),
        client.call(EraseProfile, 'erase_profile', profile=huge),
    ):
        assert answer.error_code in (ErrorCode.BAD_NAME, ErrorCode.NOT_FOUND), answer
        assert len(answer.error_msg) < 400
    assert client.call(SetPowerPolicy, 'set_power_policy', policy=9).error_code
    assert client.call(PlanThaw, 'plan_thaw', window='a', strategy=9).error_code

    battery = BatteryState(percentage=math.nan, voltage=math.inf, power_supply_status=250)
    client.publish(BatteryState, 'battery_state', battery)
    client.ignition(255)
    assert client.ask('').error_code == ErrorCode.BAD_VALUE


def test_a_battery_that_is_empty_defers_and_says_why(
    start_node: StartNode, client: Client
) -> None:
    start_node(params={'power.retry_s': 1.0, 'power.conservative_joules': 0.0})
    bring_up(client)
    client.watch(PowerStatus, 'power_policy', LATCHED)
    assert client.ask('My gate code is 4821.').kind == ResponseEvent.END
    assert client.run(FreezeWindow, 'freeze_window').status == SUCCEEDED
    discharging = BatteryState.POWER_SUPPLY_STATUS_DISCHARGING
    client.publish(
        BatteryState,
        'battery_state',
        BatteryState(percentage=0.05, power_supply_status=discharging),
    )
    critical = client.wait_for('power_policy', lambda m: m.policy == PowerStatus.CRITICAL)
    assert critical.reason

    late = client.run(OptimizeStorage, 'optimize_storage')

    assert late.result.error_code == ErrorCode.DEFERRED_POWER
    waits = client.wait_for('power_policy', lambda m: len(m.deferred) > 0)
    assert waits.deferred[0].operation == 'optimize'
    assert waits.deferred[0].reason
    assert waits.deferred[0].retry_in.sec == 1
    client.forget('power_policy')
    override = client.call(SetPowerPolicy, 'set_power_policy', policy=PowerStatus.AGGRESSIVE)
    assert override.status.is_override
    client.wait_for('power_policy', lambda m: not m.deferred)
    save = client.run(PrepareShutdown, 'prepare_shutdown')
    assert save.status == SUCCEEDED


def test_parameters_are_described_checked_and_explained(
    start_node: StartNode, client: Client
) -> None:
    node = start_node(params={'nonsense.value': 3})
    assert node.wait() == 1
    assert 'nonsense.value is unknown' in node.output
    node = start_node(params={'engine.watchdog': 'soon'})
    assert node.wait() == 1
    assert 'engine.watchdog' in node.output

    start_node()
    client.meet()
    refused = client.set_parameters(ignition__debounce=-1.0)
    assert not refused.successful
    assert 'ignition.debounce' in refused.reason
    assert client.set_parameters(storage__quota_mib=400).successful
    assert client.change(CONFIGURE)
    late = client.set_parameters(storage__quota_mib=300)
    assert not late.successful
    assert 'cleanup' in late.reason
    assert client.set_parameters(shutdown__budget=1.5).successful
    assert client.parameter('shutdown.budget').double_value == 1.5
    assert not client.set_parameters(ignition__debounce=math.nan).successful


def test_a_simulated_clock_that_stands_still_or_jumps_stops_no_deadline(
    start_node: StartNode, client: Client
) -> None:
    start_node(params={'use_sim_time': True})
    bring_up(client)
    assert client.ask('My gate code is 4821.').kind == ResponseEvent.END
    clock = Clock()
    for sec in (1_000, 2_000_000_000, 5):
        clock.clock.sec = sec
        client.publish(Clock, '/clock', clock)
        beats = client.seen('usability')[-1].sequence
        client.wait_for('usability', lambda m, n=beats: m.sequence > n + 1)

    client.ignition(4)
    client.ignition(2)
    client.wait_state(Usability.FREEZING)
    client.wait_for('usability', lambda m: m.is_usable, WAIT_S)
