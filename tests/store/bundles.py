# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles for tests, and importing them from real pipes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
import io
import os
import struct
import threading
from typing import TYPE_CHECKING

from cwm_ros.bundle_export import export_window
from cwm_ros.bundle_import import import_window, ImportProgress
from cwm_ros.config_privacy import PrivacySettings
from cwm_ros.errors import FormatError
from cwm_ros.store import layout, Store
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cwm_ros.store import ChunkHeader

WINDOW = 'drive'
NUM_TOKENS = 60
FRAMES_AT = 56
FRAME_HEAD = 32


@contextmanager
def opened(root: Path, *, writable: bool = True, encrypt: bool = False) -> Iterator[Store]:
    privacy = PrivacySettings(encrypt=encrypt, key_dir=str(root.parent / f'{root.name}-keys'))
    with Store.open(
        makers.settings(root), writable=writable, clock=makers.clock, privacy=privacy
    ) as store:
        yield store


def marked(payload: bytes) -> bytes:
    """Return a payload that can be told from any other bytes."""
    return payload + struct.pack('<Q', layout.checksum(payload))


def check_payload(_header: ChunkHeader, payload: memoryview, path: Path) -> None:
    if payload[-8:] != struct.pack('<Q', layout.checksum(payload[:-8])):
        raise FormatError(path, 'payload is not one of ours')


def fill(
    store: Store, window: str = WINDOW, *, num_tokens: int = NUM_TOKENS, seed: int = 0
) -> None:
    """Commit a window of chunks, of which the first and the last make it usable."""
    from cwm_ros.bench import synthetic_windows

    tokens = makers.tokens_of(num_tokens, seed=seed)
    last = (num_tokens - 1) // makers.SIZE
    chunks = synthetic_windows.write_chunks(
        store,
        tokens,
        lambda chunk_id, count: memoryview(marked(makers.payload_of(chunk_id, 70 + count))),
        chunk_tokens=makers.SIZE,
        identity=makers.IDENTITY,
        spec=makers.SPEC,
        priority=lambda index: int(0 < index < last),
    )
    store.commit_turns(window, makers.turns_of(3, seed=seed))
    store.commit_window(
        replace(makers.manifest_of(window, tokens, tuple(chunks), num_turns=2), probe=b'probe')
    )


def bundle_of(store: Store, window: str = WINDOW) -> bytes:
    out = io.BytesIO()
    for _ in export_window(store, window, out.write, check_payload):
        pass
    return out.getvalue()


def take_in(
    store: Store, data: bytes, *, name: str = '', chunk_tokens: int = makers.SIZE
) -> ImportProgress:
    """Import bytes that come through a pipe."""
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, 'wb', buffering=0) as pipe:
            try:
                pipe.write(data)
            except BrokenPipeError:
                return

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        with os.fdopen(reader, 'rb', buffering=0) as source:
            *_, progress = import_window(
                store, source, check_payload, chunk_tokens=chunk_tokens, name=name
            )
    finally:
        thread.join()
    return progress


def frames_of(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return kind, start and end of each frame of a plain bundle."""
    frames, position = [], FRAMES_AT
    while position < len(data):
        kind, _, size = struct.unpack_from('<4sIQ', data, position)
        frames.append((kind, position, position + FRAME_HEAD + size))
        position += FRAME_HEAD + size
    return frames


def frame(kind: bytes, number: int, body: bytes) -> bytes:
    """Return a frame with right checksums."""
    head = struct.pack('<4sIQQ', kind, number, len(body), layout.checksum(body))
    return head + struct.pack('<Q', layout.checksum(head)) + body
