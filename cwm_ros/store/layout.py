# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What all files of the store share: limits, names, and the frame of sections.

The byte layout is described in docs/format.md, which is normative.
"""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
import re
import struct
from typing import TYPE_CHECKING

import xxhash

from cwm_ros.errors import BadNameError, ConfigError, FormatError, FormatTooNewError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FORMAT_VERSION = 1
VERSION_END = 10
"""Every file begins with 8 bytes of magic and its version, a uint16."""
ID_BYTES = 16
KEY_BYTES = 32
IDENTITY_BYTES = 32
CODEC_BYTES = 8
NAME_BYTES = 64

MAX_TOKENS = 1 << 20
MAX_TURNS = 1 << 20
MAX_LAYERS = 1 << 12
MAX_HEADS = 1 << 12
MAX_HEAD_DIM = 1 << 12
MAX_CHUNK_TOKENS = 1 << 12
MAX_PAYLOAD_BYTES = 1 << 30
MAX_TEXT_BYTES = 1 << 20
MAX_LOG_BYTES = 1 << 28
MAX_MANIFEST_BYTES = 1 << 26
MAX_SECTIONS = 256
MAX_TAGS = 256
MAX_WORD_BYTES = 256

KEY_MAGIC = b'\x93CWMKEY\n'
KEY_HINT = 'restore the key file from a backup: nothing else can make it again'
CRITICAL = 1

_FRAME = struct.Struct('<8sHHIQ')
_SECTION = struct.Struct('<4sIQQ')
_U64 = struct.Struct('<Q')
_KEY = struct.Struct('<8sHHI32s')

_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z', re.ASCII)
_CODEC = re.compile(r'[a-z0-9]{1,8}\Z', re.ASCII)


def checksum(*parts: bytes | bytearray | memoryview) -> int:
    """Return the xxh3_64 of the concatenated parts."""
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return state.intdigest()


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it is allowed for a 'window' or a 'profile'."""
    if not _NAME.match(name):
        raise BadNameError(kind, name)
    return name


def check_tags(tags: Sequence[str]) -> None:
    """Refuse words about a window that its manifest cannot hold; ConfigError says why."""
    if len(tags) > MAX_TAGS:
        raise ConfigError(f'tags: {len(tags)}, more than {MAX_TAGS}')
    for tag in tags:
        try:
            num_bytes = len(tag.encode())
        except UnicodeEncodeError as exc:
            raise ConfigError(f'tags: {tag[:40]!r} is no text') from exc
        if num_bytes > MAX_WORD_BYTES:
            raise ConfigError(f'tags: {tag[:40]!r} … is longer than {MAX_WORD_BYTES} bytes')


def is_codec_name(name: str) -> bool:
    """Say whether ``name`` can be a codec's name in a file name and a table."""
    return bool(_CODEC.match(name))


def window_id(key: bytes, name: str) -> str:
    """Return the name of a window's files, which reveals nothing without the key."""
    check_name('window', name)
    digest = hashlib.blake2b(
        name.encode('ascii'), digest_size=ID_BYTES, key=key, person=b'cwm window'
    )
    return digest.hexdigest()


def version_of(start: bytes | bytearray, *magics: bytes) -> int:
    """Return the version in the first 10 bytes of a file; 0 where that is none of ours."""
    is_ours = len(start) >= VERSION_END and bytes(start[: VERSION_END - 2]) in magics
    return int.from_bytes(start[VERSION_END - 2 : VERSION_END], 'little') if is_ours else 0


def check_magic(
    path: Path, data: bytes | memoryview, magic: bytes, version: int, *, hint: str = ''
) -> None:
    """Refuse another kind of file, and a later version of this kind."""
    if bytes(data[: len(magic)]) != magic:
        raise FormatError(
            path, f'magic is {bytes(data[: len(magic)])!r}, not {magic!r}', hint=hint
        )
    refuse_later(path, version)


def refuse_later(path: Path, version: int) -> None:
    """Refuse a later version."""
    if version > FORMAT_VERSION:
        raise FormatTooNewError(
            path,
            f'format_version is {version}, this package reads up to {FORMAT_VERSION}',
            hint='read it with the version that wrote it, or a later one',
        )


def pack_key(key: bytes) -> bytes:
    """Return the content of a profile's key file."""
    body = _KEY.pack(KEY_MAGIC, FORMAT_VERSION, 0, 0, key)
    return body + _U64.pack(checksum(body))


