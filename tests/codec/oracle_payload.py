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
GROUP = {2: 128, 3: 64}


def require(condition: bool, rule: str) -> None:  # noqa: FBT001
    if not condition:
        raise ValueError(rule)


def read_payload(
    data: bytes, *, layers: int, heads: int, tokens: int, dim: int, codec: int
) -> npt.NDArray[np.float32]:
    """Return (L, 2, H, T, D), or raise ValueError with the rule that is broken."""
    group = GROUP.get(codec, 0)
    groups = math.ceil(tokens / group) if group else 0
    scales_bytes = 2 * layers * heads * groups * dim * 2 * (2 if codec == 3 else 1)
    require(len(data) >= 64 and data[:4] == b'CWMP', '1 header and magic')
    (header_checksum,) = struct.unpack('<Q', data[56:64])
    require(xxhash.xxh3_64_intdigest(data[:56]) == header_checksum, '2 header checksum')
    table = data[64 : 64 + 32 * layers]
    scales = data[64 + 32 * layers : 64 + 32 * layers + scales_bytes]
    expected = struct.pack(
        '<HBBHHHHIIQQQQ',
        *(1, codec, 0, layers, heads, dim, group, tokens, 2 * layers),
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
        width = math.ceil(dim / 2) if codec == 3 else dim * ITEMSIZE[codec]
        raw_size = heads * tokens * width
        require(compression in (0, 1), '4 compression')
        require(stored == raw_size if compression == 0 else 0 < stored < raw_size, '4 size')
        require(xxhash.xxh3_64_intdigest(part) == checksum, '6 checksum')
        if compression == 1:
            part = decompress(part, raw_size)
        if codec == 3:
            rows.append(unpack(part, heads, tokens, dim))
        else:
            kind = {0: '<f4', 1: '<f2', 2: 'i1'}[codec]
            rows.append(np.frombuffer(part, dtype=kind).reshape(heads, tokens, dim))
    require(position == len(data), '5 sizes')
    codes = np.stack(rows).reshape(layers, 2, heads, tokens, dim).astype(np.float32)
    if codec == 2:
        factors = np.frombuffer(scales, dtype='<f2').reshape(layers, 2, heads, groups, dim)
        require(bool((factors >= 0).all() and np.isfinite(factors).all()), '7 scales')
        for token in range(tokens):
            codes[:, :, :, token] *= factors[:, :, :, token // 128].astype(np.float32)
    if codec == 3:
        pairs = np.frombuffer(scales, dtype='<f2').reshape(layers, 2, heads, groups, 2, dim)
        require(bool((pairs[..., 0, :] >= 0).all() and np.isfinite(pairs).all()), '7 scales')
        for token in range(tokens):
            scale, minimum = (pairs[:, :, :, token // 64, i].astype(np.float32) for i in (0, 1))
            codes[:, :, :, token] = codes[:, :, :, token] * scale + minimum
    require(bool(np.isfinite(codes).all()), '7 values')
    return codes


def unpack(part: bytes, heads: int, tokens: int, dim: int) -> npt.NDArray[np.uint8]:
    """Return int4 codes, one in a byte."""
    width = math.ceil(dim / 2)
    codes = np.empty((heads, tokens, dim), np.uint8)
    for head in range(heads):
        for token in range(tokens):
            here = part[(head * tokens + token) * width :]
            for channel in range(dim):
                byte = here[channel % width]
                codes[head, token, channel] = byte >> 4 if channel >= width else byte & 15
    return codes


def decompress(part: bytes, raw_size: int) -> bytes:
    try:
        raw = lz4.block.decompress(part, uncompressed_size=raw_size)
    except lz4.block.LZ4BlockError as exc:
        raise ValueError('6 decompression') from exc
    require(len(raw) == raw_size, '6 decompressed size')
    return raw
