# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Read every byte of windows and say what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import CwmError, FormatError, FormatTooNewError
from cwm_ros.store import chunkfile, files, layout
from cwm_ros.store.catalog import check_pair, MANIFEST_SUFFIX, read_log, read_manifest
from cwm_ros.store.chunkfile import ChunkHeader
from cwm_ros.store.manifest import ChunkEntry, ids_of
from cwm_ros.store.seal import FileKind
from cwm_ros.store.sealedparts import SEALED_MAGIC

if TYPE_CHECKING:
    from cwm_ros.kv import ChunkId
    from cwm_ros.store.manifest import Manifest
    from cwm_ros.store.seal import Seal

PayloadChecker = Callable[[ChunkHeader, memoryview, Path], None]
"""Checks a payload's inside, as its codec knows it; raises a `CwmError` about the path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """
    What was read and what is wrong.

    Parameters
    ----------
    windows, turns, chunks, bytes
        How much was read; a chunk that windows share counts once.
    missing_chunks
        Rows of chunk tables whose file is absent: evicted, to be computed again from tokens.
    torn_bytes
        Behind the last whole turns: of commits that were cut, or are under way. They were never
        acknowledged, and the next writer removes them.
    problems
        One sentence for each thing that is wrong, beginning with the path.

    """

    windows: int
    turns: int
    chunks: int
    bytes: int
    missing_chunks: int
    torn_bytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @classmethod
    def of_nothing(cls) -> VerifyReport:
        """Return the report of an empty profile."""
        return cls(
            windows=0, turns=0, chunks=0, bytes=0, missing_chunks=0, torn_bytes=0, problems=()
        )


class Verifier:
    """
    Collects the findings over windows.

    Parameters
    ----------
    windows, chunks
        The profile's folders.
    seal
        Between files and disk; ids are computed again from its key.
    check_payload
        Checks the payload as its codec knows it.

    Attributes
    ----------
    damaged
        File names of the chunks that must not be used.

    """

    def __init__(
        self, windows: Path, chunks: Path, seal: Seal, check_payload: PayloadChecker
    ) -> None:
        self._windows = windows
        self._chunks = chunks
        self._seal = seal
        self._key = seal.id_key
        self._check_payload = check_payload
        self._seen: set[str] = set()
        self.damaged: list[str] = []
        self._buffer = bytearray()
        self._problems: list[str] = []
        self._num_windows = self._num_turns = self._num_missing = self._num_bytes = 0
        self._torn_bytes = 0

    def report(self) -> VerifyReport:
        """Return what was found so far."""
        return VerifyReport(
            windows=self._num_windows,
            turns=self._num_turns,
            chunks=len(self._seen),
            bytes=self._num_bytes,
            missing_chunks=self._num_missing,
            torn_bytes=self._torn_bytes,
            problems=tuple(self._problems),
        )

    def check_window(self, window_id: str) -> None:
        """Check one window; findings are kept, not raised."""
        self._num_windows += 1
        try:
            manifest = read_manifest(self._windows, window_id, self._seal)
            log = read_log(self._windows, window_id, self._seal)
            if log:
                self._num_turns += len(log.turns)
                self._num_bytes += log.valid_bytes
                self._torn_bytes += log.torn_bytes
            name = manifest.window if manifest else log.window if log else ''
            if name and layout.window_id(self._key, name) != window_id:
                path = self._windows / window_id
                raise FormatError(path, f'is not the file name of window {name!r}')
            if manifest:
                check_pair(self._windows, window_id, manifest, log)
                self._check_table(window_id, manifest)
        except CwmError as exc:
            self._problems.append(exc.message)

    def _check_table(self, window_id: str, manifest: Manifest) -> None:
        path = self._windows / (window_id + MANIFEST_SUFFIX)
        expected_ids = ids_of(self._key, manifest)
        for entry, expected in zip(manifest.chunks, expected_ids, strict=True):
            if entry.id != expected:
                self._problems.append(
                    f'{path}: chunk {entry.start}..{entry.stop} has an id of other tokens'
                )
            elif entry.file_name not in self._seen:
                self._check_chunk(manifest, entry)

    def _check_chunk(self, manifest: Manifest, entry: ChunkEntry) -> None:
        path = self._chunks / entry.file_name
        if len(self._buffer) < entry.payload_bytes:
            self._buffer = bytearray(entry.payload_bytes)
        try:
            read = read_chunk_file(path, manifest, entry, self._buffer, self._seal)
            if read is None:
                self._num_missing += 1
                return
            head, payload = read
            self._seen.add(entry.file_name)
            self._num_bytes += entry.file_bytes
            if layout.checksum(payload) != head.payload_checksum:
                raise FormatError(path, 'payload checksum does not match')
            self._check_payload(head.header, payload, path)
        except CwmError as exc:
            self._problems.append(exc.message)
            if isinstance(exc, FormatError) and not isinstance(exc, FormatTooNewError):
                self.damaged.append(entry.file_name)


def read_chunk_file(
    path: Path, manifest: Manifest, entry: ChunkEntry, buffer: bytearray | memoryview, seal: Seal
) -> tuple[chunkfile.ChunkHead, memoryview] | None:
    """
    Read a chunk that ``manifest`` refers to.

    Parameters
    ----------
    path
        Its file.
    manifest, entry
        What it must be.
    buffer
        At least ``entry.payload_bytes``; the payload is read into its beginning.
    seal
        Between file and disk.

    Returns
    -------
    tuple or None
        The head and a view of ``buffer`` with the payload; None when there is no file.

    Raises
    ------
    FormatError
        The file is not what the manifest says.

    """
    prefix = bytearray(chunkfile.prefix_bytes(entry.stop - entry.start))
    payload = memoryview(buffer).cast('B')[: entry.payload_bytes]
    try:
        with files.open_regular(path) as (descriptor, size):
            expected = entry.file_bytes + seal.chunk_overhead
            if size != expected:
                _refuse_later(descriptor, path)
                raise FormatError(path, f'size is {size}, not {expected}')
            count = seal.read_chunk(descriptor, path, entry.id.hex(), prefix, payload)
    except FileNotFoundError:
        return None
    if count != expected:
        raise FormatError(path, f'ended after {count} of {expected} bytes')
    head = chunkfile.unpack_prefix(path, prefix)
    check_head(path, head, manifest, entry)
    return head, payload


def _refuse_later(descriptor: int, path: Path) -> None:
    """Tell a chunk of a later version, which may have any size, from a damaged one."""
    start = bytearray(layout.VERSION_END)
    files.read_into(descriptor, path, [start])
    layout.refuse_later(path, layout.version_of(start, chunkfile.CHUNK_MAGIC, SEALED_MAGIC))


def check_head(
    path: Path, head: chunkfile.ChunkHead, manifest: Manifest, entry: ChunkEntry
) -> None:
    """Compare what a chunk file says with what its window says."""
    header = head.header
    pairs = (
        ('chunk id', header.id.hex(), entry.id.hex()),
        ('codec', header.codec, entry.codec),
        ('start', header.start, entry.start),
        ('stop', header.stop, entry.stop),
        ('payload size', head.payload_bytes, entry.payload_bytes),
        ('model identity', header.model.hex(), manifest.identity.model.hex()),
        ('geometry', header.spec, manifest.spec),
    )
    for name, found, expected in pairs:
        if found != expected:
            raise FormatError(path, f'{name} is {found}, the window says {expected}')
    if not np.array_equal(head.tokens, manifest.tokens[entry.start : entry.stop]):
        raise FormatError(path, 'token ids are not those of the window')


def read_entry(path: Path, chunk_id: ChunkId, codec: str, seal: Seal) -> ChunkEntry:
    """Return the table row of the chunk file at ``path``; raise a FormatError if it is none."""
    with files.open_regular(path) as (descriptor, size):
        most = chunkfile.prefix_bytes(layout.MAX_CHUNK_TOKENS) + seal.chunk_overhead
        data = bytearray(min(size, most))
        files.read_into(descriptor, path, [data])
    head = chunkfile.unpack_prefix(path, seal.unwrap_prefix(path, chunk_id.hex(), data))
    size -= seal.chunk_overhead
    header = head.header
    prefix_bytes = chunkfile.prefix_bytes(header.stop - header.start)
    if (header.id, header.codec) != (chunk_id, codec):
        raise FormatError(path, f'chunk id is {header.id.hex()}, codec {header.codec}')
    if size != prefix_bytes + head.payload_bytes:
        raise FormatError(path, f'size is {size}, not {prefix_bytes + head.payload_bytes}')
    return ChunkEntry(
        id=chunk_id,
        start=header.start,
        stop=header.stop,
        codec=codec,
        payload_bytes=head.payload_bytes,
        file_bytes=size,
    )


def check_chunk_file(path: Path, check_payload: PayloadChecker, seal: Seal) -> int:
    """Check a chunk file by what it says itself; return its size, or raise a FormatError."""
    limit = layout.MAX_PAYLOAD_BYTES + chunkfile.prefix_bytes(layout.MAX_CHUNK_TOKENS)
    sealed = files.read_file(path, limit_bytes=limit + seal.chunk_overhead)
    data = seal.unwrap(path, FileKind.CHUNK, path.stem, sealed)
    head = chunkfile.unpack_prefix(path, data)
    header = head.header
    if header.file_name != path.name:
        raise FormatError(path, f'chunk id is {header.id.hex()}, codec {header.codec}')
    payload = memoryview(data)[chunkfile.prefix_bytes(header.stop - header.start) :]
    if len(payload) != head.payload_bytes:
        raise FormatError(path, f'payload has {len(payload)} bytes, not {head.payload_bytes}')
    if layout.checksum(payload) != head.payload_checksum:
        raise FormatError(path, 'payload checksum does not match')
    check_payload(header, payload, path)
    return len(sealed)