def unpack_key(path: Path, data: bytes) -> bytes:
    """Return the key that `pack_key` packed."""
    refuse_later(path, version_of(data, KEY_MAGIC))
    if len(data) != _KEY.size + _U64.size:
        raise FormatError(path, f'size is {len(data)}, not {_KEY.size + _U64.size}', hint=KEY_HINT)
    magic, version, kind, zero, key = _KEY.unpack_from(data)
    check_magic(path, magic, KEY_MAGIC, version, hint=KEY_HINT)
    if _U64.unpack_from(data, _KEY.size)[0] != checksum(data[: _KEY.size]):
        raise FormatError(path, 'checksum does not match', hint=KEY_HINT)
    if kind or zero:
        raise FormatTooNewError(path, f'kind of key is {kind}, this package reads 0')
    return bytes(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """
    A typed part of a framed file.

    Parameters
    ----------
    kind
        Four ASCII characters.
    data
        Content.
    is_critical
        Whether a reader that does not know ``kind`` must refuse the file.

    """

    kind: bytes
    data: bytes | memoryview
    is_critical: bool = False

    def __post_init__(self) -> None:
        if len(self.kind) != 4 or not self.kind.isalnum():  # noqa: PLR2004
            raise ConfigError(f'section kind is {self.kind!r}', hint='use 4 letters or digits')


def _padding(size: int) -> int:
    return -size % 8


def pack_frame(magic: bytes, sections: Sequence[Section]) -> bytes:
    """Return a framed file: header, table of sections, its checksum, contents."""
    size = _FRAME.size + _SECTION.size * len(sections) + _U64.size
    size += sum(len(s.data) + _padding(len(s.data)) for s in sections)
    head = _FRAME.pack(magic, FORMAT_VERSION, len(sections), 0, size) + b''.join(
        _SECTION.pack(s.kind, int(s.is_critical), len(s.data), checksum(s.data)) for s in sections
    )
    parts: list[bytes | memoryview] = [head, _U64.pack(checksum(head))]
    for section in sections:
        parts += [section.data, bytes(_padding(len(section.data)))]
    return b''.join(parts)


def unpack_frame(path: Path, data: bytes, magic: bytes) -> list[Section]:
    """
    Return the sections of a framed file; their data are views into ``data``.

    Raises
    ------
    FormatError
        A length, a checksum or the padding is wrong, or a section appears twice.

    """
    if len(data) < _FRAME.size + _U64.size:
        raise FormatError(path, f'size {len(data)} is less than a header')
    found, version, count, zero, size = _FRAME.unpack_from(data)
    check_magic(path, found, magic, version)
    table_end = _FRAME.size + _SECTION.size * count
    if count > MAX_SECTIONS or table_end + _U64.size > len(data):
        raise FormatError(path, f'number of sections is {count}, more than the file can hold')
    if _U64.unpack_from(data, table_end)[0] != checksum(memoryview(data)[:table_end]):
        raise FormatError(path, 'header checksum does not match')
    if zero or size != len(data):
        raise FormatError(path, f'file size is {len(data)}, the header says {size}')
    return _unpack_sections(path, data, count, table_end + _U64.size)


def _unpack_sections(path: Path, data: bytes, count: int, offset: int) -> list[Section]:
    view = memoryview(data)
    sections: list[Section] = []
    for index in range(count):
        kind, flags, length, expected = _SECTION.unpack_from(
            data, _FRAME.size + _SECTION.size * index
        )
        name = ascii(bytes(kind))[2:-1]
        if not kind.isalnum() or flags & ~CRITICAL or any(s.kind == kind for s in sections):
            raise FormatError(path, f'section {name} is named, flagged or repeated wrongly')
        end = offset + length + _padding(length)
        if end > len(data):
            raise FormatError(path, f'section {name} has length {length}, beyond the file')
        if any(view[offset + length : end]):
            raise FormatError(path, f'section {name} has padding that is not zero')
        content = view[offset : offset + length]
        if checksum(content) != expected:
            raise FormatError(path, f'section {name} fails its checksum')
        sections.append(Section(kind=kind, data=content, is_critical=bool(flags & CRITICAL)))
        offset = end
    if offset != len(data):
        raise FormatError(path, f'{len(data) - offset} bytes lie behind the last section')
    return sections
