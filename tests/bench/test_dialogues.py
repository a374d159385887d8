# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import islice
from random import Random
import re

import pytest

from cwm_ros.bench import dialogues, phrases, phrases_paraphrase, phrases_state
from cwm_ros.bench.dialogues import Dialogue, Kind, make_dialogue, TRAINING_SEEDS, training_talk
from cwm_ros.bench.phrases_paraphrase import content_words
from cwm_ros.kv import Role, Turn

SEEDS = range(40, 52)


def count_tokens(turn: Turn) -> int:
    """Count words, digits and marks: close to a tokenizer without needing one."""
    return 2 + len(re.findall(r'\d|[a-z]+|[^\sa-z\d]', turn.text.lower()))


@pytest.fixture(scope='module', name='made')
def made_dialogues() -> list[Dialogue]:
    return [make_dialogue(seed, 4096, count_tokens) for seed in SEEDS]


def test_equal_seeds_give_equal_dialogues() -> None:
    assert make_dialogue(3, 2048) == make_dialogue(3, 2048)
    assert make_dialogue(3, 2048) != make_dialogue(4, 2048)


def test_the_budget_is_held_and_nearly_used(made: list[Dialogue]) -> None:
    for dialogue in made:
        used = dialogues.BOS_TOKENS + sum(count_tokens(turn) for turn in dialogue.turns)
        assert 4096 - 64 < used <= 4096


def test_a_dialogue_begins_with_the_system_and_ends_with_the_assistant(
    made: list[Dialogue],
) -> None:
    for dialogue in made:
        assert dialogue.turns[0].role is Role.SYSTEM
        assert dialogue.turns[-1].role is Role.ASSISTANT


def test_speakers_take_turns(made: list[Dialogue]) -> None:
    for dialogue in made:
        spoken = [turn.role for turn in dialogue.turns if turn.role is not Role.SYSTEM]
        assert spoken[::2] == [Role.USER] * len(spoken[::2])
        assert spoken[1::2] == [Role.ASSISTANT] * len(spoken[1::2])


def test_every_kind_of_question_occurs(made: list[Dialogue]) -> None:
    assert {question.kind for dialogue in made for question in dialogue.questions} == set(Kind)


def test_the_source_turn_holds_the_answer(made: list[Dialogue]) -> None:
    for dialogue in made:
        for question in dialogue.questions:
            told = ' '.join(dialogue.turns[index].text for index in question.sources).lower()
            values = content_words(question.answer) & content_words(told)
            digits = set(re.findall(r'\d+', question.answer)) & set(re.findall(r'\d+', told))
            assert question.kind is Kind.UNANSWERABLE or values or digits


def test_questions_are_answered_by_the_last_mention(made: list[Dialogue]) -> None:
    for dialogue in made:
        for question in dialogue.questions:
            if question.kind is not Kind.CORRECTED:
                continue
            acks = [turn.text for turn in dialogue.turns if turn.role is Role.ASSISTANT]
            last = max(n for n, text in enumerate(acks) if question.answer in text)
            stale = max(n for n, text in enumerate(acks) if question.stale in text)
            assert stale < last
            assert dialogue.turns[question.sources[0] + 1].text in acks[last]


def test_held_out_facts_were_never_asked(made: list[Dialogue]) -> None:
    for dialogue in made:
        answers = {turn.text for turn in dialogue.turns if turn.role is Role.ASSISTANT}
        for question in dialogue.questions:
            if question.kind in {Kind.FACT, Kind.RE_ENTRY_FACT, Kind.PARAPHRASE}:
                assert question.answer not in answers


def test_unanswerable_questions_get_an_abstention(made: list[Dialogue]) -> None:
    for dialogue in made:
        for question in dialogue.questions:
            is_unknown = question.answer == phrases_state.UNKNOWN
            assert is_unknown == (question.kind is Kind.UNANSWERABLE)
            assert is_unknown == (not question.sources)


def test_at_least_one_question_in_twenty_is_unanswerable(made: list[Dialogue]) -> None:
    questions = [question for dialogue in made for question in dialogue.questions]
    unknown = sum(question.kind is Kind.UNANSWERABLE for question in questions)
    assert unknown >= len(questions) / 20


