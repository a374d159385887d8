# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.kv import Role, Turn
from cwm_ros.relevance import exchanges, relevance, words_of

SIZE = 40
EACH = 10
SMALL_TALK = ('Nice weather.', 'How far is it?', 'Play some music.', 'I am tired.', 'Look, a cow.')


def talk(*told: tuple[int, str], length: int = 40, role: Role = Role.USER) -> list[Turn]:
    """Return ``length`` exchanges of small talk in which some things are told."""
    said = dict(told)
    turns = [Turn(role=Role.SYSTEM, text='You are in a car.')]
    for place in range(length):
        text = said.get(place, SMALL_TALK[place % len(SMALL_TALK)])
        turns.append(Turn(role=role if place in said else Role.USER, text=text))
        turns.append(Turn(role=Role.ASSISTANT, text='Okay.'))
    return turns


def ranking(prompt: str, turns: list[Turn]) -> list[int]:
    """Return the chunks that score, best first; each turn has `EACH` tokens."""
    stops = [EACH * (i + 1) for i in range(len(turns))]
    scores = relevance(prompt, turns, stops, SIZE)
    return [int(i) for i in np.argsort(-scores, kind='stable') if scores[i] > 0]


def chunk_of(place: int) -> int:
    return EACH * (1 + 2 * place) // SIZE


@pytest.mark.parametrize('place', [0, 17, 39])
def test_the_chunk_that_holds_a_rare_word_ranks_first(place: int) -> None:
    turns = talk((place, "My sister's flat is on floor 7."))

    assert ranking('Which floor does my SISTER live on?', turns)[0] == chunk_of(place)


def test_both_chunks_of_an_exchange_on_a_border_rank_first() -> None:
    turns = [*talk(), Turn(role=Role.USER, text='The gate code is 4821.')]
    turns[20] = Turn(role=Role.USER, text='The gate code is 17.')
    stops = [EACH * (i + 1) for i in range(len(turns))]
    stops[19] = stops[18] = stops[20] - 2 * EACH

    scores = relevance('17', turns, stops, SIZE)
    assert list(np.flatnonzero(scores)) == [4, 5]
    assert scores[4] == scores[5]


def test_what_was_said_last_comes_first() -> None:
    turns = talk((5, 'The gate code is 17.'), (25, 'The gate code is 4821.'))

    found = ranking("What's the code for the gate?", turns)
    assert found.index(chunk_of(25)) < found.index(chunk_of(5))


def test_a_prompt_about_two_things_gets_both() -> None:
    told = [(place, 'My dog is called Rex.') for place in (2, 6, 10, 14, 18, 22, 26)]
    turns = talk(*told, (32, 'The alarm word is plum.'))

    assert chunk_of(32) in ranking("What are the alarm word and my dog's name?", turns)[:2]


def test_a_question_tells_less_than_a_statement() -> None:
    turns = talk((5, 'The ferry leaves at noon.'), (25, 'When does the ferry leave?'))

    assert ranking('I mean the ferry.', turns)[0] == chunk_of(5)


def test_the_last_report_of_the_system_beats_earlier_ones() -> None:
    report = 'Now fuel is at {} percent and the cabin has {} degrees.'
    turns = talk((9, report.format(80, 20)), (20, report.format(40, 19)), role=Role.SYSTEM)
    turns += talk((12, 'Fuel is cheap at that station.'))[1:]

    assert ranking('What about fuel?', turns)[0] == chunk_of(20)


def test_words_lose_case_possessive_and_plural() -> None:
    assert words_of("Anna\u2019s KEYS, don't pass; it's 7B.") == [
        *('anna', 'key', 'dont', 'pass', 'it', '7b')
    ]  # fmt: skip
    assert words_of('\u99d0\u8eca\u5834') == ['\u99d0', '\u8eca', '\u5834']


def test_nothing_is_relevant_where_nothing_is_shared() -> None:
    assert ranking('zebra', talk()) == []
    assert ranking('', talk()) == ranking('...', talk()) == []
    assert relevance('zebra', [], [], SIZE).shape == (0,)


TEXTS = st.lists(st.text("ab c?'\u2019", max_size=12), max_size=12)


@given(TEXTS, st.text('abc ', max_size=20), st.data())
def test_every_chunk_with_a_shared_word_scores_and_no_other(
    texts: list[str], prompt: str, data: st.DataObject
) -> None:
    roles = [data.draw(st.sampled_from(Role)) for _ in texts]
    turns = [Turn(role=role, text=text) for role, text in zip(roles, texts, strict=True)]
    stops = np.cumsum([data.draw(st.integers(0, 90)) for _ in texts], dtype=np.int64).tolist()
    scores = relevance(prompt, turns, stops, SIZE)

    said = list(exchanges(turns, stops))
    assert [(one.start, one.stop) for one in said[:1]] == [(0, said[0].stop) for _ in said[:1]]
    assert sum(len(one.words) for one in said) == sum(len(words_of(text)) for text in texts)
    expected = {
        chunk
        for one in said
        if set(one.words) & set(words_of(prompt))
        for chunk in range(one.start // SIZE, -(-one.stop // SIZE))
    }
    assert set(np.flatnonzero(scores)) == expected
    assert (scores >= 0).all()
