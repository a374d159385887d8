# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A context that is full, and what goes on behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.answer import Answer, Request, When
from cwm_ros.errors import ContextFullError, StorageError
from cwm_ros.kv import Role, Turn
from cwm_ros.segment import begin_segment, SegmentStarted
from cwm_ros.session import Session
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
from tests.oracle import read_manifest as read_by_hand

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.manager import Manager
    from cwm_ros.model import Checkpoint
    from tests.conftest import OpenManager

SMALL = {'engine': {'context_tokens': 900}}


def assert_in_order(manager: Manager) -> None:
    """The segment is the system prompt and the last turns, rendered as if nothing went before."""
    session, turns = manager.session, manager.store.window(manager.window).turns
    assert session.head == 1
    assert session.turns[0] == turns[0]
    assert session.turns[1].role is Role.USER
    assert session.turns[1:] == list(turns[session.first_turn :])
    assert session.num_turns == len(turns)
    # Behind that are answers, whose tokens are those that the model chose.
    rendered = manager.checkpoint.chat.render(session.turns[:2], add_generation_prompt=False)
    assert session.tokens[: session.turn_stops[1]].tolist() == rendered.tolist()
    assert session.turn_stops[-1] == session.num_tokens <= session.engine.capacity
    assert_true_kv(session)


def talk_until_full(manager: Manager) -> SegmentStarted:
    for number in range(20):
        first, *_, answer = manager.say(Request(text=story(60, number)))
        assert isinstance(answer, Answer)
        assert not answer.is_provisional
        if isinstance(first, SegmentStarted):
            return first
    raise AssertionError('the context was never full')


def test_a_full_context_goes_on_with_the_recent_turns(open_fake: OpenManager) -> None:
    with open_fake(**SMALL) as manager:
        manager.create('trip')
        started = talk_until_full(manager)

        assert_in_order(manager)
        assert manager.session.first_turn == started.first_turn
        assert started.carried > 2, 'half of the context holds several exchanges'
        assert started.left_behind == started.first_turn - 1
        assert started.tokens <= 900 / 2 + manager.session.turn_stops[0]
        assert manager.warnings == (str(started),)
        texts = [
            turn.text for turn in manager.store.window('trip').turns if turn.role is Role.USER
        ]
        assert texts == [story(60, number) for number in range(len(texts))]


def test_several_segments_come_back_as_they_were(open_fake: OpenManager) -> None:
    with open_fake(**SMALL) as manager:
        manager.create('trip')
        starts = [talk_until_full(manager).first_turn for _ in range(3)]
        assert starts == sorted(set(starts))
        complete(manager)
        freeze(manager)
        turns, tokens = manager.session.turns, manager.session.tokens.tolist()
        assert_verified(manager)
    with open_fake(**SMALL) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.progress().reused_tokens == thaw.num_tokens
        assert (manager.session.turns, manager.session.tokens.tolist()) == (turns, tokens)
        assert manager.warnings == ()
        say(manager, 'Go on')
        assert_in_order(manager)


def test_the_manifest_says_which_turns_the_segment_renders(
    open_fake: OpenManager, tmp_path: Path
) -> None:
    with open_fake(**SMALL) as manager:
        manager.create('trip')
        started = talk_until_full(manager)
        freeze(manager)
        session = manager.session
        (path,) = (tmp_path / 'store').rglob('*.cwm')
    seen = read_by_hand(path.read_bytes())

    assert seen['segment_start_turn'] == started.first_turn == session.first_turn
    assert seen['num_turns'] == session.num_turns
    assert seen['turn_stops'] == session.turn_stops[1:], 'none for the repeated system prompt'
    assert seen['tokens'] == session.tokens.tolist()


def test_a_restart_right_after_the_boundary_finds_the_same_segment(
    open_fake: OpenManager,
) -> None:
    with open_fake(**SMALL) as manager:
        make_window(manager, 'trip', 4)
        talk_until_full(manager)
        turns = manager.session.turns
    with open_fake(**SMALL) as manager:  # nothing was frozen since
        manager.open_window('trip')
        complete(manager)
        assert manager.session.turns == turns
        assert_in_order(manager)


def test_chunks_of_the_segment_before_are_removed_but_for_those_that_others_need(
    open_fake: OpenManager,
) -> None:
    with open_fake(**SMALL) as manager:
        make_window(manager, 'trip', 4)
        assert chunk_files(manager)
        talk_until_full(manager)
        assert chunk_files(manager) == {}

        make_window(manager, 'other', 4, seed=5)
        before = chunk_files(manager)
        manager.store.clone_window('other', 'clone')
        talk_until_full(manager)
        assert chunk_files(manager) == before
        assert_verified(manager)
        thaw = manager.open_window('clone')
        complete(manager)
        assert thaw.progress().recomputed_tokens == 0


