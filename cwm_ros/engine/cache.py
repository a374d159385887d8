# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The key/value cache in host memory: one aligned array, and which of its positions count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import ContextFullError, EngineError, OutOfMemoryError
from cwm_ros.kv import TokenRanges

if TYPE_CHECKING:
    from cwm_ros.kv import FloatArray, KVSpec

SLOT_STEP = 256
"""Slots are a multiple of this, so that a runtime sees few shapes."""
SLOT_DOUBLING = 2048
"""Up to here the cache doubles, then it grows by this many slots."""
ALIGNMENT = 64
"""Bytes; a cache line, and the widest vector."""


def slots_for(num_tokens: int) -> int:
    """Return the slots S of a cache for ``num_tokens`` positions: 256, 512 .. 2048, 4096, 6144."""
    if num_tokens > SLOT_DOUBLING:
        return -(-num_tokens // SLOT_DOUBLING) * SLOT_DOUBLING
    slots = SLOT_STEP
    while slots < num_tokens:
        slots *= 2
    return slots


def aligned_zeros(shape: tuple[int, ...]) -> FloatArray:
    """
    Return zeros, float32, beginning at a multiple of `ALIGNMENT`.

    Raises
    ------
    OutOfMemoryError
        The memory could not be had.

    """
    num_bytes = int(np.prod(shape, dtype=np.int64)) * 4
    try:
        raw = np.zeros(num_bytes + ALIGNMENT, dtype=np.uint8)
    except MemoryError as exc:
        raise OutOfMemoryError(
            f'{num_bytes >> 20} MiB for the cache are not available',
            hint='set engine.context_tokens lower',
        ) from exc
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + num_bytes].view(np.float32).reshape(shape)


class Residency(ABC):
    """
    Which positions of a cache count.

    Parameters
    ----------
    spec
        Geometry.
    capacity
        Most positions.

    """

    def __init__(self, spec: KVSpec, capacity: int) -> None:
        self.spec = spec
        self.capacity = capacity
        self.resident = TokenRanges()

    @property
    @abstractmethod
    def slots(self) -> int:
        """Return S, the positions that there is room for."""

    def check_fits(self, num_tokens: int) -> None:
        """Raise ContextFullError when the context does not hold ``num_tokens`` positions."""
        if num_tokens > self.capacity:
            raise ContextFullError(
                f'{num_tokens} tokens do not fit into a context of {self.capacity}',
                hint='begin a new session, or raise engine.context_tokens if the model allows',
            )

    def has_any(self, start: int, stop: int) -> bool:
        """Say whether a position of [start, stop) is resident."""
        return next(self.resident.overlap(start, stop), None) is not None

    @abstractmethod
    def reserve(self, num_tokens: int) -> bool:
        """Grow to hold ``num_tokens`` positions; say whether the cache lies elsewhere now."""

    @abstractmethod
    def scrub(self) -> TokenRanges:
        """Zero and drop the positions that hold a value that is not finite; return them."""

    def add(self, start: int, stop: int) -> None:
        """Make [start, stop) resident."""
        if not 0 <= start <= stop <= self.slots:
            raise EngineError(f'[{start}, {stop}) lies outside the {self.slots} reserved slots')
        self.resident.add(start, stop)

    def drop(self, start: int, stop: int) -> None:
        """Make [start, stop) not resident."""
        self.resident.remove(start, stop)


class KVCache(Residency):
    """
    KV of all layers in one array, from which an engine binds a part for each layer.

    The cache begins as zeros and never holds anything that is not finite, because masked rows
    still meet a weight of zero, and zero times NaN is NaN.

    Parameters
    ----------
    spec
        Geometry.
    capacity
        Most positions.

    """

    def __init__(self, spec: KVSpec, capacity: int) -> None:
        super().__init__(spec, capacity)
        self.array: FloatArray = aligned_zeros(spec.shape(slots_for(0)))
        """Shape (L, 2, H, S, D), float32, contiguous."""
        self.is_visible = np.zeros(self.slots, dtype=np.bool_)
        """Shape (S,): the resident positions again, as a mask row that follows them."""

    @property
    def slots(self) -> int:
        return int(self.array.shape[3])

    def reserve(self, num_tokens: int) -> bool:
        self.check_fits(num_tokens)
        if num_tokens <= self.slots:
            return False
        grown = aligned_zeros(self.spec.shape(slots_for(num_tokens)))
        for start, stop in self.resident:
            grown[:, :, :, start:stop] = self.array[:, :, :, start:stop]
        is_visible = np.zeros(grown.shape[3], dtype=np.bool_)
        is_visible[: self.slots] = self.is_visible
        self.array, self.is_visible = grown, is_visible
        return True

    def view(self, start: int, stop: int) -> FloatArray:
        """Return the view (L, 2, H, T, D) of [start, stop)."""
        return self.array[:, :, :, start:stop]

    def add(self, start: int, stop: int) -> None:
        super().add(start, stop)
        self.is_visible[start:stop] = True

    def scrub(self) -> TokenRanges:
        is_bad = ~np.isfinite(self.array).all(axis=(0, 1, 2, 4))
        bad = TokenRanges((int(p), int(p) + 1) for p in np.flatnonzero(is_bad))
        for start, stop in bad:
            self.view(start, stop)[:] = 0
            self.drop(start, stop)
        return bad

    def drop(self, start: int, stop: int) -> None:
        super().drop(start, stop)
        self.is_visible[max(start, 0) : max(stop, 0)] = False
