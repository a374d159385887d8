# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The inner loops of the codec, in NumPy, and the choice between them and compiled ones.

The NumPy functions define the result: compiled kernels must agree with them bit for bit. They are
also the run-time path until the compiled ones are ready, so that a cold start waits for nothing.

KV enters and leaves as rows. A row is one (layer, K or V, head): T * D consecutive elements of a
flat array, which may be a live cache. R = L * 2 * H counts rows and G groups of tokens that share
a scale; float16 travels as its bits (uint16), which compiled code can handle on every CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
import logging
from threading import Thread
from typing import Protocol, TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.kv import FloatArray

log = logging.getLogger(__name__)

INT8_MAX = 127
GROUP_TOKENS = 128
FLOAT32_MAX_BITS = 0x7F7FFFFF
FLOAT16_MAX_BITS = 0x7BFF
FLOAT16_MAX = np.float32(65504)

ByteArray = npt.NDArray[np.uint8]
CodeArray = npt.NDArray[np.int8]
BitsArray = npt.NDArray[np.uint16]
IndexArray = npt.NDArray[np.int64]
Element = TypeVar('Element', np.float32, np.uint16)


class Quantize(Protocol):
    """Rows of float32 to int8 codes and scales."""

    def __call__(
        self, source: FloatArray, starts: IndexArray, codes: CodeArray, scales: BitsArray
    ) -> int:
        """
        Quantise; the scale is the smallest float16 not below peak / 127.

        Parameters
        ----------
        source
            Flat float32 array that holds the rows.
        starts
            Shape (R,): index in ``source`` of each row's first element.
        codes
            Shape (R, T, D), int8, filled.
        scales
            Shape (R, G, D), float16 bits, filled.

        Returns
        -------
        int
            Bits of the largest magnitude; above `FLOAT32_MAX_BITS` a value was not finite, above
            those of 127 * 65504 a scale does not fit, and the codes must not be used.

        """


