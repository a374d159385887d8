# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Windows of a model that does not exist, written as a freeze writes them."""

from __future__ import annotations

from dataclasses import replace
import hashlib
import time
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.kv import ChunkId, KVSpec, ModelIdentity, Role, TokenArray, Turn
from cwm_ros.store import ChunkEntry, ChunkHeader, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.store import Store

IDENTITY = ModelIdentity(model=bytes(32), rendering=bytes(32), name='synthetic')
SPEC = KVSpec(num_layers=1, num_kv_heads=1, head_dim=2, max_tokens=1 << 15)
CHUNK_TOKENS = 256
PAYLOAD_BYTES = 1000
ROOMY_MIB = 1 << 20


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


def payload_of(chunk_id: bytes, num_bytes: int) -> bytes:
    """Return bytes that no compression makes shorter, the same for the same chunk."""
    return hashlib.shake_128(chunk_id).digest(num_bytes)


def write_chunks(
    store: Store,
    tokens: TokenArray,
    payload: Callable[[ChunkId, int], memoryview],
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    identity: ModelIdentity = IDENTITY,
    spec: KVSpec = SPEC,
    codec: str = 'int8',
    priority: Callable[[int], int] = lambda _: 1,
    is_known_kept: bool = True,
) -> list[ChunkEntry]:
    """
    Write the chunks of a token sequence.

    Parameters
    ----------
    store
        Open for writing.
    tokens
        From position 0, shape (T,).
    payload
        Gives the payload of a chunk id with so many tokens.
    chunk_tokens, identity, spec, codec
        What the headers say.
    priority
        Of a chunk by its index.
    is_known_kept
        Whether chunks that are there are looked up first, as a freeze does.

    """
    entries = []
    for index, chunk_id in enumerate(store.chunk_ids(identity, tokens, chunk_tokens)):
        start = chunk_tokens * index
        part = tokens[start : start + chunk_tokens]
        header = ChunkHeader(
            id=chunk_id,
            model=identity.model,
            spec=spec,
            start=start,
            stop=start + len(part),
            codec=codec,
        )
        entry = store.find_chunk(chunk_id, codec) if is_known_kept else None
        if entry is None:
            data = payload(chunk_id, len(part))
            entry = store.write_chunk(header, part, data)
        entries.append(replace(entry, priority=priority(index)))
    return entries


def manifest_of(
    window: str, tokens: TokenArray, entries: list[ChunkEntry], *, num_turns: int = 1
) -> Manifest:
    """Return the manifest of such chunks, the turns as long as each other."""
    stops = np.linspace(0, len(tokens), num_turns + 1, dtype=int)[1:].tolist()
    return Manifest(
        window=window,
        identity=IDENTITY,
        spec=SPEC,
        chunk_tokens=CHUNK_TOKENS,
        codec='int8',
        num_turns=num_turns,
        tokens=tokens,
        turn_stops=tuple(stops),
        chunks=tuple(entries),
    )


def write_window(
    store: Store, name: str, tokens: TokenArray, *, payload_bytes: int = PAYLOAD_BYTES
) -> Manifest:
    """Commit a window of one turn with chunks of ``payload_bytes``."""
    if not store.has_window(name):
        store.commit_turns(name, [Turn(role=Role.USER, text=name)])
    last = (len(tokens) - 1) // CHUNK_TOKENS
    entries = write_chunks(
        store,
        tokens,
        lambda chunk_id, _: memoryview(payload_of(chunk_id, payload_bytes)),
        priority=lambda index: int(0 < index < last),
    )
    return store.commit_window(manifest_of(name, tokens, entries))
