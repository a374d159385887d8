# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Chunk files: how chunks are named, and the self-describing head before a payload."""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
import struct
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import ConfigError, FormatError
from cwm_ros.kv import ChunkId, KVSpec
from cwm_ros.store import layout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cwm_ros.kv import ModelIdentity, TokenArray

CHUNK_MAGIC = b'\x93CWMCHK\n'
PAYLOAD_ALIGNMENT = 64

_HEAD = struct.Struct('<8sHHI16s32sIIIIII8sQQ8x')
_CHECKSUM = struct.Struct('<Q')
_CHUNK_TOKENS = struct.Struct('<I')
_CHECKSUM_OFFSET = _HEAD.size
_FIXED_BYTES = _HEAD.size + _CHECKSUM.size


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkHeader:
    """
    What a chunk file says about its payload.

    Parameters
    ----------
    id
        See `chunk_ids`.
    model
        ``ModelIdentity.model`` of the model that made the KV.
    spec
        Geometry of the KV.
    start, stop
        Token positions.
    codec
        Name of the codec: 1 to 8 of a-z and 0-9; also the file's suffix.

    """

    id: ChunkId
    model: bytes
    spec: KVSpec
    start: int
    stop: int
    codec: str

    def __post_init__(self) -> None:
        if len(self.id) != layout.ID_BYTES or len(self.model) != layout.IDENTITY_BYTES:
            raise ConfigError('a chunk id has 16 bytes and a model identity 32')
        if not layout.is_codec_name(self.codec):
            raise ConfigError(f'codec name is {self.codec!r}', hint='use 1 to 8 of a-z and 0-9')
        if not 0 <= self.start < self.stop <= layout.MAX_TOKENS:
            raise ConfigError(f'chunk positions are {self.start} to {self.stop}')
        if self.stop - self.start > layout.MAX_CHUNK_TOKENS:
            raise ConfigError(f'chunk has {self.stop - self.start} tokens')
        check_spec(self.spec)

    @property
    def file_name(self) -> str:
        """Name of the chunk's file."""
        return file_name(self.id, self.codec)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChunkHead:
    """
    Everything in a chunk file but its payload.

    Parameters
    ----------
    header
        What it says.
    tokens
        Token ids of the chunk, int32, shape (stop - start,); a read-only view.
    payload_bytes, payload_checksum
        Size and xxh3_64 of the payload that follows.

    """

    header: ChunkHeader
    tokens: TokenArray
    payload_bytes: int
    payload_checksum: int


def check_spec(spec: KVSpec) -> None:
    """Refuse a geometry beyond the limits of the format."""
    limits = (
        ('num_layers', spec.num_layers, layout.MAX_LAYERS),
        ('num_kv_heads', spec.num_kv_heads, layout.MAX_HEADS),
        ('head_dim', spec.head_dim, layout.MAX_HEAD_DIM),
        ('max_tokens', spec.max_tokens, layout.MAX_TOKENS),
    )
    for name, value, limit in limits:
        if not 1 <= value <= limit:
            raise ConfigError(f'{name} is {value}', hint=f'use a value from 1 to {limit}')


def file_name(chunk_id: bytes, codec: str) -> str:
    """Return the name of a chunk's file."""
    return f'{chunk_id.hex()}.{codec}'


def is_chunk_name(name: str) -> bool:
    """Say whether a file in the chunk folder is a chunk by its name."""
    digits, _, codec = name.partition('.')
    is_hex = len(digits) == 2 * layout.ID_BYTES and not digits.strip('0123456789abcdef')
    return is_hex and layout.is_codec_name(codec)


def _digest(key: bytes, *parts: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=layout.ID_BYTES, key=key, person=b'cwm chunk')
    for part in parts:
        digest.update(part)
    return digest.digest()


def chunk_ids(
    key: bytes, identity: ModelIdentity, tokens: TokenArray, chunk_tokens: int
) -> list[ChunkId]:
    """
    Name the chunks of a token sequence.

    Parameters
    ----------
    key
        The profile's key.
    identity
        The model that makes the KV.
    tokens
        All token ids from position 0, shape (T,).
    chunk_tokens
        Tokens in a chunk.

    Returns
    -------
    list of ChunkId
        One for each started ``chunk_tokens``; the last may name a partial chunk.

    """
    return list(_iterate_ids(key, identity.model, tokens, chunk_tokens))


def _iterate_ids(
    key: bytes, model: bytes, tokens: TokenArray, chunk_tokens: int
) -> Iterator[ChunkId]:
    link = first_link(key, model, chunk_tokens)
    for start in range(0, len(tokens), chunk_tokens):
        link = next_id(key, link, tokens[start : start + chunk_tokens])
        yield link


