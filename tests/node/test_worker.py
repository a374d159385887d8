# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The engine's thread: who goes first, who stands still, and what a hang looks like."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Event, get_ident
from typing import TYPE_CHECKING

import pytest

from cwm_ros.errors import CwmError, DeadlineError, EngineError, InterruptedOperation
from cwm_ros.node.worker import Job, Urgency, Worker
from cwm_ros.optimize import optimize
from cwm_ros.store import Store
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

WAIT_S = 20.0


class Desk:
    """What the worker owns in these tests: a list of what happened."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.thread = get_ident()
        self.is_left = False


class Bench:
    """A worker with a desk, and jobs that record themselves."""

    def __init__(self) -> None:
        self.desk: Desk | None = None
        self.ends: dict[str, tuple[object, BaseException | None]] = {}
        self.idle_steps = 0
        self.worker: Worker[Desk] = Worker(
            self.make, idle=self.idle, after_step=lambda _desk, **_: None
        )

    @contextmanager
    def make(self) -> Iterator[Desk]:
        self.desk = Desk()
        yield self.desk
        self.desk.is_left = True

    def idle(self, _desk: Desk) -> Generator[object, None, None]:
        while self.idle_steps < 3:
            self.idle_steps += 1
            yield None

    def submit(
        self,
        name: str,
        urgency: Urgency,
        *,
        steps: int = 3,
        during: Callable[[int], None] = lambda _i: None,
        deadline_s: float | None = None,
    ) -> Event:
        ended = Event()

        def run(desk: Desk, cancel: Event) -> Generator[object, None, object]:
            for i in range(steps):
                if cancel.is_set():
                    raise InterruptedOperation('cancelled by the caller')
                during(i)
                desk.seen.append(f'{name}{i}')
                yield i
            return name

        def on_end(result: object, error: BaseException | None) -> None:
            self.ends[name] = result, error
            ended.set()

        self.worker.submit(
            Job(name=name, urgency=urgency, run=run, on_end=on_end, deadline_s=deadline_s)
        )
        return ended


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    if bench.worker.is_alive:
        assert bench.worker.close(WAIT_S)


def test_the_most_urgent_goes_first_and_equals_in_their_order(bench: Bench) -> None:
    ends = [
        bench.submit('upkeep', Urgency.UPKEEP, steps=1),
        bench.submit('a', Urgency.TALK, steps=1),
        bench.submit('b', Urgency.TALK, steps=1),
        bench.submit('store', Urgency.STORE, steps=1),
    ]
    bench.worker.start()

    assert all(end.wait(WAIT_S) for end in ends)
    assert bench.desk is not None
    assert bench.desk.seen == ['store0', 'a0', 'b0', 'upkeep0']
    assert bench.desk.thread != get_ident()


def test_a_thaw_stands_still_for_an_answer(bench: Bench) -> None:
    ends = []

    def ask(step: int) -> None:
        if step == 1:
            ends.append(bench.submit('talk', Urgency.TALK, steps=2))

    ends.append(bench.submit('thaw', Urgency.THAW, during=ask))
    bench.worker.start()

    assert ends[0].wait(WAIT_S)
    assert ends[1].wait(WAIT_S)
    assert bench.desk is not None
    assert bench.desk.seen == ['thaw0', 'thaw1', 'talk0', 'talk1', 'thaw2']


def test_a_shutdown_goes_first_while_an_optimise_waits_for_its_rate(
    bench: Bench, tmp_path: Path
) -> None:
    now = [0.0]
    pauses = {'begun': 0, 'at shutdown': 0}
    ended = Event()

    def sleep(duration: float) -> None:
        now[0] += duration
        pauses['begun'] += 1
        if pauses['begun'] == 3:
            bench.submit('save', Urgency.SHUTDOWN, steps=1, during=shut_down)

    def shut_down(_step: int) -> None:
        pauses['at shutdown'] = pauses['begun']

    def run(_desk: Desk, cancel: Event) -> Generator[object, None, object]:
        with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
            makers.commit(store, 'w', payload_bytes=10_000)
            yield from optimize(
                store, makers.check_payload, bytes_per_s=1000, clock=lambda: now[0], sleep=sleep,
                cancel=cancel,
            )  # fmt: skip
        return 'checked'

    def on_end(result: object, error: BaseException | None) -> None:
        bench.ends['optimise'] = result, error
        ended.set()

    bench.worker.submit(Job(name='optimise', urgency=Urgency.UPKEEP, run=run, on_end=on_end))
    bench.worker.start()

    assert ended.wait(WAIT_S)
    assert bench.ends == {'save': ('save', None), 'optimise': ('checked', None)}
    assert pauses['at shutdown'] == 3
    assert pauses['begun'] > 400


def test_an_answer_lets_only_the_store_pass_and_a_shutdown_cancels_it(bench: Bench) -> None:
    ends = []

    def disturb(step: int) -> None:
        if step == 0:
            ends.append(bench.submit('store', Urgency.STORE, steps=1))
            ends.append(bench.submit('other', Urgency.TALK, steps=1))
        if step == 1:
            ends.append(bench.submit('save', Urgency.SHUTDOWN, steps=1))

    ends.append(bench.submit('talk', Urgency.TALK, steps=9, during=disturb))
    bench.worker.start()

    for end in list(ends) + ends:
        assert end.wait(WAIT_S)
    assert bench.desk is not None
    assert bench.desk.seen == ['talk0', 'store0', 'talk1', 'save0', 'other0']
    assert isinstance(bench.ends['talk'][1], InterruptedOperation)
    assert bench.ends['save'] == ('save', None)


def test_a_job_that_is_cancelled_before_its_turn_never_begins(bench: Bench) -> None:
    end = bench.submit('talk', Urgency.TALK)
    bench.worker.cancel(Urgency.TALK)
    bench.worker.start()

    assert end.wait(WAIT_S)
    assert isinstance(bench.ends['talk'][1], InterruptedOperation)
    assert bench.desk is not None
    assert bench.desk.seen == []


def test_a_deadline_ends_a_job_as_overdue(bench: Bench) -> None:
    late = bench.submit('late', Urgency.TALK, deadline_s=0.0)
    bench.worker.start()

    assert late.wait(WAIT_S)
    assert isinstance(bench.ends['late'][1], DeadlineError)


def test_a_job_that_fails_is_told_and_the_next_one_runs(bench: Bench) -> None:
    def fail(_step: int) -> None:
        raise ZeroDivisionError('surprise')

    bad = bench.submit('bad', Urgency.TALK, during=fail)
    good = bench.submit('good', Urgency.TALK)
    bench.worker.start()

    assert bad.wait(WAIT_S)
    assert good.wait(WAIT_S)
    assert isinstance(bench.ends['bad'][1], ZeroDivisionError)
    assert bench.ends['good'] == ('good', None)


def test_idle_work_runs_when_there_is_no_job_and_ends(bench: Bench) -> None:
    bench.worker.start()
    end = bench.submit('talk', Urgency.TALK, steps=1)
    assert end.wait(WAIT_S)

    assert bench.worker.close(WAIT_S)
    assert bench.idle_steps <= 3


def test_a_step_that_hangs_is_seen_from_outside_and_none_is_seen_between(bench: Bench) -> None:
    entered, leave = Event(), Event()

    def hang(_step: int) -> None:
        entered.set()
        leave.wait(WAIT_S)

    bench.worker.start()
    assert bench.worker.step_age_s() < WAIT_S
    end = bench.submit('stuck', Urgency.TALK, steps=1, during=hang)
    assert entered.wait(WAIT_S)
    first = bench.worker.step_age_s()
    while bench.worker.step_age_s() <= first:
        pass
    assert bench.worker.running == 'stuck'
    leave.set()

    assert end.wait(WAIT_S)
    assert bench.worker.close(WAIT_S)
    assert bench.worker.step_age_s() == 0.0


def test_closing_leaves_what_it_owns_and_refuses_more(bench: Bench) -> None:
    bench.worker.start()

    assert bench.worker.close(WAIT_S)
    assert bench.desk is not None
    assert bench.desk.is_left
    with pytest.raises(EngineError):
        bench.submit('late', Urgency.STORE)


def test_jobs_that_wait_when_the_engine_cannot_be_opened_are_told() -> None:
    def make() -> Desk:
        raise EngineError('there is no such model')

    worker: Worker[Desk] = Worker(make, idle=lambda _d: iter(()), after_step=lambda _d, **_: None)  # type: ignore[arg-type, return-value]
    ended = Event()
    errors: list[BaseException | None] = []

    def on_end(_result: object, error: BaseException | None) -> None:
        errors.append(error)
        ended.set()

    worker.submit(
        Job(name='talk', urgency=Urgency.TALK, run=lambda _d, _c: iter(()), on_end=on_end)  # type: ignore[arg-type, return-value]
    )
    worker.start()

    assert ended.wait(WAIT_S)
    assert isinstance(errors[0], CwmError)


def test_giving_up_tells_all_who_wait_once_and_from_outside(bench: Bench) -> None:
    stuck, go_on = Event(), Event()

    def hang(_step: int) -> None:
        stuck.set()
        assert go_on.wait(WAIT_S)

    bench.worker.start()
    running = bench.submit('running', Urgency.THAW, during=hang)
    assert stuck.wait(WAIT_S)
    waiting = bench.submit('waiting', Urgency.UPKEEP)

    bench.worker.give_up(EngineError('it hangs'))

    assert running.is_set()
    assert waiting.is_set()
    go_on.set()
    assert bench.worker.close(WAIT_S)
    for name in ('running', 'waiting'):
        assert str(bench.ends[name][1]) == 'it hangs'  # and nothing else afterwards
    with pytest.raises(EngineError, match='closed'):
        bench.submit('late', Urgency.TALK)
