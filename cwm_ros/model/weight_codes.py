# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Weights as small integers: blocks of 32 inputs of a projection, or of an embedding, share a scale.

A code times its scale is the weight. In 8 bits the scale brings the largest weight to 127. In 4
bits codes go from -8 to 7, and the scale, which can be negative, is the one of a few that leaves
the smallest sum of squares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from cwm_ros.kv import FloatArray

    Codes = npt.NDArray[np.int8]

BLOCK = 32
"""Values that share a scale."""
INT4_BITS = 4
PIECE_VALUES = 1 << 19
"""So many values are coded at once, because intermediate results are several times as large."""
INT4_PEAKS = (-8.0, -7.7, -7.4, -7.1, 7.0, -6.8, -6.5, 6.7)
"""What the value of largest magnitude may become; the best of these is taken, block by block."""


def num_blocks(length: int) -> int:
    """Return how many blocks ``length`` values have; the last one may be shorter."""
    return -(-length // BLOCK)


def code_columns(rows: FloatArray, bits: int) -> tuple[Codes, FloatArray]:
    """
    Code a matrix in blocks of 32 rows.

    Parameters
    ----------
    rows
        Shape (K, N), finite.
    bits
        8 or 4.

    Returns
    -------
    codes, scales
        int8 (K, N), and float32 (ceil(K / 32), N).

    """
    codes = np.empty(rows.shape, np.int8)
    scales = np.empty((num_blocks(len(rows)), rows.shape[1]), np.float32)
    width = min(rows.shape[1], PIECE_VALUES // BLOCK)
    step = max(1, PIECE_VALUES // width // BLOCK) * BLOCK
    for start in range(0, len(rows), step):
        length, first = min(step, len(rows) - start), start // BLOCK
        for left in range(0, rows.shape[1], width):
            columns = slice(left, left + width)
            piece = _in_blocks(rows[start : start + step, columns])
            coded, factors = _CODERS[bits](piece)
            scales[first : first + len(factors), columns] = factors
            codes[start : start + length, columns] = coded.reshape(-1, piece.shape[2])[:length]
    return codes, scales


def code_rows(rows: FloatArray) -> tuple[Codes, FloatArray]:
    """Code each row of a matrix (V, C) in 8 bits, in blocks of 32 columns; see `code_columns`."""
    codes = np.empty(rows.shape, np.int8)
    scales = np.empty((len(rows), num_blocks(rows.shape[1])), np.float32)
    step = max(1, PIECE_VALUES // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        coded, factors = code_columns(rows[part].T, 8)
        codes[part], scales[part] = coded.T, factors.T
    return codes, scales


def decode_rows(codes: Codes, scales: FloatArray) -> FloatArray:
    """Return the weights of coded rows, float32."""
    spread = np.repeat(scales, BLOCK, axis=1)[:, : codes.shape[1]]
    weights: FloatArray = codes * spread
    return weights


def pack_int4(codes: Codes) -> npt.NDArray[np.uint8]:
    """Return codes of 4 bits two in a byte, the first in the low half, as ONNX wants them."""
    halves = codes.reshape(-1).view(np.uint8) & np.uint8(15)
    assert len(halves) % 2 == 0
    return halves[0::2] | (halves[1::2] << np.uint8(4))


def to_half(name: str, block: FloatArray) -> npt.NDArray[np.float16]:
    """
    Return a block of a matrix in float16.

    Raises
    ------
    ModelError
        A value is beyond its range.

    """
    with np.errstate(over='ignore'):
        half = block.astype(np.float16)
    if not np.isfinite(half).all():
        raise ModelError(
            f'tensor {name} holds a value beyond 65504', hint='set engine.precision to fp32'
        )
    return half


def in_whole_blocks(blocks: Iterator[FloatArray]) -> Iterator[FloatArray]:
    """Cut a matrix that comes in blocks of rows anew, at multiples of 32 rows; hold none."""
    left: list[FloatArray] = []
    for rows in blocks:
        rows = np.concatenate([*left, rows]) if left else rows  # noqa: PLW2901
        whole = len(rows) // BLOCK * BLOCK
        left = [rows[whole:].copy()] if whole < len(rows) else []
        whole_rows = rows[:whole]
        del rows
        if whole:
            yield whole_rows
        del whole_rows
    yield from left


def _in_blocks(rows: FloatArray) -> FloatArray:
    """Return (blocks, 32, N), the last block filled up with zeros."""
    missing = -len(rows) % BLOCK
    if missing:
        rows = np.pad(rows, ((0, missing), (0, 0)))
    return rows.reshape(-1, BLOCK, rows.shape[1])


def _code_int8(blocks: FloatArray) -> tuple[Codes, FloatArray]:
    scales = np.abs(blocks).max(axis=1) / np.float32(127)
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    codes = np.clip(np.rint(blocks / scales[:, np.newaxis]), -127, 127)
    return codes.astype(np.int8), scales


def _code_int4(blocks: FloatArray) -> tuple[Codes, FloatArray]:
    places = np.abs(blocks).argmax(axis=1)[:, np.newaxis]
    peaks = np.take_along_axis(blocks, places, axis=1)
    peaks = np.where(np.abs(peaks) < np.finfo(np.float32).tiny * 8, np.float32(1), peaks)
    best = np.full(peaks.shape, np.inf, np.float32)
    codes, scales = np.zeros(blocks.shape, np.float32), np.ones(peaks.shape, np.float32)
    for target in INT4_PEAKS:
        tried = peaks / np.float32(target)
        rounded = np.clip(np.rint(blocks / tried), -8, 7)
        error = np.square(rounded * tried - blocks).sum(axis=1, keepdims=True)
        is_better = error < best
        codes = np.where(is_better, rounded, codes)
        scales = np.where(is_better, tried, scales)
        best = np.minimum(error, best)
    return codes.astype(np.int8), scales[:, 0]


_CODERS = {8: _code_int8, 4: _code_int4}
