# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sentences of a stream: each as soon as it is complete, nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import pytest

from cwm_ros.sentences import MAX_CHARACTERS, SentenceCutter


def cut(text: str, size: int = 1) -> list[str]:
    """Push a text in pieces of ``size`` characters."""
    cutter = SentenceCutter()
    sentences = []
    for start in range(0, len(text), size):
        sentences += cutter.push(text[start : start + size])
    return sentences + cutter.flush()


@pytest.mark.parametrize(
    ('text', 'sentences'),
    [
        ('The code is 4711. Shall I open it?', ['The code is 4711.', 'Shall I open it?']),
        ('It is 3.5 bar. Fine!', ['It is 3.5 bar.', 'Fine!']),
        ('Dr. Weber calls, e.g. today.', ['Dr. Weber calls, e.g. today.']),
        ('Call J. Weber. Now.', ['Call J. Weber.', 'Now.']),
        ('She said "no!" Then she left.', ['She said "no!"', 'Then she left.']),
        ('Wait… Done.', ['Wait…', 'Done.']),
        ('好的。没问题！', ['好的。', '没问题！']),  # noqa: RUF001
        ('one\ntwo', ['one', 'two']),
        ('no end', ['no end']),
        ('  \n ', []),
    ],
)
def test_sentences_are_found(text: str, sentences: list[str]) -> None:
    assert cut(text) == sentences
    assert cut(text, size=1000) == sentences


def test_a_sentence_comes_when_it_is_complete_and_not_before() -> None:
    cutter = SentenceCutter()

    assert cutter.push('The code is 4711.') == []  # '4711.5' is still possible
    assert cutter.push(' ') == ['The code is 4711.']


def test_text_without_an_end_is_cut_at_a_space() -> None:
    sentences = cut('word ' * 200)

    assert max(map(len, sentences)) <= MAX_CHARACTERS
    assert ' '.join(sentences) == ('word ' * 200).strip()


@given(st.text(), st.integers(1, 7))
def test_nothing_is_lost_and_pieces_do_not_matter(text: str, size: int) -> None:
    sentences = cut(text, size)

    assert ''.join(''.join(sentences).split()) == ''.join(text.split())
    assert all(sentence == sentence.strip() for sentence in sentences)


@given(st.text(alphabet='ab.!? \n', max_size=60), st.integers(1, 7))
def test_sentences_do_not_depend_on_how_the_stream_was_cut(text: str, size: int) -> None:
    assert cut(text, size) == cut(text, len(text) or 1)
