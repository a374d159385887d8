# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Answers given while context was missing: given up, repaired, reviewed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.abstention import Abstentions
from cwm_ros.answer import Answer, Delta, Request, When
from cwm_ros.errors import EngineError
from cwm_ros.kv import Role, Turn
from cwm_ros.review import content_filter, Review, ReviewVerdict
from tests.fakes import assert_true_kv, complete, freeze, make_window, say

if TYPE_CHECKING:
    from cwm_ros.manager import Manager
    from tests.conftest import OpenManager

NUM_TURNS = 14


def reviews_of(manager: Manager) -> list[Review]:
    return [event for event in manager.catch_up() if isinstance(event, Review)]


def answer_from_little(open_fake: OpenManager) -> Manager:
    """Return a manager that has answered from the chunks that it asked for first."""
    with open_fake() as manager:
        make_window(manager, 'trip', NUM_TURNS)
    manager = open_fake(thaw={'io_threads': 1})
    thaw = manager.open_window('trip')
    thaw.settle()
    thaw.pause()  # else the clock decides what the answer is given from
    answer = say(manager, 'Now!', When.NOW)
    thaw.resume()
    assert answer.is_provisional
    return manager


def full_answer(open_fake: OpenManager) -> str:
    """Return what is answered when all is there."""
    with open_fake() as manager:
        make_window(manager, 'other', NUM_TURNS)
    with open_fake() as manager:
        manager.open_window('other')
        return say(manager, 'Now!', When.COMPLETE).text


def test_a_changed_answer_is_told_and_the_record_stays(open_fake: OpenManager) -> None:
    truth = full_answer(open_fake)
    manager = answer_from_little(open_fake)
    turns, tokens = list(manager.session.turns), manager.session.tokens.tolist()
    (review,) = reviews_of(manager)

    assert review.verdict is ReviewVerdict.CHANGED
    assert (review.said, review.text) == (turns[-1].text, truth)
    assert review.gap > 1
    assert review.turn == len(turns) - 1
    assert manager.session.turns == turns
    assert list(manager.store.window('trip').turns) == turns
    assert manager.session.tokens.tolist() == tokens
    assert list(manager.session.provisional) == []
    assert manager.session.engine.resident.covers(0, len(tokens))
    assert_true_kv(manager.session)
    assert reviews_of(manager) == []


def test_several_answers_are_reviewed_in_order(open_fake: OpenManager) -> None:
    manager = answer_from_little(open_fake)
    say(manager, 'And then?', When.NOW)
    first, second = reviews_of(manager)

    assert first.turn == second.turn - 2
    assert_true_kv(manager.session)
    assert say(manager, 'Well?').is_provisional is False


def test_a_review_that_is_left_in_the_middle_is_given_later(open_fake: OpenManager) -> None:
    manager = answer_from_little(open_fake)
    for event in manager.catch_up():
        if not isinstance(event, Review):
            break
    assert_true_kv(manager.session)
    assert len(reviews_of(manager)) == 1
    assert_true_kv(manager.session)


def test_an_answer_that_was_frozen_is_reviewed_in_the_next_cycle(open_fake: OpenManager) -> None:
    with answer_from_little(open_fake) as manager:
        freeze(manager)
    manager = open_fake()
    manager.open_window('trip')
    (review,) = reviews_of(manager)

    assert review.verdict is ReviewVerdict.CHANGED
    assert review.turn == len(manager.session.turns) - 1
    assert_true_kv(manager.session)


