# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The outermost layer of a bundle: a header, then its frames as they are, or encrypted by segments.

Segments are the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar: "Online Authenticated-
Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015) over AES-256-GCM: the nonce counts
them and marks the last, so that none can be left out, moved or appended. The layout is in
docs/format-bundle.md.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import Protocol, TYPE_CHECKING

from cwm_ros.errors import FormatError, FormatTooNewError, KeyMissingError
from cwm_ros.store import layout
from cwm_ros.store.crypto import Aead, derive_key, Sealed, TAG_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cwm_ros.store.files import Buffer

BUNDLE_MAGIC = b'\x93CWMBDL\n'
SEGMENT_BYTES = 1 << 16
READ_BYTES = 1 << 20
"""Memory is taken as bytes arrive, not as lengths promise."""
KIND_HINT = 'give a file that cwm export wrote; cwm ingest reads dialogues'
CUT_HINT = 'export the window again, or let the rest be sent again'

_HEAD = struct.Struct('<8sHHI16s16s')
_CHECKSUM = struct.Struct('<Q')
HEAD_BYTES = _HEAD.size + _CHECKSUM.size
_PLAIN, _ENCRYPTED = 0, 1


class Source(Protocol):
    """Where a bundle comes from: a file, a pipe, a socket's file."""

    def read(self, size: int, /) -> bytes | None:
        """Return up to ``size`` bytes; none at the end."""
        ...


def read_all(source: Source, size: int) -> bytes:
    """Return ``size`` bytes, fewer only at the end."""
    data = bytearray()
    while len(data) < size:
        part = source.read(min(size - len(data), READ_BYTES))
        if not part:
            break
        data += part
    return bytes(data)


def _check_of(bundle_key: bytes, salt: bytes) -> bytes:
    return derive_key(bundle_key, salt, 'bundle check')[: layout.ID_BYTES]


def _pack_head(kind: int, salt: bytes, check: bytes) -> bytes:
    head = _HEAD.pack(BUNDLE_MAGIC, layout.FORMAT_VERSION, kind, 0, salt, check)
    return head + _CHECKSUM.pack(layout.checksum(head))


def _aead(bundle_key: bytes, salt: bytes) -> Aead:
    return Aead(derive_key(bundle_key, salt, 'bundle stream'))


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(11, 'little') + bytes([is_last])


class BundleWriter:
    """
    Takes the bytes of frames.

    Parameters
    ----------
    write
        Where the bundle goes.
    bundle_key
        The profile's, 32 bytes; None when it is not encrypted.
    salt
        16 bytes that no other bundle under this key has; random when None.

    """

    def __init__(
        self,
        write: Callable[[Buffer], object],
        bundle_key: bytes | None,
        salt: bytes | None = None,
    ) -> None:
        self._write = write
        self._aead: Aead | None = None
        self._pending = bytearray()
        self._number = 0
        self.bytes_written = 0
        if bundle_key is None:
            self._head = _pack_head(_PLAIN, bytes(16), bytes(16))
        else:
            salt = os.urandom(layout.ID_BYTES) if salt is None else salt
            self._head = _pack_head(_ENCRYPTED, salt, _check_of(bundle_key, salt))
            self._aead = _aead(bundle_key, salt)
        self._put(self._head)

    def _put(self, data: Buffer) -> None:
        self._write(data)
        self.bytes_written += len(data)

    def write(self, data: Buffer) -> None:
        """Take more; an encrypted segment goes out when the next one has begun."""
        if self._aead is None:
            self._put(data)
            return
        self._pending += data
        start = 0
        while len(self._pending) - start > SEGMENT_BYTES:
            self._seal(self._pending[start : start + SEGMENT_BYTES], is_last=False)
            start += SEGMENT_BYTES
        del self._pending[:start]

    def finish(self) -> None:
        """Write what is left."""
        if self._aead is not None:
            self._seal(self._pending, is_last=True)

    def _seal(self, data: Buffer, *, is_last: bool) -> None:
        assert self._aead is not None
        nonce = _nonce(self._number, is_last=is_last)
        sealed = self._aead.seal(nonce, bytes(data), self._head)
        self._number += 1
        self._put(b''.join([sealed.data, sealed.tag]))


