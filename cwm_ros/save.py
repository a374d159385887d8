# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Saving the live window: its turns, its chunks, its manifest.

Whatever instant the power goes, what is on the disk is in order: turns are committed first, the
manifest once the usable part is written and again at the end; and chunks that no manifest names
yet are found by their tokens when the window is opened.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cwm_ros.deadline import Deadline
from cwm_ros.errors import QuotaError
from cwm_ros.freeze import DEADLINE, Freeze, FreezeProgress, NOTHING_FROZEN, WRITING_ORDER
from cwm_ros.meaning import note_meanings
from cwm_ros.witness import foresee, testify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.live import LiveWindow


def save(
    live: LiveWindow, *, is_final: bool, deadline_s: float | None = None
) -> Iterator[FreezeProgress]:
    """Write the window; see `Manager.freeze`."""
    store = live.tools.store
    deadline = Deadline(live.tools.clock, deadline_s)
    nothing = replace(
        NOTHING_FROZEN,
        turns_safe=live.secure(),
        tokens_safe=sum(entry.stop - entry.start for entry in live.entries),
        tokens_total=live.session.num_tokens,
    )
    reason = '' if is_final else store.budget_problem()
    if reason or not deadline.allows(live.tools.pace.commit_s):
        evicted = store.take_evictions()
        yield replace(nothing, deferred=reason or DEADLINE, evicted=evicted)
        return
    live.settle()
    freeze = _freeze(live, is_final=is_final)
    freeze.progress = replace(freeze.progress, turns_safe=nothing.turns_safe)
    yield from freeze.reuse_chunks()
    for priority in WRITING_ORDER:
        before = freeze.progress.bytes_written
        yield from freeze.write_chunks(priority, deadline)
        if priority == WRITING_ORDER[0] and freeze.progress.bytes_written > before:
            _commit(live, freeze, is_last=False)
    if deadline.allows(live.tools.pace.commit_s) or freeze.progress.bytes_written:
        _commit(live, freeze, is_last=True)
    evicted = store.take_evictions()
    yield replace(freeze.progress, is_committed=freeze.is_committed, evicted=evicted)


def _freeze(live: LiveWindow, *, is_final: bool) -> Freeze:
    tools = live.tools
    return Freeze(
        tools.store,
        live.session,
        settings=tools.settings.codec,
        thaw_settings=tools.settings.thaw,
        kernels=tools.kernels,
        known=live.entries,
        is_final=is_final,
        pace=tools.pace,
    )


def _commit(live: LiveWindow, freeze: Freeze, *, is_last: bool) -> None:
    """Make the manifest durable that names what was written so far, unless it is."""
    if freeze.is_committed:
        return
    tools = live.tools
    began = tools.clock()
    manifest = freeze.manifest(live.name, live.tags)
    count = tools.settings.thaw.proof_tokens
    known = live.manifest
    if known is not None:
        manifest = replace(manifest, origin=known.origin, extra=known.extra)
        if live.foreseen and freeze.reaches_end:
            known = replace(known, probe=live.foreseen)
    manifest = testify(manifest, live.session, known, count)
    has_time = is_last and not freeze.progress.deferred
    manifest = note_meanings(manifest, live.session, known, has_time=has_time)
    live.manifest = tools.store.commit_window(manifest)
    tools.pace.note_commit(tools.clock() - began)
    freeze.is_committed = True
    live.entries = freeze.entries


def write_behind(live: LiveWindow) -> Iterator[FreezeProgress]:
    """
    Write the chunks that became full since the last time; see `Manager.idle`.

    Without any nothing is written; when there is no room, the last value says so.
    """
    size = live.tools.settings.codec.chunk_tokens
    known = {entry.start for entry in live.entries if entry.stop - entry.start == size}
    starts = range(0, live.session.num_tokens - size + 1, size)
    if any(live.session.is_sound(s, s + size) for s in starts if s not in known):
        try:
            yield from save(live, is_final=False)
        except QuotaError as exc:
            yield replace(NOTHING_FROZEN, deferred=str(exc))
    live.foreseen = foresee(live.session, live.manifest, live.tools.settings.thaw.proof_tokens)