def test_ingesting_more_than_the_context_keeps_every_turn(open_fake: OpenManager) -> None:
    with open_fake(**SMALL) as manager:
        manager.create('trip')
        ingest(manager, 40)
        assert len(manager.store.window('trip').turns) == 41
        assert len(manager.warnings) > 3
        complete(manager)
        assert_in_order(manager)
        assert freeze(manager).chunks_done == len(chunk_files(manager))


@pytest.mark.parametrize('is_frozen', [True, False])
@pytest.mark.parametrize('context', [600, 800])
def test_a_window_longer_than_the_context_opens_at_its_recent_turns(
    open_fake: OpenManager, context: int, *, is_frozen: bool
) -> None:
    with open_fake() as manager:
        manager.create('long')
        ingest(manager, 12)
        if is_frozen:
            complete(manager)
            freeze(manager)
        turns = manager.store.window('long').turns
    for _ in range(2):  # the second finds nothing new, and the same
        with open_fake(engine={'context_tokens': context}) as manager:
            manager.open_window('long')
            (warning,) = manager.warnings
            assert 'the context was full' in warning
            assert manager.store.window('long').turns == turns
            complete(manager)
            assert_in_order(manager)
    with open_fake(engine={'context_tokens': context}) as manager:
        manager.open_window('long')
        say(manager, 'Still there?', When.COMPLETE)
        freeze(manager)
        assert_in_order(manager)
        first = manager.session.first_turn
    with open_fake() as manager:  # what was left behind stays behind, whatever the room
        manager.open_window('long')
        assert manager.session.first_turn == first
        assert manager.warnings == ()


def test_turns_that_no_longer_fit_behind_the_frozen_ones_begin_a_segment(
    open_fake: OpenManager,
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 3)
        num_tokens = manager.session.num_tokens
        ingest(manager, 4, seed=8)
        turns = manager.store.window('trip').turns
    with open_fake(engine={'context_tokens': num_tokens + 200}) as manager:
        manager.open_window('trip')
        complete(manager)
        assert manager.store.window('trip').turns == turns
        assert_in_order(manager)


def test_a_segment_under_another_template_is_rendered_anew(
    open_fake: OpenManager, other_template: str
) -> None:
    with open_fake(**SMALL) as manager:
        manager.create('trip')
        talk_until_full(manager)
        freeze(manager)
        first = manager.session.first_turn
    with open_fake(engine={'model': other_template, 'context_tokens': 900}) as manager:
        manager.open_window('trip')
        complete(manager)
        assert manager.session.first_turn == first
        assert_in_order(manager)
    with open_fake(engine={'model': other_template, 'context_tokens': 500}) as manager:
        manager.open_window('trip')
        complete(manager)
        assert manager.session.first_turn > first
        assert_in_order(manager)


def test_a_context_smaller_than_the_system_prompt_is_refused(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 2)
        make_window(manager, 'short', 0)
        turns = manager.store.window('trip').turns
    with open_fake(engine={'context_tokens': 60}) as manager:
        with pytest.raises(ContextFullError, match='holds 60'):
            manager.open_window('trip')
        assert manager.window == ''
        assert manager.store.window('trip').turns == turns


def test_one_prompt_alone_that_is_too_long_changes_nothing(open_fake: OpenManager) -> None:
    with open_fake(**SMALL) as manager:
        make_window(manager, 'trip', 4)
        session, tokens = manager.session, manager.session.tokens.tolist()
        for call in (
            lambda: list(manager.say(Request(text='x' * 900))),
            lambda: manager.add_turns([Turn(role=Role.USER, text='x' * 900)]),
        ):
            with pytest.raises(ContextFullError):
                call()
            assert manager.session is session
            assert session.tokens.tolist() == tokens
            assert len(manager.store.window('trip').turns) == 5


def test_a_long_prompt_takes_the_room_of_turns(open_fake: OpenManager) -> None:
    with open_fake(**SMALL) as manager:
        make_window(manager, 'trip', 5)
        say(manager, story(660))
        assert manager.session.turns[-2].text == story(660)
        assert_in_order(manager)


