# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Float to codes and back in NumPy: what `cwm_ros.codec.kernels` describes, and its definition.

Compiled kernels must agree with these bit for bit. They are also the run-time path until compiled
ones are ready: about 1 GB/s from float32 and 2 to it, but 0.3 GB/s to float16, which NumPy makes
one value at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.kv import FloatArray

INT8_MAX, INT4_MAX = 127, 15
GROUP_TOKENS, INT4_GROUP_TOKENS = 128, 64
FLOAT16_MAX = np.float32(65504)
INT8_LARGEST = INT8_MAX * FLOAT16_MAX
BOUND_MARGIN = np.float32(1.01)
"""Decoded values are held against a codec's bounds with so much to spare."""
MAGNITUDE_BITS = np.uint32(0x7FFFFFFF)
SIGN_BIT = np.uint16(0x8000)

ByteArray = npt.NDArray[np.uint8]
CodeArray = npt.NDArray[np.int8]
BitsArray = npt.NDArray[np.uint16]
HalfArray = npt.NDArray[np.float16]
IndexArray = npt.NDArray[np.int64]
Element = TypeVar('Element', np.float32, np.uint16)
Stored = TypeVar('Stored', np.float32, np.uint16)
Mask = TypeVar('Mask', npt.NDArray[np.int16], npt.NDArray[np.int32])


