# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Saving the live window: its turns, its chunks, its manifest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cwm_ros.freeze import Freeze, FreezeProgress, NOTHING_FROZEN
from cwm_ros.witness import testify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.live import LiveWindow


def save(live: LiveWindow, *, is_final: bool) -> Iterator[FreezeProgress]:
    """Write the window; see `Manager.freeze`."""
    tools, store = live.tools, live.tools.store
    live.settle()
    live.commit(or_keep=live.session.num_turns)
    if not is_final and (reason := store.budget_problem()):
        evicted = store.take_evictions()
        yield replace(NOTHING_FROZEN, deferred=reason, evicted=evicted)
        return
    freeze = Freeze(
        store,
        live.session,
        settings=tools.settings.codec,
        thaw_settings=tools.settings.thaw,
        kernels=tools.kernels,
        known=live.entries,
        is_final=is_final,
    )
    yield from freeze.write_chunks()
    manifest = testify(
        freeze.manifest(live.name, live.tags),
        live.session,
        live.manifest,
        tools.settings.thaw.proof_tokens,
    )
    live.manifest = store.commit_window(manifest)
    live.entries = tuple(freeze.entries)
    yield replace(freeze.progress, is_committed=True, evicted=store.take_evictions())
