# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, through a published tokenizer.json; the only door to tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
import json
import re
from typing import TYPE_CHECKING

from tokenizers import pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from cwm_ros.errors import ConfigError, ModelError
from cwm_ros.model.config_file import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

TOKENIZER_FILE = 'tokenizer.json'
MAX_TOKENIZER_BYTES = 1 << 27
REPLACEMENT = '\ufffd'
"""What a decoder writes for bytes that are not UTF-8, or not yet."""
MAX_HELD_TOKENS = 8
"""No UTF-8 sequence is made of more tokens than this; then it is broken, not incomplete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """
    A token outside the text, such as the end of a turn.

    Parameters
    ----------
    content, token
        How a template writes it, and its id.
    takes_left, takes_right
        Whether it swallows the white space beside it.

    """

    content: str
    token: int
    takes_left: bool
    takes_right: bool


class Tokenizer:
    """
    A tokenizer whose text never becomes a marker.

    Parameters
    ----------
    folder
        Checkpoint folder.

    Attributes
    ----------
    markers
        Markers by content.

    Raises
    ------
    ModelError
        tokenizer.json is missing, damaged or of an unknown kind.

    """

    def __init__(self, folder: Path) -> None:
        path = folder / TOKENIZER_FILE
        document = read_json(path, MAX_TOKENIZER_BYTES)
        added = document.get('added_tokens')
        entries = added if isinstance(added, list) else []
        self.markers: dict[str, Marker] = {}
        try:
            for entry in entries:
                if entry['special'] or not entry['content'].isspace():
                    self._add_marker(entry)
        except (KeyError, TypeError, AttributeError) as exc:
            raise ModelError(
                f'{path}: added_tokens is malformed: {exc!r}', hint='download it again'
            ) from exc
        self._decoder = _load(path, document)
        for entry in entries:
            entry['special'] = entry['content'] in self.markers
        self._first = _load(path, document)
        self._first.encode_special_tokens = True
        self._rest = _without_prefix(self._first)
        self._inside = _load(path, {**document, **_bare(document)})
        self._inside.encode_special_tokens = True
        self._ids = frozenset(marker.token for marker in self.markers.values())
        longest_first = sorted(self.markers, key=len, reverse=True)
        self._pattern = re.compile('|'.join(map(re.escape, longest_first)) or r'(?!)')

    def _add_marker(self, entry: dict[str, object]) -> None:
        content = str(entry['content'])
        self.markers[content] = Marker(
            content=content,
            token=int(str(entry['id'])),
            takes_left=bool(entry['lstrip']),
            takes_right=bool(entry['rstrip']),
        )

    @property
    def vocab_size(self) -> int:
        """Return one more than the highest token id."""
        return int(max(self._decoder.get_vocab(with_added_tokens=True).values())) + 1

    def split_markers(self, text: str) -> list[str | Marker]:
        """Cut ``text`` at its markers; the parts in between may be empty."""
        parts: list[str | Marker] = []
        end = 0
        for match in self._pattern.finditer(text):
            parts += [text[end : match.start()], self.markers[match.group()]]
            end = match.end()
        return [*parts, text[end:]]

    def spell(self, text: str) -> list[int]:
        """Return the ids of plain text within a text, one letter at a time."""
        return [
            token
            for letter in text
            for token in self._inside.encode(letter, add_special_tokens=False).ids
            if token not in self._ids
        ]

    def encode(self, text: str, *, is_first: bool = True, is_inside: bool = False) -> list[int]:
        """
        Return the ids of plain text; whatever looks like a marker is letters.

        Parameters
        ----------
        text
            What is to be said.
        is_first
            Whether it begins the sequence; some tokenizers put a space before the first word.
        is_inside
            Whether other text goes before it, so that no tokenizer puts a space there.

        Raises
        ------
        ConfigError
            The text cannot be written as UTF-8 (a lone surrogate).

        """
        check_utf8(text)
        tokenizer = self._inside if is_inside else self._first if is_first else self._rest
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        if self._ids.isdisjoint(ids):
            return ids
        # A vocabulary may hold a marker as a word of its own; one letter at a time it cannot.
        return self.spell(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids`` without markers; bytes that are no UTF-8 become U+FFFD."""
        return str(self._decoder.decode(list(ids), skip_special_tokens=True))


