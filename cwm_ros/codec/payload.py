# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Byte layout of a payload, one encoded chunk; normative in ``docs/format-payload.md``.

Little-endian, nothing between the parts and nothing after them::

    header   64 bytes
    table    2 L entries of 16 bytes, in the order K of layer 0, V of layer 0, K of layer 1, ...
    scales   (L, 2, H, G, D) float16 for int8, (L, 2, H, G, 2, D) for int4
    blocks   2 L blocks of H * T * D codes [head, token, channel], each compressed or not

No offset is stored, so none can lie: every size is known from the KV spec, the number of tokens
and the codec, except those of compressed blocks, which must be smaller than uncompressed ones and
add up to the payload's size. A checksum covers every byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
import math
from struct import Struct
from typing import NamedTuple, TYPE_CHECKING

import numpy as np

from cwm_ros.codec.compress import checksum, Compression
from cwm_ros.codec.quantize import GROUP_TOKENS, INT4_GROUP_TOKENS, num_groups
from cwm_ros.errors import ConfigError, FormatError, FormatTooNewError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cwm_ros.codec.quantize import BitsArray, ByteArray
    from cwm_ros.kv import KVSpec

MAGIC = b'CWMP'
VERSION = 1
MAX_BLOCK_BYTES = 0x7E000000
"""Longest input of one LZ4 block."""
UINT16_MAX = 0xFFFF

HEADER = Struct('<4sHBBHHHHIIQQQQQ')
HEADER_CHECKSUM = Struct('<Q')
ENTRY = Struct('<IIQ')


ITEMSIZES = (4, 2, 1)  # by codec id; int4 has two codes in a byte


class CodecId(IntEnum):
    """Codec ids of the payload, stable and append-only; names are those of the settings."""

    RAW = 0
    FP16 = 1
    INT8 = 2
    INT4 = 3

    @property
    def group_tokens(self) -> int:
        """Tokens that share a scale; 0 without scales."""
        return GROUPS.get(self, 0)

    def token_bytes(self, head_dim: int) -> int:
        """Return the bytes of one token's codes in one row."""
        return -(-head_dim // 2) if self is CodecId.INT4 else head_dim * ITEMSIZES[self]


BY_NAME = {codec.name.lower(): codec for codec in CodecId}
GROUPS = {CodecId.INT8: GROUP_TOKENS, CodecId.INT4: INT4_GROUP_TOKENS}


def codec_named(name: str) -> CodecId:
    """
    Return the codec of a setting ('raw', 'fp16', 'int8', 'int4').

    Raises
    ------
    ConfigError
        No codec has this name.

    """
    if name not in BY_NAME:
        hint = "use 'raw', 'fp16', 'int8' or 'int4'"
        raise ConfigError(f'codec {name!r} is unknown', hint=hint)
    return BY_NAME[name]


class Header(NamedTuple):
    """The header's fields in the order of their bytes."""

    magic: bytes
    version: int
    codec: int
    reserved: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    group_tokens: int
    num_tokens: int
    num_blocks: int
    scales_bytes: int
    payload_bytes: int
    scales_checksum: int
    table_checksum: int
    header_checksum: int


class Entry(NamedTuple):
    """One block in the table."""

    compression: int
    stored_bytes: int
    checksum: int


@dataclass(frozen=True, kw_only=True)
class PayloadLayout:
    """
    All sizes that do not depend on how well blocks compress; each is computed once.

    Parameters
    ----------
    num_layers, num_kv_heads, num_tokens, head_dim
        L, H, T and D.
    codec
        Type of the codes.

    Raises
    ------
    ConfigError
        A block would be empty or longer than LZ4 can take.

    """

    num_layers: int
    num_kv_heads: int
    num_tokens: int
    head_dim: int
    codec: CodecId

    def __post_init__(self) -> None:
        smallest = min(self.num_layers, self.num_kv_heads, self.num_tokens, self.head_dim)
        widest = max(self.num_layers, self.num_kv_heads, self.head_dim)
        if smallest < 1 or widest > UINT16_MAX or self.block_bytes > MAX_BLOCK_BYTES:
            raise ConfigError(f'KV of this shape cannot be encoded: {self}')

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, spec: KVSpec, num_tokens: int, codec: CodecId) -> PayloadLayout:
        """Return the layout of ``num_tokens`` tokens of a model; kept, for chunks are alike."""
        return cls(
            num_layers=spec.num_layers,
            num_kv_heads=spec.num_kv_heads,
            num_tokens=num_tokens,
            head_dim=spec.head_dim,
            codec=codec,
        )

    @cached_property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(L, 2, H, T, D)."""
        return (self.num_layers, 2, self.num_kv_heads, self.num_tokens, self.head_dim)

    @cached_property
    def num_rows(self) -> int:
        """R = L * 2 * H."""
        return self.num_blocks * self.num_kv_heads

    @cached_property
    def scales_shape(self) -> tuple[int, ...]:
        """(R, G, D), or (R, G, 2, D) for int4; G is 0 for codecs without scales."""
        size = self.codec.group_tokens
        groups = num_groups(self.num_tokens, size) if size else 0
        kinds = (2,) if self.codec is CodecId.INT4 else ()
        return (self.num_rows, groups, *kinds, self.head_dim)

    @cached_property
    def num_blocks(self) -> int:
        """One block for each layer's K and V."""
        return self.num_layers * 2

    @cached_property
    def block_bytes(self) -> int:
        """Uncompressed size of a block."""
        return self.num_kv_heads * self.num_tokens * self.codec.token_bytes(self.head_dim)

    @cached_property
    def scales_start(self) -> int:
        """Offset of the scales."""
        return HEADER.size + self.num_blocks * ENTRY.size

    @cached_property
    def blocks_start(self) -> int:
        """Offset of the first block."""
        return self.scales_start + math.prod(self.scales_shape) * 2

    @cached_property
    def max_bytes(self) -> int:
        """Size of a payload none of whose blocks is compressed: the largest possible."""
        return self.blocks_start + self.num_blocks * self.block_bytes

    @cached_property
    def header(self) -> Header:
        """The header, with zero where the content decides."""
        return Header(
            magic=MAGIC,
            version=VERSION,
            codec=self.codec,
            reserved=0,
            num_layers=self.num_layers,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            group_tokens=self.codec.group_tokens,
            num_tokens=self.num_tokens,
            num_blocks=self.num_blocks,
            scales_bytes=self.blocks_start - self.scales_start,
            payload_bytes=0,
            scales_checksum=0,
            table_checksum=0,
            header_checksum=0,
        )