def first_link(key: bytes, model: bytes, chunk_tokens: int) -> ChunkId:
    """Return what the first chunk is named after, in place of the id of a chunk before it."""
    return ChunkId(_digest(key, model, _CHUNK_TOKENS.pack(chunk_tokens)))


def next_id(key: bytes, before: ChunkId, tokens: TokenArray) -> ChunkId:
    """Name the chunk of these tokens behind the full chunk ``before``."""
    return ChunkId(_digest(key, before, np.ascontiguousarray(tokens, dtype='<i4').tobytes()))


def prefix_bytes(num_tokens: int) -> int:
    """Return the number of bytes before the payload: header, token ids and padding."""
    size = _FIXED_BYTES + 4 * num_tokens
    return size + -size % PAYLOAD_ALIGNMENT


def pack_prefix(header: ChunkHeader, tokens: TokenArray, payload: memoryview) -> bytes:
    """Return the bytes that precede ``payload`` in the chunk's file."""
    count = header.stop - header.start
    if tokens.shape != (count,):
        raise ConfigError(f'chunk has {count} positions but {tokens.shape} token ids')
    if not 1 <= payload.nbytes <= layout.MAX_PAYLOAD_BYTES:
        raise ConfigError(f'payload has {payload.nbytes} bytes')
    spec = header.spec
    head = _HEAD.pack(
        CHUNK_MAGIC, layout.FORMAT_VERSION, 0, count, header.id, header.model,
        spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.max_tokens,
        header.start, header.stop, header.codec.encode('ascii'),
        payload.nbytes, layout.checksum(payload),
    )  # fmt: skip
    rest = tokens.astype('<i4').tobytes().ljust(prefix_bytes(count) - _FIXED_BYTES, b'\0')
    return head + _CHECKSUM.pack(layout.checksum(head, rest)) + rest


def unpack_prefix(path: Path, data: bytes | bytearray | memoryview) -> ChunkHead:
    """
    Read what precedes a payload.

    Parameters
    ----------
    path
        For messages.
    data
        At least the first `prefix_bytes` bytes of the file.

    """
    view = memoryview(data)
    if len(view) < _FIXED_BYTES:
        raise FormatError(path, f'size {len(view)} is less than a chunk header')
    fields = _HEAD.unpack_from(view)
    layout.check_magic(path, fields[0], CHUNK_MAGIC, fields[1])
    count = fields[3]
    if not 1 <= count <= layout.MAX_CHUNK_TOKENS:
        raise FormatError(path, f'number of tokens is {count}')
    end = prefix_bytes(count)
    if len(view) < end:
        raise FormatError(path, f'size {len(view)} is less than header and {count} token ids')
    (expected,) = _CHECKSUM.unpack_from(view, _CHECKSUM_OFFSET)
    if layout.checksum(view[:_CHECKSUM_OFFSET], view[_FIXED_BYTES:end]) != expected:
        raise FormatError(path, 'header checksum does not match')
    padding = view[_FIXED_BYTES + 4 * count : end]
    if fields[2] or any(padding) or any(view[_HEAD.size - 8 : _HEAD.size]):
        raise FormatError(path, 'reserved bytes are not zero')
    tokens = np.frombuffer(view[_FIXED_BYTES : _FIXED_BYTES + 4 * count], dtype='<i4')
    return _build_head(path, fields, tokens)


def _build_head(
    path: Path, fields: tuple[bytes, int, int, int, bytes, bytes, int, int, int, int, int, int,
                              bytes, int, int], tokens: TokenArray
) -> ChunkHead:  # fmt: skip
    layers, heads, dim, most, start, stop = fields[6:12]
    if stop - start != fields[3]:
        raise FormatError(path, f'positions are {start} to {stop} for {fields[3]} token ids')
    if not 1 <= fields[13] <= layout.MAX_PAYLOAD_BYTES:
        raise FormatError(path, f'payload size is {fields[13]}')
    try:
        header = ChunkHeader(
            id=ChunkId(fields[4]),
            model=fields[5],
            spec=KVSpec(num_layers=layers, num_kv_heads=heads, head_dim=dim, max_tokens=most),
            start=start,
            stop=stop,
            codec=fields[12].rstrip(b'\0').decode('ascii'),
        )
    except (ConfigError, UnicodeDecodeError) as exc:
        raise FormatError(path, f'header is not allowed: {exc}') from exc
    return ChunkHead(
        header=header, tokens=tokens, payload_bytes=fields[13], payload_checksum=fields[14]
    )
