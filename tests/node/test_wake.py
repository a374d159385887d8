# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""After a sleep, what memory kept is checked before it is used."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from cwm_ros.node.state import Phase
from cwm_ros.node.wake import asleep_s, Kept, STAYED_AWAKE_S
from cwm_ros.node.worker import Urgency
from tests.fakes import assert_true_kv, assert_verified, make_window
from tests.node.board import Board, WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.config import Settings
    from cwm_ros.manager import Manager
    from tests.conftest import OpenManager


@pytest.fixture
def board(open_fake: OpenManager, settings: Settings) -> Iterator[Board]:
    with open_fake() as manager:
        make_window(manager, 'trip')
    board = Board(settings)
    board.wait(Phase.COMPLETE)
    yield board
    assert board.core.close(WAIT_S)


def damage(manager: Manager) -> None:
    """Flip what the refresh of the memory lost; nobody is told."""
    manager.engine.export_kv(0, 128).kv[...] += 7


def num_computed(manager: Manager) -> int:
    return manager.engine.num_computed


def test_a_sleep_of_the_machine_is_seen_once() -> None:
    now = [5.0]
    kept = Kept(lambda: now[0])
    assert not kept.is_doubted
    now[0] += 0.1  # the two clocks are not read at one instant
    assert not kept.is_doubted
    now[0] += 3600
    assert kept.is_awake
    kept.trust()
    assert not kept.is_doubted
    assert not kept.is_awake


def test_a_save_for_suspend_raises_doubt_and_only_the_sleep_calls_for_the_check() -> None:
    now = [5.0]
    kept = Kept(lambda: now[0])
    kept.doubt()
    assert (kept.is_doubted, kept.is_awake) == (True, False)
    now[0] += 60
    assert kept.is_awake


def test_a_sleep_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(lambda: 5.0)
    kept.doubt()
    later_s = time.monotonic() + STAYED_AWAKE_S + 1
    monkeypatch.setattr(time, 'monotonic', lambda: later_s)
    assert kept.is_awake
    kept.trust()
    assert not kept.is_awake


def test_a_machine_that_is_awake_does_not_sleep() -> None:
    before = asleep_s()
    time.sleep(0.05)
    assert asleep_s() - before < 0.01


def test_what_memory_kept_is_usable_once_its_end_was_checked(board: Board) -> None:
    assert board.desk.save(WAIT_S, is_ram_kept=True).saved == ('trip',)
    assert board.core.phase is Phase.THAWING
    before = board.in_thread(num_computed)
    time.sleep(0.1)
    assert board.core.phase is Phase.THAWING  # nothing is concluded from time that passes

    board.in_thread(lambda _manager: None, Urgency.THAW)

    assert board.core.phase is Phase.COMPLETE
    assert board.core.view.generation == 1  # no thaw
    assert board.in_thread(num_computed) == before + 1
    assert_true_kv(board.in_thread(lambda manager: manager.session))


def test_what_memory_lost_is_thawed_anew(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    board.desk.save(WAIT_S, is_ram_kept=True)
    board.in_thread(damage)
    with caplog.at_level(logging.ERROR):
        board.in_thread(lambda _manager: None, Urgency.THAW)

    assert 'RESTORE_NOT_EFFECTIVE' in caplog.text
    board.wait(Phase.COMPLETE)
    assert board.core.view.generation == 2
    assert_true_kv(board.in_thread(lambda manager: manager.session))


def test_a_sleep_that_nobody_announced_is_checked_as_well(board: Board) -> None:
    board.in_thread(damage)
    board.slept_s += 3600

    assert board.core.phase is Phase.THAWING
    assert board.core.kept.is_awake
    board.in_thread(lambda _manager: None, Urgency.TALK)
    board.wait(Phase.COMPLETE)
    assert_true_kv(board.in_thread(lambda manager: manager.session))


def test_a_save_after_the_sleep_stores_nothing_that_memory_lost(board: Board) -> None:
    board.in_thread(damage)
    board.slept_s += 3600
    saved = board.desk.save(WAIT_S)

    assert saved.saved == ('trip',)
    board.in_thread(assert_verified)
    board.wait(Phase.COMPLETE)
    assert_true_kv(board.in_thread(lambda manager: manager.session))


def test_a_save_for_power_off_raises_no_doubt(board: Board) -> None:
    board.desk.save(WAIT_S)
    assert board.core.phase is Phase.COMPLETE
