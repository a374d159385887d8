# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A wall clock that jumps moves no deadline, and costs nothing of what was said."""

from __future__ import annotations

from functools import partial
from itertools import cycle
import time
from typing import TYPE_CHECKING

import pytest

from cwm_ros.answer import Request
from cwm_ros.config_vehicle import PowerSettings
from cwm_ros.node import jobs
from cwm_ros.node.confirm import Confirmations
from cwm_ros.node.power_watch import PowerWatch
from cwm_ros.node.state import Deferred, Phase
from cwm_ros.node.worker import Urgency
from cwm_ros.power import Policy
from tests.fakes import assert_true_kv, assert_verified, make_window
from tests.node.board import Board, WAIT_S

if TYPE_CHECKING:
    from cwm_ros.config import Settings
    from tests.conftest import OpenManager

YEAR_S = 366 * 86400
JUMPS_S = (0.0, 20 * YEAR_S, -50 * YEAR_S, 3600.0, -3600.0, 200 * YEAR_S)


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the wall clock jump each time it is read; returns by how much it did."""
    jumps, done = cycle(JUMPS_S), []
    real_ns = time.time_ns

    def jump_ns() -> int:
        done.append(next(jumps))
        return max(0, real_ns() + int(done[-1]) * 1_000_000_000)

    monkeypatch.setattr(time, 'time_ns', jump_ns)
    monkeypatch.setattr(time, 'time', lambda: jump_ns() / 1e9)
    return done


def test_the_whole_life_of_a_window_ends_in_time_and_complete(
    open_fake: OpenManager, settings: Settings, jumping: list[float]
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip')
    board = Board(settings)
    board.wait(Phase.COMPLETE)
    turns = board.core.view.committed_turns
    for prompt in ('What is next?', 'And then?'):
        run = partial(
            jobs.answer,
            request=Request(text=prompt),
            window='trip',
            check_open=lambda: None,
            on_begin=board.core.note_thaw,
            take_entry=lambda: 'fuel 42 %',
        )
        board.do('answer', Urgency.TALK, run)
    until_s = time.monotonic() + WAIT_S
    frozen = board.do('freeze', Urgency.SAVE, partial(jobs.freeze, until_s=until_s))
    assert frozen.is_committed
    assert frozen.chunks_done == frozen.chunks_total
    assert board.desk.save(WAIT_S).saved == ('trip',)
    assert board.core.view.committed_turns >= turns + 4
    texts = board.in_thread(lambda manager: [turn.text for turn in manager.session.turns])
    board.in_thread(assert_verified)
    assert board.core.close(WAIT_S)

    again = Board(settings)
    again.wait(Phase.COMPLETE)
    assert again.in_thread(lambda m: [turn.text for turn in m.session.turns]) == texts
    assert_true_kv(again.in_thread(lambda manager: manager.session))
    assert again.core.close(WAIT_S)
    assert len(jumping) > 2 * len(JUMPS_S)


@pytest.mark.usefixtures('jumping')
def test_work_that_is_late_by_the_steady_clock_alone_is_late(
    open_fake: OpenManager, settings: Settings
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip')
    board = Board(settings)
    past_s = time.monotonic() - 1
    done = board.do('freeze', Urgency.SAVE, partial(jobs.freeze, until_s=past_s))
    assert (done.is_committed, done.turns_safe > 0) == (False, True)
    assert board.core.close(WAIT_S)


@pytest.mark.usefixtures('jumping')
def test_overrides_retries_and_tokens_of_the_node_expire_by_the_steady_clock() -> None:
    steady = [100.0]
    settings = PowerSettings()
    power = PowerWatch(lambda: settings, lambda: None, lambda: steady[0])
    power.override(Policy.CRITICAL, 60.0)
    retried = []
    item = Deferred(operation='thaw', window='w', num_bytes=1, reason='r', retry_s=30.0)
    power.defer(item, lambda: retried.append(1))
    confirmations = Confirmations()
    token = confirmations.give('anna', steady[0])

    assert power.choice.policy is Policy.CRITICAL
    assert power.take_due() == []
    steady[0] += 31
    assert len(power.take_due()) == 1
    assert power.override_left_s == pytest.approx(29.0)
    assert confirmations.take('anna', token, steady[0])
    steady[0] += 30
    assert power.choice.policy is not Policy.CRITICAL
