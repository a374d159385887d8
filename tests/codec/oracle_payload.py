# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A slow, obvious reader written from docs/format-payload.md alone."""

from __future__ import annotations

import math
import struct

import lz4.block
import numpy as np
import numpy.typing as npt
import xxhash

ITEMSIZE = {0: 4, 1: 2, 2: 1}


def require(condition: bool, rule: str) -> None:  # noqa: FBT001
    if not condition:
        raise ValueError(rule)


def read_payload(
    data: bytes, *, layers: int, heads: int, tokens: int, dim: int, codec: int
) -> npt.NDArray[np.float32]:
    """Return (L, 2, H, T, D), or raise ValueError with the rule that is broken."""
    groups = math.ceil(tokens / 128) if codec == 2 else 0
    scales_bytes = 2 * layers * heads * groups * dim * 2
    require(len(data) >= 64 and data[:4] == b'CWMP', '1 header and magic')
    (header_checksum,) = struct.unpack('<Q', data[56:64])
    require(xxhash.xxh3_64_intdigest(data[:56]) == header_checksum, '2 header checksum')
    table = data[64 : 64 + 32 * layers]
    scales = data[64 + 32 * layers : 64 + 32 * layers + scales_bytes]
    expected = struct.pack(
        '<HBBHHHHIIQQQQ',
        *(0, codec, 0, layers, heads, dim, 128 if codec == 2 else 0, tokens, 2 * layers),
        *(scales_bytes, len(data)),
        *(xxhash.xxh3_64_intdigest(scales), xxhash.xxh3_64_intdigest(table)),
    )
    require(data[4:56] == expected, '3 header')
    position = 64 + len(table) + len(scales)
    rows = []
    for block in range(2 * layers):
        compression, stored, checksum = struct.unpack('<IIQ', table[block * 16 : block * 16 + 16])
        part = data[position : position + stored]
        position += stored
        raw_size = heads * tokens * dim * ITEMSIZE[codec]
        require(compression in (0, 1), '4 compression')
        require(stored == raw_size if compression == 0 else 0 < stored < raw_size, '4 size')
        require(xxhash.xxh3_64_intdigest(part) == checksum, '6 checksum')
        if compression == 1:
            part = decompress(part, raw_size)
        kind = {0: '<f4', 1: '<f2', 2: 'i1'}[codec]
        rows.append(np.frombuffer(part, dtype=kind).reshape(heads, tokens, dim))
    require(position == len(data), '5 sizes')
    codes = np.stack(rows).reshape(layers, 2, heads, tokens, dim).astype(np.float32)
    if codec == 2:
        factors = np.frombuffer(scales, dtype='<f2').reshape(layers, 2, heads, groups, dim)
        require(bool((factors >= 0).all() and np.isfinite(factors).all()), '7 scales')
        for token in range(tokens):
            codes[:, :, :, token] *= factors[:, :, :, token // 128].astype(np.float32)
    require(bool(np.isfinite(codes).all()), '7 values')
    return codes


def decompress(part: bytes, raw_size: int) -> bytes:
    try:
        raw = lz4.block.decompress(part, uncompressed_size=raw_size)
    except lz4.block.LZ4BlockError as exc:
        raise ValueError('6 decompression') from exc
    require(len(raw) == raw_size, '6 decompressed size')
    return raw