def test_an_answer_from_all_is_not_reviewed(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', NUM_TURNS)
    manager = open_fake()
    manager.open_window('trip')
    say(manager, 'Now!', When.COMPLETE)
    assert reviews_of(manager) == []


def test_a_session_that_was_partial_equals_one_that_never_was(open_tiny: OpenManager) -> None:
    """With weights in ONNX Runtime: what is computed next is the same."""
    with open_tiny() as manager:
        make_window(manager, 'trip', NUM_TURNS)
        manager.store.clone_window('trip', 'twin')
    with open_tiny(thaw={'io_threads': 1}) as manager:
        manager.open_window('trip')
        answer = say(manager, 'Now!', When.NOW)
        assert answer.is_provisional
        assert len(reviews_of(manager)) == 1
        tokens = manager.session.tokens.tolist()
        kv = manager.session.engine.export_kv(0, len(tokens)).kv.copy()
        freeze(manager)
    with open_tiny() as manager:
        manager.open_window('twin')
        manager.add_turns(
            [Turn(role=Role.USER, text='Now!'), Turn(role=Role.ASSISTANT, text=answer.text)]
        )
        complete(manager)
        if manager.session.tokens.tolist() == tokens:  # random bytes do not always come back
            other = manager.session.engine.export_kv(0, len(tokens)).kv
            np.testing.assert_allclose(kv, other, atol=1e-4)
        else:
            manager.engine.reset()
            manager.engine.run(np.array(tokens, np.int32), 0)
            other = manager.engine.export_kv(0, len(tokens)).kv
            np.testing.assert_allclose(kv, other, atol=1e-4)


class Unwanted(Abstentions):
    """Takes the first so many answers for abstentions, at their third letter."""

    def __init__(self, count: int) -> None:
        super().__init__(['x'])
        self.left = count

    def is_one(self, text: str) -> bool:
        is_one = self.left > 0 and len(text) > 2
        self.left -= is_one
        return is_one

    def may_become(self, text: str) -> bool:
        return self.left > 0 and len(text) <= 2


@pytest.mark.parametrize('num_drafts', [0, 1, 2])
def test_an_abstention_is_given_up_for_more_chunks(
    open_fake: OpenManager, num_drafts: int
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', NUM_TURNS)
    manager = open_fake(thaw={'io_threads': 1, 'relevant_chunks': 1})
    thaw = manager.open_window('trip')
    manager.live.abstentions = Unwanted(num_drafts)
    events = list(manager.say(Request(text='Now!', when=When.NOW)))
    answer = events[-1]
    spoken = ''.join(event.text for event in events if isinstance(event, Delta))

    assert isinstance(answer, Answer)
    assert answer.num_drafts == num_drafts or len(answer.text) <= 2  # an early end is no draft
    assert answer.text == spoken.strip()
    assert manager.session.turns[-1].text == answer.text
    assert len(manager.session.turns) == NUM_TURNS + 3
    assert list(manager.store.window('trip').turns) == manager.session.turns
    assert thaw.progress().chunks_done >= answer.num_drafts
    assert_true_kv(manager.session)
    complete(manager)
    assert_true_kv(manager.session)
    assert manager.session.turn_stops[-1] == manager.session.num_tokens


def test_the_last_draft_is_spoken(open_fake: OpenManager) -> None:
    names = [f'trip-{retries}' for retries in range(3)]
    with open_fake() as manager:
        for name in names:  # each its own: an answer that is spoken changes what follows
            make_window(manager, name, NUM_TURNS)
    for retries, name in enumerate(names):
        manager = open_fake(
            thaw={'io_threads': 1, 'relevant_chunks': 1, 'abstention_retries': retries}
        )
        manager.open_window(name)
        manager.live.abstentions = Unwanted(9)
        answer = say(manager, 'Now!', When.NOW)
        assert answer.num_drafts == retries
        assert_true_kv(manager.session)
        manager.close()


def test_with_all_there_an_abstention_is_an_answer(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', NUM_TURNS)
    manager = open_fake()
    manager.open_window('trip')
    manager.live.abstentions = Unwanted(9)
    assert say(manager, 'Now!', When.COMPLETE).num_drafts == 0


def test_a_draft_that_fails_is_not_committed(
    open_fake: OpenManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', NUM_TURNS)
    manager = open_fake(thaw={'io_threads': 1})
    manager.open_window('trip')
    manager.live.abstentions = Unwanted(1)
    engine, computed = manager.session.engine, []

    def fail(position: int) -> None:
        computed.append(position)
        if len(computed) == 3:
            raise EngineError('the accelerator is gone')

    monkeypatch.setattr(engine, 'before_slice', fail)
    with pytest.raises(EngineError):
        list(manager.say(Request(text='Now!', when=When.NOW)))
    monkeypatch.undo()
    assert manager.session.turns[-1].text == ''
    complete(manager)
    assert_true_kv(manager.session)
    assert manager.session.turn_stops[-1] == manager.session.num_tokens


def test_what_an_abstention_is() -> None:
    phrases = Abstentions(['I do not know that yet.', 'No idea'])
    for text in ('I do not know that yet.', 'i do not know THAT, yet. Sorry!', 'No idea.'):
        assert phrases.is_one(text)
    for text in ('', 'I', 'I do n', 'No', 'No ide'):
        assert phrases.may_become(text)
        assert not phrases.is_one(text)
    for text in ('It', 'I don', 'Noone', 'It is: I do not know that yet.', 'No ideas'):
        assert not phrases.may_become(text)
        assert not phrases.is_one(text)
    assert not Abstentions(['...'])


def test_content_is_what_few_turns_hold_and_the_prompt_does_not() -> None:
    turns = [Turn(role=Role.USER, text=f'The code of door {n} is here.') for n in range(40)]
    turns.append(Turn(role=Role.USER, text='Anna has the code 4821.'))
    content = content_filter(turns, 'Who has the code for Paul?')

    assert content(['the', 'code', 'is', '4821']) == ['4821']
    assert content(['it', 'is', '4821']) == ['it', '4821']
    assert content(['anna', 'and', 'paul']) == ['anna', 'and']
    assert content(['door', '7', 'is', 'here']) == ['7']
