# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Forgetting what was said.

Whole exchanges go: what the user said with all that follows it up to the next prompt, for an
answer repeats what it answers. All KV behind the first of them goes too, for it attended to them;
it is computed again from the turns that stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import ConfigError, CwmError
from cwm_ros.kv import Role
from cwm_ros.meaning import cut_meanings
from cwm_ros.proof import pack_samples, unpack_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cwm_ros.kv import Turn
    from cwm_ros.store import Manifest, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """
    What was forgotten, and where it is still known.

    Parameters
    ----------
    window
        Its name.
    turns
        Numbers that the forgotten turns had.
    turns_left
        Number of turns that stay.
    tokens_kept
        Tokens before the first of them, whose KV stays as it was.
    chunks_removed
        Chunks that the window had of them and behind them.
    kept_in
        Other windows, such as clones, in which one of the turns was said, too: they keep it.
    unread
        Other windows that could not be looked into.
    bundles
        Files that bundles of this profile were written to, before: they may hold it.

    """

    window: str
    turns: tuple[int, ...]
    turns_left: int
    tokens_kept: int
    chunks_removed: int
    kept_in: tuple[str, ...]
    unread: tuple[str, ...]
    bundles: tuple[str, ...]


def forget(store: Store, name: str, numbers: Iterable[int]) -> Forgotten:
    """
    Remove turns from a window and from the disk.

    Whatever instant the power goes, the window has all of them or none.

    Parameters
    ----------
    store
        Open for writing.
    name
        The window, which must not be open.
    numbers
        Turns, of which the whole exchanges go.

    Raises
    ------
    ConfigError
        There is no such turn, or it is the system prompt, or nothing would be left.
    BusyError
        The window is open.
    NotFoundError, FormatError
        There is no such window, or it is damaged.
    StorageError
        Something could not be removed; the turns are still there.

    """
    window = store.window(name)
    gone = exchanges_of(window.turns, numbers)
    if len(gone) == len(window.turns):
        raise ConfigError(
            f'window {name!r}: no turn would be left', hint='delete the window instead'
        )
    kept_in, unread = _others_with(store, name, [window.turns[number] for number in gone])
    before = window.manifest
    manifest = before if before is None else cut_before(before, min(gone))
    store.forget_turns(name, frozenset(gone), manifest)
    return Forgotten(
        window=name,
        turns=tuple(gone),
        turns_left=len(window.turns) - len(gone),
        tokens_kept=len(manifest.tokens) if manifest else 0,
        chunks_removed=len(before.chunks) - len(manifest.chunks) if before and manifest else 0,
        kept_in=tuple(kept_in),
        unread=tuple(unread),
        bundles=store.exports,
    )


def exchanges_of(turns: Sequence[Turn], numbers: Iterable[int]) -> list[int]:
    """
    Return the turns of the exchanges that some turns belong to, ascending.

    Raises
    ------
    ConfigError
        There is no such turn, or it belongs to no exchange, as the system prompt.

    """
    gone: set[int] = set()
    for number in numbers:
        if not 0 <= number < len(turns):
            raise ConfigError(
                f'turn {number} does not exist, the window has turns 0 to {len(turns) - 1}',
                hint='see cwm show --turns',
            )
        first = number
        while first >= 0 and turns[first].role is not Role.USER:
            first -= 1
        if first < 0:
            raise ConfigError(
                f'turn {number} comes before all the user said',
                hint='a window cannot forget its system prompt: begin a new one',
            )
        last = first + 1
        while last < len(turns) and turns[last].role is not Role.USER:
            last += 1
        gone.update(range(first, last))
    if not gone:
        raise ConfigError('no turn is named', hint='see cwm show --turns')
    return sorted(gone)


def cut_before(manifest: Manifest, turn: int) -> Manifest:
    """
    Return a manifest that knows nothing of a turn, or of any behind it.

    It covers earlier turns only, so that it fits the log with and without the later ones. In a
    segment that begins behind the turn nothing stays: it is rendered anew from the turns.
    """
    first = manifest.segment_start_turn
    if turn >= manifest.num_turns:
        count, stops = manifest.num_turns, manifest.turn_stops
    elif turn > first:
        count, stops = turn, manifest.turn_stops[: turn - first]
    else:
        first = count = 0
        stops = ()
    num_tokens = len(manifest.tokens) if count == manifest.num_turns else 0
    if stops and count < manifest.num_turns:
        num_tokens = stops[-1]
    chunks = tuple(entry for entry in manifest.chunks if entry.stop <= num_tokens)
    kept = {entry.id for entry in chunks}
    samples = unpack_samples(manifest.samples, manifest.spec)
    return replace(
        manifest,
        segment_start_turn=first,
        num_turns=count,
        tokens=np.array(manifest.tokens[:num_tokens]),
        turn_stops=tuple(stops),
        chunks=chunks,
        provisional=tuple(
            (a, min(b, num_tokens)) for a, b in manifest.provisional if a < num_tokens
        ),
        probe=b'',
        samples=pack_samples({i: row for i, row in samples.items() if i in kept}),
        meaning=cut_meanings(manifest, num_tokens),
        extra=(),  # of what a later version keeps there nobody here knows what it tells
    )


def _others_with(store: Store, name: str, said: Sequence[Turn]) -> tuple[list[str], list[str]]:
    """Return the other windows that hold one of some turns, and those that cannot be read."""
    found, unread = [], []
    wanted = set(said)
    for info in store.windows():
        if info.name == name:
            continue
        try:
            if wanted & set(store.turns(info.name)):
                found.append(info.name)
        except CwmError:
            unread.append(info.name or '(a window whose name cannot be read)')
    return found, unread