class StoreFloats(Protocol):
    """Rows of float32 to float16 or float32 codes."""

    def __call__(self, source: FloatArray, starts: IndexArray, codes: npt.NDArray[Element]) -> int:
        """Fill ``codes``, shape (R, T, D), and return what `Quantize` does."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks:
    """
    Where the codes of a chunk lie: in the payload, or in the staging area if decompressed.

    Parameters
    ----------
    payload, staging
        Flat uint8 arrays; need not be aligned.
    places
        Shape (2 L, 2): 0 for payload or 1 for staging, and the byte offset there.

    """

    payload: ByteArray
    staging: ByteArray
    places: IndexArray

    def codes(self, block: int, num_bytes: int) -> ByteArray:
        """Return the bytes of one block, a view."""
        where, offset = self.places[block]
        return (self.staging if where else self.payload)[offset : offset + num_bytes]


class Dequantize(Protocol):
    """int8 codes and scales to rows."""

    def __call__(
        self,
        blocks: Blocks,
        scales: BitsArray,
        target: npt.NDArray[Element],
        starts: IndexArray,
        num_tokens: int,
    ) -> None:
        """
        Write ``code * scale``, rounded to nearest even and saturated if ``target`` is float16.

        Parameters
        ----------
        blocks
            Blocks of H * T * D codes [head, token, channel].
        scales
            Shape (R, G, D), float16 bits, finite.
        target
            Flat float32, or float16 bits, written only in the rows.
        starts
            Shape (R,): index in ``target`` of each row's first element.
        num_tokens
            T.

        """


class LoadFloats(Protocol):
    """float16 or float32 codes to rows."""

    def __call__(
        self,
        blocks: Blocks,
        itemsize: int,
        target: npt.NDArray[Element],
        starts: IndexArray,
        row_elements: int,
    ) -> None:
        """Write codes of ``itemsize`` 2 or 4 bytes; otherwise as `Dequantize`."""


class LargestBits(Protocol):
    """Look for values that are not finite or too large."""

    def __call__(self, blocks: Blocks, itemsize: int, block_elements: int) -> int:
        """Return the bits of the largest magnitude among codes of ``itemsize`` 2 or 4 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The loops over a whole chunk, one call each."""

    name: str
    quantize: Quantize
    store_floats: StoreFloats
    dequantize: Dequantize
    load_floats: LoadFloats
    largest_bits: LargestBits


def numpy_kernels() -> Kernels:
    """Return the kernels that need no compiler: the definition of the result."""
    return Kernels(
        name='numpy',
        quantize=quantize,
        store_floats=store_floats,
        dequantize=dequantize,
        load_floats=load_floats,
        largest_bits=largest_bits,
    )


def num_groups(num_tokens: int) -> int:
    """Return G: groups of `GROUP_TOKENS` tokens, the last one may be short."""
    return -(-num_tokens // GROUP_TOKENS)


def float16_not_below(quotients: FloatArray, peaks: FloatArray) -> npt.NDArray[np.float16]:
    """
    Return the smallest float16 s with 127 s >= peak.

    Parameters
    ----------
    quotients
        peak / 127 rounded to float32. Its nearest float16 is the answer or the one below it.
    peaks
        Finite, not negative, at most 127 * 65504. 127 s is exact in float32 (18 bits).

    """
    scales = quotients.astype(np.float16)
    too_small = np.float32(INT8_MAX) * scales.astype(np.float32) < peaks
    return (scales.view(np.uint16) + too_small).astype(np.uint16).view(np.float16)


def quantize(source: FloatArray, starts: IndexArray, codes: CodeArray, scales: BitsArray) -> int:
    """Quantise, see `Quantize`."""
    _, num_tokens, head_dim = codes.shape
    largest = 0
    for row, start in enumerate(starts):
        x = source[start : start + num_tokens * head_dim].reshape(num_tokens, head_dim)
        magnitudes = x.view(np.uint32) & np.uint32(0x7FFFFFFF)
        for group in range(scales.shape[1]):
            tokens = slice(group * GROUP_TOKENS, (group + 1) * GROUP_TOKENS)
            peak_bits = magnitudes[tokens].max(axis=0)
            largest = max(largest, int(peak_bits.max()))
            peaks = np.minimum(peak_bits.view(np.float32), INT8_MAX * FLOAT16_MAX)
            scale = float16_not_below(peaks / np.float32(INT8_MAX), peaks)
            scales[row, group] = scale.view(np.uint16)
            divisor = np.where(scale > 0, scale, np.float16(1)).astype(np.float32)
            with np.errstate(invalid='ignore'):
                codes[row, tokens] = np.rint(x[tokens] / divisor).astype(np.int8)
    return largest


def store_floats(source: FloatArray, starts: IndexArray, codes: npt.NDArray[Element]) -> int:
    """Copy or narrow to float16, see `StoreFloats`."""
    _, num_tokens, head_dim = codes.shape
    largest = 0
    for row, start in enumerate(starts):
        x = source[start : start + num_tokens * head_dim]
        largest = max(largest, int((x.view(np.uint32) & np.uint32(0x7FFFFFFF)).max()))
        _write_floats(x, codes[row].reshape(-1))
    return largest


def dequantize(
    blocks: Blocks,
    scales: BitsArray,
    target: npt.NDArray[Element],
    starts: IndexArray,
    num_tokens: int,
) -> None:
    """Write code * scale, see `Dequantize`."""
    head_dim = scales.shape[2]
    size = num_tokens * head_dim
    heads = len(starts) // len(blocks.places)
    factors = scales.view(np.float16).astype(np.float32)
    for row, start in enumerate(starts):
        block, head = divmod(row, heads)
        raw = blocks.codes(block, heads * size)[head * size : (head + 1) * size]
        codes = raw.view(np.int8).reshape(num_tokens, head_dim)
        values = target[start : start + size].reshape(num_tokens, head_dim)
        for group, factor in enumerate(factors[row]):
            tokens = slice(group * GROUP_TOKENS, (group + 1) * GROUP_TOKENS)
            if values.dtype == np.float32:
                np.multiply(codes[tokens], factor, out=values[tokens], dtype=np.float32)
            else:
                product = np.multiply(codes[tokens], factor, dtype=np.float32)
                _write_floats(np.clip(product, -FLOAT16_MAX, FLOAT16_MAX), values[tokens])


def load_floats(
    blocks: Blocks,
    itemsize: int,
    target: npt.NDArray[Element],
    starts: IndexArray,
    row_elements: int,
) -> None:
    """Copy, widen or narrow, see `LoadFloats`."""
    heads = len(starts) // len(blocks.places)
    stored = np.dtype(f'f{itemsize}')
    row_bytes = row_elements * itemsize
    for row, start in enumerate(starts):
        block, head = divmod(row, heads)
        raw = blocks.codes(block, heads * row_bytes)[head * row_bytes : (head + 1) * row_bytes]
        values = target[start : start + row_elements]
        _write_floats(raw.view(stored).astype(np.float32), values)


def largest_bits(blocks: Blocks, itemsize: int, block_elements: int) -> int:
    """Return the largest magnitude, see `LargestBits`."""
    mask = (1 << (8 * itemsize - 1)) - 1
    largest = 0
    for block in range(len(blocks.places)):
        bits = blocks.codes(block, block_elements * itemsize).view(f'u{itemsize}')
        largest = max(largest, int((bits & bits.dtype.type(mask)).max()))
    return largest


def _write_floats(values: FloatArray, target: npt.NDArray[Element]) -> None:
    if target.dtype == np.float32:
        target[...] = values
    else:
        with np.errstate(over='ignore', invalid='ignore'):
            target.view(np.float16)[...] = values


class KernelLoader:
    """
    Gives NumPy kernels at once and compiled ones as soon as they are loaded.

    Parameters
    ----------
    cache_dir
        Folder for compiled code; made when missing.

    """

    def __init__(self, cache_dir: Path) -> None:
        self._kernels = numpy_kernels()
        self._thread = Thread(
            target=self._load, args=(cache_dir,), name='cwm-kernels', daemon=True
        )

    def __call__(self) -> Kernels:
        """Return the fastest kernels that are ready."""
        return self._kernels

    def start(self) -> None:
        """Begin to load in the background; call once."""
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until loading has ended, well or not [s]."""
        self._thread.join(timeout_s)

    def _load(self, cache_dir: Path) -> None:
        try:
            from cwm_ros.codec.native import numba_kernels  # takes a second

            self._kernels = numba_kernels(cache_dir)
        except (ImportError, OSError) as exc:
            log.warning('codec=numpy reason=%s', exc)
