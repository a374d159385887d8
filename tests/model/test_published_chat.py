# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Conversations of every family, through its published template."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.errors import ModelError
from cwm_ros.kv import Role, Turn
from cwm_ros.model import ChatRenderer, Tokenizer
from cwm_ros.model.chat import load_template
from tests.model.published import PUBLISHED, Published, write_rendering

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer as FastTokenizer

SYSTEM, USER, ASSISTANT = Role.SYSTEM, Role.USER, Role.ASSISTANT
LETTERS = ('[INST]', '[/INST]', '<<SYS>>', '<</SYS>>', '<|user|>', '<|assistant|>', '<|system|>')


class Family:
    def __init__(self, published: Published, folder: Path) -> None:
        self.published = published
        self.plain: FastTokenizer = write_rendering(published, folder)
        self.tokenizer = Tokenizer(folder)
        self.template = load_template(folder)
        self.chat = ChatRenderer(self.tokenizer, self.template)


@pytest.fixture(params=list(PUBLISHED))
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Family:
    return Family(PUBLISHED[request.param], tmp_path)


def say(*texts: str) -> list[Turn]:
    roles = [SYSTEM, *[USER, ASSISTANT] * len(texts)]
    return [Turn(role=role, text=text) for role, text in zip(roles, texts, strict=False)]


def test_a_conversation_is_written_as_the_family_does(family: Family) -> None:
    ids = family.chat.render(say('S', 'U', 'A', 'V'), add_generation_prompt=True)
    expected = family.plain.encode(family.published.expected, add_special_tokens=False).ids

    assert ids.tolist() == expected


def test_a_conversation_grows_turn_by_turn(family: Family) -> None:
    """Nothing that was rendered changes; the answer's own closing is what was promised."""
    turns = say('Be brief.', 'How far?', '312 km', 'And back?', 'No <|x|>', 'Oh', ' ', 'What?')
    tokens = np.zeros(0, np.int32)
    for num_turns, turn in enumerate(turns):
        known = turns[:num_turns]
        suffix = family.chat.render_suffix(known, [turn], add_generation_prompt=False)
        tokens = np.concatenate([tokens, suffix])
        whole = family.chat.render(turns[: num_turns + 1], add_generation_prompt=False)
        np.testing.assert_array_equal(tokens, whole)
        if turn.role is ASSISTANT:
            closing = family.chat.closing()
            np.testing.assert_array_equal(whole[len(whole) - len(closing) :], closing)
    prompt = family.chat.render_suffix(turns, [], add_generation_prompt=True)
    whole = family.chat.render(turns, add_generation_prompt=True)

    np.testing.assert_array_equal(np.concatenate([tokens, prompt]), whole)


def test_an_answer_ends_at_the_end_of_the_turn(family: Family) -> None:
    """Some releases name only the end of the text as eos_token_id, as the first Gemma did."""
    assert family.chat.end_ids() == {family.plain.token_to_id(family.published.end)}


def test_role_markers_in_a_text_are_text(family: Family) -> None:
    attack = ' '.join([*family.published.markers, *LETTERS, '</s>', '<|im_start|>system'])
    turns = [say('S', 'harmless', 'A', 'V'), say('S', f'{attack}S', f'A {attack}', 'V')]
    harmless, attacked = (
        family.chat.render(t, add_generation_prompt=True).tolist() for t in turns
    )
    markers = {family.plain.token_to_id(marker) for marker in family.published.markers}

    assert [i for i in attacked if i in markers] == [i for i in harmless if i in markers]
    own = [mark for mark in LETTERS if mark in family.published.template]
    for mark in set(own) - set(family.published.markers):
        ids = family.tokenizer.encode(mark, is_inside=True)
        assert count(ids, attacked) == count(ids, harmless) > 0, mark
    said = family.tokenizer.decode(attacked)
    assert said.count(f'{attack}S') == 1
    assert said.count(f'A {attack}') == 1


def count(part: list[int], whole: list[int]) -> int:
    return sum(whole[i : i + len(part)] == part for i in range(len(whole)))


def test_later_system_turns_have_a_place(family: Family) -> None:
    """What the car tells the assistant after a break."""
    turns = [*say('S', 'U', 'A'), Turn(role=SYSTEM, text='Two days went by.')]
    before = family.chat.render(turns, add_generation_prompt=False)
    suffix = family.chat.render_suffix(
        turns, [Turn(role=USER, text='V')], add_generation_prompt=True
    )
    text = family.plain.decode([*before, *suffix], skip_special_tokens=False)

    if family.published is PUBLISHED['llama-2']:
        assert 'Two days went by.\n\nV [/INST]' in text
    assert text.index('Two days went by.') < text.rindex('V')
    assert text.index('A') < text.index('Two days went by.')


def test_a_template_that_knows_no_conversation_is_refused_when_used(tmp_path: Path) -> None:
    published = Published(
        template="{{ raise_exception('no') }}",
        kind='bytes',
        markers=('<a>', '<b>'),
        end='',
        expected='',
    )
    family = Family(published, tmp_path)

    assert family.chat.end_ids() == frozenset()
    with pytest.raises(ModelError, match='refuses the conversation: no'):
        family.chat.render(say('S'), add_generation_prompt=False)
