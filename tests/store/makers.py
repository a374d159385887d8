# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Small windows, made by hand and by Hypothesis."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from hypothesis import strategies as st
import numpy as np

from cwm_ros.bench import synthetic_windows
from cwm_ros.config import StorageSettings
from cwm_ros.kv import ChunkId, KVSpec, ModelIdentity, Role, TokenArray, Turn
from cwm_ros.store import (
    ChunkEntry,
    ChunkHeader,
    Manifest,
    Origin,
    OriginKind,
    Section,
    Store,
)
from cwm_ros.store.chunkfile import prefix_bytes

if TYPE_CHECKING:
    from pathlib import Path

NOW_MS = 1_700_000_000_000
IDENTITY = ModelIdentity(model=bytes(range(32)), rendering=bytes(range(32, 64)), name='toy')
SPEC = KVSpec(num_layers=1, num_kv_heads=1, head_dim=2, max_tokens=4096)
SIZE = 8


def settings(root: Path, *, quota_mib: int = 100, lock_timeout_s: float = 0.0) -> StorageSettings:
    return StorageSettings(
        root=root, quota_mib=quota_mib, free_floor_mib=0, lock_timeout_s=lock_timeout_s
    )


def clock() -> int:
    return NOW_MS


def tokens_of(count: int, *, seed: int = 0) -> TokenArray:
    return np.random.default_rng(seed).integers(0, 1000, count, dtype=np.int32)


def turns_of(count: int, *, seed: int = 0) -> list[Turn]:
    roles = (Role.USER, Role.ASSISTANT)
    return [
        Turn(role=roles[index % 2], text=f'turn {seed}.{index} ä', time_ms=NOW_MS + index)
        for index in range(count)
    ]


def payload_of(chunk_id: bytes, size: int = 100) -> bytes:
    return (hashlib.sha256(chunk_id).digest() * (size // 32 + 1))[:size]


def write_chunks(
    store: Store, tokens: TokenArray, *, payload_bytes: int = 100, codec: str = 'int8'
) -> tuple[ChunkEntry, ...]:
    return tuple(
        synthetic_windows.write_chunks(
            store,
            tokens,
            lambda chunk_id, _: memoryview(payload_of(chunk_id, payload_bytes)),
            chunk_tokens=SIZE,
            identity=IDENTITY,
            spec=SPEC,
            codec=codec,
            priority=lambda index: index % 3,
            is_known_kept=False,
        )
    )


def manifest_of(
    window: str,
    tokens: TokenArray,
    chunks: tuple[ChunkEntry, ...],
    *,
    num_turns: int = 1,
) -> Manifest:
    stops = np.linspace(0, len(tokens), num_turns + 1, dtype=int)[1:].tolist()
    return Manifest(
        window=window,
        identity=IDENTITY,
        spec=SPEC,
        chunk_tokens=SIZE,
        codec='int8',
        num_turns=num_turns,
        tokens=tokens,
        turn_stops=tuple(stops),
        chunks=chunks,
        tags=('work', 'überall'),
    )


def commit(
    store: Store,
    window: str,
    *,
    count: int = 20,
    seed: int = 0,
    num_turns: int = 2,
    payload_bytes: int = 100,
) -> Manifest:
    """Commit a whole window of ``count`` tokens."""
    held = len(store.turns(window)) if store.has_window(window) else 0
    store.commit_turns(window, turns_of(num_turns, seed=seed)[held:])
    tokens = tokens_of(count, seed=seed)
    chunks = write_chunks(store, tokens, payload_bytes=payload_bytes)
    return store.commit_window(manifest_of(window, tokens, chunks, num_turns=num_turns))


def check_payload(header: ChunkHeader, payload: memoryview, path: Path) -> None:
    assert path.name == header.file_name
    assert bytes(payload) == payload_of(header.id, len(payload))


names = st.from_regex(r'[A-Za-z0-9][A-Za-z0-9._-]{0,63}', fullmatch=True)
codecs = st.from_regex(r'[a-z0-9]{1,8}', fullmatch=True)
words = st.text(st.characters(codec='utf-8'), max_size=30)
turns = st.builds(
    Turn,
    role=st.sampled_from(list(Role)),
    text=st.text(st.characters(codec='utf-8'), max_size=60),
    time_ms=st.integers(-(1 << 63), (1 << 63) - 1),
)
small = st.integers(1, 4096)
specs = st.builds(KVSpec, num_layers=small, num_kv_heads=small, head_dim=small, max_tokens=small)
hashes = st.binary(min_size=32, max_size=32)
identities = st.builds(ModelIdentity, model=hashes, rendering=hashes, name=words)
u64 = st.integers(0, (1 << 64) - 1)
origins = st.builds(Origin, kind=st.sampled_from(OriginKind), parent=names, revision=u64)


@st.composite
def headers(draw: st.DrawFn) -> tuple[ChunkHeader, TokenArray]:
    count = draw(st.integers(1, 40))
    start = draw(st.integers(0, 1 << 19))
    header = ChunkHeader(
        id=ChunkId(draw(st.binary(min_size=16, max_size=16))),
        model=draw(hashes),
        spec=draw(specs),
        start=start,
        stop=start + count,
        codec=draw(codecs),
    )
    return header, tokens_of(count, seed=draw(st.integers(0, 1000)))


@st.composite
def entries(draw: st.DrawFn, start: int, stop: int) -> ChunkEntry:
    payload_bytes = draw(st.integers(1, 1 << 30))
    return ChunkEntry(
        id=ChunkId(draw(st.binary(min_size=16, max_size=16))),
        start=start,
        stop=stop,
        codec=draw(codecs),
        payload_bytes=payload_bytes,
        file_bytes=prefix_bytes(stop - start) + payload_bytes,
        priority=draw(st.integers(0, 255)),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    count = draw(st.integers(0, 60))
    chunk_tokens = draw(st.integers(1, 20))
    table = []
    for start in range(0, count, chunk_tokens):
        if draw(st.booleans()):
            stop = draw(st.integers(start + 1, min(start + chunk_tokens, count)))
            table.append(draw(entries(start, stop)))
    stops = sorted(draw(st.lists(st.integers(0, count), max_size=5)))
    first = draw(st.integers(0, 1000))
    cuts = sorted(draw(st.sets(st.integers(0, count), max_size=6)))
    provisional = tuple(zip(cuts[::2], cuts[1::2], strict=False))
    extra = [Section(kind=kind, data=draw(st.binary(max_size=20))) for kind in (b'PRBE', b'X123')]
    return Manifest(
        window=draw(names),
        identity=draw(identities),
        spec=draw(specs),
        chunk_tokens=chunk_tokens,
        codec=draw(codecs),
        num_turns=first + len(stops),
        tokens=tokens_of(count, seed=first),
        turn_stops=tuple(stops),
        chunks=tuple(table),
        segment_start_turn=first,
        provisional=provisional,
        tags=tuple(draw(st.lists(words, max_size=3))),
        probe=draw(st.binary(max_size=40)),
        samples=draw(st.binary(max_size=40)),
        meaning=draw(st.binary(max_size=40)),
        created_ms=draw(u64),
        updated_ms=draw(u64),
        revision=draw(u64),
        origin=draw(st.none() | origins),
        extra=tuple(draw(st.lists(st.sampled_from(extra), unique_by=lambda s: s.kind))),
    )
