# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Thaws that are cut off, held up and taken up again: the reference model and real files."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cwm_ros.answer import Delta, Request, When
from cwm_ros.errors import InterruptedOperation
from cwm_ros.kv import Role, Turn
from cwm_ros.manager import Manager
from tests.fakes import assert_verified, chunk_files, complete, freeze, say
from tests.soak import compare_kv, NAMES, Oracle
from tests.test_soak import soak_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cwm_ros.config import Settings
    from cwm_ros.kv import FloatArray, TokenArray
    from cwm_ros.thaw import Thaw

HOME, TRIP = NAMES
NUM_TURNS = 54
PROBE_TOKENS = 16
"""More than the check at the end of a restore computes."""
THREADS = 1
"""Twice as many load."""


@pytest.fixture(scope='module')
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('template') / 'store'


@pytest.fixture
def frozen(one_engine: Oracle, template: Path, tmp_path: Path, model_cache: Path) -> Oracle:
    """Provide two windows of about ten chunks that begin alike; return what knows their KV."""
    if not template.exists():
        with Manager(soak_settings(template, model_cache, 'raw')) as manager:
            for name in NAMES:
                manager.create(name)
                manager.add_turns([fact(index, name) for index in range(NUM_TURNS)])
                complete(manager)
                freeze(manager)
    shutil.copytree(template, tmp_path / 'store')
    return one_engine


@pytest.fixture
def settings(tmp_path: Path, model_cache: Path) -> Settings:
    given = soak_settings(tmp_path / 'store', model_cache, 'raw')
    return replace(given, thaw=replace(given.thaw, io_threads=THREADS))


def fact(index: int, name: str) -> Turn:
    """Return a turn; the first third is the same in all windows."""
    place = name if index > NUM_TURNS // 3 else 'car'
    role = (Role.USER, Role.ASSISTANT)[index % 2]
    return Turn(role=role, text=f'In the {place}, number {index} is called Rex {index * 7}.')


def assert_right(manager: Manager, oracle: Oracle) -> None:
    """Assert that sound KV is what a session has that was never frozen."""
    if manager.thaw is not None:
        manager.thaw.settle()
    assert compare_kv(manager, oracle, 1e-3)


@contextmanager
def computing(manager: Manager) -> Iterator[list[int]]:
    """Note how many tokens the engine computes."""
    computed: list[int] = []
    run = manager.engine.run

    def noting(tokens: TokenArray, start: int, **given: object) -> FloatArray:
        computed.append(len(tokens))
        return run(tokens, start, **given)  # type: ignore[arg-type]

    manager.engine.run = noting  # type: ignore[method-assign]
    try:
        yield computed
    finally:
        manager.engine.run = run  # type: ignore[method-assign]


@contextmanager
def reading(manager: Manager, gate: threading.Event | None = None) -> Iterator[list[int]]:
    """Note which chunks are read; each read waits for the gate."""
    begun: list[int] = []
    read = manager.store.read_chunk

    def noting(manifest: object, entry: object, buffer: object) -> object:
        begun.append(entry.start)  # type: ignore[attr-defined]
        assert gate is None or gate.wait(20)
        return read(manifest, entry, buffer)  # type: ignore[arg-type]

    manager.store.read_chunk = noting  # type: ignore[assignment, method-assign]
    try:
        yield begun
    finally:
        manager.store.read_chunk = read  # type: ignore[method-assign]


def advance(thaw: Thaw, num_steps: int) -> None:
    for _ in range(num_steps):
        thaw.advance(wait=True)


def full_chunk_files(manager: Manager) -> dict[str, tuple[int, int]]:
    """Return the stamps of the chunks of the open window, but of the tail, which is replaced."""
    manifest = manager.store.window(manager.window).manifest
    assert manifest is not None
    full = {e.file_name for e in manifest.chunks if e.stop - e.start == manifest.chunk_tokens}
    return {name: stamp for name, stamp in chunk_files(manager).items() if name in full}


def total_bytes(thaw: Thaw) -> int:
    return sum(step.entry.file_bytes for step in thaw.steps if step.entry)


# --- cancel -------------------------------------------------------------------------------------