class IncrementalDecoder:
    """
    Decodes an answer token by token.

    Parameters
    ----------
    tokenizer
        Whose ids come.

    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """Return the text that ``token`` completes; an incomplete letter is held back."""
        self._held.append(token)
        text = self._pending()
        if text.endswith(REPLACEMENT) and len(self._held) < MAX_HELD_TOKENS:
            return ''
        self._settle()
        return text

    def flush(self) -> str:
        """Return what was held back, at the end of an answer."""
        text = self._pending()
        self._settle()
        return text

    def _pending(self) -> str:
        before = self._tokenizer.decode(self._before)
        return self._tokenizer.decode([*self._before, *self._held])[len(before) :]

    def _settle(self) -> None:
        """Keep a few settled tokens: some decoders treat the first word of a text specially."""
        self._before = [*self._before, *self._held][-MAX_HELD_TOKENS:]
        while self._before and self._tokenizer.decode(self._before).startswith(REPLACEMENT):
            self._before.pop(0)
        self._held = []


def check_utf8(text: str) -> None:
    """
    Refuse text that cannot be written as UTF-8.

    Raises
    ------
    ConfigError
        It holds a lone surrogate.

    """
    try:
        text.encode('utf-8')
    except UnicodeEncodeError as exc:
        raise ConfigError(
            f'the text holds a lone surrogate at index {exc.start}',
            hint="decode the input as UTF-8 with errors='replace'",
        ) from exc


def stop_ids(folder: Path) -> frozenset[int]:
    """
    Return the tokens that end an answer, as published in generation_config.json or config.json.

    Raises
    ------
    ModelError
        Neither file names one.

    """
    for name in ('generation_config.json', 'config.json'):
        path = folder / name
        value = read_json(path).get('eos_token_id') if path.exists() else None
        ids: Sequence[object] = value if isinstance(value, list) else [value]
        if value is not None and all(type(token) is int and token >= 0 for token in ids):
            return frozenset(int(str(token)) for token in ids)
        if value is not None:
            raise ModelError(f'{path}: eos_token_id is {value!r}', hint='it must be token ids')
    raise ModelError(
        f'{folder}: no eos_token_id, so an answer would never end',
        hint='add eos_token_id to generation_config.json',
    )


def _load(path: Path, document: dict[str, object]) -> FastTokenizer:
    try:
        return FastTokenizer.from_str(json.dumps(document))
    except Exception as exc:  # the library raises no narrower class
        raise ModelError(f'{path}: is not a tokenizer: {exc}', hint='download it again') from exc


def _without_prefix(tokenizer: FastTokenizer) -> FastTokenizer:
    """Return a tokenizer for what does not begin the sequence: no space is put before it."""
    kind = tokenizer.pre_tokenizer
    if not isinstance(kind, pre_tokenizers.Metaspace) or kind.prepend_scheme != 'first':
        return tokenizer
    rest = FastTokenizer.from_str(tokenizer.to_str())
    rest.encode_special_tokens = True
    rest.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=kind.replacement, prepend_scheme='never', split=kind.split
    )
    return rest


def _bare(document: dict[str, object]) -> dict[str, object]:
    """Return the parts of tokenizer.json that may put a space before a text, without doing so."""
    changes: dict[str, dict[str, object]] = {
        'Metaspace': {'prepend_scheme': 'never'},
        'ByteLevel': {'add_prefix_space': False},
    }

    def bare(part: object) -> object:
        if not isinstance(part, dict) or part.get('type') == 'Prepend':
            return None
        for name in ('normalizers', 'pretokenizers'):
            if isinstance(part.get(name), list):
                inner = [bare(each) for each in part[name]]
                return {**part, name: [each for each in inner if each is not None]}
        return {**part, **changes.get(str(part.get('type')), {})}

    return {name: bare(document.get(name)) for name in ('normalizer', 'pre_tokenizer')}
