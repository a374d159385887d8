# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bringing chunks of a window back: finding, reading, decoding and checking them."""

from __future__ import annotations

from dataclasses import replace
import threading
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.codec import (
    codec_named,
    CodecId,
    decode_bytes,
    decode_chunk,
    DequantizedKV,
    numpy_kernels,
    open_quantized,
    Scratch,
)
from cwm_ros.config import MIB
from cwm_ros.engine.cache import slots_for
from cwm_ros.errors import NotFoundError
from cwm_ros.freeze import manifest_of
from cwm_ros.readahead import StagingRing
from cwm_ros.schedule import plan_thaw
from cwm_ros.thaw import Thaw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.codec.quantize import ByteArray
    from cwm_ros.config import CodecSettings, Settings, ThawSettings
    from cwm_ros.engine import Engine
    from cwm_ros.kv import ModelIdentity
    from cwm_ros.plan import ThawStep
    from cwm_ros.probe import EndProbe
    from cwm_ros.proof import ChunkProof
    from cwm_ros.rates import RateBook
    from cwm_ros.session import Session
    from cwm_ros.store import ChunkEntry, ChunkHeader, Manifest, Store, Window
    from cwm_ros.thaw import LoadChunk


def find_chunks(
    store: Store,
    window: Window,
    session: Session,
    entries: Sequence[ChunkEntry],
    settings: CodecSettings,
) -> tuple[Window, tuple[ChunkEntry, ...]]:
    """
    Look for chunks that no manifest names, by the tokens that they are of.

    The manifest may be lost, or the power may have gone between writing a chunk and the
    manifest that would name it.

    Returns
    -------
    Window, tuple of ChunkEntry
        The window with a manifest, and all chunks that are there for the session, in order.

    """
    engine, manifest = session.engine, window.manifest
    if manifest is None:
        manifest = manifest_of(session, window.name, settings)
    elif manifest.identity.model != engine.identity.model or manifest.spec != engine.spec:
        return window, tuple(entries)
    size = manifest.chunk_tokens
    found = {entry.start: entry for entry in entries}
    for index, chunk_id in enumerate(store.chunk_ids(engine.identity, session.tokens, size)):
        if index * size not in found:
            entry = store.find_chunk(chunk_id, manifest.codec)
            if entry is not None:
                found[entry.start] = entry
    chunks = tuple(found[start] for start in sorted(found))
    return replace(window, manifest=replace(manifest, chunks=chunks)), chunks


def begin_thaw(
    window: Window,
    session: Session,
    entries: Sequence[ChunkEntry],
    load: LoadChunk,
    settings: Settings,
    *,
    num_tokens: int,
    clock: Callable[[], float],
    began: float,
    book: RateBook,
    strategy: str = '',
    probe: EndProbe | None = None,
) -> Thaw:
    """
    Plan a restored session's way back, and begin it.

    Parameters
    ----------
    window, session, entries
        What was restored, and the chunks that fit; see `restore_session`.
    load
        Brings one chunk into the engine's cache.
    settings
        What usable means, and how many threads.
    num_tokens
        Length of what was restored; the session may have later turns.
    clock, began
        Steady clock, and when the thaw was asked for on it [s].
    book
        What is known of the board.
    strategy
        'auto', 'load' or 'recompute'; empty means as the settings say.
    probe
        Tells at the end whether the restore had its effect.

    """
    manifest = window.manifest
    chunk_tokens = manifest.chunk_tokens if manifest else settings.codec.chunk_tokens
    strategy = strategy or settings.thaw.strategy
    plan = plan_thaw(
        entries,
        num_tokens=num_tokens,
        chunk_tokens=chunk_tokens,
        turn_stops=[stop for stop in session.turn_stops if stop <= num_tokens],
        settings=settings.thaw,
        rates=book.rates,
        reach=slots_for(session.num_tokens),
        strategy=strategy,
    )
    return Thaw(
        session,
        plan.steps,
        load,
        chunk_tokens=chunk_tokens,
        # A thread that waits for a slot would read on when a pause has begun.
        max_in_flight=_ring_for(manifest, settings.thaw, numpy_kernels).num_slots,
        clock=clock,
        began=began,
        book=book,
        strategy=strategy,
        probe=probe,
        unfit='' if manifest is None or entries else _unfit(manifest, session.engine.identity),
    )


def _unfit(manifest: Manifest, identity: ModelIdentity) -> str:
    """Return why no chunk of a window fits what runs now; empty if nothing speaks against it."""
    made = manifest.identity
    if manifest.chunks and made.model != identity.model:
        return f'its chunks were made by other weights, configuration or precision ({made.name})'
    if made.rendering != identity.rendering:
        return 'its chunks are of other tokens: tokenizer or chat template were others'
    return ''