def test_what_was_resident_when_a_thaw_was_cancelled_stays(
    settings: Settings, frozen: Oracle
) -> None:
    with Manager(settings) as manager:
        thaw = manager.open_window(TRIP)
        cancel = threading.Event()
        work = manager.catch_up(cancel)
        for _ in range(3):
            next(work)
        cancel.set()
        with pytest.raises(InterruptedOperation):
            next(work)
        done = thaw.progress()
        assert 3 <= done.chunks_done < done.chunks_total
        assert_right(manager, frozen)

        with reading(manager) as read:
            complete(manager)  # the same thaw goes on
        assert len(read) < done.chunks_total
        assert thaw.progress().bytes_loaded == total_bytes(thaw)
        assert thaw.progress().recomputed_tokens == 0
        assert_right(manager, frozen)


@pytest.mark.parametrize('is_left', [False, True])
def test_a_window_opened_again_reads_only_what_is_not_there(
    settings: Settings, frozen: Oracle, *, is_left: bool
) -> None:
    with Manager(settings) as manager:
        first = manager.open_window(TRIP)
        advance(first, 3)
        first.settle()
        if is_left:
            manager.leave()
        with reading(manager) as read:
            second = manager.open_window(TRIP)
            kept, kept_chunks = second.progress().kept_tokens, second.progress().chunks_done
            complete(manager)

        assert kept >= 3 * settings.codec.chunk_tokens
        assert first.progress().bytes_loaded + second.progress().bytes_loaded == total_bytes(first)
        assert len(read) == len(second.steps) - kept_chunks
        assert second.progress().reused_tokens == second.num_tokens
        assert_right(manager, frozen)


def test_turns_after_the_freeze_are_not_computed_again_either(
    settings: Settings, frozen: Oracle
) -> None:
    with Manager(settings) as manager:
        manager.open_window(TRIP)
        say(manager, 'What is number 3 called?', When.COMPLETE, max_tokens=4)
        complete(manager)
        manager.leave()
        with computing(manager) as computed, reading(manager) as read:
            thaw = manager.open_window(TRIP)
            complete(manager)

        assert read == []
        assert sum(computed) <= PROBE_TOKENS
        assert thaw.is_complete
        assert_right(manager, frozen)


def test_a_provisional_answer_is_repaired_after_the_window_is_opened_again(
    settings: Settings, frozen: Oracle
) -> None:
    with Manager(settings) as manager:
        thaw = manager.open_window(TRIP)
        thaw.pause()
        say(manager, 'What is number 3 called?', When.NOW, max_tokens=2)
        assert list(manager.session.provisional)
        manager.leave()
        manager.open_window(TRIP)
        assert list(manager.session.provisional)
        complete(manager)

        assert list(manager.session.provisional) == []
        assert_right(manager, frozen)


# --- pause --------------------------------------------------------------------------------------


@pytest.mark.parametrize(('staging_mib', 'most'), [(64, 2 * THREADS), (1, 1)])
def test_a_pause_stops_reading_within_a_chunk_of_each_thread(
    settings: Settings, frozen: Oracle, staging_mib: int, most: int
) -> None:
    settings = replace(settings, thaw=replace(settings.thaw, staging_mib=staging_mib))
    with Manager(settings) as manager:
        gate = threading.Event()
        with reading(manager, gate) as read:
            thaw = manager.open_window(TRIP)
            while len(read) < most:
                time.sleep(0.001)
            thaw.pause()
            gate.set()
            assert not thaw.advance(wait=False)
            thaw.settle()
            time.sleep(0.05)
            assert len(read) == most
            assert thaw.is_paused
            assert_right(manager, frozen)

            freeze(manager)  # what is asked of it meanwhile is done
            assert len(read) == most
            thaw.resume()
            complete(manager)

        assert sorted(read) == sorted(step.start for step in thaw.steps)
        assert thaw.progress().recomputed_tokens == 0
        assert_right(manager, frozen)


def test_who_waits_for_a_paused_thaw_waits_until_it_goes_on(
    settings: Settings, frozen: Oracle
) -> None:
    with Manager(settings) as manager:
        thaw = manager.open_window(TRIP)
        thaw.pause()
        timer = threading.Timer(0.1, thaw.resume)
        timer.start()
        complete(manager)

        assert thaw.is_complete
        assert thaw.progress().recomputed_tokens == 0
        assert_right(manager, frozen)


