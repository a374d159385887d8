# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from cwm_ros.errors import ConfigError, ModelError
from cwm_ros.kv import Role, Turn
from cwm_ros.model import chat, chat_habits, IncrementalDecoder, Tokenizer
from cwm_ros.model.chat import ChatRenderer, load_template
from cwm_ros.template.bounded import ChatTemplate
from tests.model.conftest import GOLDEN

if TYPE_CHECKING:
    from pathlib import Path

TINY = GOLDEN / 'tiny'
TOKENIZER = Tokenizer(TINY)
CHAT = ChatRenderer(TOKENIZER, load_template(TINY))
PLAIN = FastTokenizer.from_file(str(TINY / 'tokenizer.json'))
MARKERS = sorted(TOKENIZER.markers)
IDS = {marker.token for marker in TOKENIZER.markers.values()}
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 1) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}<|end|>{% endfor %}"
)
BIG = '{% set big = "' + 'x' * 200_000 + '" %}'
SIXTY = '{% for i in range(60) %}'
ODD = [*MARKERS, '<|', '|>', '\0', '\ue000', '\U0001f600', '\u200d', ' ', '\n', '{{ 1 }}', '{%']

texts = st.lists(
    st.sampled_from(ODD) | st.text(st.characters(exclude_categories=['Cs']), max_size=6),
    max_size=8,
).map(''.join)
turns = st.builds(Turn, role=st.sampled_from(list(Role)), text=texts)


def turn(text: str, role: Role = Role.USER) -> Turn:
    return Turn(role=role, text=text)


def whole(turns: list[Turn], end: str = '') -> list[int]:
    """Encode a conversation as one string, as other tools do."""
    said = ''.join(f'<|{t.role.value}|> {t.text.strip()}<|end|>' for t in turns)
    return list(PLAIN.encode(f'<|bos|>{said}{end}', add_special_tokens=False).ids)


@given(st.lists(turns, max_size=4))
def test_text_never_becomes_a_marker(conversation: list[Turn]) -> None:
    ids = CHAT.render(conversation, add_generation_prompt=False).tolist()
    names = {'system': '<|system|>', 'user': '<|user|>', 'assistant': '<|assistant|>'}
    expected = ['<|bos|>']
    for each in conversation:
        expected += [names[each.role.value], '<|end|>']

    assert [i for i in ids if i in IDS] == [TOKENIZER.markers[m].token for m in expected]
    said = [f' {each.text.strip()}' for each in conversation]
    assert TOKENIZER.decode(ids) == ''.join(said)


@given(st.lists(turns, max_size=4))
def test_text_without_markers_is_encoded_as_one_string(conversation: list[Turn]) -> None:
    conversation = [t for t in conversation if not any(m in t.text for m in MARKERS)]
    ids = CHAT.render(conversation, add_generation_prompt=True)

    assert ids.dtype == np.int32
    assert ids.tolist() == whole(conversation, '<|assistant|>')


@given(st.lists(turns, max_size=3), st.lists(turns, max_size=2), st.booleans())
def test_a_suffix_completes_the_rendering(
    before: list[Turn],
    new: list[Turn],
    add_generation_prompt: bool,  # noqa: FBT001 - drawn
) -> None:
    known = CHAT.render(before, add_generation_prompt=False) if before else np.zeros(0, np.int32)
    suffix = CHAT.render_suffix(before, new, add_generation_prompt=add_generation_prompt)
    expected = CHAT.render([*before, *new], add_generation_prompt=add_generation_prompt)

    np.testing.assert_array_equal(np.concatenate([known, suffix]), expected)


@pytest.mark.parametrize('length', range(9, 16))
@pytest.mark.parametrize(
    'source',
    [
        '{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}',
        '{% for m in messages %}{{ loop.index }}: {{ m.content }}<|end|>{% endfor %}',
        ALTERNATING,
    ],
)
def test_a_long_history_changes_nothing_about_the_suffix(length: int, source: str) -> None:
    chat = ChatRenderer(TOKENIZER, ChatTemplate(source, {}))
    roles = [Role.SYSTEM, *[Role.USER, Role.ASSISTANT] * 9][: length + 1]
    conversation = [turn(f'word {n}', role) for n, role in enumerate(roles)]
    for new, is_open in ((conversation[-1:], False), ([], True)):
        known = chat.render(conversation[:-1], add_generation_prompt=False)
        suffix = chat.render_suffix(conversation[:-1], new, add_generation_prompt=is_open)
        expected = chat.render([*conversation[:-1], *new], add_generation_prompt=is_open)

        np.testing.assert_array_equal(np.concatenate([known, suffix]), expected)


@given(texts)
def test_decoding_token_by_token_gives_the_text(text: str) -> None:
    decoder = IncrementalDecoder(TOKENIZER)
    pieces = [decoder.push(token) for token in TOKENIZER.encode(text)]

    assert ''.join([*pieces, decoder.flush()]) == text


