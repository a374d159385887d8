# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
From a window on disk to a session.

What fits is taken as it is; chunks of other weights are left out, to be computed from tokens;
under another tokenizer or chat template tokens are rendered anew from turns; what the context
does not hold goes on in a new segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.segment import begin_segment, head_of, SegmentStarted
from cwm_ros.session import common_length, Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cwm_ros.engine import Engine
    from cwm_ros.kv import TokenArray, Turn
    from cwm_ros.model import ChatRenderer
    from cwm_ros.store import ChunkEntry, Manifest, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """
    A window's session, and what of its files can be used for it.

    Parameters
    ----------
    session
        Holds the window's tokens, none of them resident yet; without the turns that were
        committed after the last freeze if its tokens can be used as they are.
    entries
        The chunks that fit this engine.
    problem
        What could not be had as it was, for people; empty when all could.

    """

    session: Session
    entries: tuple[ChunkEntry, ...] = ()
    problem: str = ''


def restore_session(
    window: Window,
    engine: Engine,
    chat: ChatRenderer,
    stop_ids: frozenset[int],
    *,
    carry_over: float = 0.5,
) -> Restored:
    """
    Return a session that holds a window's tokens, in a new segment if they are too many.

    Parameters
    ----------
    window
        As it was read.
    engine, chat, stop_ids
        What the session is for.
    carry_over
        Part of the context that turns may take when a new segment has to begin.

    Raises
    ------
    ContextFullError
        The context does not even hold the window's system prompt.

    """
    manifest, identity = window.manifest, engine.identity
    make = partial(Session, engine, chat, stop_ids)
    first = manifest.segment_start_turn if manifest else 0
    head = head_of(window.turns) if first else 0
    turns = [*window.turns[:head], *window.turns[first:]]
    if manifest is None or manifest.identity.rendering != identity.rendering:
        tokens, stops = _render(turns, chat)
    else:
        covered = manifest.num_turns - first + head
        tokens, stops = manifest.tokens, _stops_of(turns[:head], manifest, chat)
        more, more_stops = _render(turns, chat, start=covered)
        if len(tokens) + len(more) <= engine.capacity:
            turns = turns[:covered]
        else:
            stops += [len(tokens) + stop for stop in more_stops]
            tokens = np.concatenate([tokens, more])
    if len(tokens) > engine.capacity:
        lengths = [stop - start for start, stop in pairwise((0, *stops))]
        return _in_new_segment(window, turns, lengths, make, int(engine.capacity * carry_over))
    session = make(turns=turns, tokens=tokens, turn_stops=stops, head=head, first_turn=first)
    if manifest is None or manifest.identity.model != identity.model:
        return Restored(session=session)
    if manifest.spec != engine.spec:
        return Restored(session=session)
    same = common_length(manifest.tokens, session.tokens)
    entries = tuple(entry for entry in manifest.chunks if entry.stop <= same)
    return Restored(session=session, entries=entries)


def _stops_of(head: Sequence[Turn], manifest: Manifest, chat: ChatRenderer) -> list[int]:
    """Return the position after each turn of a segment, the repeated ones included."""
    stops = list(manifest.turn_stops)
    if not head:
        return stops
    stop = len(chat.render_suffix([], head, add_generation_prompt=False))
    return [min(stop, *stops, len(manifest.tokens)), *stops]


def _render(
    turns: Sequence[Turn], chat: ChatRenderer, *, start: int = 0
) -> tuple[TokenArray, list[int]]:
    """Return the tokens of the turns from ``start`` on, however many, and where each ends."""
    parts = [np.zeros(0, np.int32)]
    parts += [
        chat.render_suffix(turns[:index], turns[index : index + 1], add_generation_prompt=False)
        for index in range(start, len(turns))
    ]
    stops = np.cumsum([len(part) for part in parts[1:]], dtype=int).tolist()
    return np.concatenate(parts).astype(np.int32), stops


def _in_new_segment(
    window: Window,
    turns: Sequence[Turn],
    lengths: Sequence[int],
    make: partial[Session],
    keep_tokens: int,
) -> Restored:
    """Take what the context holds of a window that is too long for it."""
    head = head_of(window.turns)
    fresh = begin_segment(
        lambda head, first_turn: make(head=head, first_turn=first_turn),
        turns[:head],
        turns[head:],
        lengths[head:],
        stop_turn=len(window.turns),
        keep_tokens=keep_tokens,
    )
    # None of it is resident: a thaw brings it back, what makes it usable first.
    session = make(
        turns=fresh.turns,
        tokens=fresh.tokens,
        turn_stops=fresh.turn_stops,
        head=fresh.head,
        first_turn=fresh.first_turn,
    )
    carried = session.num_turns - session.first_turn
    started = SegmentStarted(
        first_turn=session.first_turn,
        left_behind=len(turns) - head - carried,
        carried=carried,
        tokens=session.num_tokens,
    )
    return Restored(session=session, problem=str(started))