def test_waiting_for_a_paused_thaw_can_be_cancelled(settings: Settings, frozen: Oracle) -> None:
    with Manager(settings) as manager:
        thaw = manager.open_window(TRIP)
        thaw.pause()
        cancel = threading.Event()
        timer = threading.Timer(0.05, cancel.set)
        timer.start()
        with pytest.raises(InterruptedOperation):
            list(manager.say(Request(text='Who is Rex?', when=When.COMPLETE), cancel))
        thaw.resume()
        complete(manager)
        assert_right(manager, frozen)


def test_a_paused_thaw_is_left_and_taken_up(settings: Settings, frozen: Oracle) -> None:
    with Manager(settings) as manager:
        manager.open_window(TRIP).pause()
        thaw = manager.open_window(TRIP)
        complete(manager)

        assert not thaw.is_paused
        assert thaw.progress().recomputed_tokens == 0
        assert_right(manager, frozen)


def test_turns_that_are_secured_have_the_drive_to_themselves(
    settings: Settings, frozen: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Manager(settings) as manager:
        thaw = manager.open_window(TRIP)
        secure, seen = manager.live.secure, []

        def watched() -> int:
            seen.append(thaw.is_paused)
            return secure()

        monkeypatch.setattr(manager.live, 'secure', watched)
        num_turns = manager.secure_turns()
        assert num_turns == manager.session.num_turns
        assert not thaw.is_paused
        thaw.pause()
        assert manager.secure_turns() == num_turns
        assert thaw.is_paused, 'whoever paused it before decides when it goes on'
        assert not thaw.advance(wait=False)
        thaw.resume()
        complete(manager)

        assert seen == [True, True]
        assert_right(manager, frozen)


# --- in the middle of it ------------------------------------------------------------------------


@pytest.mark.parametrize('num_steps', [0, 2, 5])
def test_windows_are_switched_in_the_middle(
    settings: Settings, frozen: Oracle, num_steps: int
) -> None:
    """What both begin with is read once."""
    with Manager(settings) as manager:
        advance(manager.open_window(TRIP), num_steps)
        advance(manager.open_window(HOME), num_steps)
        assert_right(manager, frozen)
        thaw = manager.open_window(TRIP)
        complete(manager)
        assert thaw.progress().recomputed_tokens == 0
        assert_right(manager, frozen)
        shared = manager.open_window(HOME).progress().kept_tokens
        complete(manager)

        assert 0 < shared < manager.session.num_tokens
        assert_right(manager, frozen)


def test_a_window_is_frozen_in_the_middle_of_an_answer_that_thaws_it(
    settings: Settings, frozen: Oracle
) -> None:
    with Manager(settings) as manager:
        manager.open_window(TRIP)
        before = full_chunk_files(manager)
        events = manager.say(Request(text='What is number 20 called?', max_tokens=6))
        for event in events:
            if isinstance(event, Delta):
                break
        events.close()
        freeze(manager)
        after = full_chunk_files(manager)

        assert {name: after[name] for name in before} == before
        assert_right(manager, frozen)
        complete(manager)
        freeze(manager)
        assert_verified(manager)
    with Manager(settings) as manager:
        thaw = manager.open_window(TRIP)
        complete(manager)
        assert thaw.progress().recomputed_tokens == 0
        assert_right(manager, frozen)


@pytest.mark.parametrize('num_steps', [0, 3])
def test_a_shutdown_in_the_middle_ends_all_threads(
    settings: Settings, frozen: Oracle, num_steps: int
) -> None:
    with Manager(settings) as manager:
        advance(manager.open_window(TRIP), num_steps)
    assert not [t for t in threading.enumerate() if t.name.startswith('cwm-thaw')]
    with Manager(settings) as manager:
        assert_verified(manager)
        thaw = manager.open_window(TRIP)
        complete(manager)
        assert thaw.progress().reused_tokens == thaw.num_tokens
        assert_right(manager, frozen)
