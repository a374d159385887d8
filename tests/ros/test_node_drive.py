# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The life of a vehicle: ignition, signals, shutdown, drivers, cuts in the middle, many cycles."""

from __future__ import annotations

from random import Random
import signal
import time
from typing import TYPE_CHECKING

from action_msgs.msg import GoalStatus
import pytest
from std_msgs.msg import String

from cwm_interfaces.action import FreezeWindow, Generate, PrepareShutdown, ThawWindow
from cwm_interfaces.msg import ErrorCode, IgnitionState, ResponseEvent, Usability
from cwm_interfaces.srv import EraseProfile, ListWindows, SetProfile
from cwm_ros.config import StorageSettings
from cwm_ros.store import Store
from tests.ros.vehicle import Client as AnyClient
from tests.ros.vehicle import DEACTIVATE, MEET_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

SLOW = 'tests.ros.stuck_node'
FACT = 'My gate code is 4821.'
QUESTION = "What's the code for the gate?"
CODE = '4821'
CYCLES = 20
SUCCEEDED, ABORTED = GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_ABORTED


def bring_up(client: Client) -> None:
    client.meet()
    client.bring_up()
    client.wait_state(Usability.NO_WINDOW)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('SLOW_S', '0.2')


@pytest.mark.usefixtures('long_window')
def test_ignition_thaws_saves_and_goes_on(start_node: StartNode, client: Client) -> None:
    node = start_node(params={'ignition.debounce': 0.2})
    bring_up(client)

    client.ignition(IgnitionState.ON)
    client.wait_for('usability', lambda m: m.state == Usability.COMPLETE)
    assert client.ask(FACT).kind == ResponseEvent.END
    client.forget('usability')
    client.ignition(IgnitionState.OFF)
    client.ignition(IgnitionState.START)  # a dip while cranking
    client.ignition(IgnitionState.ON)
    time.sleep(0.6)
    assert not [m for m in client.seen('usability') if m.state == Usability.FREEZING]

    client.ignition(IgnitionState.OFF)
    client.wait_state(Usability.FREEZING)
    client.forget('usability')
    client.ignition(IgnitionState.ON)
    assert client.wait_usable().window == 'assistant'
    assert CODE in client.ask(QUESTION).text
    assert 'the ignition is off, saved' in node.output or 'on again' in node.output


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signals_save_before_the_node_leaves(
    start_node: StartNode, client: Client, tmp_path: Path, number: signal.Signals
) -> None:
    node = start_node()
    bring_up(client)
    assert client.ask(FACT).kind == ResponseEvent.END
    node.signal(number)

    assert node.wait() == 0
    with Store.open(
        StorageSettings(root=tmp_path / 'store'), writable=False, clock=lambda: 1
    ) as store:
        [info] = store.windows()
        assert (info.turns, info.chunks) == (3, 1)
        assert info.chunks_present == info.chunks


@pytest.mark.usefixtures('long_window', 'slow')
def test_shutdown_during_a_thaw_ends_both(start_node: StartNode, client: Client) -> None:
    start_node(module=SLOW)
    bring_up(client)
    strategy = ThawWindow.Goal.RECOMPUTE
    handle = client.send(ThawWindow, 'thaw_window', window='assistant', strategy=strategy)
    client.wait_for('thaw_progress', lambda m: m.tokens_loaded > 0)

    told = []
    saving = client.send(
        PrepareShutdown, 'prepare_shutdown', told.append, reason=PrepareShutdown.Goal.OFF
    )
    saved = client.end(saving)

    assert saved.status == SUCCEEDED, saved.result.error_msg
    lists = (saved.result.saved, saved.result.partial, saved.result.skipped)
    assert sorted(name for names in lists for name in names) == ['assistant']
    assert saved.result.gpu_idle
    assert told
    thawed = client.end(handle)
    assert (thawed.status, thawed.result.error_code) == (ABORTED, ErrorCode.CANCELLED)
    client.forget('usability')
    client.wait_for('usability', lambda m: m.state == Usability.COMPLETE)  # it goes on when idle


