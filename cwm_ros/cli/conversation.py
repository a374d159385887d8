# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Dialogues in files: JSON lines of role and text, or plain text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cwm_ros.errors import ConfigError
from cwm_ros.kv import Role, Turn

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 1 << 26


def read_conversation(path: Path) -> list[Turn]:
    """
    Return the turns of a file.

    A file whose first character is '{' holds one JSON object with ``role`` and ``text`` in each
    line; any other is plain text, each paragraph of which is a turn of the user.

    Raises
    ------
    ConfigError
        The file cannot be read, is too large or not UTF-8, or a line is not such an object.

    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f'{path}: is larger than {MAX_FILE_BYTES} bytes')
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f'{path}: cannot be read: {exc}', hint='use a UTF-8 text file') from exc
    if text.lstrip().startswith('{'):
        lines = enumerate(text.splitlines(), start=1)
        turns = [_parse(path, number, line) for number, line in lines if line.strip()]
    else:
        paragraphs = (' '.join(part.split()) for part in text.split('\n\n'))
        turns = [Turn(role=Role.USER, text=part) for part in paragraphs if part]
    if not turns:
        raise ConfigError(f'{path}: holds no text')
    return turns


def _parse(path: Path, number: int, line: str) -> Turn:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise _not_a_turn(path, number, 'it is not JSON') from exc
    if not isinstance(record, dict):
        raise _not_a_turn(path, number, 'it is not an object')
    role, text = record.get('role'), record.get('text')
    if role not in {role.value for role in Role}:
        raise _not_a_turn(path, number, f'role is {role!r}')
    if not isinstance(text, str):
        raise _not_a_turn(path, number, f'text is {text!r}')
    return Turn(role=Role(role), text=text)


def _not_a_turn(path: Path, number: int, problem: str) -> ConfigError:
    return ConfigError(
        f'{path}: line {number} is not a turn: {problem}',
        hint='write {"role": "user", "text": "..."}, role user, assistant or system',
    )
