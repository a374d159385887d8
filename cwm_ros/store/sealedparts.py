# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What an encrypted file is made of: a header, then parts that are encrypted one by one.

The layout is in docs/format.md, "Encrypted profiles".
"""

from __future__ import annotations

from dataclasses import dataclass
import os
import struct
from typing import TYPE_CHECKING

from cwm_ros.errors import FormatError
from cwm_ros.store import files, layout
from cwm_ros.store.crypto import Aead, NONCE_BYTES, Sealed

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.store.files import Buffer
    from cwm_ros.store.seal import FileKind

SEALED_MAGIC = b'\x93CWMSEC\n'
NOT_AUTHENTIC = 'is damaged, or was made for another name or with another key'

_HEAD = struct.Struct('<8sHHI16s')
_PART = struct.Struct('<12sI16s')
_CHECKSUM = struct.Struct('<Q')
HEAD_BYTES = _HEAD.size
PART_BYTES = _PART.size + _CHECKSUM.size
SIZE_OFFSET = NONCE_BYTES
"""Where in a part's head the size of its data stands."""


@dataclass(frozen=True, slots=True)
class PartHead:
    """
    What precedes the ciphertext of a part.

    Parameters
    ----------
    nonce
        12 random bytes.
    size
        Of the ciphertext, and of the plaintext [bytes].
    tag
        16 bytes.

    """

    nonce: bytes
    size: int
    tag: bytes

    def pack(self) -> bytes:
        """Return the head's 40 bytes."""
        head = _PART.pack(self.nonce, self.size, self.tag)
        return head + _CHECKSUM.pack(layout.checksum(head))


def pack_head(kind: FileKind, name: str) -> bytes:
    """Return the 32 bytes that begin an encrypted file."""
    return _HEAD.pack(SEALED_MAGIC, layout.FORMAT_VERSION, kind, 0, bytes.fromhex(name))


def is_sealed(path: Path) -> bool:
    """Say whether a plain file begins as an encrypted one does."""
    try:
        with files.open_regular(path) as (descriptor, _):
            start = bytearray(len(SEALED_MAGIC))
            files.read_into(descriptor, path, [start])
    except FileNotFoundError:
        return False
    return bytes(start) == SEALED_MAGIC


def check_head(path: Path, kind: FileKind, name: str, data: Buffer) -> bytes:
    """Return the header of an encrypted file if it is what it must be."""
    if len(data) < _HEAD.size:
        raise FormatError(path, f'size {len(data)} is less than a header')
    magic, version, _, _, _ = _HEAD.unpack_from(data)
    layout.check_magic(path, magic, SEALED_MAGIC, version)
    head = bytes(memoryview(data)[: _HEAD.size])
    try:
        expected = _HEAD.pack(SEALED_MAGIC, version, kind, 0, bytes.fromhex(name))
    except ValueError as exc:
        raise FormatError(path, 'is not named by an id') from exc
    if head != expected:
        raise FormatError(path, 'header is that of another file')
    return head


def part_head_at(data: Buffer, offset: int) -> PartHead | None:
    """Return the head of the part that begins at ``offset``; None where none does."""
    if offset + PART_BYTES > len(data):
        return None
    head = memoryview(data)[offset : offset + _PART.size]
    (expected,) = _CHECKSUM.unpack_from(data, offset + _PART.size)
    return PartHead(*_PART.unpack(head)) if layout.checksum(head) == expected else None


class Parts:
    """
    Encrypts and decrypts the parts of one file, of which the first binds the others.

    Parameters
    ----------
    aead
        Under the profile's key for files.
    head
        The file's header, which every part authenticates.

    """

    def __init__(self, aead: Aead, head: bytes) -> None:
        self._aead = aead
        self._head = head
        self._bond = b''

    def bind(self, first: PartHead) -> None:
        """Let ``first`` be the file's first part."""
        self._bond = self._bond or first.nonce + first.tag

    def pack(self, data: bytes) -> bytes:
        """Return the next part."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._aead.seal(nonce, data, self._associated(len(data)))
        part = PartHead(nonce, len(data), sealed.tag)
        self.bind(part)
        return part.pack() + sealed.data

    def pack_into(self, data: memoryview, out: memoryview) -> bytes:
        """Encrypt a large part into ``out``, of its size; return its head."""
        nonce = os.urandom(NONCE_BYTES)
        tag = self._aead.seal_into(nonce, data, self._associated(len(data)), out)
        return PartHead(nonce, len(data), tag).pack()

    def open(self, data: Buffer, offset: int) -> bytes | None:
        """Return what the part at ``offset`` holds; None when there is no authentic one."""
        part = part_head_at(data, offset)
        return None if part is None else self.open_part(data, offset, part)

    def open_part(self, data: Buffer, offset: int, part: PartHead) -> bytes | None:
        """Return what the part at ``offset`` holds, whose head is ``part``; None as `open`."""
        start = offset + PART_BYTES
        if start + part.size > len(data):
            return None
        sealed = Sealed(part.tag, memoryview(data)[start : start + part.size])
        opened = self._aead.open(part.nonce, sealed, self._associated(part.size))
        if opened is not None:
            self.bind(part)
        return opened

    def open_in_place(self, part: PartHead, data: memoryview) -> bool:
        """Decrypt a large part; say whether it is authentic, else it must not be used."""
        associated = self._associated(part.size)
        return self._aead.open_in_place(part.nonce, part.tag, associated, data)

    def _associated(self, size: int) -> bytes:
        return self._head + size.to_bytes(4, 'little') + self._bond
