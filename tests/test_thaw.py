# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A thaw under a microscope: chunks arrive when the test says so."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
import threading
from typing import TYPE_CHECKING

import pytest

from cwm_ros import opening as opening_module
from cwm_ros.answer import Answer, Delta, Request, When
from cwm_ros.errors import EngineError, FormatError, InterruptedOperation, StorageError
from cwm_ros.kv import Role, Turn
from cwm_ros.machine import rate_file
from cwm_ros.progress import ThawProgress
from cwm_ros.rates import RateBook
from cwm_ros.restore import ChunkReader
from tests.fakes import (
    assert_true_kv,
    assert_verified,
    chunk_files,
    complete,
    freeze,
    Gate,
    HashEngine,
    ingest,
    make_window,
    say,
    story,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.manager import Manager
    from tests.conftest import OpenManager

CHUNK = 128
NUM_TURNS = 14


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Return the gate through which all chunks of the next thaw come."""
    gate = Gate(lambda step: None)  # noqa: ARG005

    def through_gate(*args: object, **more: object) -> Gate:
        gate.load = ChunkReader(*args, **more)  # type: ignore[arg-type]
        return gate

    monkeypatch.setattr(opening_module, 'ChunkReader', through_gate)
    yield gate
    for event in gate.closed.values():
        event.set()


def block(gate: Gate, *starts: int) -> None:
    gate.closed |= {start: threading.Event() for start in starts}


def release(gate: Gate) -> None:
    for event in gate.closed.values():
        event.set()


def frozen(open_fake: OpenManager, *, name: str = 'trip') -> int:
    """Make a window and return the number of its tokens."""
    with open_fake() as manager:
        make_window(manager, name, NUM_TURNS)
        return manager.session.num_tokens


def middle_starts(manager: Manager) -> list[int]:
    assert manager.thaw is not None
    return [step.start for step in manager.thaw.steps if not step.is_usable_part]


def deltas(events: list[object]) -> str:
    return ''.join(event.text for event in events if isinstance(event, Delta))


def test_turns_that_outgrow_the_cache_lose_no_chunk_in_flight(open_fake: OpenManager) -> None:
    frozen(open_fake)
    with open_fake(thaw={'io_threads': 1}) as manager:
        thaw = manager.open_window('trip')
        slots = manager.engine.reach
        while manager.session.num_tokens <= slots:
            ingest(manager, 2)
        while thaw.advance(wait=True):
            assert_true_kv(manager.session)

        assert manager.engine.reach > slots
        assert thaw.progress().recomputed_tokens == 0
        complete(manager)
        assert_true_kv(manager.session)


def test_progress_tells_usable_then_complete(open_fake: OpenManager) -> None:
    num_tokens = frozen(open_fake)
    manager = open_fake(thaw={'io_threads': 1})
    thaw = manager.open_window('trip')
    seen = [thaw.progress()]
    while thaw.advance(wait=True):
        seen.append(thaw.progress())
    usable = [step for step in thaw.steps if step.is_usable_part]

    assert [p.chunks_done for p in seen] == list(range(len(thaw.steps) + 1))
    assert [p.is_usable for p in seen].index(True) == len(usable)
    assert [p.is_complete for p in seen].index(True) == len(thaw.steps)
    assert [p.bytes_loaded for p in seen] == sorted(p.bytes_loaded for p in seen)
    assert [p.elapsed_s for p in seen] == sorted(p.elapsed_s for p in seen)
    assert str(seen[0].fidelity) == f'PARTIAL(0 of {num_tokens})'
    assert str(seen[-1].fidelity) == 'EXACT'
    assert seen[-1].reused_tokens == num_tokens
    assert not thaw.advance(wait=True)
    assert_true_kv(manager.session)


def test_an_answer_begins_when_usable_and_the_rest_arrives_meanwhile(
    open_fake: OpenManager, gate: Gate
) -> None:
    frozen(open_fake)
    block(gate, *(CHUNK * i for i in range(2, 5)))
    manager = open_fake(thaw={'relevant_chunks': 0, 'io_threads': 1})
    thaw = manager.open_window('trip')
    events: list[object] = []
    for event in manager.say(Request(text=story(50, 3), when=When.USABLE, max_tokens=20)):
        events.append(event)
        if isinstance(event, Delta) and len(deltas(events)) == 1:
            assert str(thaw.progress().fidelity).startswith('PARTIAL')
            assert thaw.progress().is_usable
            assert not thaw.is_complete
            release(gate)
    answer = events[-1]

    assert isinstance(answer, Answer)
    assert answer.fidelity.startswith('PARTIAL')
    assert answer.is_provisional
    assert answer.text == deltas(events).strip()
    assert_true_kv(manager.session)
    complete(manager)
    assert str(manager.session.fidelity) == 'EXACT'
    assert list(manager.session.provisional) == []
    assert_true_kv(manager.session)


def test_an_answer_does_not_begin_before_the_window_is_usable(
    open_fake: OpenManager, gate: Gate
) -> None:
    num_tokens = frozen(open_fake)
    last = (num_tokens - 1) // CHUNK * CHUNK
    block(gate, last)
    manager = open_fake(thaw={'io_threads': 8})
    thaw = manager.open_window('trip')
    threading.Timer(0.05, release, [gate]).start()
    events = list(manager.say(Request(text='Now?', when=When.USABLE)))
    first = next(i for i, e in enumerate(events) if isinstance(e, Delta))
    before = [e for e in events[:first] if isinstance(e, ThawProgress)]

    assert before[-1].is_usable
    assert not any(progress.is_answerable for progress in before[:-1])
    assert thaw.warnings == ()
    assert_true_kv(manager.session)


def test_what_the_prompt_asks_for_comes_before_the_answer(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        manager.create('trip')
        ingest(manager, 6)
        position = manager.session.num_tokens
        manager.add_turns([Turn(role=Role.USER, text='The parking code is QXZ 4711.')])
        ingest(manager, 8, seed=2)
        complete(manager)
        freeze(manager)
    manager = open_fake(thaw={'io_threads': 1, 'relevant_chunks': 1})
    thaw = manager.open_window('trip')
    events = list(manager.say(Request(text='QXZ 4711?', max_tokens=1)))
    first = next(i for i, e in enumerate(events) if isinstance(e, Delta))
    asked = position // CHUNK * CHUNK

    relevant = [s for s in thaw.steps if s.start == asked]
    assert not relevant[0].is_usable_part
    assert isinstance(events[first - 1], ThawProgress)
    assert events[first - 1].is_answerable
    assert manager.session.engine.resident.covers(asked, asked + CHUNK)


def test_complete_waits_for_everything(open_fake: OpenManager) -> None:
    frozen(open_fake)
    manager = open_fake()
    thaw = manager.open_window('trip')
    answer = say(manager, 'Well?', When.COMPLETE)

    assert thaw.is_complete
    assert (answer.fidelity, answer.is_provisional) == ('EXACT', False)
    assert list(manager.session.unsound()) == list(
        manager.session.engine.resident.missing(0, manager.session.num_tokens)
    )


def test_now_waits_for_nothing(open_fake: OpenManager, gate: Gate) -> None:
    num_tokens = frozen(open_fake)
    block(gate, *range(0, num_tokens, CHUNK))
    manager = open_fake(thaw={'io_threads': 1})
    manager.open_window('trip')
    # Chunks in flight are settled before the cache may grow, so they have to arrive.
    threading.Timer(0.05, release, [gate]).start()
    answer = say(manager, 'Now!', When.NOW)

    assert answer.fidelity == f'PARTIAL({2 * CHUNK} of {num_tokens})'
    assert answer.is_provisional
    complete(manager)
    assert_true_kv(manager.session)


@pytest.mark.parametrize(
    'failure',
    [
        FormatError(Path('chunk'), 'is damaged'),
        StorageError('the device is gone'),
        FileNotFoundError('gone'),
        ValueError('a bug'),
        MemoryError('no memory'),
    ],
)
def test_a_usable_chunk_that_fails_is_computed_at_once(
    open_fake: OpenManager, gate: Gate, failure: BaseException
) -> None:
    num_tokens = frozen(open_fake)
    gate.failures[0] = failure
    block(gate, *(CHUNK * i for i in range(2, 8)))
    manager = open_fake(thaw={'io_threads': 8, 'relevant_chunks': 0})
    thaw = manager.open_window('trip')
    while not thaw.progress().is_usable:
        thaw.advance(wait=True)

    assert thaw.progress().recomputed_tokens == CHUNK
    assert len(thaw.warnings) == 1
    assert str(failure.args[0] if failure.args else failure) in thaw.warnings[0]
    assert not thaw.is_complete
    release(gate)
    complete(manager)
    assert_true_kv(manager.session)
    assert thaw.progress().reused_tokens == num_tokens - CHUNK


def test_a_relevant_chunk_that_fails_does_not_hold_up_the_answer(
    open_fake: OpenManager, gate: Gate
) -> None:
    frozen(open_fake)
    manager = open_fake(thaw={'io_threads': 1, 'relevant_chunks': 1})
    manager.open_window('trip')
    middle = middle_starts(manager)
    manager.leave()
    for start in middle:
        gate.failures[start] = StorageError('gone')
    manager.open_window('trip')
    answer = say(manager, story(120, 5), When.USABLE)

    assert answer.fidelity.startswith('PARTIAL'), 'it waited for the repair of everything'
    complete(manager)
    assert_true_kv(manager.session)


def test_an_error_that_is_no_chunk_s_fault_reaches_the_caller(
    open_fake: OpenManager, gate: Gate
) -> None:
    frozen(open_fake)
    gate.failures[0] = EngineError('the accelerator is gone')
    manager = open_fake()
    manager.open_window('trip')
    with pytest.raises(EngineError, match='accelerator'):
        complete(manager)
    manager.leave()

    gate.failures.clear()
    manager.open_window('trip')
    complete(manager)
    assert_true_kv(manager.session)


def test_an_error_that_nobody_took_does_not_keep_a_window_open(
    open_fake: OpenManager, gate: Gate
) -> None:
    frozen(open_fake)
    gate.failures[0] = EngineError('the accelerator is gone')
    with open_fake() as manager:
        manager.open_window('trip')
        with pytest.raises(EngineError, match='accelerator'):
            manager.leave()
        assert manager.window == ''
        manager.leave()
        make_window(manager, 'other', 2)


@pytest.mark.parametrize('num_steps', [0, 1, 4])
def test_another_window_is_opened_in_the_middle_of_a_thaw(
    open_fake: OpenManager, num_steps: int
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', NUM_TURNS)
        make_window(manager, 'other', NUM_TURNS, seed=4)
    manager = open_fake()
    thaw = manager.open_window('trip')
    for _ in range(num_steps):
        thaw.advance(wait=True)
    manager.open_window('other')
    complete(manager)

    assert_true_kv(manager.session)
    assert str(manager.session.fidelity) == 'EXACT'
    assert not [t for t in threading.enumerate() if t.name.startswith('cwm-thaw-0')]


@pytest.mark.parametrize('num_steps', range(0, 12, 2))
def test_a_freeze_in_the_middle_of_a_thaw_keeps_all_chunks(
    open_fake: OpenManager, num_steps: int
) -> None:
    frozen(open_fake)
    with open_fake() as manager:
        thaw = manager.open_window('trip')
        before = chunk_files(manager)
        for _ in range(num_steps):
            thaw.advance(wait=True)
        progress = freeze(manager)

        assert progress.chunks_reused == progress.chunks_total == len(before)
        assert chunk_files(manager) == before
        complete(manager)
        assert_true_kv(manager.session)
    with open_fake() as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.progress().recomputed_tokens == 0
        assert_verified(manager)


def test_closing_in_the_middle_of_a_thaw_ends_its_threads(
    open_fake: OpenManager, gate: Gate
) -> None:
    frozen(open_fake)
    block(gate, CHUNK * 3, CHUNK * 4)
    with open_fake() as manager:
        thaw = manager.open_window('trip')
        thaw.advance(wait=True)
        threading.Timer(0.05, release, [gate]).start()

    assert not [t for t in threading.enumerate() if t.name.startswith('cwm-thaw')]
    with open_fake() as manager:
        manager.open_window('trip')
        complete(manager)
        assert_true_kv(manager.session)


def test_closing_does_not_wait_for_a_result_that_was_lost(
    open_fake: OpenManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt may fall between a result's arrival and its taking."""
    frozen(open_fake)
    manager = open_fake()
    thaw = manager.open_window('trip')

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(thaw, '_take_one', interrupted)
        with pytest.raises(KeyboardInterrupt):
            thaw.advance(wait=True)
    closing = threading.Thread(target=thaw.close, daemon=True)
    closing.start()
    closing.join(10)

    assert not closing.is_alive()
    manager.leave()
    manager.open_window('trip')
    complete(manager)
    assert_true_kv(manager.session)


def test_a_window_that_is_opened_again_goes_on_where_it_was(open_fake: OpenManager) -> None:
    num_tokens = frozen(open_fake)
    manager = open_fake(thaw={'io_threads': 1})
    num_bytes = 0
    for num_steps in (1, 3, 100):
        thaw = manager.open_window('trip')
        for _ in range(num_steps):
            thaw.advance(wait=True)
        assert_true_kv(manager.session)
        manager.leave()
        num_bytes += thaw.progress().bytes_loaded
    thaw = manager.open_window('trip')

    assert thaw.is_complete
    assert thaw.progress().reused_tokens == thaw.progress().kept_tokens == num_tokens
    assert num_bytes == sum(step.entry.file_bytes for step in thaw.steps if step.entry)


def test_a_prompt_that_is_cancelled_while_it_waits(open_fake: OpenManager) -> None:
    frozen(open_fake)
    manager = open_fake()
    manager.open_window('trip')
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(InterruptedOperation):
        list(manager.say(Request(text='Well?'), cancel))

    assert manager.session.turns[-1].text == 'Well?'
    assert list(manager.store.window('trip').turns) == manager.session.turns
    say(manager, 'And now?')
    complete(manager)
    assert_true_kv(manager.session)
    freeze(manager)
    assert_verified(manager)


def test_a_prompt_that_is_cancelled_in_its_prefill(open_fake: OpenManager) -> None:
    frozen(open_fake)
    manager = open_fake()
    manager.open_window('trip')
    complete(manager)
    engine = manager.engine
    assert isinstance(engine, HashEngine)
    cancel = threading.Event()
    begin = manager.session.num_tokens
    engine.before_slice = lambda left: left > begin + 60 and cancel.set()
    *_, answer = manager.say(Request(text=story(300, 8)), cancel)
    engine.before_slice = int

    assert isinstance(answer, Answer)
    assert (answer.finish_reason, answer.text, answer.new_tokens) == ('cancelled', '', 0)
    assert_true_kv(manager.session)
    complete(manager)
    assert str(manager.session.fidelity) == 'EXACT'
    assert_true_kv(manager.session)


def test_an_answer_that_is_cancelled_is_what_was_said(open_fake: OpenManager) -> None:
    frozen(open_fake)
    manager = open_fake()
    manager.open_window('trip')
    cancel = threading.Event()
    events: list[object] = []
    for event in manager.say(Request(text=story(9, 1), when=When.COMPLETE), cancel):
        events.append(event)
        if isinstance(event, Delta) and len(deltas(events)) >= 2:
            cancel.set()
    answer = events[-1]

    assert isinstance(answer, Answer)
    assert answer.finish_reason == 'cancelled'
    assert answer.text == manager.session.turns[-1].text == deltas(events)
    complete(manager)
    assert_true_kv(manager.session)


def test_a_repair_that_is_cancelled_goes_on_later(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        manager.create('trip')
        ingest(manager, NUM_TURNS)
    manager = open_fake()
    manager.open_window('trip')
    cancel = threading.Event()
    progress = manager.catch_up(cancel)
    next(progress)
    cancel.set()
    with pytest.raises(InterruptedOperation):
        list(progress)

    assert_true_kv(manager.session)
    freeze(manager)
    complete(manager)
    assert_true_kv(manager.session)
    freeze(manager)
    assert_verified(manager)


def test_damaged_chunks_are_listed_until_they_are_discarded(
    open_fake: OpenManager, tmp_path: Path, gate: Gate
) -> None:
    frozen(open_fake)
    gate.failures[0] = FormatError(tmp_path, 'is damaged')
    gate.failures[CHUNK] = StorageError('is busy')
    manager = open_fake()
    thaw = manager.open_window('trip')
    complete(manager)

    assert [entry.start for entry in thaw.damaged] == [0]
    freeze(manager)
    assert thaw.damaged == []
    assert_verified(manager)


# --- load or recompute --------------------------------------------------------------------------


class StubbornBook(RateBook):
    """Believes what it was told first."""

    def computing(self, *_: object) -> AbstractContextManager[None]:
        return nullcontext()


def know(manager: Manager, *, chunk_load_s: float, chunk_compute_s: float) -> None:
    """Have a board be known to take so long for a chunk, whatever it does."""
    manager._loaded.rates = StubbornBook()
    for _ in range(8):
        num_bytes = 8 * CHUNK * 8  # raw float32, two values of two each
        manager.rates.add_load(8, num_bytes, 8 * chunk_load_s, 0.0)
        manager.rates.add_prefill(CHUNK, 2048, chunk_compute_s)


@pytest.mark.parametrize('strategy', ['load', 'recompute', 'auto'])
def test_the_caller_s_strategy_counts(open_fake: OpenManager, strategy: str) -> None:
    num_tokens = frozen(open_fake)
    manager = open_fake(thaw={'strategy': 'auto'})
    know(manager, chunk_load_s=1e-6, chunk_compute_s=10.0)
    thaw = manager.open_window('trip', strategy=strategy)
    complete(manager)
    progress = thaw.progress()

    assert_true_kv(manager.session)
    assert str(manager.session.fidelity) == 'EXACT'
    if strategy == 'recompute':
        assert progress.reused_tokens == progress.bytes_loaded == 0
        assert progress.recomputed_tokens >= num_tokens
    else:
        assert progress.reused_tokens == num_tokens
        assert progress.recomputed_tokens == 0


def test_a_drive_that_is_slow_beside_the_engine_is_spared(open_fake: OpenManager) -> None:
    num_tokens = frozen(open_fake)
    with open_fake(thaw={'strategy': 'auto'}) as manager:
        know(manager, chunk_load_s=1e3, chunk_compute_s=1e-3)
        thaw = manager.open_window('trip')
        seen = [thaw.progress()]
        while thaw.advance(wait=True):
            seen.append(thaw.progress())

        assert seen[-1].is_complete
        assert seen[-1].reused_tokens == 0
        assert seen[-1].recomputed_tokens >= num_tokens
        assert [p.is_usable for p in seen].index(True) < len(seen) - 2, 'the priority part first'
        assert_true_kv(manager.session)
        assert freeze(manager).bytes_written == 0


def test_the_lanes_meet_and_all_is_true(open_fake: OpenManager) -> None:
    num_tokens = frozen(open_fake)
    manager = open_fake(thaw={'strategy': 'auto', 'io_threads': 1})
    know(manager, chunk_load_s=1.0, chunk_compute_s=0.9)
    thaw = manager.open_window('trip')
    complete(manager)
    progress = thaw.progress()

    assert progress.recomputed_tokens >= CHUNK
    assert progress.reused_tokens >= CHUNK
    assert progress.recomputed_tokens + progress.reused_tokens >= num_tokens
    assert_true_kv(manager.session)
    assert str(manager.session.fidelity) == 'EXACT'
    assert_verified(manager)


def test_an_answer_does_not_wait_for_the_engine_s_own_work(open_fake: OpenManager) -> None:
    """While it speaks it computes nothing else: then even a slow drive is of use."""
    frozen(open_fake)
    manager = open_fake(thaw={'strategy': 'auto', 'relevant_chunks': 0})
    know(manager, chunk_load_s=1e3, chunk_compute_s=1e-3)
    thaw = manager.open_window('trip')
    answer = say(manager, 'Well?', When.USABLE)
    recomputed = thaw.progress().recomputed_tokens

    assert answer.is_provisional
    assert recomputed <= sum(s.stop - s.start for s in thaw.steps if s.is_usable_part)
    complete(manager)
    assert_true_kv(manager.session)


def test_what_a_thaw_has_shown_is_known_at_the_next_start(open_fake: OpenManager) -> None:
    frozen(open_fake)
    with open_fake() as manager:
        manager.open_window('trip')
        complete(manager)
    with open_fake() as manager:
        assert manager.rates.rates.can_load


def test_what_a_thaw_has_shown_is_written_in_idle_time_or_at_the_end(
    open_fake: OpenManager,
) -> None:
    """Writing it takes a sync, for which nobody shall wait who opens another window."""
    frozen(open_fake)
    with open_fake() as manager:
        kept = rate_file(manager.settings, manager.engine.identity.model)
        old = kept.read_bytes()
        manager.open_window('trip')
        complete(manager)
        manager.leave()
        assert kept.read_bytes() == old
        manager.open_window('trip')
        for _ in manager.idle():
            pass
        idle = kept.read_bytes()
        assert idle != old
        manager.rates.add_load(10, 1_000_000, 0.5, 0.25)
    assert kept.read_bytes() != idle


def test_a_chunk_that_changes_after_the_plan_is_computed(
    open_fake: OpenManager, gate: Gate
) -> None:
    """Another chunk's bytes, cut, emptied or gone: each is found when it is read."""
    frozen(open_fake)
    block(gate, 0)
    manager = open_fake()
    thaw = manager.open_window('trip')
    paths = [manager.store.chunk_path(s.entry.id, s.entry.codec) for s in thaw.steps if s.entry]
    contents = [path.read_bytes() for path in paths]
    middle = [n for n, step in enumerate(thaw.steps) if not step.is_usable_part][-4:]
    paths[middle[0]].write_bytes(contents[0])
    paths[middle[1]].write_bytes(contents[middle[1]][:-1])
    paths[middle[2]].write_bytes(b'')
    paths[middle[3]].unlink()
    release(gate)
    complete(manager)

    assert thaw.progress().recomputed_tokens >= 4 * CHUNK
    assert len(thaw.warnings) == 4
    assert_true_kv(manager.session)
    freeze(manager)
    assert_verified(manager)


def test_a_window_without_a_turn_has_nothing_to_thaw(open_fake: OpenManager) -> None:
    """The power went after the log was made and before the first turn was whole."""
    with open_fake() as manager:
        manager.create('empty')
        (log,) = manager.settings.storage.root.rglob('windows/*.log')
        size = log.stat().st_size
    log.write_bytes(log.read_bytes()[: size - 1])
    with open_fake() as manager:
        thaw = manager.open_window('empty')
        progress = thaw.progress()

        assert (progress.chunks_total, progress.is_usable, progress.is_complete) == (0, True, True)
        assert not thaw.advance(wait=True)
        manager.add_turns([Turn(role=Role.USER, text='Hello?')])
        complete(manager)
        assert_true_kv(manager.session)
        freeze(manager)
        assert_verified(manager)


def test_under_other_weights_the_usable_part_is_computed_first_and_all_is_written_anew(
    open_fake: OpenManager, other_weights: str
) -> None:
    num_tokens = frozen(open_fake)
    with open_fake(engine={'model': other_weights}) as manager:
        thaw = manager.open_window('trip')
        seen = [thaw.progress()]
        while thaw.advance(wait=True):
            seen.append(thaw.progress())
        num_usable = sum(step.is_usable_part for step in thaw.steps)

        assert [p.is_usable for p in seen].index(True) == num_usable < len(thaw.steps)
        done = [p.chunks_done for p in seen]
        assert done == sorted(done)
        assert done[-1] == len(thaw.steps)
        assert [p.recomputed_tokens for p in seen] == sorted(p.recomputed_tokens for p in seen)
        assert seen[-1].reused_tokens == 0
        assert_true_kv(manager.session)
        assert freeze(manager).chunks_reused == 0
    with open_fake(engine={'model': other_weights}) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.progress().reused_tokens == num_tokens
        assert_true_kv(manager.session)
