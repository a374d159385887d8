# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What each codec costs in size and accuracy, measured on any KV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.codec import CodecId, decode_chunk, encode_chunk, Scratch
from cwm_ros.config import COMPRESSIONS
from cwm_ros.kv import KVSpec

if TYPE_CHECKING:
    from cwm_ros.kv import FloatArray

CHUNK_TOKENS = 256
SOURCE = Path('bench')


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """
    What a codec does to KV; errors relative to the RMS of keys or values [%].

    Parameters
    ----------
    codec, compression
        What was used.
    bytes_per_token
        Payload bytes.
    ratio_to_fp16
        How much smaller than float16.
    key_error_percent, value_error_percent
        RMS error of decoded keys and values.
    max_error
        Largest error of any value.

    """

    codec: str
    compression: str
    bytes_per_token: float
    ratio_to_fp16: float
    key_error_percent: float
    value_error_percent: float
    max_error: float


def measure_quality(kv: FloatArray) -> list[Quality]:
    """
    Encode and decode every chunk with every codec.

    Parameters
    ----------
    kv
        Shape (L, 2, H, T, D), float32; the last chunk may be short.

    """
    rows = []
    for codec in CodecId:
        for compression in COMPRESSIONS:
            sizes, decoded = _round_trip(kv, codec, compression)
            error = decoded - kv
            squares = [_rms(error[:, i]) / _rms(kv[:, i]) * 100 for i in range(2)]
            per_token = sum(sizes) / kv.shape[3]
            rows.append(
                Quality(
                    codec=codec.name.lower(),
                    compression=compression,
                    bytes_per_token=per_token,
                    ratio_to_fp16=kv.nbytes / 2 / sum(sizes),
                    key_error_percent=squares[0],
                    value_error_percent=squares[1],
                    max_error=float(np.abs(error).max()),
                )
            )
    return rows


def block_ratios(kv: FloatArray) -> list[tuple[float, float]]:
    """Return how much LZ4 shrinks int8 keys and values of each layer; 1 where it is not kept."""
    ratios = []
    for layer in range(len(kv)):
        pair = []
        for part in (kv[layer : layer + 1, :1], kv[layer : layer + 1, 1:]):
            alone = np.concatenate([part, part], axis=1)
            sizes = [sum(_round_trip(alone, CodecId.INT8, packed)[0]) for packed in COMPRESSIONS]
            raw = alone[..., 0].size * alone.shape[4]
            pair.append(raw / (raw - (sizes[0] - sizes[1])))
        ratios.append((pair[0], pair[1]))
    return ratios


def _round_trip(kv: FloatArray, codec: CodecId, compression: str) -> tuple[list[int], FloatArray]:
    layers, _, heads, tokens, dim = kv.shape
    spec = KVSpec(num_layers=layers, num_kv_heads=heads, head_dim=dim, max_tokens=tokens)
    out, scratch, reader, sizes = np.empty_like(kv), Scratch(), Scratch(), []
    for start in range(0, tokens, CHUNK_TOKENS):
        part = np.s_[:, :, :, start : start + CHUNK_TOKENS]
        payload = encode_chunk(kv[part], codec, compression, scratch)
        sizes.append(len(payload))
        decode_chunk(
            payload,
            spec=spec,
            num_tokens=kv[part].shape[3],
            codec=codec,
            out=out[part],
            scratch=reader,
            source=SOURCE,
        )
    return sizes, out


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
