# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A window out of a store, as one stream of bytes: what makes it usable comes first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cwm_ros.bundle import header_of, in_order, with_key
from cwm_ros.errors import FormatError
from cwm_ros.store import chunkfile, layout, turnlog
from cwm_ros.store.frames import BUNDLE_NAMING_KEY, CHUNK, END, FrameWriter, TURNS, WINDOW
from cwm_ros.store.manifest import pack_manifest
from cwm_ros.store.segments import BundleWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.store import ChunkEntry, Manifest, PayloadChecker, Store, Window
    from cwm_ros.store.files import Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportProgress:
    """
    How far an export is.

    Parameters
    ----------
    window
        Its name.
    turns
        Turns that the bundle holds.
    chunks_done, chunks_total
        Chunks written, and those that the window has on the disk.
    bytes_written
        Size of the bundle so far.
    left_out
        Chunks that were not on the disk any more, or damaged; they are computed from tokens.

    """

    window: str
    turns: int
    chunks_done: int
    chunks_total: int
    bytes_written: int
    left_out: int = 0


def export_window(
    store: Store,
    name: str,
    write: Callable[[Buffer], object],
    check_payload: PayloadChecker,
) -> Iterator[ExportProgress]:
    """
    Write a window as a bundle, encrypted if its profile is.

    Parameters
    ----------
    store
        Holds the window. Where the bundle goes, its `Store.note_export` is told by the caller.
    name
        The window; eviction leaves its chunks alone meanwhile.
    write
        Takes the bytes.
    check_payload
        Checks a payload's inside: what is damaged is left out.

    Raises
    ------
    NotFoundError, FormatError
        There is no such window, or its turns are damaged.

    """
    window, _ = store.window_or_turns(name)
    stream = BundleWriter(write, store.bundle_key)
    store.hold(name)
    try:
        yield from _export(store, window, stream, check_payload)
    finally:
        store.let_go(name)


def _log_of(window: Window) -> bytes:
    window_id = bytes.fromhex(layout.window_id(BUNDLE_NAMING_KEY, window.name))
    return turnlog.pack_header(window.name, window_id) + turnlog.pack_records(
        window.turns, first_sequence=0
    )


def _export(
    store: Store, window: Window, stream: BundleWriter, check_payload: PayloadChecker
) -> Iterator[ExportProgress]:
    frames = FrameWriter(stream.write)
    frames.put(TURNS, [_log_of(window)])
    progress = ExportProgress(
        window=window.name,
        turns=len(window.turns),
        chunks_done=0,
        chunks_total=0,
        bytes_written=stream.bytes_written,
    )
    if window.manifest is not None:
        steps = _export_chunks(store, window.manifest, frames, progress, check_payload)
        for step in steps:
            progress = replace(step, bytes_written=stream.bytes_written)
            yield progress
    frames.put(END)
    stream.finish()
    yield replace(progress, bytes_written=stream.bytes_written)


def _export_chunks(
    store: Store,
    manifest: Manifest,
    frames: FrameWriter,
    progress: ExportProgress,
    check_payload: PayloadChecker,
) -> Iterator[ExportProgress]:
    present = tuple(e for e in manifest.chunks if store.has_chunk(e.id, e.codec))
    manifest = replace(manifest, chunks=present)
    renamed = with_key(manifest, BUNDLE_NAMING_KEY)
    frames.put(WINDOW, [pack_manifest(renamed)])
    names = dict(zip((e.id for e in present), renamed.chunks, strict=True))
    buffer = bytearray(max((e.payload_bytes for e in present), default=0))
    progress = replace(progress, chunks_total=len(present))
    yield progress
    for entry in in_order(present):
        payload = _sound_payload(store, manifest, entry, buffer, check_payload)
        if payload is None:
            progress = replace(progress, left_out=progress.left_out + 1)
            continue
        header = header_of(manifest, names[entry.id])
        tokens = manifest.tokens[entry.start : entry.stop]
        frames.put(CHUNK, [chunkfile.pack_prefix(header, tokens, payload), payload])
        progress = replace(progress, chunks_done=progress.chunks_done + 1)
        yield progress


def _sound_payload(
    store: Store,
    manifest: Manifest,
    entry: ChunkEntry,
    buffer: bytearray,
    check_payload: PayloadChecker,
) -> memoryview | None:
    try:
        payload = store.read_chunk(manifest, entry, buffer)
        if payload is not None:
            path = store.chunk_path(entry.id, entry.codec)
            check_payload(header_of(manifest, entry), payload, path)
    except FormatError:
        return None
    return payload
