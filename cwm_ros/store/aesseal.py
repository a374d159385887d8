# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Encrypted files; the layout is in docs/format.md, "Encrypted profiles"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import FormatError, FormatTooNewError
from cwm_ros.store import files, layout
from cwm_ros.store.crypto import Aead
from cwm_ros.store.seal import FileKind, Seal
from cwm_ros.store.sealedparts import (
    check_head,
    HEAD_BYTES,
    NOT_AUTHENTIC,
    pack_head,
    PART_BYTES,
    part_head_at,
    Parts,
    SIZE_OFFSET,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cwm_ros.store.files import Buffer

MAX_RECORD_BYTES = 2 * layout.MAX_TEXT_BYTES
SCAN_BYTES = 1 << 16
ALIGNMENT = 8


class AesSeal(Seal):
    """
    Encrypted files.

    Parameters
    ----------
    id_key, file_key, bundle_key
        To name, to encrypt files, and for bundles: 32 bytes each, derived for nothing else.

    """

    is_encrypted = True
    file_overhead = HEAD_BYTES + PART_BYTES
    chunk_overhead = HEAD_BYTES + 2 * PART_BYTES

    def __init__(self, id_key: bytes, file_key: bytes, bundle_key: bytes) -> None:
        super().__init__(id_key)
        self.bundle_key = bundle_key
        self._aead = Aead(file_key)
        self._buffer = bytearray()

    def _new(self, kind: FileKind, name: str) -> tuple[bytes, Parts]:
        head = pack_head(kind, name)
        return head, Parts(self._aead, head)

    def _known(self, path: Path, kind: FileKind, name: str, data: Buffer) -> Parts:
        return Parts(self._aead, check_head(path, kind, name, data))

    def wrap(self, kind: FileKind, name: str, data: bytes) -> bytes:
        head, parts = self._new(kind, name)
        return head + parts.pack(data)

    def unwrap(self, path: Path, kind: FileKind, name: str, data: bytes) -> bytes:
        parts = self._known(path, kind, name, data)
        plain: list[bytes] = []
        offset = HEAD_BYTES
        while offset < len(data) or not plain:
            opened = parts.open(data, offset)
            if opened is None:
                raise FormatError(path, NOT_AUTHENTIC)
            plain.append(opened)
            offset += PART_BYTES + len(opened)
        return b''.join(plain)

    # --- chunks -------------------------------------------------------------------------------

    def wrap_chunk(self, name: str, prefix: bytes, payload: memoryview) -> Sequence[Buffer]:
        head, parts = self._new(FileKind.CHUNK, name)
        if len(self._buffer) < len(payload):
            self._buffer = bytearray(len(payload))
        out = memoryview(self._buffer)[: len(payload)]
        return [head, parts.pack(prefix), parts.pack_into(payload, out), out]

    def unwrap_prefix(self, path: Path, name: str, data: bytearray) -> memoryview:
        opened = self._known(path, FileKind.CHUNK, name, data).open(data, HEAD_BYTES)
        if not opened:
            raise FormatError(path, NOT_AUTHENTIC)
        return memoryview(opened)

    def read_chunk(
        self, descriptor: int, path: Path, name: str, prefix: bytearray, payload: memoryview
    ) -> int:
        front = bytearray(self.chunk_overhead + len(prefix))
        count = files.read_into(descriptor, path, [front, payload])
        parts = self._known(path, FileKind.CHUNK, name, front)
        opened = parts.open(front, HEAD_BYTES)
        second = part_head_at(front, len(front) - PART_BYTES)
        if opened is None or len(opened) != len(prefix) or not second:
            raise FormatError(path, NOT_AUTHENTIC)
        if second.size != len(payload) or not parts.open_in_place(second, payload):
            raise FormatError(path, NOT_AUTHENTIC)
        prefix[:] = opened
        return count

    # --- turn logs ----------------------------------------------------------------------------

    def begin_log(self, name: str, header: bytes, records: Sequence[bytes]) -> bytes:
        head, parts = self._new(FileKind.LOG, name)
        return head + b''.join(parts.pack(part) for part in (header, *records))

    def extend_log(self, path: Path, name: str, records: Sequence[bytes]) -> bytes:
        start = bytearray(HEAD_BYTES + PART_BYTES)
        with files.open_regular(path) as (descriptor, _):
            files.read_into(descriptor, path, [start])
        parts = self._known(path, FileKind.LOG, name, start)
        first = part_head_at(start, HEAD_BYTES)
        if first is None:
            raise FormatError(path, f'header {NOT_AUTHENTIC}')
        parts.bind(first)
        return b''.join(parts.pack(record) for record in records)

    def unwrap_log(
        self, path: Path, name: str, data: bytes, *, is_lenient: bool = False
    ) -> tuple[bytes, dict[int, int]]:
        try:
            parts = self._known(path, FileKind.LOG, name, data)
        except FormatError as exc:
            if not is_lenient or isinstance(exc, FormatTooNewError):
                raise
            parts = self._new(FileKind.LOG, name)[1]
        first = part_head_at(data, HEAD_BYTES)
        opened = parts.open(data, HEAD_BYTES)
        if not first or (opened is None and not is_lenient):
            raise FormatError(path, f'header {NOT_AUTHENTIC}')
        parts.bind(first)
        plain = bytearray(opened or bytes(min(first.size, MAX_RECORD_BYTES)))
        end = HEAD_BYTES + PART_BYTES + len(plain)
        ends = {len(plain): end}
        search = _RecordSearch(path, data, parts)
        while end < len(data):
            start, record = search.next_after(end)
            plain += bytes(start - end) + record
            end = start + (PART_BYTES + len(record) if record else 0)
            ends[len(plain)] = end
        return bytes(plain), ends


class _RecordSearch:
    """
    Finds records in a log, also behind damage.

    Parameters
    ----------
    path
        For messages.
    data
        The log as it lies on the disk.
    parts
        Bound to its first part.

    """

    def __init__(self, path: Path, data: bytes, parts: Parts) -> None:
        self._path = path
        self._data = data
        self._parts = parts
        # Each byte is decrypted once, unless someone forged heads whose parts overlap.
        self._bytes_left = 2 * len(data)

    def next_after(self, offset: int) -> tuple[int, bytes]:
        """Return where the next authentic record begins, and it; else the end and nothing."""
        for start in self._places(offset):
            part = part_head_at(self._data, start)
            if part is None:
                continue
            self._bytes_left -= part.size
            if self._bytes_left < 0:
                raise FormatError(self._path, 'records overlap')
            record = self._parts.open_part(self._data, start, part)
            if record:
                return start, record
        return len(self._data), b''

    def _places(self, offset: int) -> Iterator[int]:
        """Yield where a part may begin: there, then wherever a size is that a record can have."""
        yield offset
        last = len(self._data) - PART_BYTES
        for block in range(offset + ALIGNMENT, last + 1, SCAN_BYTES):
            count = min(SCAN_BYTES, last + 1 - block + ALIGNMENT - 1) // ALIGNMENT
            at = block + SIZE_OFFSET // ALIGNMENT * ALIGNMENT
            words = np.frombuffer(self._data, '<u4', 2 * count, at)
            sizes = words[SIZE_OFFSET % ALIGNMENT // 4 :: 2]
            fits = (sizes % ALIGNMENT == 0) & (sizes > 0) & (sizes <= MAX_RECORD_BYTES)
            for index in np.flatnonzero(fits).tolist():
                yield block + ALIGNMENT * index
