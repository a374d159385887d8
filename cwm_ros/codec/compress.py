# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
LZ4 blocks without a size prefix, into buffers that are already there; and block checksums.

python-lz4 can only return new objects, and copies them while it holds the interpreter; cramjam
writes where it is told.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import cramjam
import xxhash

if TYPE_CHECKING:
    from cwm_ros.codec.quantize import ByteArray

KEPT_RATIO = 0.97
"""A block stays compressed only if it shrinks to this part of its size."""


class Compression(IntEnum):
    """Compression ids of the payload; append-only."""

    NONE = 0
    LZ4 = 1


def compress_lz4(source: ByteArray, target: ByteArray) -> int | None:
    """
    Compress into ``target``.

    Returns
    -------
    int or None
        Bytes written, or None where the block does not shrink to `KEPT_RATIO`.

    """
    room = target[: int(source.nbytes * KEPT_RATIO)]
    try:
        return cramjam.lz4.compress_block_into(source.data, room.data, store_size=False)
    except cramjam.CompressionError:
        return None


def decompress_lz4(source: ByteArray, target: ByteArray) -> bool:
    """Fill ``target`` and say whether ``source`` held exactly that many bytes."""
    try:
        size = cramjam.lz4.decompress_block_into(
            source.data, target.data, output_len=target.nbytes
        )
    except cramjam.DecompressionError:
        return False
    return size == target.nbytes


def checksum(data: ByteArray | memoryview) -> int:
    """Return xxh3_64 with seed 0."""
    return xxhash.xxh3_64_intdigest(data if isinstance(data, memoryview) else data.data)