def write_index(payload: ByteArray, layout: PayloadLayout, entries: Sequence[Entry]) -> int:
    """
    Write header and table; scales and blocks are in their places already.

    Returns
    -------
    int
        Size of the payload [bytes].

    """
    for block, entry in enumerate(entries):
        ENTRY.pack_into(payload.data, HEADER.size + block * ENTRY.size, *entry)
    size = layout.blocks_start + sum(entry.stored_bytes for entry in entries)
    header = layout.header._replace(
        payload_bytes=size,
        scales_checksum=checksum(payload[layout.scales_start : layout.blocks_start]),
        table_checksum=checksum(payload[HEADER.size : layout.scales_start]),
    )
    HEADER.pack_into(payload.data, 0, *header)
    end = HEADER.size - HEADER_CHECKSUM.size
    HEADER_CHECKSUM.pack_into(payload.data, end, checksum(payload[:end]))
    return size


def read_index(payload: ByteArray, layout: PayloadLayout, path: Path) -> list[Entry]:
    """
    Check header, table and scales, and return the table.

    Raises
    ------
    FormatError
        A byte of them, or the payload's size, is not what a writer of this layout leaves.

    """
    _check_header(payload, layout, path)
    table = payload[HEADER.size : layout.scales_start]
    entries = list(map(Entry._make, ENTRY.iter_unpack(table.data)))
    plain = Compression.NONE, layout.block_bytes
    for block, entry in enumerate(entries):
        if entry[:2] != plain:
            _check_entry(entry, block, layout.block_bytes, path)
    size = layout.blocks_start + sum(entry.stored_bytes for entry in entries)
    if size != payload.nbytes:
        raise FormatError(path, f'block sizes add up to {size} bytes, not {payload.nbytes}')
    return entries


def _check_header(payload: ByteArray, layout: PayloadLayout, path: Path) -> None:
    size = payload.nbytes
    if size < HEADER.size:
        raise FormatError(path, f'payload has {size} bytes, its header {HEADER.size}')
    header = Header._make(HEADER.unpack_from(payload.data))
    if header.magic != MAGIC:
        raise FormatError(path, f'magic is {header.magic!r}, not {MAGIC!r}')
    if header.header_checksum != checksum(payload[: HEADER.size - HEADER_CHECKSUM.size]):
        raise FormatError(path, 'header fails its checksum')
    if header.version > VERSION:
        raise FormatTooNewError(path, f'version is {header.version}, known is {VERSION}')
    if size < layout.blocks_start:
        raise FormatError(path, f'payload has {size} bytes, its head {layout.blocks_start}')
    expected = layout.header._replace(
        payload_bytes=size,
        scales_checksum=checksum(payload[layout.scales_start : layout.blocks_start]),
        table_checksum=checksum(payload[HEADER.size : layout.scales_start]),
        header_checksum=header.header_checksum,
    )
    if header != expected:
        triples = zip(Header._fields, header, expected, strict=True)
        name, found, wanted = next(t for t in triples if t[1] != t[2])
        raise FormatError(path, f'{name} is {found}, expected {wanted}')


def _check_entry(entry: Entry, block: int, raw: int, path: Path) -> None:
    stored = entry.stored_bytes
    if entry.compression == Compression.NONE:
        if stored != raw:
            raise FormatError(path, f'block {block}: stored size is {stored}, expected {raw}')
    elif entry.compression != Compression.LZ4:
        raise FormatError(path, f'block {block}: compression {entry.compression} is unknown')
    elif not 0 < stored < raw:
        raise FormatError(path, f'block {block}: compressed size is {stored} of {raw}')


def scale_bits(payload: ByteArray, layout: PayloadLayout) -> BitsArray:
    """Return the scales, see ``scales_shape``, float16 bits, a view that need not be aligned."""
    part = payload[layout.scales_start : layout.blocks_start]
    return part.view(np.uint16).reshape(layout.scales_shape)
