# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
In which order a window comes back: pure functions from what is known to a list of steps.

The definitions of *usable* and *answerable* live here and nowhere else. The identity of the model
is verified before anything comes back. A position is sound when its KV is in the engine and not
provisional, that is, not computed while an earlier position was absent or itself provisional. A
window is

- *usable* when all chunks are resident that hold a token of `usable_bounds`;
- *answerable*, for a prompt, when it is usable and what `prioritize` wants for it is resident;
- *complete* when every position is sound (`cwm_ros.thaw.Thaw.is_complete`).

How faithful an answer can be is another question; see `cwm_ros.session.Fidelity`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from cwm_ros.config import ThawSettings
    from cwm_ros.store import ChunkEntry


class Way(Enum):
    """How a chunk comes back."""

    LOAD = 'load'
    COMPUTE = 'recompute'


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawStep:
    """
    One chunk's way back.

    Parameters
    ----------
    start, stop
        Its token positions.
    entry
        Where it is stored; None when it has to be computed from its tokens.
    is_usable_part
        Whether the window is not usable without it.
    reason
        Why it stands where it stands in the order, for people.
    way
        How it comes back; COMPUTE when there is no entry.
    cost_s, done_s
        How long it takes, and how long after the beginning it is there; estimates [s], None while
        the board has not shown how fast it is.

    """

    start: int
    stop: int
    entry: ChunkEntry | None
    is_usable_part: bool
    reason: str
    way: Way = Way.LOAD
    cost_s: float | None = None
    done_s: float | None = None

    def __post_init__(self) -> None:
        assert self.entry is not None or self.way is Way.COMPUTE

    def computed(self, reason: str) -> ThawStep:
        """Return the step as one that is never loaded."""
        return replace(self, entry=None, way=Way.COMPUTE, reason=reason)


def usable_bounds(
    num_tokens: int, turn_stops: Sequence[int], *, settings: ThawSettings
) -> tuple[int, int]:
    """
    Say which tokens make a window usable: those before the first bound or from the second on.

    They are its first ``first_tokens`` tokens and its whole first turn (the system prompt), and
    its last ``last_tokens`` tokens and its whole last turn.

    Parameters
    ----------
    num_tokens
        Length of the window.
    turn_stops
        Position after each turn.
    settings
        How many first and last tokens.

    """
    first_stop = max(settings.first_tokens, turn_stops[0] if turn_stops else 0)
    last_turn_start = turn_stops[-2] if len(turn_stops) > 1 else 0
    last_start = min(num_tokens - settings.last_tokens, last_turn_start)
    return min(num_tokens, first_stop), max(0, last_start)


def order_chunks(
    entries: Sequence[ChunkEntry],
    *,
    num_tokens: int,
    chunk_tokens: int,
    turn_stops: Sequence[int],
    settings: ThawSettings,
) -> tuple[ThawStep, ...]:
    """
    Order the chunks of a window: what makes it usable, then by priority, the newest first.

    A window is usable when all chunks are resident that hold tokens of `usable_bounds`.
    Positions that no entry covers are planned to be computed, after the loads, in their own
    order, since each depends on all tokens before it.

    Parameters
    ----------
    entries
        Stored chunks, in any order.
    num_tokens, chunk_tokens
        Length of the window and of a chunk.
    turn_stops
        Position after each turn.
    settings
        How many first and last tokens usable means.

    """
    first_stop, last_start = usable_bounds(num_tokens, turn_stops, settings=settings)
    by_start = {entry.start: entry for entry in entries}
    steps = []
    for start in range(0, num_tokens, chunk_tokens):
        stop = min(start + chunk_tokens, num_tokens)
        entry = by_start.get(start)
        if entry is not None and entry.stop != stop:
            entry = None
        is_first, is_last = start < first_stop, stop > last_start
        reason = 'first tokens' if is_first else 'last tokens' if is_last else 'newest first'
        steps.append(
            ThawStep(
                start=start,
                stop=stop,
                entry=entry,
                is_usable_part=is_first or is_last,
                reason=reason if entry else f'{reason}; not stored',
                way=Way.LOAD if entry else Way.COMPUTE,
            )
        )
    return tuple(sorted(steps, key=_order))


def _order(step: ThawStep) -> tuple[bool, bool, int, int]:
    """Put usable parts first; then loads, by priority and age; then what must be computed."""
    is_computed = step.entry is None
    ascending = step.is_usable_part or is_computed
    priority = 0 if ascending or step.entry is None else step.entry.priority
    place = step.start if ascending else -step.start
    return (not step.is_usable_part, is_computed, priority, place)


def prioritize(
    steps: Sequence[ThawStep], scores: npt.NDArray[np.float64], *, chunk_tokens: int, count: int
) -> tuple[tuple[ThawStep, ...], int]:
    """
    Put the chunks most relevant to a prompt right behind those that make the window usable.

    Parameters
    ----------
    steps
        What is left to do, as `order_chunks` ordered it.
    scores
        Relevance of each chunk of the window, by its index; see `relevance`.
    chunk_tokens, count
        Length of a chunk, and how many relevant chunks are put first.

    Returns
    -------
    tuple of ThawStep, int
        The new order, and how many steps at its beginning make the prompt answerable.

    """
    usable = [step for step in steps if step.is_usable_part]
    others = [step for step in steps if not step.is_usable_part]
    ranked = sorted(others, key=lambda step: -scores[step.start // chunk_tokens])
    relevant = [step for step in ranked[:count] if scores[step.start // chunk_tokens] > 0]
    chosen = {step.start for step in relevant}
    rest = [step for step in others if step.start not in chosen]
    relevant = [replace(step, reason='relevant to the prompt') for step in relevant]
    return (*usable, *relevant, *rest), len(usable) + len(relevant)