@pytest.mark.usefixtures('long_window', 'slow')
def test_deactivation_ends_a_goal_that_runs(start_node: StartNode, client: Client) -> None:
    start_node(module=SLOW)
    bring_up(client)
    strategy = ThawWindow.Goal.RECOMPUTE
    handle = client.send(ThawWindow, 'thaw_window', window='assistant', strategy=strategy)
    client.wait_for('thaw_progress', lambda m: m.tokens_loaded > 0)

    assert client.change(DEACTIVATE)
    assert client.end(handle).result.error_code == ErrorCode.CANCELLED
    late = client.run(Generate, 'generate', text='hello')
    assert late.result.error_code == ErrorCode.NOT_ACTIVE


@pytest.mark.usefixtures('slow')
def test_a_new_prompt_cuts_the_answer_before_it_off(start_node: StartNode, client: Client) -> None:
    start_node(module=SLOW)
    bring_up(client)
    first = client.send(Generate, 'generate', text=FACT, request_id='first')
    client.wait_for('usability', lambda m: m.committed_turn >= 2)
    client.prompt(QUESTION)

    cut = client.end(first)
    assert (cut.status, cut.result.error_code) == (ABORTED, ErrorCode.CANCELLED)
    events = client.wait_for('response_events', lambda m: m.kind == ResponseEvent.CANCELLED)
    assert events.request_id == 'first'
    client.wait_for('response_events', lambda m: m.kind == ResponseEvent.END)


@pytest.mark.usefixtures('slow')
def test_an_answer_can_be_cancelled_and_can_be_late(start_node: StartNode, client: Client) -> None:
    start_node(module=SLOW)
    bring_up(client)
    handle = client.send(Generate, 'generate', text=FACT)
    client.wait_for('usability', lambda m: m.committed_turn >= 2)
    client.result(handle.cancel_goal_async())
    assert client.end(handle).status == GoalStatus.STATUS_CANCELED

    goal = Generate.Goal(text=QUESTION)
    goal.timeout.nanosec = 1_000_000
    late = client.run(Generate, 'generate', text=goal.text, timeout=goal.timeout)
    assert (late.status, late.result.error_code) == (ABORTED, ErrorCode.DEADLINE)


def test_drivers_have_windows_of_their_own_and_a_guest_leaves_nothing(
    start_node: StartNode, client: Client, tmp_path: Path
) -> None:
    start_node()
    bring_up(client)
    assert client.ask(FACT).kind == ResponseEvent.END
    assert not client.call(SetProfile, 'set_profile', profile='guest').error_code
    client.wait_state(Usability.NO_WINDOW)
    assert not client.call(ListWindows, 'list_windows').windows
    assert client.ask('My name is Ada.').kind == ResponseEvent.END
    assert not client.call(SetProfile, 'set_profile', profile='ben').error_code
    on_disk = b''.join(p.read_bytes() for p in tmp_path.rglob('*') if p.is_file())
    assert b'name is Ada' not in on_disk

    told = client.call(EraseProfile, 'erase_profile', profile='default')
    assert told.confirm_token
    assert 'windows' in told.erased[0]
    wrong = client.call(EraseProfile, 'erase_profile', profile='default', token='0' * 32)
    assert wrong.error_code == ErrorCode.BAD_VALUE
    again = client.call(EraseProfile, 'erase_profile', profile='default')
    token = again.confirm_token
    done = client.call(EraseProfile, 'erase_profile', profile='default', token=token)
    assert not done.error_code, done.error_msg
    mine = client.call(EraseProfile, 'erase_profile', profile='ben')
    assert mine.error_code == ErrorCode.BUSY
    assert not client.call(SetProfile, 'set_profile', profile='default').error_code
    assert not client.call(ListWindows, 'list_windows').windows


