# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Write a session to its window: only chunks that are not on disk yet, then the manifest.

Turns are committed by `cwm_ros.manager` as they are spoken, before and apart from this. A chunk
is written only from sound KV: resident, never provisional, never decoded from a shorter chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cwm_ros.codec import codec_named, CodecId, encode_chunk, encode_quantized, Scratch
from cwm_ros.deadline import Pace
from cwm_ros.engine import LogitRows
from cwm_ros.plan import usable_bounds
from cwm_ros.store import ChunkHeader, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.config import CodecSettings, ThawSettings
    from cwm_ros.deadline import Deadline
    from cwm_ros.kv import ChunkId
    from cwm_ros.session import Session
    from cwm_ros.store import ChunkEntry, Eviction, Store

USABLE_PRIORITY = 0
NORMAL_PRIORITY = 1
TAIL, NEVER = 2, 3
"""Order of value, after the priorities: what lies behind the last full chunk, and not at all."""
WRITING_ORDER = (USABLE_PRIORITY, NORMAL_PRIORITY, TAIL)
DEADLINE = 'the deadline is near'


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeProgress:
    """
    How far a freeze is.

    Parameters
    ----------
    chunks_done, chunks_total
        Chunks of the session that are on disk, of all.
    chunks_reused
        Chunks among them that were on disk before.
    bytes_written
        Bytes of new chunk files.
    turns_safe
        Turns of the window that are durable, whatever happens now.
    tokens_safe, tokens_total
        Tokens whose KV is in those chunks, of all; the others are computed again after a thaw.
    is_committed
        Whether the manifest that names them is durable.
    evicted
        What was removed to make room since the last freeze; told with the last value.
    deferred
        Why not everything was written; empty when nothing stood in the way.

    """

    chunks_done: int
    chunks_total: int
    chunks_reused: int
    bytes_written: int
    turns_safe: int = 0
    tokens_safe: int = 0
    tokens_total: int = 0
    is_committed: bool = False
    evicted: tuple[Eviction, ...] = ()
    deferred: str = ''


NOTHING_FROZEN = FreezeProgress(chunks_done=0, chunks_total=0, chunks_reused=0, bytes_written=0)


