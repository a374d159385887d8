# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the assistant is told when it comes back: how much time passed, and the vehicle's state now.

Without it, it answers from last week's fuel level. The wording is that of the dialogues which
the reference model was trained on ('3 hours passed. Now: fuel 42 %, at Mill Road.'), and plain
enough for any other model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TOKENS = 64
CLOCK_IS_SET_MS = 1_577_836_800_000
"""2020: a clock before that is one that nobody has set."""
NOW = 'Now: '
_UNITS = (('week', 604_800), ('day', 86_400), ('hour', 3_600), ('minute', 60))
_FROM = 2
"""A unit is used from two of it on, so that '36 hours' is not 'one day'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReEntry:
    """
    What was said to the assistant.

    Parameters
    ----------
    text
        The whole turn.
    left_out
        The end of the state that did not fit into `MAX_TOKENS`; empty when all did.

    """

    text: str
    left_out: str = ''


def elapsed_text(since_ms: int, now_ms: int) -> str:
    """
    Say how much time passed, from a minute on; nothing when a clock was not set.

    Parameters
    ----------
    since_ms, now_ms
        Wall clock when something was said last, and now [ms since 1970].

    """
    seconds = (now_ms - since_ms) // 1000
    if since_ms < CLOCK_IS_SET_MS or seconds < _UNITS[-1][1]:
        return ''
    for unit, length in _UNITS:
        if (count := seconds // length) >= _FROM:
            return f'{count} {unit}s passed.'
    return 'One minute passed.'


def compose(context: str, elapsed: str, count_tokens: Callable[[str], int]) -> ReEntry | None:
    """
    Put the turn into words; None when there is nothing to say.

    A state that is too long loses its last items, which commas separate.

    Parameters
    ----------
    context
        The vehicle's state now, such as 'fuel 42 %, at Mill Road'.
    elapsed
        See `elapsed_text`.
    count_tokens
        Length of a whole turn [tokens].

    Raises
    ------
    ConfigError
        Not even its first item fits.

    """
    state = ' '.join(context.split()).removeprefix(NOW).rstrip(' .,;')
    items = state.split(',') if state else []
    for count in range(len(items), 0, -1):
        text = f'{elapsed} {NOW}{",".join(items[:count])}.'.strip()
        if count_tokens(text) <= MAX_TOKENS:
            return ReEntry(text=text, left_out=','.join(items[count:]).strip())
    if items:
        raise ConfigError(
            f'the context {state[:40]!r} takes more than {MAX_TOKENS} tokens',
            hint='say less, or separate its items with commas, the most important first',
        )
    return ReEntry(text=elapsed) if elapsed else None
