# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding as tables of cosines and sines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cwm_ros.kv import FloatArray
    from cwm_ros.model.spec import RopeSpec


def inverse_wavelengths(rope: RopeSpec, num_dims: int) -> FloatArray:
    """
    Return the angle per position of each pair of rotated dimensions, shape (num_dims / 2,) [rad].

    float32, as published models are trained and served: at position 100,000 a float64 angle
    differs from theirs by a hundredth.
    """
    exponents = np.arange(0, num_dims, 2, dtype=np.float32) / np.float32(num_dims)
    powers = np.power(np.float32(rope.theta), exponents, dtype=np.float32)
    inverse: FloatArray = np.divide(1, powers, dtype=np.float32)
    if rope.kind == 'linear':
        scaled: FloatArray = np.divide(inverse, rope.factor, dtype=np.float32)
        return scaled
    if rope.kind == 'longrope':
        factors = np.array(rope.wave_factors, np.float32)
        stretched: FloatArray = np.divide(1, factors * powers, dtype=np.float32)
        return stretched
    if rope.kind == 'llama3':
        return _llama3(rope, inverse)
    return inverse


def _llama3(rope: RopeSpec, inverse: FloatArray) -> FloatArray:
    """Scale long wavelengths, keep short ones and blend between (Llama 3.1's rule)."""
    wavelengths = 2 * math.pi / inverse
    turns = rope.original_tokens / wavelengths
    blend = (turns - rope.low_factor) / (rope.high_factor - rope.low_factor)
    blend = np.clip(blend, 0, 1)
    scaled = (1 - blend) * inverse / rope.factor + blend * inverse
    return np.asarray(scaled, dtype=np.float32)


def rope_tables(rope: RopeSpec, num_dims: int, num_tokens: int) -> tuple[FloatArray, FloatArray]:
    """Return cosines and sines for positions [0, num_tokens), (num_tokens, num_dims / 2)."""
    positions = np.arange(num_tokens, dtype=np.float32)
    angles = positions[:, np.newaxis] * inverse_wavelengths(rope, num_dims)[np.newaxis]
    amplitude = np.float32(rope.amplitude)
    return np.cos(angles) * amplitude, np.sin(angles) * amplitude