class BundleReader:
    """
    Gives the bytes of frames, each after it was authenticated if the bundle is encrypted.

    Parameters
    ----------
    source
        Where the bundle comes from.
    path
        For messages.
    bundle_key
        The profile's, 32 bytes; None when that is not encrypted.

    Raises
    ------
    FormatError
        It is not a bundle, or a damaged one.
    FormatTooNewError
        It is of a later version.
    KeyMissingError
        It is encrypted under another profile's key.

    """

    def __init__(self, source: Source, path: Path, bundle_key: bytes | None) -> None:
        self._source = source
        self._path = path
        self._aead: Aead | None = None
        self._plain = memoryview(b'')
        self._number = 0
        self._is_ended = False
        self._head = read_all(source, HEAD_BYTES)
        self._open(bundle_key)

    def _open(self, bundle_key: bytes | None) -> None:
        if len(self._head) < HEAD_BYTES:
            size = len(self._head)
            raise FormatError(self._path, f'size {size} is less than a header', hint=CUT_HINT)
        magic, version, kind, zero, salt, check = _HEAD.unpack_from(self._head)
        layout.check_magic(self._path, magic, BUNDLE_MAGIC, version, hint=KIND_HINT)
        if _CHECKSUM.unpack_from(self._head, _HEAD.size)[0] != layout.checksum(
            self._head[: _HEAD.size]
        ):
            raise FormatError(self._path, 'header checksum does not match', hint=CUT_HINT)
        if kind > _ENCRYPTED:
            raise FormatTooNewError(self._path, f'kind of bundle is {kind}, known are 0 and 1')
        if zero or (kind == _PLAIN and any(salt + check)):
            raise FormatError(self._path, 'reserved bytes are not zero')
        if kind == _PLAIN:
            return
        if bundle_key is None or not hmac.compare_digest(_check_of(bundle_key, salt), check):
            raise KeyMissingError(
                f'{self._path}: is encrypted under the key of another profile',
                hint='import it into the profile it was exported from, with --profile',
            )
        self._aead = _aead(bundle_key, salt)

    @property
    def is_encrypted(self) -> bool:
        """Whether nobody but the profile's owner can have made it."""
        return self._aead is not None

    def read(self, size: int) -> bytes:
        """
        Return up to ``size`` bytes; none at the end.

        Raises
        ------
        FormatError
            A segment is not authentic: it is damaged, moved, or the stream was cut in it.

        """
        if self._aead is None:
            return self._source.read(size) or b''
        if not len(self._plain) and not self._is_ended:
            self._plain = memoryview(self._next_segment())
        part, self._plain = self._plain[:size], self._plain[size:]
        return bytes(part)

    def _next_segment(self) -> bytes:
        data = read_all(self._source, SEGMENT_BYTES + TAG_BYTES)
        for is_last in (False, True):
            if not is_last and len(data) < SEGMENT_BYTES + TAG_BYTES:
                continue  # only the last one is shorter
            opened = self._try(data, is_last=is_last)
            if opened is not None:
                self._number += 1
                self._is_ended = is_last
                return opened
        reason = 'is cut off' if len(data) < SEGMENT_BYTES + TAG_BYTES else 'is not authentic'
        raise FormatError(self._path, f'segment {self._number} {reason}', hint=CUT_HINT)

    def _try(self, data: bytes, *, is_last: bool) -> bytes | None:
        assert self._aead is not None
        if len(data) <= TAG_BYTES:
            return None
        sealed = Sealed(data[-TAG_BYTES:], memoryview(data)[:-TAG_BYTES])
        return self._aead.open(_nonce(self._number, is_last=is_last), sealed, self._head)

    def check_end(self) -> None:
        """Refuse bytes behind the end."""
        if len(self._plain) or self.read(1) or self._source.read(1):
            raise FormatError(self._path, 'bytes lie behind the end of the bundle')