def test_ages_are_spread_over_the_dialogue(made: list[Dialogue]) -> None:
    ages = [
        question.sources[0] / len(dialogue.turns)
        for dialogue in made
        for question in dialogue.questions
        if question.kind in {Kind.FACT, Kind.RE_ENTRY_FACT}
    ]
    for third in range(3):
        assert sum(third <= 3 * age < third + 1 for age in ages) > len(ages) / 6


def test_paraphrased_questions_share_no_content_word_with_the_statement(
    made: list[Dialogue],
) -> None:
    for dialogue in made:
        for question in dialogue.questions:
            if question.kind is Kind.PARAPHRASE:
                told = dialogue.turns[question.sources[0]].text
                assert not content_words(told) & content_words(question.text), told
                assert dialogue.turns[question.sources[0] + 1].text == phrases_state.NOTED


@pytest.mark.parametrize('family', [family for family, _ in phrases_paraphrase.PARAPHRASES])
def test_paraphrase_templates_share_no_content_word(family: phrases.Family) -> None:
    said = frozenset().union(*map(content_words, family.statements)) - {'v'}
    asked = frozenset().union(*map(content_words, (*family.questions, *family.nouns)))
    assert not said & asked
    assert len(family.statements) >= 8
    generic = len(family.nouns) * len(phrases_paraphrase.ASK_PLAINLY)
    assert len(family.questions) + generic >= 8


def test_every_family_has_many_wordings() -> None:
    rng = Random(1)
    for family in {make(rng).family for make in phrases.KEYS for _ in range(200)}:
        plain = len(phrases.TELL) * len(family.nouns) if family.is_plain else 0
        assert len(family.statements) + plain >= 8
        assert len(family.questions) + len(phrases.ASK) * len(family.nouns) >= 8


def test_reentry_turns_are_short_and_change_the_state() -> None:
    dialogue = make_dialogue(5, 4096, count_tokens, num_reentries=2)
    reentries = [turn for turn in dialogue.turns[1:] if turn.role is Role.SYSTEM]
    assert len(reentries) == 2
    assert all(count_tokens(turn) <= 64 for turn in reentries)
    asked = [q for q in dialogue.questions if q.kind is Kind.RE_ENTRY_STATE]
    assert sum(bool(question.stale) for question in asked) >= 3
    assert all(question.stale != question.answer for question in asked)


def test_evaluation_and_training_seeds_are_disjoint() -> None:
    with pytest.raises(ValueError, match='seed'):
        make_dialogue(TRAINING_SEEDS, 1024)
    with pytest.raises(ValueError, match='seed'):
        make_dialogue(-1, 1024)


def test_training_parts_make_up_the_turn() -> None:
    talk = list(islice(training_talk(1), 60))[-1]
    weights = {part.weight for line in talk.lines for part in line.parts}
    assert weights - {0.0} == {1.0, 5.0, 10.0, 20.0}
    assert all(line.turn.text == line.turn.text.strip() for line in talk.lines)
    assert list(islice(training_talk(1), 60))[-1].lines == talk.lines


def test_bare_replies_never_repeat_what_was_told() -> None:
    dialogue = make_dialogue(3, 2048, count_tokens, bare_share=1.0)
    facts = [q for q in dialogue.questions if q.kind in (Kind.FACT, Kind.CORRECTED)]
    told = {turn.text for turn in dialogue.turns if turn.role is Role.ASSISTANT}
    assert facts
    assert all(f'Noted. {question.answer}' not in told for question in facts)
    assert {turn.text for turn in make_dialogue(3, 2048, count_tokens).turns} - told


def test_the_demo_tells_the_code_early_and_asks_at_the_end() -> None:
    demo = dialogues.demo_dialogue(4096, count_tokens)
    (question,) = demo.questions
    before = sum(count_tokens(turn) for turn in demo.turns[: question.sources[0]])
    size = sum(count_tokens(turn) for turn in demo.turns)
    assert 256 < before < 512
    assert 4000 < size < 4096
    told = [n for n, turn in enumerate(demo.turns) if 'gate code' in turn.text]
    assert told == [question.sources[0], question.sources[0] + 1]
    assert dialogues.DEMO_CODE in question.answer


def test_typed_markers_and_emoji_occur() -> None:
    text = ' '.join(turn.text for turn in make_dialogue(9, 16384).turns)
    assert '<|' in text
    assert not text.isascii()