@pytest.mark.usefixtures('long_window')
def test_the_state_of_the_vehicle_becomes_a_turn_after_a_thaw(
    start_node: StartNode, client: Client, tmp_path: Path
) -> None:
    node = start_node()
    bring_up(client)
    client.publish(String, 'vehicle_context', String(data='fuel 42 %'))
    assert client.thaw().status == SUCCEEDED
    assert client.ask(QUESTION).kind == ResponseEvent.END
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    with Store.open(
        StorageSettings(root=tmp_path / 'store'), writable=False, clock=lambda: 1
    ) as store:
        texts = [turn.text for turn in store.turns('assistant')[-3:]]
    assert 'fuel 42 %' in texts[0]
    assert texts[1] == QUESTION


@pytest.mark.usefixtures('long_window', 'slow')
@pytest.mark.parametrize('what', ['freeze', 'thaw', 'generate'])
def test_a_kill_in_the_middle_loses_nothing_that_was_committed(
    start_node: StartNode, client: Client, what: str
) -> None:
    node = start_node(module=SLOW)
    bring_up(client)
    if what == 'thaw':
        strategy = ThawWindow.Goal.RECOMPUTE
        client.send(ThawWindow, 'thaw_window', window='assistant', strategy=strategy)
        client.wait_for('thaw_progress', lambda m: m.tokens_loaded > 0)
    else:
        assert client.thaw(stop_at_usable=True).status == SUCCEEDED
        client.send(Generate, 'generate', text='Hello, how are you?')
        turns = client.wait_usable().committed_turn
        client.wait_for('usability', lambda m: m.committed_turn > turns)
        if what == 'freeze':
            client.send(FreezeWindow, 'freeze_window')
    node.kill()

    start_node()
    client.forget('usability')
    bring_up(client)
    thawed = client.thaw()
    assert thawed.status == SUCCEEDED, thawed.result.error_msg
    assert thawed.result.verified
    assert CODE in client.ask(QUESTION).text


def test_twenty_cycles_with_cuts_remember_the_first(start_node: StartNode) -> None:
    """Each cycle is a process; each ends by a signal or by a kill at any moment."""
    rng = Random(5)
    said = 0
    for cycle in range(CYCLES):
        node = start_node(params={'assistant.auto_thaw': True}, args=('--autostart',))
        with AnyClient() as driver:
            driver.meet()
            state = Usability.NO_WINDOW if cycle == 0 else Usability.COMPLETE
            seen = driver.wait_state(state)
            assert seen.committed_turn >= said, f'cycle {cycle} forgot a turn'
            text = FACT if cycle == 0 else rng.choice(('Hello.', 'Thank you.', 'Nice weather.'))
            assert driver.ask(text).kind == ResponseEvent.END
            said = driver.seen('usability')[-1].committed_turn
            if cycle == 0 or rng.random() < 0.4:
                node.signal(signal.SIGTERM)
                assert node.wait() == 0
            else:
                driver.prompt('Tell me something.')
                if rng.random() < 0.5:
                    driver.ignition(IgnitionState.OFF)
                time.sleep(rng.random())
                node.kill()

    start_node(params={'assistant.auto_thaw': True}, args=('--autostart',))
    with AnyClient() as driver:
        driver.meet()
        assert driver.wait_state(Usability.COMPLETE).committed_turn >= said
        assert CODE in driver.ask(QUESTION).text


def test_two_assistants_in_one_vehicle_do_not_hear_each_other(
    start_node: StartNode, tmp_path: Path
) -> None:
    for side in ('left', 'right'):
        start_node(
            remap=(f'__ns:=/{side}', '__node:=memory', '~/prompt:=/mic_' + side),
            params={'storage.root': str(tmp_path / side)},
        )
    with AnyClient('/left/memory') as left, AnyClient('/right/memory') as right:
        bring_up(left)
        bring_up(right)
        left.publish(String, '/mic_left', String(data=FACT))
        left.wait_for('response_events', lambda m: m.kind == ResponseEvent.END)
        left.wait_for('usability', lambda m: m.committed_turn >= 3)
        time.sleep(MEET_S)
        assert not right.seen('response_events')
        assert not [m for m in right.seen('usability') if m.window]
