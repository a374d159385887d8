# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How much may still be done before a point in time, judged by how long it took before."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import TYPE_CHECKING

from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_GUESS_S_PER_BYTE = 1 / 20e6
"""A slow drive that encodes slowly, until a chunk was written."""
FIRST_GUESS_COMMIT_S = 0.01


@dataclass(slots=True)
class Pace:
    """
    How long writing took lately; kept from freeze to freeze.

    Parameters
    ----------
    s_per_byte
        For a byte of KV in memory (float32), encoded and on the disk [s].
    commit_s
        For a manifest [s].

    """

    s_per_byte: float = FIRST_GUESS_S_PER_BYTE
    commit_s: float = FIRST_GUESS_COMMIT_S

    def note_chunk(self, num_bytes: int, seconds: float) -> None:
        """Learn from a chunk: from a slow one at once, from fast ones by and by."""
        self.s_per_byte = _learned(self.s_per_byte, seconds / num_bytes)

    def note_commit(self, seconds: float) -> None:
        """Learn from a manifest."""
        self.commit_s = _learned(self.commit_s, seconds)


def _learned(known: float, found: float) -> float:
    return max(found, (known + found) / 2)


def check_deadline(seconds: float | None) -> None:
    """
    Refuse a time from now that is no time.

    Raises
    ------
    ConfigError
        They are not a finite number, so nothing is before or after.

    """
    if seconds is not None and not math.isfinite(seconds):
        hint = 'name seconds from now, or none for no deadline'
        raise ConfigError(f'the deadline is {seconds}', hint=hint)


class Deadline:
    """
    A point in time on a steady clock.

    Parameters
    ----------
    clock
        Steady clock [s].
    seconds
        How long from now; None for no deadline. It may be in the past.

    Raises
    ------
    ConfigError
        ``seconds`` is not a finite number.

    """

    def __init__(self, clock: Callable[[], float], seconds: float | None) -> None:
        check_deadline(seconds)
        self.clock = clock
        self._end_s = math.inf if seconds is None else clock() + seconds

    @property
    def left_s(self) -> float:
        """Time that is left [s]; negative when it has passed."""
        return self._end_s - self.clock()

    def allows(self, seconds: float) -> bool:
        """Say whether what takes so long will be done in time."""
        return seconds < self.left_s
