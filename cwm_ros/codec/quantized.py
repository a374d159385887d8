# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Payloads of codec int8 for engines that quantise and dequantise themselves, on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.codec.chunks import check_scales, check_sums, store_block, unpack_blocks
from cwm_ros.codec.payload import CodecId, PayloadLayout, read_index, scale_bits, write_index
from cwm_ros.codec.quantize import GROUP_TOKENS
from cwm_ros.errors import ConfigError
from cwm_ros.kv import QuantizedKV

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from cwm_ros.codec.chunks import Scratch
    from cwm_ros.kv import FloatArray, KVSpec

    Positions = npt.NDArray[np.int64]


def open_quantized(
    payload: memoryview,
    *,
    spec: KVSpec,
    start: int,
    num_tokens: int,
    is_half: bool,
    scratch: Scratch,
    source: Path,
) -> QuantizedKV:
    """
    Check and decompress a payload of codec int8, and leave the codes as they are.

    Parameters
    ----------
    payload
        Contiguous bytes; nothing about them is believed.
    spec, num_tokens
        What the payload must hold.
    start
        Position of its first token.
    is_half
        Whether the values go into a float16 cache.
    scratch
        Holds what was decompressed.
    source
        File named in errors.

    Returns
    -------
    QuantizedKV
        Views of the payload and of ``scratch``, valid until either is used again.

    Raises
    ------
    FormatError
        The payload is damaged, lies, or holds something else.
    EngineError
        A value does not fit a float16 cache.

    """
    layout = PayloadLayout.of(spec, num_tokens, CodecId.INT8)
    data = np.frombuffer(payload, dtype=np.uint8)
    entries = read_index(data, layout, source)
    stored = check_sums(data, layout, entries, source)
    scales = scale_bits(data, layout)
    check_scales(scales, source, is_half=is_half)
    size = layout.block_bytes
    num_packed = sum(entry.stored_bytes < size for entry in entries)
    staging = scratch.staging(num_packed * size).reshape(num_packed, size)
    blocks = unpack_blocks(data, stored, (0, len(stored)), staging, source)
    parts = [
        (blocks.staging if is_staged else blocks.payload)[offset : offset + size]
        for is_staged, offset in blocks.places
    ]
    bases = np.array([blocks.payload.ctypes.data, blocks.staging.ctypes.data], np.int64)
    return QuantizedKV(
        start=start,
        num_tokens=num_tokens,
        blocks=tuple(parts),
        scales=scales,
        places=bases[blocks.places[:, 0]] + blocks.places[:, 1],
    )


class DequantizedKV:
    """
    The values of a `QuantizedKV`, float32 (L, 2, H, T, D), made when tokens are picked.

    Parameters
    ----------
    kv, spec
        Codes and scales, and their geometry.

    """

    def __init__(self, kv: QuantizedKV, spec: KVSpec) -> None:
        self._kv = kv
        self.shape = spec.shape(kv.num_tokens)
        self.ndim = len(self.shape)
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)

    def __getitem__(self, place: tuple[object, object, object, Positions]) -> FloatArray:
        """Return the values of some tokens: ``kv[:, :, :, tokens]``."""
        tokens = place[3]
        layers, _, heads, num_tokens, head_dim = self.shape
        codes = np.stack(
            [
                block.view(np.int8).reshape(heads, num_tokens, head_dim)[:, tokens]
                for block in self._kv.blocks
            ]
        )
        factors = self._kv.scales.view(np.float16).astype(np.float32)
        scales = factors[:, tokens // GROUP_TOKENS].reshape(codes.shape)
        values: FloatArray = np.multiply(codes, scales, dtype=np.float32)
        return values.reshape(layers, 2, heads, len(tokens), head_dim)


def encode_quantized(
    kv: QuantizedKV, spec: KVSpec, compression: str, scratch: Scratch
) -> memoryview:
    """
    Make a payload of codes and scales: the bytes that `encode_chunk` makes of the same values.

    Returns
    -------
    memoryview
        The payload, in a buffer of ``scratch``: valid until it is used again.

    Raises
    ------
    ConfigError
        The compression is unknown.

    """
    if compression not in ('none', 'lz4'):
        raise ConfigError(f'compression {compression!r} is unknown', hint="use 'lz4' or 'none'")
    layout = PayloadLayout.of(spec, kv.num_tokens, CodecId.INT8)
    payload = scratch.payload(layout.max_bytes)
    scale_bits(payload, layout)[...] = kv.scales
    is_packed = compression == 'lz4'
    end, entries = layout.blocks_start, []
    for codes in kv.blocks:
        target = payload[end:]
        if not is_packed:
            target[: codes.nbytes] = codes
            codes = target[: codes.nbytes]  # noqa: PLW2901 - in its place already
        entries.append(store_block(codes, target, is_packed=is_packed))
        end += entries[-1].stored_bytes
    return payload.data[: write_index(payload, layout, entries)]
