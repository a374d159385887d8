# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is told of a thaw: every edge once, and in between not too often."""

from __future__ import annotations

import pytest

from cwm_ros.errors import InterruptedOperation, NotFoundError
from cwm_ros.node.thaw_report import MIN_GAP_S, ThawReport, ThawState
from cwm_ros.progress import ThawProgress
from cwm_ros.session import Fidelity


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


QUEUED, LOADING, USABLE, COMPLETE = (ThawState(number) for number in range(4))
PAUSED, CANCELLED, FAILED = (ThawState(number) for number in range(4, 7))


def at(chunks: int, *, usable: int = 2, total: int = 4) -> ThawProgress:
    return ThawProgress(
        chunks_done=chunks,
        chunks_total=total,
        bytes_loaded=chunks,
        bytes_total=total,
        reused_tokens=chunks,
        recomputed_tokens=0,
        kept_tokens=0,
        is_usable=chunks >= usable,
        is_answerable=chunks >= usable,
        is_complete=chunks == total,
        elapsed_s=float(chunks),
        remaining_s=None,
        fidelity=Fidelity(codec='', resident=chunks, total=total),
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def report(clock: Clock) -> ThawReport:
    return ThawReport(lambda: None, clock)


def told(report: ThawReport) -> list[ThawState]:
    return [one.state for one in report.take()]


def test_edges_that_follow_one_another_at_once_are_all_told(report: ThawReport) -> None:
    report.queue('w', 1, None)
    for chunks in (0, 1, 2, 3, 4):
        report.move('w', 1, at(chunks))
    report.end('w', None)

    assert told(report) == [QUEUED, LOADING, USABLE, COMPLETE]
    assert told(report) == []


def test_between_edges_there_is_a_pause(report: ThawReport, clock: Clock) -> None:
    for chunks in range(10):
        report.move('w', 1, at(chunks, usable=50, total=100))
    clock.advance(MIN_GAP_S)
    report.move('w', 1, at(10, usable=50, total=100))

    assert [one.progress.chunks_done for one in report.take() if one.progress] == [0, 10]


def test_a_thaw_stands_still_until_it_moves(report: ThawReport, clock: Clock) -> None:
    report.pause()  # there is none
    report.move('w', 1, at(1))
    report.pause()
    report.pause()
    clock.advance(1.0)
    report.move('w', 1, at(1))
    assert told(report) == [LOADING, PAUSED]

    report.move('w', 1, at(3))
    assert told(report) == [USABLE]


@pytest.mark.parametrize(
    ('error', 'state'), [(InterruptedOperation('cut'), CANCELLED), (NotFoundError('gone'), FAILED)]
)
def test_an_end_is_told_with_what_had_come(
    report: ThawReport, error: Exception, state: ThawState
) -> None:
    report.queue('w', 1, None)
    report.move('w', 1, at(1))
    report.end('w', error)
    report.move('w', 1, at(1))  # what is seen later has not moved

    last = report.take()[-1]
    assert (last.state, last.progress) == (state, at(1))


def test_one_that_never_began_ends_with_its_own_name(report: ThawReport) -> None:
    report.move('other', 1, at(3))
    report.queue('w', 2, None)
    report.move('other', 1, at(4))
    report.end('w', NotFoundError('gone'))

    last = report.take()[-1]
    assert (last.window, last.generation, last.state) == ('w', 2, FAILED)


def test_one_that_has_nothing_to_do_is_complete(report: ThawReport) -> None:
    report.queue('w', 1, at(4))
    report.end('w', None)

    assert told(report) == [QUEUED, COMPLETE]


def test_a_window_that_is_left_ends_its_thaw_once(report: ThawReport) -> None:
    report.move('w', 1, at(3))
    report.leave('w', 1, at(3))
    report.leave('w', 1, at(3))
    report.leave('whole', 2, at(4))

    assert told(report) == [USABLE, CANCELLED]
