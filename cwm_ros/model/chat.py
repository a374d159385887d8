# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
From turns to token ids, with the model's own chat template.

What a turn says is plain text, always: markers come from the template only. So that they can
be told apart, the template sees a word in random private-use characters instead of each text.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
import secrets
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import ModelError
from cwm_ros.kv import Role, Turn
from cwm_ros.model.chat_habits import find_habits
from cwm_ros.model.config_file import read_json
from cwm_ros.model.tokenizer import check_utf8, Marker
from cwm_ros.template.remote import open_template

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cwm_ros.kv import TokenArray
    from cwm_ros.model.chat_habits import Template
    from cwm_ros.model.tokenizer import Tokenizer

FIRST_PRIVATE = 0xE010
"""The first of Unicode's private letters that mark texts; `chat_habits` has those before it."""
NUM_PRIVATE = 0x1900 - 0x10
WRAP_CHARS = 8
"""8 of 6384 characters: 101 random bits."""
STAND_IN = 'xY'
"""Both cases, so that a template that changes them is noticed."""
MAX_TEMPLATE_BYTES = 1 << 20
PROBE_TURNS = 12


class ChatRenderer:
    """
    Renders turns as token ids.

    Parameters
    ----------
    tokenizer
        Tokenizer of the model.
    template
        Chat template of the model.
    where
        The checkpoint's folder, which the template's errors name.

    Raises
    ------
    ModelError
        The template cannot be run.

    """

    def __init__(
        self, tokenizer: Tokenizer, template: Template, where: Path | None = None
    ) -> None:
        self._where = where
        self._tokenizer = tokenizer
        self._template = template
        with self._naming_folder():
            self._habits = find_habits(template, tokenizer)
        self._has_local_turns: bool | None = None

    def render(self, turns: Sequence[Turn], *, add_generation_prompt: bool) -> TokenArray:
        """
        Return the tokens of a conversation.

        Parameters
        ----------
        turns
            What was said; markers and everything else in the texts is plain text.
        add_generation_prompt
            Whether the beginning of the assistant's turn comes last.

        Returns
        -------
        TokenArray
            Shape (T,), int32.

        Raises
        ------
        ConfigError
            A text holds a lone surrogate.
        ModelError
            The template fails, refuses the conversation, or does not keep the texts whole.

        """
        pieces = self._pieces(
            turns, _fresh_wrap(turns), add_generation_prompt=add_generation_prompt
        )
        return np.array(self._encode(pieces, is_first=True), dtype=np.int32)

    def render_suffix(
        self, turns: Sequence[Turn], new_turns: Sequence[Turn], *, add_generation_prompt: bool
    ) -> TokenArray:
        """
        Return the tokens that ``new_turns`` add to the rendering of ``turns``.

        Parameters
        ----------
        turns
            What was said before; rendered without a generation prompt.
        new_turns
            What follows; may be empty when only the generation prompt is wanted.
        add_generation_prompt
            As for `render`.

        Raises
        ------
        ModelError
            As for `render`; or the template says earlier turns differently once later ones
            follow, so that the conversation must be rendered anew.

        """
        if self._is_local(turns):
            with suppress(ModelError):  # what a shortened history lacks, the whole one may have
                return self._suffix(
                    _shortened(turns), new_turns, add_generation_prompt=add_generation_prompt
                )
        return self._suffix(turns, new_turns, add_generation_prompt=add_generation_prompt)

    def _suffix(
        self, turns: Sequence[Turn], new_turns: Sequence[Turn], *, add_generation_prompt: bool
    ) -> TokenArray:
        turns_after = [*turns, *new_turns]
        wrap = _fresh_wrap(turns_after)
        known = self._pieces(turns, wrap, add_generation_prompt=False) if turns else ['']
        whole = self._pieces(turns_after, wrap, add_generation_prompt=add_generation_prompt)
        last = len(known) - 1
        if whole[:last] != known[:last] or not whole[last].startswith(known[last]):
            raise _changed_history(len(turns))
        suffix = [whole[last].removeprefix(known[last]), *whole[last + 1 :]]
        if self._is_cut(known[last], suffix[0]):
            return np.array(self._encode(suffix, is_first=False), dtype=np.int32)
        known_ids = self._encode(known, is_first=True) if turns else []
        whole_ids = self._encode(whole, is_first=True)
        if whole_ids[: len(known_ids)] != known_ids:
            raise _changed_history(len(turns))
        return np.array(whole_ids[len(known_ids) :], dtype=np.int32)

    def _is_local(self, turns: Sequence[Turn]) -> bool:
        """
        Say whether a turn is rendered the same after a shortened history.

        Tried once, on a conversation of the same roles: a template that counts turns or looks
        back is given the whole history each time, which costs time in proportion to it.
        """
        if len(turns) < PROBE_TURNS:
            return False
        if self._has_local_turns is None:
            probe = [Turn(role=turn.role, text='x') for turn in turns[:PROBE_TURNS]]
            try:
                self._has_local_turns = all(
                    np.array_equal(
                        self._suffix(probe[:-1], new, add_generation_prompt=is_open),
                        self._suffix(_shortened(probe[:-1]), new, add_generation_prompt=is_open),
                    )
                    for new, is_open in ((probe[-1:], False), ((), True))
                )
            except ModelError:
                self._has_local_turns = False
        return self._has_local_turns

    def end_ids(self) -> frozenset[int]:
        """Return the marker that the template puts behind an assistant's text, if it is one."""
        try:
            before, *rest = self._tokenizer.split_markers(self._closing_text())
        except ModelError as exc:
            if exc.is_template_lost:
                raise
            return frozenset()
        if rest and isinstance(rest[0], Marker) and not str(before).strip():
            return frozenset({rest[0].token})
        return frozenset()

    def close(self) -> None:
        """End the template's process, if it has one."""
        self._template.close()

    def closing(self) -> TokenArray:
        """Return the tokens that follow the text of an assistant's turn, int32, shape (C,)."""
        pieces = [self._closing_text()]
        return np.array(self._encode(pieces, is_first=False, is_inside=True), dtype=np.int32)

    def _closing_text(self) -> str:
        turns = [Turn(role=role, text='x') for role in (Role.USER, Role.ASSISTANT)]
        return self._pieces(turns, _fresh_wrap(turns), add_generation_prompt=False)[-1]

    def _pieces(
        self, turns: Sequence[Turn], wrap: str, *, add_generation_prompt: bool
    ) -> list[str]:
        """Return template text (even pieces) and what is said (odd ones)."""
        for turn in turns:
            check_utf8(turn.text)
        roles = [turn.role for turn in turns]
        texts = [turn.text for turn in turns]
        stand_ins = [_wrapped(text, f'{STAND_IN}{n}', wrap) for n, text in enumerate(texts)]
        with self._naming_folder():
            rendered = self._habits.render(
                self._template, roles, stand_ins, add_generation_prompt=add_generation_prompt
            )
        pieces = rendered.split(wrap)
        said = {f'{STAND_IN}{n}': text.strip() for n, text in enumerate(texts) if text.strip()}
        if pieces[1::2] != list(said):
            raise ModelError(
                'the chat template drops, repeats or changes what a turn says',
                hint='use a checkpoint whose template keeps the texts',
            )
        return [said[piece] if index % 2 else piece for index, piece in enumerate(pieces)]

    @contextmanager
    def _naming_folder(self) -> Iterator[None]:
        try:
            yield
        except ModelError as exc:
            if self._where is None:
                raise
            raise ModelError(
                f'{self._where}: {exc.message}',
                hint=exc.hint,
                is_template_lost=exc.is_template_lost,
            ) from exc

    def _is_cut(self, before: str, after: str) -> bool:
        """Say whether two parts of a rendering are encoded the same together and apart."""
        left, right = self._tokenizer.split_markers(before), self._tokenizer.split_markers(after)
        ends = left[-2] if len(left) > 1 and left[-1] == '' else None
        begins = right[1] if len(right) > 1 and right[0] == '' else None
        if isinstance(ends, Marker):
            return not ends.takes_right
        return isinstance(begins, Marker) and not begins.takes_left

    def _encode(
        self, pieces: Sequence[str], *, is_first: bool, is_inside: bool = False
    ) -> list[int]:
        """Encode template text (even pieces) and what was said (odd ones)."""
        parts: list[str | Marker | list[int]] = ['']
        for index, piece in enumerate(pieces):
            new = self._said(piece) if index % 2 else self._tokenizer.split_markers(piece)
            # A text and the template around it are one run of letters for the tokenizer.
            parts[-1] = f'{parts[-1]}{new[0]}'
            parts += new[1:]
        ids: list[int] = []
        for index, part in enumerate(parts):
            if isinstance(part, list):
                ids += part
            elif isinstance(part, Marker):
                ids.append(part.token)
            else:
                before = parts[index - 1] if index else None
                after = parts[index + 1] if index + 1 < len(parts) else None
                ids += self._tokenizer.encode(
                    _swallowed(part, before, after),
                    is_first=is_first and index == 0,
                    is_inside=isinstance(before, list) or (is_inside and not index),
                )
        return ids

    def _said(self, text: str) -> list[str | Marker | list[int]]:
        """
        Cut a text at what the template writes to say who speaks.

        Where that is a marker, text is told apart by its token. Where it is only letters, as
        Llama 2's [INST], the same letters in a text get tokens of their own, one for each.
        """
        parts: list[str | Marker | list[int]] = []
        for index, piece in enumerate(self._habits.marks.split(text)):
            parts.append(self._tokenizer.spell(piece) if index % 2 else piece)
        return parts