def num_groups(num_tokens: int, group_tokens: int = GROUP_TOKENS) -> int:
    """Return G: groups of ``group_tokens`` tokens, the last one may be short."""
    return -(-num_tokens // group_tokens)


def smallest_scales(peaks: FloatArray, largest_code: int) -> HalfArray:
    """
    Return the smallest float16 s with ``largest_code`` s >= peak.

    Rounding the quotient twice, to float32 and to float16, gives that number or the one below it;
    127 s is exact in float32 (18 bits), so the comparison decides.

    Parameters
    ----------
    peaks
        Any shape, float32, finite, not negative, at most ``largest_code`` * 65504.
    largest_code
        At most 127.

    """
    scales = np.divide(peaks, largest_code, dtype=np.float32).astype(np.float16)
    is_small = np.multiply(scales, largest_code, dtype=np.float32) < peaks
    return (scales.view(np.uint16) + is_small.astype(np.uint16)).view(np.float16)


def int8_scales(peaks: FloatArray) -> HalfArray:
    """Return the scales of int8 codes for channels of these largest magnitudes."""
    return smallest_scales(peaks, INT8_MAX)


def largest_halves(values: FloatArray) -> HalfArray:
    """Return the largest float16 that does not exceed each value, within +-65504; never -0."""
    nearest = (values + np.float32(0)).astype(np.float16)
    bits = nearest.view(np.uint16)
    step = np.where(bits < SIGN_BIT, np.uint16(0xFFFF), np.uint16(1))
    return np.where(nearest > values, bits + step, bits).view(np.float16)


def groups(num_tokens: int, group_tokens: int = GROUP_TOKENS) -> list[tuple[int, int]]:
    """Return the tokens [start, stop) of each group."""
    starts = range(0, num_tokens, group_tokens)
    return [(start, min(start + group_tokens, num_tokens)) for start in starts]


def quantize(flat: FloatArray, starts: IndexArray, codes: CodeArray, scales: BitsArray, /) -> int:
    """Quantise, see `cwm_ros.codec.kernels.Quantize`."""
    _, num_tokens, head_dim = codes.shape
    parts = groups(num_tokens)
    rows = [flat[a : a + codes[0].size].reshape(num_tokens, head_dim) for a in starts]
    peak_bits = np.empty(scales.shape, dtype=np.uint32)
    for row, x in enumerate(rows):
        magnitudes = x.view(np.uint32) & MAGNITUDE_BITS
        for group, (first, last) in enumerate(parts):
            magnitudes[first:last].max(axis=0, out=peak_bits[row, group])
    peaks = np.minimum(peak_bits, INT8_LARGEST.view(np.uint32)).view(np.float32)
    chosen = int8_scales(peaks)
    scales[...] = chosen.view(np.uint16)
    inverses = np.zeros(scales.shape, dtype=np.float32)
    np.divide(np.float32(1), chosen, out=inverses, where=chosen > 0, dtype=np.float32)
    with np.errstate(invalid='ignore', over='ignore'):
        for row, x in enumerate(rows):
            for (first, last), inverse in zip(parts, inverses[row], strict=True):
                codes[row, first:last] = np.rint(x[first:last] * inverse).astype(np.int8)
    return int(peak_bits.max())


def int4_scales(lows: FloatArray, highs: FloatArray) -> tuple[HalfArray, HalfArray]:
    """
    Return scales and minima of int4 codes.

    Parameters
    ----------
    lows, highs
        Smallest and largest values of a channel in a group, any shape, within +-65504.

    """
    minima = largest_halves(lows)
    ranges = np.subtract(highs, minima, dtype=np.float32)
    return smallest_scales(ranges, INT4_MAX), minima


def quantize_int4(
    flat: FloatArray, starts: IndexArray, codes: ByteArray, scales: BitsArray, /
) -> int:
    """Quantise and pack, see `cwm_ros.codec.kernels.QuantizeInt4`."""
    head_dim, (_, num_tokens, num_low) = scales.shape[3], codes.shape
    size = num_tokens * head_dim
    largest = 0
    with np.errstate(invalid='ignore', over='ignore'):
        for row, start in enumerate(starts):
            x = flat[start : start + size].reshape(num_tokens, head_dim)
            largest = max(largest, int((x.view(np.uint32) & MAGNITUDE_BITS).max()))
            for group, (first, last) in enumerate(groups(num_tokens, INT4_GROUP_TOKENS)):
                part = x[first:last]
                ends = np.stack([part.min(axis=0), part.max(axis=0)])
                scale, minimum = int4_scales(*np.clip(ends, -FLOAT16_MAX, FLOAT16_MAX))
                scales[row, group, 0] = scale.view(np.uint16)
                scales[row, group, 1] = minimum.view(np.uint16)
                inverse = np.zeros(head_dim, dtype=np.float32)
                np.divide(np.float32(1), scale, out=inverse, where=scale > 0, dtype=np.float32)
                steps = np.rint((part - minimum.astype(np.float32)) * inverse)
                nibbles = np.clip(steps, 0, INT4_MAX).astype(np.uint8)
                codes[row, first:last] = nibbles[:, :num_low]
                codes[row, first:last, : head_dim - num_low] |= nibbles[:, num_low:] << 4
    return largest


def store_floats(flat: FloatArray, starts: IndexArray, codes: npt.NDArray[Element], /) -> int:
    """Copy or narrow, see `cwm_ros.codec.kernels.StoreFloats`."""
    size = codes[0].size
    largest = 0
    for row, start in enumerate(starts):
        x = flat[start : start + size]
        largest = max(largest, int((x.view(np.uint32) & MAGNITUDE_BITS).max()))
        _write(x, codes[row].reshape(-1))
    return largest


def dequantize(  # noqa: PLR0917 - as the compiled one
    payload: ByteArray,
    staging: ByteArray,
    places: IndexArray,
    scales: BitsArray,
    flat: npt.NDArray[Element],
    starts: IndexArray,
    num_tokens: int,
    /,
) -> None:
    """Write code * scale, see `cwm_ros.codec.kernels.Dequantize`."""
    shape = (num_tokens, scales.shape[2])
    size = num_tokens * scales.shape[2]
    factors = scales.view(np.float16).astype(np.float32)
    rows = _row_bytes(payload, staging, places, len(starts), size)
    for raw, start, factor in zip(rows, starts, factors, strict=True):
        codes = raw.view(np.int8).reshape(shape)
        target = flat[start : start + size].reshape(shape)
        for (first, last), scale in zip(groups(num_tokens), factor, strict=True):
            part = target[first:last]
            if part.dtype == np.float32:
                np.multiply(codes[first:last], scale, out=part, dtype=np.float32)
            else:
                _write(np.multiply(codes[first:last], scale, dtype=np.float32), part)


def dequantize_int4(  # noqa: PLR0917 - as the compiled one
    payload: ByteArray,
    staging: ByteArray,
    places: IndexArray,
    scales: BitsArray,
    flat: npt.NDArray[Element],
    starts: IndexArray,
    num_tokens: int,
    /,
) -> None:
    """Write code * scale + minimum, see `cwm_ros.codec.kernels.DequantizeInt4`."""
    head_dim = scales.shape[3]
    num_low, size = -(-head_dim // 2), num_tokens * head_dim
    factors = scales.view(np.float16).astype(np.float32)
    rows = _row_bytes(payload, staging, places, len(starts), num_tokens * num_low)
    for raw, start, factor in zip(rows, starts, factors, strict=True):
        pairs = raw.reshape(num_tokens, num_low)
        codes = np.concatenate([pairs & INT4_MAX, pairs[:, : head_dim - num_low] >> 4], axis=1)
        target = flat[start : start + size].reshape(num_tokens, head_dim)
        parts = groups(num_tokens, INT4_GROUP_TOKENS)
        for (first, last), (scale, minimum) in zip(parts, factor, strict=True):
            _write(codes[first:last].astype(np.float32) * scale + minimum, target[first:last])


def load_floats(  # noqa: PLR0917 - as the compiled one
    payload: ByteArray,
    staging: ByteArray,
    places: IndexArray,
    like: npt.NDArray[Stored],
    flat: npt.NDArray[Element],
    starts: IndexArray,
    row_elements: int,
    /,
) -> None:
    """Copy, widen or narrow, see `cwm_ros.codec.kernels.LoadFloats`."""
    stored = f'f{like.itemsize}'
    rows = _row_bytes(payload, staging, places, len(starts), row_elements * like.itemsize)
    for raw, start in zip(rows, starts, strict=True):
        _write(raw.view(stored).astype(np.float32), flat[start : start + row_elements])


def largest_bits(
    payload: ByteArray, staging: ByteArray, places: IndexArray, mask: Mask, count: int, /
) -> int:
    """Return the largest magnitude, see `cwm_ros.codec.kernels.LargestBits`."""
    blocks = _row_bytes(payload, staging, places, len(places), count * mask.itemsize)
    return max(int((block.view(mask.dtype) & mask).max()) for block in blocks)


def _row_bytes(
    payload: ByteArray, staging: ByteArray, places: IndexArray, num_rows: int, row_bytes: int
) -> Iterator[ByteArray]:
    """Yield the bytes of each row's codes, views."""
    heads = num_rows // len(places)
    for is_staged, offset in places:
        for start in range(offset, offset + heads * row_bytes, row_bytes):
            yield (staging if is_staged else payload)[start : start + row_bytes]


def _write(values: FloatArray, target: npt.NDArray[Element]) -> None:
    if target.dtype == np.float32:
        target[...] = values
    else:
        target.view(np.float16)[...] = np.clip(values, -FLOAT16_MAX, FLOAT16_MAX)
