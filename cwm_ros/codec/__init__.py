# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""KV of a chunk to payload bytes and back: quantise, compress, check."""

from __future__ import annotations

from cwm_ros.codec.chunks import (
    bound_at,
    decode_bytes,
    decode_chunk,
    encode_chunk,
    error_bound,
    max_payload_bytes,
    scales_of,
    Scratch,
)
from cwm_ros.codec.kernels import KernelLoader, numpy_kernels
from cwm_ros.codec.payload import codec_named, CodecId
from cwm_ros.codec.quantize import BOUND_MARGIN
from cwm_ros.codec.quantized import DequantizedKV, encode_quantized, open_quantized

__all__ = [
    'BOUND_MARGIN',
    'CodecId',
    'DequantizedKV',
    'KernelLoader',
    'Scratch',
    'bound_at',
    'codec_named',
    'decode_bytes',
    'decode_chunk',
    'encode_chunk',
    'encode_quantized',
    'error_bound',
    'max_payload_bytes',
    'numpy_kernels',
    'open_quantized',
    'scales_of',
]
