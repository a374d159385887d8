# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Freezing when the time is short, and what is done before so that it is enough."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
import pytest

from cwm_ros.answer import Answer, Delta, Request
from cwm_ros.deadline import Deadline, Pace
from cwm_ros.errors import ConfigError, StorageError
from cwm_ros.freeze import FreezeProgress
from cwm_ros.kv import Role
from tests.fakes import (
    assert_true_kv,
    assert_verified,
    chunk_files,
    complete,
    freeze,
    HashEngine,
    ingest,
    make_window,
    say,
    story,
)

if TYPE_CHECKING:
    from cwm_ros.manager import Manager
    from cwm_ros.store import ChunkEntry
    from tests.conftest import OpenManager

SIZE = 128


class Clock:
    """Stands still, but for what a test lets things take."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def slow_down(manager: Manager, monkeypatch: pytest.MonkeyPatch, *, chunk_s: float) -> list[int]:
    """Let each chunk take ``chunk_s`` on a clock of its own; return where they are written."""
    clock, written, store = Clock(), list[int](), manager.store
    write = store.write_chunk

    def write_slowly(header: object, *rest: object) -> ChunkEntry:
        clock.now_s += chunk_s
        written.append(header.start)  # type: ignore[attr-defined]
        return write(header, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(store, 'write_chunk', write_slowly)
    object.__setattr__(manager.live.tools, 'clock', clock)
    return written


def freeze_until(manager: Manager, deadline_s: float) -> FreezeProgress:
    *_, last = manager.freeze(deadline_s=deadline_s)
    return last


def test_the_most_valuable_chunks_are_written_first(
    open_fake: OpenManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_fake() as manager:
        manager.create('trip')
        ingest(manager, 10)
        complete(manager)
        written = slow_down(manager, monkeypatch, chunk_s=0.0)
        freeze(manager)
        stop = manager.session.num_tokens // SIZE * SIZE
        # The first 100 and last 200 tokens are the usable part; what is behind comes last.
        assert written[0] == 0
        assert written[-1] == stop
        usable = [start for start in written[:-1] if start == 0 or start + SIZE > stop - SIZE]
        assert written[: len(usable)] == usable
        assert written[len(usable) : -1] == sorted(written[len(usable) : -1], reverse=True)


@pytest.mark.parametrize('deadline_s', [-1.0, 0.0, 0.001, 0.01, 0.1, 1.0, 60.0])
def test_whatever_the_deadline_what_it_says_is_safe_is_there(
    open_fake: OpenManager, monkeypatch: pytest.MonkeyPatch, deadline_s: float
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 4)
        ingest(manager, 8, seed=3)
        complete(manager)
        written = slow_down(manager, monkeypatch, chunk_s=0.02)
        last = freeze_until(manager, deadline_s)
        turns = manager.session.turns
        assert last.turns_safe == len(turns)
        assert last.tokens_total == manager.session.num_tokens
        # What was written before, quickly, lets it begin one chunk too many and no more.
        assert len(written) <= max(0.0, deadline_s) / 0.02 + 1
        assert bool(last.deferred) == (last.tokens_safe < last.tokens_total)
        assert_verified(manager)
        if deadline_s <= 0:
            assert written == []
            assert not last.is_committed
    with open_fake() as manager:
        thaw = manager.open_window('trip')
        assert manager.session.turns == turns
        complete(manager)
        if deadline_s > 1:
            assert last.tokens_safe == thaw.num_tokens == thaw.progress().reused_tokens
        elif last.is_committed:
            assert thaw.progress().reused_tokens == last.tokens_safe
        assert_true_kv(manager.session)


@pytest.mark.parametrize('seconds', [float('nan'), float('inf')])
def test_a_deadline_that_is_no_time_is_refused(open_fake: OpenManager, seconds: float) -> None:
    manager = open_fake()
    make_window(manager, 'trip', 2)
    with pytest.raises(ConfigError, match=f'the deadline is {seconds}'):
        list(manager.freeze(deadline_s=seconds))


def test_pace_learns_from_what_was_slow(
    open_fake: OpenManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_fake() as manager:
        manager.create('trip')
        ingest(manager, 12)
        complete(manager)
        written = slow_down(manager, monkeypatch, chunk_s=0.3)
        last = freeze_until(manager, 1.0)
        assert len(written) == 3, 'a fourth would have been too late'
        assert last.deferred == 'the deadline is near'
        assert last.is_committed
        assert freeze_until(manager, 0.1).bytes_written == 0, 'and that is known next time'
        assert freeze_until(manager, 60.0).tokens_safe == manager.session.num_tokens


def test_a_cut_between_chunk_and_manifest_loses_neither(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        manager.create('trip')
        ingest(manager, 14)
        complete(manager)
        steps = manager.freeze()
        for _ in range(6):  # beyond the usable part, whose manifest is committed
            next(steps)
        steps.close()
        num_files = len(chunk_files(manager))
        manifest = manager.store.window('trip').manifest
        assert manifest is not None
        assert len(manifest.chunks) < num_files
    with open_fake() as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.progress().reused_tokens == SIZE * num_files
        assert_true_kv(manager.session)


@given(times=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20))
def test_pace_is_never_below_the_last(times: list[float]) -> None:
    pace = Pace()
    for seconds in times:
        pace.note_chunk(1000, seconds)
        pace.note_commit(seconds)
        assert pace.s_per_byte >= seconds / 1000
        assert pace.commit_s >= seconds


def test_a_deadline_allows_what_takes_less_than_is_left() -> None:
    clock = Clock()
    deadline = Deadline(clock, 1.0)
    assert deadline.allows(0.9)
    clock.now_s += 0.5
    assert not deadline.allows(0.5)
    assert Deadline(clock, None).allows(1e9)
    assert not Deadline(clock, -1.0).allows(0.0)


# --- between turns ------------------------------------------------------------------------------


def test_what_was_written_behind_is_not_left_for_the_end(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        manager.create('trip')
        for number in range(8):
            say(manager, story(60, number))
            for _ in manager.idle():
                pass
            full = manager.session.num_tokens // SIZE
            assert len(chunk_files(manager)) == full
        last = freeze(manager)
        assert (last.chunks_reused, last.chunks_done) == (full, full + 1)
        assert_verified(manager)


def test_idle_writes_nothing_without_a_full_chunk(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 6)
        manifest = manager.store.window('trip').manifest
        assert manifest is not None
        for _ in range(3):
            assert not [e for e in manager.idle() if isinstance(e, FreezeProgress)]
        ingest(manager, 1, letters=5, seed=9)
        list(manager.idle())
        after = manager.store.window('trip').manifest
        assert after is not None
        assert after.revision == manifest.revision


def test_writing_behind_keeps_to_the_daily_budget_and_the_quota(open_fake: OpenManager) -> None:
    with open_fake(storage={'daily_budget_mib': 8}) as manager:
        manager.create('trip')
        manager.store._state.add_written(1_700_000_000_000, 9 << 20)
        ingest(manager, 6)
        *_, last = manager.idle()
        assert isinstance(last, FreezeProgress)
        assert 'budget' in last.deferred
        assert chunk_files(manager) == {}
    with open_fake(storage={'write_behind': False}) as manager:
        manager.open_window('trip')
        assert not [e for e in manager.idle() if isinstance(e, FreezeProgress)]


# --- from another thread ------------------------------------------------------------------------


def test_turns_are_secured_while_the_engine_computes(open_fake: OpenManager) -> None:
    """The engine is in the middle of a long prompt, and another thread must not wait for it."""
    with open_fake() as manager:
        make_window(manager, 'trip', 2)
        engine = manager.engine
        assert isinstance(engine, HashEngine)
        is_computing, may_go_on = threading.Event(), threading.Event()
        secured: list[int] = []

        def hold(start: int) -> None:
            del start
            is_computing.set()
            assert may_go_on.wait(20)

        def secure() -> None:
            assert is_computing.wait(20)
            secured.append(manager.secure_turns())
            may_go_on.set()

        engine.before_slice = hold
        other = threading.Thread(target=secure)
        other.start()
        answer = say(manager, story(200))
        other.join()
        assert secured == [4], 'the prompt was durable already; nothing was said yet'
        assert answer.finish_reason != 'cancelled'
        assert len(manager.store.window('trip').turns) == 5


def test_an_answer_that_is_secured_ends_there(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 2)
        said, answer = '', None
        for event in manager.say(Request(text='Tell me more', max_tokens=24)):
            if isinstance(event, Delta):
                said += event.text
                if len(said) > 3 and answer is None:
                    other = threading.Thread(target=manager.secure_turns)
                    other.start()
                    other.join()
                    (*_, last) = manager.store.window('trip').turns
                    answer = last.text
            elif isinstance(event, Answer):
                assert event.finish_reason == 'cancelled'
                assert event.text == answer == said.strip()
        turns = manager.store.window('trip').turns
        assert [turn.role for turn in turns[-2:]] == [Role.USER, Role.ASSISTANT]
        assert list(turns) == manager.session.turns
        say(manager, 'Go on')
        complete(manager)
        assert_true_kv(manager.session)
        freeze(manager)
    with open_fake() as manager:
        manager.open_window('trip')
        complete(manager)
        assert_true_kv(manager.session)


def test_what_a_failing_disk_refused_is_secured_later(
    open_fake: OpenManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_fake() as manager:
        manager.create('trip')
        events = manager.say(Request(text='Hello', max_tokens=24))
        while not isinstance(next(events), Delta):
            pass

        def fail(window: str, turns: object) -> int:
            raise StorageError(f'{window}: the disk is gone', hint=str(turns)[:0])

        with monkeypatch.context() as broken:
            broken.setattr(manager.store, 'commit_turns', fail)
            with pytest.raises(StorageError):
                list(events)
        assert len(manager.store.window('trip').turns) == 2
        assert manager.secure_turns() == 3
        assert list(manager.store.window('trip').turns) == manager.session.turns


def test_without_a_window_nothing_is_to_be_secured(open_fake: OpenManager) -> None:
    assert open_fake().secure_turns() == 0
