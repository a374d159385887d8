# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Codes of weights, against the plain definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.errors import ModelError
from cwm_ros.model.weight_codes import (
    code_columns,
    code_rows,
    decode_rows,
    in_whole_blocks,
    pack_int4,
    to_half,
)

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 9), st.integers(0, 1000))


def matrix(rows: int, columns: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-6, 3, columns)
    values[rng.random(values.shape) < 0.1] = 0
    return values.astype(np.float32)


def decoded(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Multiply each code with the scale of its block, one by one."""
    out = np.zeros(codes.shape)
    for row, column in np.ndindex(codes.shape):
        out[row, column] = float(codes[row, column]) * float(scales[row // 32, column])
    return out


@given(SIZES)
def test_a_weight_is_within_half_a_step_of_its_block(sizes: tuple[int, int, int]) -> None:
    values = matrix(*sizes)
    codes, scales = code_columns(values, 8)
    for start in range(0, len(values), 32):
        block = values[start : start + 32]
        step = np.abs(block).max(axis=0) / 127
        error = np.abs(decoded(codes, scales)[start : start + 32] - block)
        assert (error <= step * 0.501 + 1e-37).all()


@given(SIZES)
def test_four_bits_are_at_least_as_good_as_the_usual_scale(sizes: tuple[int, int, int]) -> None:
    """Which brings the largest magnitude to -8."""
    values = matrix(*sizes)
    codes, scales = code_columns(values, 4)
    assert codes.min() >= -8
    assert codes.max() <= 7
    for start in range(0, len(values), 32):
        for column in range(values.shape[1]):
            block = values[start : start + 32, column].astype(np.float64)
            usual = block[np.abs(block).argmax()] / -8 or 1.0
            plain = np.clip(np.rint(block / usual), -8, 7) * usual
            found = decoded(codes, scales)[start : start + 32, column]
            best, own = np.square(plain - block).sum(), np.square(found - block).sum()
            assert own <= best * (1 + 1e-4) + 1e-37


@given(SIZES)
def test_rows_are_coded_as_columns_are(sizes: tuple[int, int, int]) -> None:
    values = matrix(*sizes)
    codes, scales = code_rows(np.ascontiguousarray(values.T))
    by_column = code_columns(values, 8)
    np.testing.assert_array_equal(codes.T, by_column[0])
    np.testing.assert_array_equal(scales.T, by_column[1])
    np.testing.assert_allclose(decode_rows(codes, scales).T, decoded(*by_column), rtol=1e-6)


@given(SIZES, st.lists(st.integers(1, 40), max_size=6))
def test_blocks_that_come_in_any_lengths_are_cut_at_32(
    sizes: tuple[int, int, int], lengths: list[int]
) -> None:
    values = matrix(*sizes)
    cuts = [cut for cut in np.cumsum(lengths) if cut < len(values)]
    parts = list(in_whole_blocks(iter(np.split(values, cuts))))
    assert all(len(part) % 32 == 0 for part in parts[:-1])
    np.testing.assert_array_equal(np.concatenate(parts), values)


def test_int4_is_packed_low_half_first() -> None:
    assert pack_int4(np.array([[1, -8], [7, -1]], np.int8)).tobytes() == b'\x81\xf7'


def test_what_float16_cannot_hold_is_refused() -> None:
    with pytest.raises(ModelError, match='tensor w holds a value beyond 65504'):
        to_half('w', np.array([70000], np.float32))