def test_a_failing_disk_at_the_boundary_changes_nothing(
    open_fake: OpenManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_fake(**SMALL) as manager:
        make_window(manager, 'trip', 6)
        session, tokens = manager.session, manager.session.tokens.tolist()
        commit = manager.store.commit_turns

        def fail(window: str, turns: list[Turn]) -> int:
            if turns:
                raise StorageError('the disk is gone', hint='')
            return commit(window, turns)

        with monkeypatch.context() as broken:
            broken.setattr(manager.store, 'commit_turns', fail)
            with pytest.raises(StorageError):
                list(manager.say(Request(text=story(200))))
        assert manager.session is session
        assert session.tokens.tolist() == tokens
        say(manager, story(200))
        assert_in_order(manager)


def test_a_manifest_that_cannot_be_written_at_the_boundary_is_told(
    open_fake: OpenManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_fake(**SMALL) as manager:
        make_window(manager, 'trip', 4)

        def fail(manifest: object) -> None:
            del manifest
            raise StorageError('the disk is full', hint='')

        with monkeypatch.context() as broken:
            broken.setattr(manager.store, 'commit_window', fail)
            talk_until_full(manager)
        assert any('the disk is full' in warning for warning in manager.warnings)
        turns = manager.store.window('trip').turns
    with open_fake(**SMALL) as manager:
        manager.open_window('trip')
        complete(manager)
        assert manager.store.window('trip').turns == turns
        assert_in_order(manager)


def test_a_thaw_in_flight_ends_at_the_boundary(open_fake: OpenManager) -> None:
    with open_fake(**SMALL) as manager:
        make_window(manager, 'trip', 6)
    with open_fake(**SMALL) as manager:
        manager.open_window('trip')
        first, *_ = manager.say(Request(text=story(200), when=When.NOW))
        assert isinstance(first, SegmentStarted)
        assert manager.thaw is None
        assert list(manager.session.provisional) == []
        assert_in_order(manager)


ROLES = st.sampled_from([Role.USER, Role.ASSISTANT])


@given(
    said=st.lists(st.tuples(ROLES, st.integers(0, 60)), max_size=30),
    capacity=st.integers(60, 500),
    keep=st.floats(0, 0.9),
)
def test_a_segment_is_the_longest_end_that_begins_with_a_prompt_and_fits(
    tiny_model: Checkpoint, said: list[tuple[Role, int]], capacity: int, keep: float
) -> None:
    model = tiny_model
    engine = HashEngine(model.identity, capacity=capacity)
    turns = [Turn(role=role, text='x' * letters) for role, letters in said]
    head = [Turn(role=Role.SYSTEM, text='Be brief.')]
    rendered = [
        len(model.chat.render_suffix(head, [turn], add_generation_prompt=False)) for turn in turns
    ]
    keep_tokens = int(capacity * keep)
    session = begin_segment(
        lambda head, first_turn: Session(
            engine, model.chat, frozenset(), head=head, first_turn=first_turn
        ),
        head,
        turns,
        rendered,
        stop_turn=100 + len(turns),
        keep_tokens=keep_tokens,
    )
    carried = session.turns[1:]
    room = min(keep_tokens, capacity - session.turn_stops[0])
    ends = [
        turns[start:]
        for start in range(len(turns))
        if turns[start].role is Role.USER and sum(rendered[start:]) <= room
    ]

    assert carried == (ends[0] if ends else [])
    assert session.num_turns == 100 + len(turns)
    assert session.num_tokens <= capacity
    np.testing.assert_array_equal(
        session.tokens, model.chat.render(session.turns, add_generation_prompt=False)
    )


# --- hardly any window --------------------------------------------------------------------------


def test_a_window_of_no_turns_can_be_talked_to(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 0)
        (log,) = manager.settings.storage.root.rglob('*.log')
        (manifest,) = manager.settings.storage.root.rglob('*.cwm')
        name = manager.store.window('trip').name
    from cwm_ros.store import turnlog

    manifest.unlink()
    log.write_bytes(turnlog.pack_header(name, bytes.fromhex(log.stem)))
    with open_fake() as manager:
        thaw = manager.open_window('trip')
        assert thaw.progress().is_complete
        assert say(manager, 'Hello').fidelity == 'EXACT'
        assert manager.store.window('trip').turns[0].text == 'Hello'
        freeze(manager)
    with open_fake() as manager:
        manager.open_window('trip')
        assert len(manager.session.turns) == 2


def test_a_prompt_to_a_session_with_nothing_resident_is_answered_provisionally(
    open_fake: OpenManager,
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 6)
    with open_fake() as manager:
        thaw = manager.open_window('trip')
        thaw.close()
        manager.engine.drop(0, manager.session.num_tokens)
        answer = say(manager, 'Hello', When.NOW)
        assert answer.fidelity.startswith('PARTIAL(0 of ')
        assert answer.is_provisional
        complete(manager)
        assert_true_kv(manager.session)
        assert list(manager.session.unsound()) == []
