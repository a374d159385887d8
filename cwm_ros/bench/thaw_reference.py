# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Windows of the reference model, thawed by the real manager and engine, against recomputing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cwm_ros.bench.dialogues import make_dialogue
from cwm_ros.bench.lengths import turn_counter
from cwm_ros.bench.thaw_contest import Contestant, Reached, WARM
from cwm_ros.bench.thaw_peers import copy_limit, read_limits
from cwm_ros.bench.thaw_synthetic import follow, own_bytes
from cwm_ros.engine import LogitRows
from cwm_ros.manager import Manager

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.config import Settings
    from cwm_ros.kv import KVSpec

SHORTEST_TOKENS = 1024
RECOMPUTE_RUNS = 3
SEED = 7
ROOM_TOKENS = 256
"""Of the context, for a prompt and its answer."""


def reference_lengths(trained_tokens: int) -> list[int]:
    """Return 1K, 2K, 4K ... to the trained length."""
    doublings = max(trained_tokens // SHORTEST_TOKENS, 1).bit_length()
    return [SHORTEST_TOKENS << exponent for exponent in range(doublings)]


def reference_case(case: str, num_tokens: int, settings: Settings) -> list[Contestant]:
    """
    Freeze a dialogue; return what brings it back.

    Each thaw has a new engine, whose cache has not been touched: that is what a start meets.

    Parameters
    ----------
    case
        Names the rows and the window.
    num_tokens
        Most tokens of the window.
    settings
        With the store of this bench.

    """
    with Manager(settings) as manager:
        _load_kernels(manager)
        chunks = write_window(manager, case, num_tokens)
        header_bytes = own_bytes(manager.store, case)
        decoded_bytes = manager.session.num_tokens * _token_bytes(manager.engine.spec)
    windows = settings.storage.root.rglob('windows/*')
    files = [*chunks, *windows]
    return [
        Contestant(
            case=case,
            path='cwm',
            run=lambda: _thaw(settings, case, header_bytes),
            files=files,
        ),
        Contestant(
            case=case,
            path='recompute',
            run=lambda: _recompute(settings, case),
            states=(WARM,),
            max_runs=RECOMPUTE_RUNS,
        ),
        *read_limits(case, chunks, 2 * settings.thaw.num_threads),
        copy_limit(case, decoded_bytes),
    ]


def _token_bytes(spec: KVSpec) -> int:
    return spec.elements_per_token() * 4


def write_window(manager: Manager, name: str, num_tokens: int) -> list[Path]:
    """
    Freeze a dialogue and return the files of its chunks.

    Parameters
    ----------
    manager
        With the model; it has no window of this name.
    name
        Of the window.
    num_tokens
        Most tokens of the dialogue; what the model holds, less `ROOM_TOKENS`, if that is less.

    """
    longest = min(num_tokens, manager.engine.capacity - ROOM_TOKENS)
    turns = make_dialogue(SEED, longest, turn_counter(manager.checkpoint)).turns
    manager.create(name, turns[0].text)
    manager.add_turns(turns[1:])
    for _ in manager.catch_up():
        pass
    for _ in manager.freeze():
        pass
    manifest = manager.store.window(name).manifest
    assert manifest is not None
    return [manager.store.chunk_path(entry.id, entry.codec) for entry in manifest.chunks]


def _load_kernels(manager: Manager) -> None:
    manager.warm_up()
    manager.kernels.wait()


def _thaw(settings: Settings, name: str, header_bytes: int) -> list[Reached]:
    with Manager(settings) as manager:
        _load_kernels(manager)
        thaw = manager.open_window(name)
        return follow(thaw, manager.time_to_header_s, header_bytes)


def _recompute(settings: Settings, name: str) -> list[Reached]:
    with Manager(settings) as manager:
        manifest = manager.store.window(name).manifest
        assert manifest is not None
        began = time.perf_counter()
        manager.engine.run(manifest.tokens, 0, rows=LogitRows.NONE)
        return [Reached('complete', time.perf_counter() - began, 0)]