def _ring_for(
    manifest: Manifest | None,
    settings: ThawSettings,
    kernels: Callable[[], Kernels],
    allocate: Callable[[int], ByteArray] = lambda size: np.empty(size, np.uint8),
) -> StagingRing:
    """Return a ring whose slots hold the largest chunk of a window."""
    chunks = manifest.chunks if manifest else ()
    scratch_bytes = 0
    if manifest is not None:
        codecs = {codec_named(entry.codec) for entry in chunks}
        sizes = (decode_bytes(manifest.spec, manifest.chunk_tokens, codec) for codec in codecs)
        scratch_bytes = max(sizes, default=0)
    return StagingRing(
        settings.staging_mib * MIB,
        payload_bytes=max((entry.payload_bytes for entry in chunks), default=0),
        scratch_bytes=scratch_bytes,
        max_slots=2 * settings.num_threads,
        kernels=kernels,
        allocate=allocate,
    )


class ChunkReader:
    """
    Reads, verifies and decodes chunks of one window; called from any thread.

    Parameters
    ----------
    store
        Where the chunks are.
    window
        What they must be.
    engine
        Takes the KV, at positions that are not resident.
    kernels
        Gives the codec's fastest kernels.
    settings
        How many threads may decode at once, and how much memory is for chunks on their way.
    proof
        Compares what was decoded with what it must be.

    """

    def __init__(
        self,
        store: Store,
        window: Window,
        engine: Engine,
        kernels: Callable[[], Kernels],
        settings: ThawSettings,
        *,
        proof: ChunkProof | None = None,
    ) -> None:
        self._store = store
        self._manifest = window.manifest
        self._engine = engine
        self._proof = proof
        self._ring = _ring_for(window.manifest, settings, kernels, allocate=engine.staging)
        # More threads read than decode, so that the drive is busy while they do, and the first
        # chunks are not slowed down by those behind them.
        self._decoding = threading.Semaphore(settings.num_threads)
        self._drops_pages = settings.drop_page_cache

    def __call__(self, step: ThawStep) -> None:
        """
        Bring the chunk of a step into the engine's cache; `Engine.mark_resident` is the caller's.

        Raises
        ------
        NotFoundError
            The file was evicted.
        FormatError, StorageError
            It is damaged, not what the manifest says, not the KV of its tokens, or cannot be
            read.

        """
        entry, manifest = step.entry, self._manifest
        assert entry is not None
        assert manifest is not None
        source = self._store.chunk_path(entry.id, entry.codec)
        with self._ring.slot() as slot:
            payload = self._store.read_chunk(manifest, entry, slot.payload)
            if payload is None:
                raise NotFoundError(f'{source}: is not there; its tokens are computed again')
            if self._drops_pages:
                self._store.release([entry])
            with self._decoding:
                self._import(payload, step, source, slot.scratch)

    def _import(self, payload: memoryview, step: ThawStep, source: Path, scratch: Scratch) -> None:
        """Decode into the cache, or have an engine do so that can where its cache is."""
        engine, manifest, entry = self._engine, self._manifest, step.entry
        assert entry is not None
        assert manifest is not None
        num_tokens = step.stop - step.start
        codec = codec_named(entry.codec)
        if engine.supports_quantized and codec is CodecId.INT8:
            quantized = open_quantized(
                payload,
                spec=manifest.spec,
                start=step.start,
                num_tokens=num_tokens,
                is_half=engine.is_half,
                scratch=scratch,
                source=source,
            )
            if self._proof is not None:
                values = DequantizedKV(quantized, manifest.spec)
                self._proof.check(entry, payload, values, source)
            engine.import_quantized(quantized)
            return
        view = engine.import_view(step.start, step.stop)
        decode_chunk(
            payload,
            spec=manifest.spec,
            num_tokens=num_tokens,
            codec=codec,
            out=view,
            scratch=scratch,
            source=source,
        )
        if self._proof is not None:
            self._proof.check(entry, payload, view, source, scratch.kernels())


class PayloadCheck:
    """Decodes payloads to see whether they can be; for `Store.verify`, from one thread."""

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._out = np.empty((0, 0, 0, 0, 0), np.float32)

    def __call__(self, header: ChunkHeader, payload: memoryview, path: Path) -> None:
        """
        Decode one payload.

        Raises
        ------
        FormatError
            It is damaged, or not what the chunk's header says.

        """
        num_tokens = header.stop - header.start
        shape = header.spec.shape(num_tokens)
        if self._out.shape != shape:
            self._out = np.empty(shape, np.float32)
        decode_chunk(
            payload,
            spec=header.spec,
            num_tokens=num_tokens,
            codec=codec_named(header.codec),
            out=self._out,
            scratch=self._scratch,
            source=path,
        )
