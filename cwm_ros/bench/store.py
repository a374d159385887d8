# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a store costs: with many windows, and to the flash that it is written to."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
import hashlib
from pathlib import Path
import statistics
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.config import MIB, StorageSettings
from cwm_ros.kv import KVSpec, ModelIdentity, Role, TokenArray, Turn
from cwm_ros.store import ChunkHeader, files, Manifest, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.store import ChunkEntry

IDENTITY = ModelIdentity(model=bytes(32), rendering=bytes(32), name='synthetic')
SPEC = KVSpec(num_layers=1, num_kv_heads=1, head_dim=2, max_tokens=1 << 15)
CHUNK_TOKENS = 256
CHUNKS_OF_WINDOW = 4
PAYLOAD_BYTES = 1000
WINDOW_COUNTS = (10, 100, 1000, 10_000)
ROOMY_MIB = 1 << 20
TOKENS_PER_TURN = 34
DRIVES = {'64 KiB a token': 1 << 16, 'reference': 6 * 2 * 2 * 64}
"""Bytes of encoded KV for each token, by geometry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """
    What operations cost in a store of so many windows; medians [ms].

    Parameters
    ----------
    windows
        How many.
    open_ms, list_ms, list_again_ms
        Opening for writing, with a catalog; the inventory of the writer after a commit; and of
        a reader that has looked before.
    first_list_ms
        The inventory of a process that has just started.
    freeze_ms, evict_ms
        Writing one chunk and committing its window; the same when another chunk has to go.

    """

    windows: int
    open_ms: float
    list_ms: float
    list_again_ms: float
    first_list_ms: float
    freeze_ms: float
    evict_ms: float


def wall_ms() -> int:
    """Return the wall clock [ms since 1970]."""
    return time.time_ns() // 1_000_000


def timed(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes [ms]."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def tokens_of(seed: int, count: int) -> TokenArray:
    """Return token ids of which windows of different seeds have none in common."""
    return np.random.default_rng(seed).integers(0, 1 << 20, count, dtype=np.int32)


def write_window(
    store: Store, name: str, tokens: TokenArray, *, payload_bytes: int = PAYLOAD_BYTES
) -> Manifest:
    """Commit a window of one turn with chunks of ``payload_bytes``."""
    if not store.has_window(name):
        store.commit_turns(name, [Turn(role=Role.USER, text=name)])
    entries: list[ChunkEntry] = []
    ids = store.chunk_ids(IDENTITY, tokens, CHUNK_TOKENS)
    for index, chunk_id in enumerate(ids):
        start = CHUNK_TOKENS * index
        part = tokens[start : start + CHUNK_TOKENS]
        header = ChunkHeader(
            id=chunk_id,
            model=IDENTITY.model,
            spec=SPEC,
            start=start,
            stop=start + len(part),
            codec='int8',
        )
        payload = hashlib.shake_128(chunk_id).digest(payload_bytes)
        is_middle = 0 < index < len(ids) - 1
        entry = store.write_chunk(header, part, memoryview(payload), priority=int(is_middle))
        entries.append(entry)
    manifest = Manifest(
        window=name,
        identity=IDENTITY,
        spec=SPEC,
        chunk_tokens=CHUNK_TOKENS,
        codec='int8',
        num_turns=1,
        tokens=tokens,
        turn_stops=(len(tokens),),
        chunks=tuple(entries),
    )
    return store.commit_window(manifest)


def measure_scaling(
    folder: Path, counts: Sequence[int] = WINDOW_COUNTS, *, rounds: int = 15
) -> list[Scaling]:
    """
    Measure one store that grows.

    Parameters
    ----------
    folder
        Where the store is made; in RAM, what is left is our own cost.
    counts
        Numbers of windows, ascending.
    rounds
        Freezes and evictions for each figure.

    """
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as root:
        settings = StorageSettings(root=Path(root), quota_mib=ROOMY_MIB, free_floor_mib=0)
        made = 0
        for count in counts:
            with Store.open(settings, writable=True, clock=wall_ms) as store:
                for number in range(made, count):
                    tokens = tokens_of(number, CHUNKS_OF_WINDOW * CHUNK_TOKENS)
                    write_window(store, f'w{number}', tokens)
            made = count
            rows.append(_measure_one(settings, count, rounds))
    return rows


def _measure_one(settings: StorageSettings, count: int, rounds: int) -> Scaling:
    with Store.open(settings, writable=False, clock=wall_ms) as reader:
        first_list = timed(reader.windows)
        list_again = statistics.median(timed(reader.windows) for _ in range(5))
    with ExitStack() as stack:
        opening = time.perf_counter()
        store = stack.enter_context(Store.open(settings, writable=True, clock=wall_ms))
        opened = (time.perf_counter() - opening) * 1e3
        store.windows()
        freezes, listed = _grow_one(store, rounds)
        used = store.storage().used_bytes
    # A full quota: each chunk that is written makes another go.
    full = replace(settings, quota_mib=max(1, used * 33 // 32 // MIB))
    with Store.open(full, writable=True, clock=wall_ms) as store:
        store.reserve_room(1)
        room = full.quota_mib * MIB * 31 // 32 - store.storage().used_bytes
        write_window(
            store, 'ballast', tokens_of(1 << 30, 256), payload_bytes=max(1, room - 20_000)
        )
        evictions, _ = _grow_one(store, rounds)
        store.delete_window('ballast')
    return Scaling(
        windows=count,
        open_ms=opened,
        list_ms=listed,
        list_again_ms=list_again,
        first_list_ms=first_list,
        freeze_ms=freezes,
        evict_ms=evictions,
    )


def _grow_one(store: Store, rounds: int) -> tuple[float, float]:
    """Return median times of freezing a window that has grown by a chunk, and of listing [ms]."""
    tokens = tokens_of(1 << 31, CHUNK_TOKENS * rounds)
    durations, listings = [], []
    for number in range(1, rounds + 1):
        grown = tokens[: CHUNK_TOKENS * number]
        durations.append(timed(lambda: write_window(store, 'live', grown)))  # noqa: B023
        listings.append(timed(store.windows))
    store.delete_window('live')
    return statistics.median(durations), statistics.median(listings)


def format_scaling(rows: Sequence[Scaling]) -> str:
    """Return a table for people."""
    names = [field.name for field in fields(Scaling)]
    lines = [' '.join(f'{name:>14}' for name in names)]
    for row in rows:
        figures = ' '.join(f'{getattr(row, name):14.2f}' for name in names[1:])
        lines.append(f'{row.windows:>14} {figures}')
    return '\n'.join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """
    What a drive with a freeze after each turn wrote.

    Parameters
    ----------
    case
        Which geometry.
    turns, tokens
        What was said; each turn is a prompt and its answer.
    useful_bytes
        Encoded KV, tokens and text, each once.
    system_bytes
        What was handed to the operating system.
    ledger_bytes
        What the store's own ledger says.
    amplification
        ``system_bytes / useful_bytes``.

    """

    case: str
    turns: int
    tokens: int
    useful_bytes: int
    system_bytes: int
    ledger_bytes: int
    amplification: float


def measure_drive(
    folder: Path, case: str, *, turns: int = 120, tokens_per_turn: int = TOKENS_PER_TURN
) -> Drive:
    """
    Simulate a drive: a freeze of the full chunks after each turn, and a final one of the rest.

    Parameters
    ----------
    folder
        Where the store is made; what is written does not depend on the device.
    case
        A key of `DRIVES`.
    turns, tokens_per_turn
        How much is said.

    """
    token_bytes = DRIVES[case]
    tokens = tokens_of(0, turns * tokens_per_turn)
    text = 'x' * (4 * tokens_per_turn // 2)
    with tempfile.TemporaryDirectory(dir=folder) as root:
        settings = StorageSettings(root=Path(root), quota_mib=ROOMY_MIB, free_floor_mib=0)
        before = files.bytes_written_by_thread()
        with Store.open(settings, writable=True, clock=wall_ms) as store:
            for turn in range(1, turns + 1):
                said = [Turn(role=role, text=text) for role in (Role.USER, Role.ASSISTANT)]
                store.commit_turns('drive', said)
                heard = tokens[: turn * tokens_per_turn]
                _freeze(store, heard, 2 * turn, token_bytes, is_final=turn == turns)
        system_bytes = files.bytes_written_by_thread() - before
        with Store.open(settings, writable=False, clock=wall_ms) as store:
            ledger = store.storage().lifetime_bytes
    useful = len(tokens) * (token_bytes + 4) + 2 * turns * len(text)
    return Drive(
        case=case,
        turns=turns,
        tokens=len(tokens),
        useful_bytes=useful,
        system_bytes=system_bytes,
        ledger_bytes=ledger,
        amplification=system_bytes / useful,
    )


def _freeze(
    store: Store, tokens: TokenArray, num_turns: int, token_bytes: int, *, is_final: bool
) -> None:
    entries: list[ChunkEntry] = []
    for index, chunk_id in enumerate(store.chunk_ids(IDENTITY, tokens, CHUNK_TOKENS)):
        part = tokens[CHUNK_TOKENS * index : CHUNK_TOKENS * (index + 1)]
        if len(part) < CHUNK_TOKENS and not is_final:
            break
        start = CHUNK_TOKENS * index
        header = ChunkHeader(
            id=chunk_id,
            model=IDENTITY.model,
            spec=SPEC,
            start=start,
            stop=start + len(part),
            codec='int8',
        )
        entry = store.find_chunk(chunk_id, 'int8')
        payload = memoryview(bytes(0 if entry else len(part) * token_bytes))
        entries.append(entry or store.write_chunk(header, part, payload))
    stops = np.linspace(0, len(tokens), num_turns + 1, dtype=int)[1:].tolist()
    manifest = Manifest(
        window='drive',
        identity=IDENTITY,
        spec=SPEC,
        chunk_tokens=CHUNK_TOKENS,
        codec='int8',
        num_turns=num_turns,
        tokens=tokens,
        turn_stops=tuple(stops),
        chunks=tuple(entries),
    )
    store.commit_window(manifest)
