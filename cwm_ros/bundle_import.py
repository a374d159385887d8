# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A window from a stream of bytes, while that arrives.

The window is there as soon as what makes it usable has arrived and was checked; what comes later
joins it. A stream that breaks off leaves a window that is in order, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bundle import header_of, with_key
from cwm_ros.errors import ExistsError, FormatError, FormatTooNewError
from cwm_ros.store import chunkfile, layout, Origin, OriginKind, turnlog
from cwm_ros.store.frames import BUNDLE_NAMING_KEY, CHUNK, END, FrameReader, TURNS, WINDOW
from cwm_ros.store.manifest import ids_of, unpack_manifest, USABLE_PRIORITY
from cwm_ros.store.segments import BundleReader
from cwm_ros.store.verify import check_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.kv import ChunkId
    from cwm_ros.store import ChunkEntry, Manifest, PayloadChecker, Store
    from cwm_ros.store.frames import Frame
    from cwm_ros.store.segments import Source

RAW_VALUE_BYTES = 8
"""No codec needs more for a value, with its scales, beyond `PAYLOAD_SLACK_BYTES`."""
PAYLOAD_SLACK_BYTES = 1 << 20
BUNDLE = Path('bundle')


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportProgress:
    """
    How far an import is.

    Parameters
    ----------
    window
        Its name here; empty until that is known.
    turns
        Turns of the window.
    chunks_done, chunks_total
        Chunks that joined it, and those that the bundle says it has.
    chunks_reused
        How many of them were here already.
    is_visible
        Whether the window is there, for every reader.
    is_encrypted
        Whether only who has the profile's key can have made the bundle.
    problems
        What was wrong with the bundle; what is missing for it is computed from tokens or turns.
    is_whole
        Whether the bundle came to its end, and nothing was wrong with it.

    """

    window: str = ''
    turns: int = 0
    chunks_done: int = 0
    chunks_total: int = 0
    chunks_reused: int = 0
    is_visible: bool = False
    is_encrypted: bool = False
    problems: tuple[str, ...] = ()
    is_whole: bool = False


def import_window(
    store: Store,
    source: Source,
    check_payload: PayloadChecker,
    *,
    chunk_tokens: int,
    name: str = '',
    path: Path = BUNDLE,
) -> Iterator[ImportProgress]:
    """
    Make a window from a bundle while that arrives.

    The window is there once its turns, its manifest and the chunks that make it usable were
    checked; readers find later chunks when they are there. A bundle that breaks off or is
    damaged behind its turns leaves a window of what was sound, and the last value says what was
    wrong; one that does so before leaves nothing.

    Parameters
    ----------
    store
        Open for writing.
    source
        Gives the bytes.
    check_payload
        Checks a payload's inside; raises a `CwmError` that names the path.
    chunk_tokens
        Size of this store's chunks: those of another one are left out.
    name
        What the window is to be called here; empty for its name in the bundle.
    path
        For messages.

    Raises
    ------
    ExistsError
        There is a window of that name; nothing was imported.
    KeyMissingError
        The bundle is encrypted under another profile's key.
    FormatError
        It is damaged, or broke off, before the turns were whole; nothing was imported.
    StorageError
        There is no room; what was imported until then is in order.

    """
    if name:
        _check_free(store, name)
    stream = BundleReader(source, path, store.bundle_key)
    frames = FrameReader(stream, path)
    taken = frames.take(TURNS)
    if not taken.is_sound:
        raise FormatError(path, 'the checksum of the turns does not match')
    log = turnlog.unpack_log(path, taken.body)
    window_id = layout.window_id(BUNDLE_NAMING_KEY, log.window)
    if log.valid_bytes != len(taken.body) or log.window_id.hex() != window_id or not log.turns:
        raise FormatError(path, 'the turns are not whole, or of another window')
    _check_free(store, name or log.window)
    name = name or log.window
    making = _Import(store, path, check_payload, log, name=name, chunk_tokens=chunk_tokens)
    yield from making.run(stream, frames)


def _check_free(store: Store, name: str) -> None:
    if store.has_window(name):
        raise ExistsError(f'window {name!r} exists', hint='give another name with --as')


