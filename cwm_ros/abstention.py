# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Answers that say that the model does not know; with which words, its card and settings say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def words_of(text: str) -> list[str]:
    """Return the words of a text without case and punctuation."""
    return re.findall(r'\w+', text.casefold())


class Abstentions:
    """
    The phrases with which answers begin that are abstentions.

    Parameters
    ----------
    phrases
        In any case and punctuation; without any, no answer is one.

    """

    def __init__(self, phrases: Iterable[str]) -> None:
        plain = (' '.join(words_of(phrase)) for phrase in phrases)
        self._phrases = tuple(phrase for phrase in plain if phrase)

    def __bool__(self) -> bool:
        return bool(self._phrases)

    def is_one(self, text: str) -> bool:
        """Say whether an answer begins with a whole phrase."""
        plain = ' '.join(words_of(text)) + ' '
        return any(plain.startswith(f'{phrase} ') for phrase in self._phrases)

    def may_become(self, text: str) -> bool:
        """Say whether the beginning of an answer is that of a phrase, so that it may be one."""
        plain = ' '.join(words_of(text))
        return any(phrase.startswith(plain) for phrase in self._phrases)
