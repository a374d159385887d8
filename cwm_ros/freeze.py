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

from cwm_ros.codec import codec_named, encode_chunk, Scratch
from cwm_ros.engine import LogitRows
from cwm_ros.plan import usable_bounds
from cwm_ros.store import ChunkHeader, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.config import CodecSettings, ThawSettings
    from cwm_ros.kv import ChunkId
    from cwm_ros.session import Session
    from cwm_ros.store import ChunkEntry, Eviction, Store

USABLE_PRIORITY = 0
NORMAL_PRIORITY = 1


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
    is_committed
        Whether the manifest that names them is durable.
    evicted
        What was removed to make room since the last freeze; told with the last value.
    deferred
        Why nothing was written; empty when it was.

    """

    chunks_done: int
    chunks_total: int
    chunks_reused: int
    bytes_written: int
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
    ) -> None:
        self._store = store
        self._known_codecs = {entry.id: entry.codec for entry in known}
        self._session = session
        self._settings = settings
        self._is_final = is_final
        self._bounds = usable_bounds(
            session.num_tokens, session.turn_stops, settings=thaw_settings
        )
        self._scratch = Scratch(kernels)
        self.entries: list[ChunkEntry] = []
        self.progress = NOTHING_FROZEN

    def write_chunks(self) -> Iterator[FreezeProgress]:
        """
        Write the sound chunks that are not on disk; unsound ones are left out.

        Raises
        ------
        QuotaError
            There is no room; chunks written before stay and are used by the next freeze.

        """
        session, size = self._session, self._settings.chunk_tokens
        ids = self._store.chunk_ids(session.engine.identity, session.tokens, size)
        self.progress = replace(self.progress, chunks_total=len(ids))
        unsound = session.unsound()
        for index, chunk_id in enumerate(ids):
            start, stop = index * size, min((index + 1) * size, session.num_tokens)
            codec = self._known_codecs.get(chunk_id, self._settings.kind)
            entry = self._store.find_chunk(chunk_id, codec)
            is_reused = entry is not None
            if entry is None:
                if stop - start < size and not self._is_final:
                    continue
                if next(unsound.overlap(start, stop), None) is not None:
                    continue
                self._compute_afresh(start, stop)
                if next(session.provisional.overlap(start, stop), None) is not None:
                    continue
                entry = self._write(chunk_id, start, stop)
            self.entries.append(replace(entry, priority=self._priority(start, stop)))
            before = self.progress
            self.progress = replace(
                before,
                chunks_done=before.chunks_done + 1,
                chunks_reused=before.chunks_reused + is_reused,
                bytes_written=before.bytes_written + (0 if is_reused else entry.file_bytes),
            )
            yield self.progress

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
        payload = encode_chunk(
            session.engine.export_kv(start, stop).kv,
            codec_named(settings.kind),
            settings.compression,
            self._scratch,
        )
        return self._store.write_chunk(header, session.tokens[start:stop], payload)

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
