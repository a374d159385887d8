# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Opening a window: what is found of it on disk, and a thaw that proves what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cwm_ros.probe import EndProbe
from cwm_ros.proof import ChunkProof, Evidence, unpack_samples
from cwm_ros.reopen import restore_session
from cwm_ros.restore import begin_thaw, ChunkReader, find_chunks
from cwm_ros.review import answers_in

if TYPE_CHECKING:
    from cwm_ros.config import Settings
    from cwm_ros.live import LiveWindow
    from cwm_ros.loaded import LoadedModel
    from cwm_ros.session import Session
    from cwm_ros.store import ChunkEntry, Store, Window
    from cwm_ros.thaw import Thaw


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """
    A window as it was found on disk.

    Parameters
    ----------
    window, session, entries
        Its files, its conversation with the turns after the last freeze, and its chunks.
    num_tokens
        Length of the conversation without those turns.
    problems
        What could not be had as it was, for people.

    """

    window: Window
    session: Session
    entries: tuple[ChunkEntry, ...]
    num_tokens: int
    problems: tuple[str, ...]


def find_session(window: Window, model: LoadedModel, store: Store, settings: Settings) -> Found:
    """
    Return a window's session, none of it resident, and its chunks.

    Raises
    ------
    ContextFullError
        The context does not even hold the window's system prompt.

    """
    restored = restore_session(
        window,
        model.engine,
        model.checkpoint.chat,
        model.checkpoint.stop_ids,
        carry_over=settings.assistant.carry_over,
    )
    session = restored.session
    window, entries = find_chunks(store, window, session, restored.entries, settings.codec)
    num_tokens = session.num_tokens
    for turn in window.turns[session.num_turns :]:
        session.add_turn(turn)
    return Found(
        window=window,
        session=session,
        entries=entries,
        num_tokens=num_tokens,
        problems=(restored.problem,) if restored.problem else (),
    )


def begin_live_thaw(
    live: LiveWindow, found: Found, model: LoadedModel, *, began: float, strategy: str
) -> Thaw:
    """
    Tell a live window what was found of it, and begin its thaw.

    Parameters
    ----------
    live, found
        The window; what `find_session` returned, whose session is the live one's.
    model
        Gives engine, rates, and the keys and values of the first layer.
    began
        When the window was asked for, on the steady clock [s].
    strategy
        'auto', 'load' or 'recompute'; empty means as the settings say.

    """
    tools, manifest = live.tools, found.window.manifest
    live.entries, live.manifest = found.entries, manifest
    live.problems += found.problems
    if manifest is not None:
        live.spoken = answers_in(found.session, manifest)
        live.tags = manifest.tags
    load = ChunkReader(
        tools.store,
        found.window,
        model.engine,
        tools.kernels,
        tools.settings.thaw,
        proof=proof_of(found, model, tools.settings.thaw.proof_tokens),
    )
    live.thaw = begin_thaw(
        found.window,
        found.session,
        found.entries,
        load,
        tools.settings,
        num_tokens=found.num_tokens,
        clock=tools.clock,
        began=began,
        book=model.rates,
        strategy=strategy,
        probe=_probe_of(found, model) if tools.settings.thaw.proof_tokens else None,
    )
    return live.thaw


def proof_of(found: Found, model: LoadedModel, count: int) -> ChunkProof:
    """Return what compares ``count`` tokens of each chunk with what they must be."""
    spec, manifest = model.engine.spec, found.window.manifest
    return ChunkProof(
        Evidence(
            spec=spec,
            tokens=found.session.tokens,
            entries=found.entries,
            samples=unpack_samples(manifest.samples if manifest else b'', spec),
            first_layer=model.first_layer.kv,
            count=count,
        )
    )


def _probe_of(found: Found, model: LoadedModel) -> EndProbe:
    manifest = found.window.manifest
    return EndProbe(
        manifest.probe if manifest else b'',
        found.session.tokens[: found.num_tokens],
        model.engine.vocab_size,
        model.checkpoint.card.codec_kl,
    )