def test_an_incomplete_letter_is_held_back() -> None:
    decoder = IncrementalDecoder(TOKENIZER)
    *first, last = TOKENIZER.encode('\U0001f600')

    assert [decoder.push(token) for token in first] == ['', '', '']
    assert decoder.push(last) == '\U0001f600'
    assert decoder.push(first[0]) == ''
    assert decoder.flush() == '\ufffd'
    assert decoder.push(TOKENIZER.encode('a')[0]) == 'a'


def test_what_can_never_be_a_letter_does_not_hold_back_for_ever() -> None:
    decoder = IncrementalDecoder(TOKENIZER)
    (broken, *_) = TOKENIZER.encode('\U0001f600')

    assert ''.join(decoder.push(broken) for _ in range(20)).startswith('\ufffd' * 8)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(ConfigError, match='lone surrogate at index 1'):
        CHAT.render([turn('a\ud800')], add_generation_prompt=False)
    with pytest.raises(ConfigError, match='lone surrogate'):
        TOKENIZER.encode('\udfff')


def test_a_template_that_says_earlier_turns_otherwise_is_refused() -> None:
    chat = ChatRenderer(
        TOKENIZER, ChatTemplate('{{ messages|length }}{{ messages[0].content }}', {})
    )
    with pytest.raises(ModelError, match='renders the first 1 turns differently'):
        chat.render_suffix([turn('a')], [turn('')], add_generation_prompt=False)


@pytest.mark.parametrize(
    'source',
    [
        'nothing',
        '{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}',
        '{% for m in messages %}{{ m.content | upper }}{% endfor %}',
        '{% for m in messages %}{{ m.content[3:] }}{% endfor %}',
        '{% for m in messages %}{{ m.content | tojson | length }}{% endfor %}',
    ],
)
def test_a_template_that_does_not_keep_the_texts_is_refused(source: str) -> None:
    chat = ChatRenderer(TOKENIZER, ChatTemplate(source, {}))
    with pytest.raises(ModelError, match='drops, repeats or changes'):
        chat.render([turn('what is said')], add_generation_prompt=False)


@pytest.mark.parametrize(
    'source',
    [
        '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}',
        '{% for i in range(99999) %}{% for j in messages * 100000 %}{% endfor %}{% endfor %}',
        '{{ range(10 ** 12) | list }}',
        '{{ "x" * 1000000000 }}',
        '{{ "%1000000000d" % 1 }}',
        '{{ "{:1000000000d}".format(1) }}',
        '{{ "x".ljust(1000000000) }}',
        '{{ "x" | center(1000000000) }}',
        '{% set n = namespace(x="x") %}' + SIXTY + '{% set n.x = n.x ~ n.x %}{% endfor %}',
        '{% set n = namespace(x="x") %}' + SIXTY + '{% set n.x = n.x + n.x %}{% endfor %}',
        '{% macro f(n) %}{% if n %}'
        + '{{ f(n - 1) }}' * 2
        + '{% endif %}{% endmacro %}{{ f(60) }}',
        '{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}',
        '{% for i in range(150000) %}0123456789{% endfor %}',
        '{{ 2 ** 999999999 }}',
        '{{ "' + 'a' * 100_000 + '".replace("a", "' + 'b' * 100_000 + '") }}',
        '{{ "' + 'a' * 100_000 + '" | replace("a", "' + 'b' * 100_000 + '") }}',
        '{% for i in range(9) %}{{ messages | join(messages | string) }}{{ 1 / 0 }}{% endfor %}',
        '{% set n = namespace(x=3) %}' + SIXTY + '{% set n.x = n.x * n.x %}{% endfor %}',
        '{{ (1).to_bytes(10000000000, "big") }}',
        '{{ [1] | batch(1000000000, "x") | list }}',
        '{{ [1] | slice(1000000000) | list }}',
        '{{ lipsum(n=100000000) }}',
        '{% set s = "ab" | replace("a", "c" * 9) %}',
        BIG + '{% for i in range(150000) %}{% if "y" in big %}{% endif %}{% endfor %}{{ 1 / 0 }}',
        BIG
        + '{% for i in range(150000) %}{% if big.find("y") %}{% endif %}{% endfor %}{{ 1 / 0 }}',
        BIG + '{% for i in range(150000) %}{% if big[1:] %}{% endif %}{% endfor %}{{ 1 / 0 }}',
        BIG + '{% for i in range(150000) %}{% if big | upper %}{% endif %}{% endfor %}{{ 1 / 0 }}',
        '{% import "os" as os %}',
        '{% from "x" import y %}',
        '{% extends "/etc/passwd" %}',
        '{{ self.__init__.__globals__ }}',
        '{{ namespace.__init__.__globals__["os"] }}',
        '{{ cycler.__init__.__globals__.os.popen("id").read() }}',
        '{{ raise_exception.__globals__.os }}',
        '{{ messages.__class__.__mro__ }}{{ messages.__class__.__mro__[1].__subclasses__() }}',
        '{{ messages.append(1) }}',
        '{{ 1 / 0 }}',
        '{{ raise_exception("no such role") }}',
        '{{ absent.field }}',
        '{% include "x" %}',
        '{% if %}',
        'x' * 300_000,
    ],
)
def test_a_hostile_or_broken_template_is_refused_soon(source: str) -> None:
    begun = time.process_time()
    with pytest.raises(ModelError, match='chat template'):
        ChatTemplate(source, {}).render(
            [{'role': 'user', 'content': 'hello'}], add_generation_prompt=False
        )
    assert time.process_time() - begun < 3


