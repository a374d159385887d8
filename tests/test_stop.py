# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Texts that end an answer: nothing of them is said, recorded or kept in the context."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cwm_ros.answer import Answer, Delta, Request
from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from cwm_ros.manager import Manager
    from tests.conftest import OpenManager

PROMPT = 'say something long'


def say(manager: Manager, *stop: str) -> tuple[Answer, list[str]]:
    values = list(manager.say(Request(text=PROMPT, max_tokens=24, stop=stop)))
    answer = values[-1]
    assert isinstance(answer, Answer)
    return answer, [value.text for value in values if isinstance(value, Delta)]


def test_an_answer_ends_before_the_first_of_them(open_fake: OpenManager) -> None:
    manager = open_fake()
    manager.create('whole')
    whole, _ = say(manager)
    assert len(whole.text) > 12
    overhead = manager.session.num_tokens - whole.new_tokens
    middle = len(whole.text) // 2

    for number, (start, size) in enumerate(((1, 1), (middle, 1), (middle - 2, 5), (0, 3))):
        stop = whole.text[start : start + size]
        manager.create(f'cut{number}')
        answer, pieces = say(manager, 'not in it', stop, whole.text[start : start + size + 2])

        assert answer.text == whole.text[: whole.text.index(stop)].strip()
        assert ''.join(pieces).strip() == answer.text
        assert answer.finish_reason == 'stop'
        assert manager.session.turns[-1].text == answer.text
        assert manager.session.num_tokens - answer.new_tokens == overhead
        assert answer.new_tokens <= whole.new_tokens


def test_what_only_begins_as_one_is_said(open_fake: OpenManager) -> None:
    manager = open_fake()
    manager.create('whole')
    whole, _ = say(manager)
    manager.create('held')

    answer, pieces = say(manager, whole.text[3:9] + '\x00', whole.text[-4:] + '\x00')

    assert answer.text == whole.text
    assert answer.new_tokens == whole.new_tokens
    assert ''.join(pieces).strip() == whole.text


@pytest.mark.parametrize('stop', [('',), ('x' * 257,), tuple('abcdefghijklmnopq')])
def test_stops_that_make_no_sense_are_refused(stop: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match='stop has'):
        Request(text=PROMPT, stop=stop)