def _shortened(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Take an even number of turns out of the middle, so that who speaks when stays the same."""
    num_last = 2 + len(turns) % 2
    return turns if len(turns) <= 2 + num_last else [*turns[:2], *turns[-num_last:]]


def _changed_history(num_turns: int) -> ModelError:
    return ModelError(
        f'the chat template renders the first {num_turns} turns differently when others follow',
        hint='render the conversation anew',
    )


def load_template(folder: Path) -> Template:
    """
    Return the template of a checkpoint; a foreign one's process begins to start.

    The template is chat_template.jinja, else the one in tokenizer_config.json.

    Raises
    ------
    ModelError
        There is no template, or it cannot be used.

    """
    config_path = folder / 'tokenizer_config.json'
    config = read_json(config_path, MAX_TEMPLATE_BYTES * 64) if config_path.exists() else {}
    source = _template_source(folder, config.get('chat_template'))
    constants = {
        name: _content(config[name])
        for name in ('bos_token', 'eos_token', 'unk_token', 'pad_token')
        if config.get(name) is not None
    }
    return open_template(source, constants)


def _template_source(folder: Path, configured: object) -> str:
    path = folder / 'chat_template.jinja'
    if path.exists():
        if path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise ModelError(
                f'{path}: longer than {MAX_TEMPLATE_BYTES} bytes', hint='download it again'
            )
        return path.read_bytes().decode('utf-8', 'replace')
    if isinstance(configured, list):
        named = {str(entry.get('name')): entry for entry in configured if isinstance(entry, dict)}
        configured = named.get('default', {}).get('template')
    if not isinstance(configured, str):
        raise ModelError(
            f'{folder}: has no chat template, so turns cannot be told apart',
            hint='use an instruction-tuned release, or add chat_template.jinja',
        )
    return configured


def _content(token: object) -> str:
    """Return the text of a special token, which is published as text or as an object."""
    return str(token.get('content', '')) if isinstance(token, dict) else str(token)


def _fresh_wrap(turns: Sequence[Turn]) -> str:
    while True:
        letters = (FIRST_PRIVATE + secrets.randbelow(NUM_PRIVATE) for _ in range(WRAP_CHARS))
        wrap = ''.join(map(chr, letters))
        if not any(wrap in turn.text for turn in turns):
            return wrap


def _wrapped(text: str, stand_in: str, wrap: str) -> str:
    """
    Return what the template sees instead of a text: a wrapped word, which it cannot mistake.

    The white space around the text stays, where a template may trim.
    """
    said = text.strip()
    if not said:
        return text
    left = text[: len(text) - len(text.lstrip())]
    return f'{left}{wrap}{stand_in}{wrap}{text[len(left) + len(said) :]}'


def _swallowed(text: str, before: object, after: object) -> str:
    """Take away the white space that the markers beside a text swallow."""
    if isinstance(before, Marker) and before.takes_right:
        text = text.lstrip()
    if isinstance(after, Marker) and after.takes_left:
        text = text.rstrip()
    return text
