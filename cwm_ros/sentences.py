# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cut a stream of text into sentences as soon as each is complete, for a voice to speak."""

from __future__ import annotations

import re

MAX_CHARACTERS = 400
_CLOSING = r'["\'\u2019\u201d\u300d\u300f\uff09)\]]*'
_FULL_WIDTH = r'[\u3002\uff01\uff1f]+'
_END = re.compile(rf'(?:[.!?\u2026]+{_CLOSING}(?=\s)|{_FULL_WIDTH}{_CLOSING}|\n)')
_NOT_AN_END = re.compile(
    r'(?:^|[\s(])(?:[^\W\d_]|Mr|Mrs|Ms|Dr|Prof|St|No|Nr|vs|approx|e\.g|i\.e|z\.B|d\.h|ca|bzw)\.$',
    re.IGNORECASE,
)


class SentenceCutter:
    """
    Collects pieces of text and gives back whole sentences.

    A sentence ends with ``.``, ``!``, ``?`` or ``…`` and closing quotes before white space, with
    their full-width forms, or with a line. An abbreviation or an initial ends none. Text without
    an end is cut at a space when it is longer than `MAX_CHARACTERS`.
    """

    def __init__(self) -> None:
        self._text = ''

    def push(self, piece: str) -> list[str]:
        """Take more text; return the sentences that are complete now, without outer spaces."""
        self._text += piece
        done = []
        while (stop := self._find_end()) is not None:
            done.append(self._text[:stop].strip())
            self._text = self._text[stop:]
        return [sentence for sentence in done if sentence]

    def flush(self) -> list[str]:
        """Return what is left as the last sentence, if there is any."""
        rest, self._text = self._text.strip(), ''
        return [rest] if rest else []

    def _find_end(self) -> int | None:
        for match in _END.finditer(self._text):
            if match.end() > MAX_CHARACTERS:
                break
            if not _NOT_AN_END.search(self._text[: match.end()]):
                return match.end()
        if len(self._text) <= MAX_CHARACTERS:
            return None
        space = self._text.rfind(' ', 1, MAX_CHARACTERS)
        return space if space > 0 else MAX_CHARACTERS