class Freeze:
    """
    A session on its way to disk.

    Parameters
    ----------
    store
        Open for writing.
    session
        Nothing of it changes, except that KV decoded from a short chunk is computed afresh
        before a new chunk is made of it.
    settings, thaw_settings
        The codec, and what makes a window usable (stored as priority).
    kernels
        Gives the codec's fastest kernels.
    known
        Chunks of the window as it was; one that is still on disk stays in the codec it has.
    is_final
        Whether the tokens behind the last full chunk are written, too; the next freeze would
        write them again.
    pace
        Knows how long writing takes, and learns it.

    """

    def __init__(
        self,
        store: Store,
        session: Session,
        *,
        settings: CodecSettings,
        thaw_settings: ThawSettings,
        kernels: Callable[[], Kernels],
        known: Sequence[ChunkEntry] = (),
        is_final: bool = True,
        pace: Pace | None = None,
    ) -> None:
        self._store = store
        self._known_codecs = {entry.id: entry.codec for entry in known}
        self._session = session
        self._settings = settings
        self._is_final = is_final
        self._pace = pace or Pace()
        self._bounds = usable_bounds(
            session.num_tokens, session.turn_stops, settings=thaw_settings
        )
        self._scratch = Scratch(kernels)
        size = settings.chunk_tokens
        self._ids = store.chunk_ids(session.engine.identity, session.tokens, size)
        self._entries: dict[int, ChunkEntry] = {}
        self.is_committed = False
        self.progress = replace(
            NOTHING_FROZEN, chunks_total=len(self._ids), tokens_total=session.num_tokens
        )

    @property
    def entries(self) -> tuple[ChunkEntry, ...]:
        """Rows of the chunks on disk, by position."""
        return tuple(self._entries[index] for index in sorted(self._entries))

    @property
    def reaches_end(self) -> bool:
        """Whether the chunks on disk end where the session does."""
        return len(self._ids) - 1 in self._entries

    def reuse_chunks(self) -> Iterator[FreezeProgress]:
        """Take those chunks into account that are on disk already."""
        for index, chunk_id in enumerate(self._ids):
            codec = self._known_codecs.get(chunk_id, self._settings.kind)
            entry = self._store.find_chunk(chunk_id, codec)
            if entry is not None:
                yield self._add(index, entry, num_bytes=0)

    def write_chunks(self, priority: int, deadline: Deadline) -> Iterator[FreezeProgress]:
        """
        Write the sound chunks of a priority that are not on disk, as long as there is time.

        The most valuable ones come first: the usable part from the beginning, of the rest the
        newest, and what lies behind the last full chunk in the end, for it costs least to
        compute and is written again by the next freeze.

        Raises
        ------
        QuotaError
            There is no room; chunks written before stay and are used by the next freeze.

        """
        for index in self._missing(priority):
            start, stop = self._range(index)
            num_bytes = 4 * (stop - start) * self._session.engine.spec.elements_per_token()
            if not self._is_sound(start, stop):
                continue
            if not deadline.allows(self._pace.s_per_byte * num_bytes + self._pace.commit_s):
                self.progress = replace(self.progress, deferred=DEADLINE)
                return
            began = deadline.clock()
            self._compute_afresh(start, stop)
            if not self._is_sound(start, stop):
                continue
            entry = self._write(self._ids[index], start, stop)
            self._pace.note_chunk(num_bytes, deadline.clock() - began)
            yield self._add(index, entry, num_bytes=entry.file_bytes)

    def _missing(self, priority: int) -> list[int]:
        """Return the chunks that are to be written, the most valuable ones first."""
        found = [
            index
            for index in range(len(self._ids))
            if index not in self._entries and self._value(index) == priority
        ]
        return found if priority == USABLE_PRIORITY else found[::-1]

    def _value(self, index: int) -> int:
        start, stop = self._range(index)
        if stop - start < self._settings.chunk_tokens:
            return TAIL if self._is_final else NEVER
        return self._priority(start, stop)

    def _range(self, index: int) -> tuple[int, int]:
        size = self._settings.chunk_tokens
        return index * size, min((index + 1) * size, self._session.num_tokens)

    def _is_sound(self, start: int, stop: int) -> bool:
        return self._session.is_sound(start, stop)

    def _add(self, index: int, entry: ChunkEntry, *, num_bytes: int) -> FreezeProgress:
        start, stop = self._range(index)
        self._entries[index] = replace(entry, priority=self._priority(start, stop))
        self.is_committed = False
        before = self.progress
        self.progress = replace(
            before,
            chunks_done=before.chunks_done + 1,
            chunks_reused=before.chunks_reused + (not num_bytes),
            bytes_written=before.bytes_written + num_bytes,
            tokens_safe=before.tokens_safe + stop - start,
        )
        return self.progress

    def _priority(self, start: int, stop: int) -> int:
        first_stop, last_start = self._bounds
        return USABLE_PRIORITY if start < first_stop or stop > last_start else NORMAL_PRIORITY

    def _compute_afresh(self, start: int, stop: int) -> None:
        """Compute what was decoded from a shorter chunk: nothing is encoded with loss twice."""
        if next(self._session.bridged.overlap(start, stop), None) is not None:
            self._session.compute(start, stop, LogitRows.NONE)

    def _write(self, chunk_id: ChunkId, start: int, stop: int) -> ChunkEntry:
        session, settings = self._session, self._settings
        header = ChunkHeader(
            id=chunk_id,
            model=session.engine.identity.model,
            spec=session.engine.spec,
            start=start,
            stop=stop,
            codec=settings.kind,
        )
        payload = self._encode(start, stop)
        return self._store.write_chunk(header, session.tokens[start:stop], payload)

    def _encode(self, start: int, stop: int) -> memoryview:
        """Return the payload of a chunk; an engine that can quantises where its cache is."""
        engine, settings = self._session.engine, self._settings
        codec = codec_named(settings.kind)
        if engine.supports_quantized and codec is CodecId.INT8:
            quantized = engine.export_quantized(start, stop)
            return encode_quantized(quantized, engine.spec, settings.compression, self._scratch)
        kv = engine.export_kv(start, stop).kv
        return encode_chunk(kv, codec, settings.compression, self._scratch)

    def manifest(self, window: str, tags: Sequence[str]) -> Manifest:
        """Return the manifest that names the chunks written so far."""
        return manifest_of(self._session, window, self._settings, chunks=self.entries, tags=tags)


def manifest_of(
    session: Session,
    window: str,
    settings: CodecSettings,
    *,
    chunks: Sequence[ChunkEntry] = (),
    tags: Sequence[str] = (),
) -> Manifest:
    """Return the manifest of a session of which ``chunks`` are on disk."""
    return Manifest(
        window=window,
        identity=session.engine.identity,
        spec=session.engine.spec,
        chunk_tokens=settings.chunk_tokens,
        codec=settings.kind,
        segment_start_turn=session.first_turn,
        num_turns=session.num_turns,
        tokens=session.tokens,
        turn_stops=tuple(session.turn_stops[session.head :]),
        chunks=tuple(chunks),
        provisional=tuple(session.provisional),
        tags=tuple(tags),
    )
