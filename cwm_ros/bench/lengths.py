# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long a dialogue becomes in a model's own tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cwm_ros.kv import Role, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.model import Checkpoint


def turn_counter(checkpoint: Checkpoint) -> Callable[[Turn], int]:
    """Return what counts the tokens of a turn: its text, and the marks around it in a dialogue."""
    encode, chat = checkpoint.tokenizer.encode, checkpoint.chat
    turns = [Turn(role=role, text='a') for role in (Role.USER, Role.ASSISTANT) * 2]
    both = len(chat.render(turns, add_generation_prompt=False))
    one = len(chat.render(turns[:2], add_generation_prompt=False))
    marks = -(-(both - one) // 2) - len(encode(' a'))
    return lambda turn: len(encode(f' {turn.text}')) + marks