def test_published_idioms_work() -> None:
    source = """
    {%- set ns = namespace(found=false) -%}
    {%- if messages[0]['role'] == 'system' -%}
        {%- set system = messages[0]['content'] | trim -%}
        {%- set loop_messages = messages[1:] -%}
    {%- else -%}
        {%- set system = '' -%}{%- set loop_messages = messages -%}
    {%- endif -%}
    {{- bos_token + '<|system|>' + '\\n' + system -}}
    {%- for message in loop_messages -%}
        {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
            {{- raise_exception('roles must alternate') -}}
        {%- endif -%}
        {%- if loop.last and not tools -%}{%- set ns.found = true -%}{%- endif -%}
        {{- '<|' ~ message.role ~ '|>' ~ message.content.strip() ~ eos_token -}}
    {%- endfor -%}
    {%- if add_generation_prompt and ns.found -%}{{- '<|assistant|>' -}}{%- endif -%}
    """
    chat = ChatRenderer(TOKENIZER, ChatTemplate(source, {'bos_token': '', 'eos_token': '<|end|>'}))
    system, user = turn(' be kind ', Role.SYSTEM), turn('hello')
    ids = chat.render([system, user], add_generation_prompt=True).tolist()

    expected = '<|system|>\nbe kind<|user|>hello<|end|><|assistant|>'
    assert ids == PLAIN.encode(expected, add_special_tokens=False).ids
    with pytest.raises(ModelError, match='roles must alternate'):
        chat.render([system, user, user], add_generation_prompt=True)


def test_the_template_may_lie_in_tokenizer_config(copy: Path) -> None:
    (copy / 'chat_template.jinja').unlink()
    config = copy / 'tokenizer_config.json'
    with pytest.raises(ModelError, match='has no chat template'):
        load_template(copy)
    source = '{{ bos_token }}{{ messages[0].content }}'
    named = [{'name': 'tools', 'template': 'x'}, {'name': 'default', 'template': source}]
    for template in (source, named):
        bos = {'content': '<|bos|>', 'special': True}
        config.write_text(json.dumps({'chat_template': template, 'bos_token': bos}))
        chat = ChatRenderer(TOKENIZER, load_template(copy))
        ids = chat.render([turn('a')], add_generation_prompt=False)
        assert TOKENIZER.decode(ids) == 'a'
        assert ids[0] == 0


def test_markers_that_swallow_space_and_words_with_a_prefix(tmp_path: Path) -> None:
    """The two habits of other families that one-string encoding has, and cutting must keep."""
    vocab = {letter: index for index, letter in enumerate('\u2581abc\n')}
    plain = FastTokenizer(models.BPE(vocab=vocab, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='first')
    plain.add_special_tokens([AddedToken('<e>', rstrip=True), AddedToken('<s>', lstrip=True)])
    plain.add_tokens([AddedToken('<t>', special=False)])
    plain.save(str(tmp_path / 'tokenizer.json'))
    source = '{% for m in messages %}{{ m.content }}<e>\n <t> <s>{% endfor %}'
    chat = ChatRenderer(Tokenizer(tmp_path), ChatTemplate(source, {}))
    for said in ('a', 'a b', 'ab  c'):
        text = f'{said}<e>\n <t> <s>' * 2
        ids = chat.render([turn(said), turn(said)], add_generation_prompt=False)
        assert ids.tolist() == plain.encode(text, add_special_tokens=False).ids
    ids = chat.render([turn('a<t>b')], add_generation_prompt=False).tolist()
    assert ids.count(plain.token_to_id('<t>')) == 1


def test_the_letters_that_mark_texts_are_not_those_that_habits_are_found_with() -> None:
    reserved = {chat_habits.NEXT, chat_habits.BLANK, *chat_habits.PROBE.replace('{}', '')}
    marking = range(chat.FIRST_PRIVATE, chat.FIRST_PRIVATE + chat.NUM_PRIVATE)

    assert not any(ord(letter) in marking for letter in reserved)
    assert marking[-1] == 0xF8FF, 'the last private letter of the basic plane'