class _Import:
    """An import whose turns are known."""

    def __init__(
        self,
        store: Store,
        path: Path,
        check_payload: PayloadChecker,
        log: turnlog.TurnLog,
        *,
        name: str,
        chunk_tokens: int,
    ) -> None:
        self._store = store
        self._path = path
        self._check_payload = check_payload
        self._chunk_tokens = chunk_tokens
        self._name = name
        self._log = log
        self._outer: Manifest | None = None
        self._inner: Manifest | None = None
        self._rows: list[ChunkEntry] = []
        self._expected: dict[tuple[ChunkId, str], ChunkEntry] = {}
        self._here: dict[ChunkId, ChunkEntry] = {}
        self._is_committed = True
        self._progress = ImportProgress(window=name, turns=len(log.turns))

    def run(self, stream: BundleReader, frames: FrameReader) -> Iterator[ImportProgress]:
        self._progress = replace(self._progress, is_encrypted=stream.is_encrypted)
        self._store.hold(self._name)
        is_ended = False
        try:
            try:
                for _ in self._frames(frames):
                    if not self._progress.is_visible and not self._waits():
                        self._show()
                    yield self._progress
                stream.check_end()
                is_ended = True
            except FormatTooNewError:
                if not self._progress.is_visible:
                    raise
                self._note('is of a later version')
            except FormatError as exc:
                self._note(str(exc))
            self._finish()
        finally:
            self._store.let_go(self._name)
        is_whole = is_ended and not self._progress.problems
        self._progress = replace(self._progress, is_whole=is_whole)
        yield self._progress

    def _note(self, problem: str) -> None:
        self._progress = replace(self._progress, problems=(*self._progress.problems, problem))

    def _frames(self, frames: FrameReader) -> Iterator[None]:
        frame = frames.take(WINDOW, END)
        if frame.kind == WINDOW:
            self._take_manifest(frame)
            yield
            largest = max((e.file_bytes for e in self._expected.values()), default=0)
            for _ in range(len(self._expected)):
                frame = frames.take(CHUNK, END, limit_bytes=largest)
                if frame.kind == END:
                    return
                self._take_chunk(frame)
                yield
            frames.take(END)

    def _waits(self) -> bool:
        """Say whether something that makes the window usable is still to come."""
        return any(e.priority == USABLE_PRIORITY for e in self._expected.values())

    def _take_manifest(self, frame: Frame) -> None:
        if not frame.is_sound:
            raise FormatError(self._path, 'the checksum of the window does not match')
        outer = unpack_manifest(self._path, frame.body)
        if outer.window != self._log.window or outer.num_turns > len(self._log.turns):
            raise FormatError(self._path, 'the window and its turns do not belong together')
        if [e.id for e in outer.chunks] != ids_of(BUNDLE_NAMING_KEY, outer):
            raise FormatError(self._path, 'a chunk has an id of other tokens')
        for entry in outer.chunks:
            values = outer.spec.elements_per_token() * (entry.stop - entry.start)
            if entry.payload_bytes > RAW_VALUE_BYTES * values + PAYLOAD_SLACK_BYTES:
                size = entry.payload_bytes
                raise FormatError(self._path, f'payload size {size} is more than its KV can have')
        self._outer = outer
        self._expected = {(e.id, e.codec): e for e in outer.chunks}
        self._progress = replace(self._progress, chunks_total=len(outer.chunks))
        self._inner = self._fitting(outer)

    def _fitting(self, outer: Manifest) -> Manifest:
        """Return the manifest as it is to be here, without its rows, which are prepared."""
        origin = Origin(OriginKind.BUNDLE, outer.window, outer.revision)
        fitting = replace(outer, window=self._name, origin=origin)
        if outer.chunk_tokens != self._chunk_tokens:
            self._note(
                f'its chunks have {outer.chunk_tokens} tokens, those of this store '
                f'{self._chunk_tokens}: they are left out'
            )
            return replace(fitting, chunk_tokens=self._chunk_tokens, chunks=(), samples=b'')
        fitting = with_key(fitting, self._store.key)
        pairs = zip(outer.chunks, fitting.chunks, strict=True)
        self._here = {old.id: self._known(new) for old, new in pairs}
        self._rows = list(outer.chunks)
        return fitting

    def _known(self, entry: ChunkEntry) -> ChunkEntry:
        """Return the row of a chunk as it is here, if it is: it may be of another board."""
        found = self._store.find_chunk(entry.id, entry.codec)
        return entry if found is None else replace(found, priority=entry.priority)

    def _take_chunk(self, frame: Frame) -> None:
        try:
            self._keep_chunk(frame)
        except FormatTooNewError:
            raise
        except FormatError as exc:
            self._note(str(exc))

    def _keep_chunk(self, frame: Frame) -> None:
        outer, body = self._outer, memoryview(frame.body)
        assert outer is not None
        if not frame.is_sound:
            raise FormatError(self._path, 'the checksum of a chunk does not match')
        head = chunkfile.unpack_prefix(self._path, body)
        entry = self._expected.pop((head.header.id, head.header.codec), None)
        if entry is None:
            raise FormatError(self._path, 'holds a chunk that is not of the window, or twice')
        check_head(self._path, head, outer, entry)
        payload = body[chunkfile.prefix_bytes(entry.stop - entry.start) :]
        if len(payload) != entry.payload_bytes:
            raise FormatError(self._path, f'payload has {len(payload)} bytes, not as its row says')
        if layout.checksum(payload) != head.payload_checksum:
            raise FormatError(self._path, 'the checksum of a payload does not match')
        if not self._rows:  # of another size than this store's
            return
        here = self._here[entry.id]
        header = header_of(outer, here)
        self._check_payload(header, payload, self._store.chunk_path(here.id, here.codec))
        is_here = self._is_here(here)
        tokens = np.array(head.tokens)
        stored = self._store.write_chunk(header, tokens, payload, priority=entry.priority)
        if stored != here:  # written by somebody else since the window was shown
            self._here[entry.id] = stored
            self._is_committed = False
        self._progress = replace(
            self._progress,
            chunks_done=self._progress.chunks_done + 1,
            chunks_reused=self._progress.chunks_reused + is_here,
        )

    def _show(self) -> None:
        """Let the window be there: its turns first."""
        if not self._progress.is_visible:
            self._store.commit_turns(self._name, self._log.turns)
        if self._inner is not None:
            rows = (self._here[e.id] for e in self._rows)
            self._store.commit_window(replace(self._inner, chunks=tuple(rows)))
        self._is_committed = True
        self._progress = replace(self._progress, is_visible=True)

    def _finish(self) -> None:
        """Leave a window of what was sound, and no rows of chunks that did not come."""
        there = [e for e in self._rows if self._is_here(self._here[e.id])]
        if len(there) < len(self._rows):
            self._rows = there
            self._is_committed = False
        if not self._progress.is_visible or not self._is_committed:
            self._show()
        self._store.sync_chunks()

    def _is_here(self, entry: ChunkEntry) -> bool:
        return self._store.has_chunk(entry.id, entry.codec)
