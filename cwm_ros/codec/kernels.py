# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The inner loops of the codec as a value: NumPy ones at once, compiled ones when they are ready.

KV enters and leaves as rows. A row is one (layer, K or V, head): T * D consecutive elements of a
flat array, which may be a live cache. R = L * 2 * H counts rows, G the groups of tokens that share
a scale. float16 travels as its bits (uint16). Each loop is one call for a whole chunk, takes
positional arguments only, and releases the interpreter lock when compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
import logging
import sys
from threading import Thread
from typing import cast, NamedTuple, Protocol, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cwm_ros.codec import quantize
from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.codec.quantize import (
        BitsArray,
        ByteArray,
        CodeArray,
        Element,
        HalfArray,
        IndexArray,
        Mask,
        Stored,
    )
    from cwm_ros.kv import FloatArray

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0003
"""
How long the loading thread may keep the interpreter from the others, who need it often [s].

With Python's 5 ms a thaw of 8K tokens on NumPy kernels took 130 to 230 ms while loading, with this
50 to 80 (32 to 46 when nothing is loaded); loading took 0.6 to 0.8 s either way.
"""


class Rows(NamedTuple):
    """
    KV as the kernels see it.

    Parameters
    ----------
    flat
        Float32, or float16 bits, from the first to the last element of the rows.
    starts
        Shape (R,): index in ``flat`` of each row's first element.

    """

    flat: FloatArray
    starts: IndexArray

    @property
    def is_half(self) -> bool:
        """Say whether ``flat`` holds float16 bits."""
        return self.flat.dtype == np.uint16


class Blocks(NamedTuple):
    """
    Where the codes of a chunk lie: in the payload, or in the staging area if decompressed.

    Parameters
    ----------
    payload, staging
        Flat uint8 arrays; need not be aligned.
    places
        Shape (2 L, 2): 0 for payload or 1 for staging, and the byte offset there. A block is
        H * T * D codes [head, token, channel].

    """

    payload: ByteArray
    staging: ByteArray
    places: IndexArray


@lru_cache(maxsize=4)
def _row_starts(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> IndexArray:
    """Return the first element of each row; kept, since all chunks of a cache have the same."""
    starts = np.zeros(1, dtype=np.int64)
    for count, step in zip(shape, strides, strict=True):
        starts = np.add.outer(starts, np.arange(count) * (step // itemsize)).reshape(-1)
    return starts


def rows_of(kv: FloatArray | HalfArray) -> Rows:
    """
    Return the rows of a KV array; ``flat`` is a view.

    Parameters
    ----------
    kv
        Shape (L, 2, H, T, D), the last two axes contiguous, as in a range of tokens of a cache.

    Raises
    ------
    ConfigError
        The array is ordered otherwise.

    """
    item, (num_tokens, head_dim) = kv.itemsize, kv.shape[3:]
    outer, (token_step, channel_step) = kv.strides[:3], kv.strides[3:]
    has_gaps = (head_dim > 1 and channel_step != item) or (
        num_tokens > 1 and token_step != head_dim * item
    )
    if has_gaps or any(step < 0 or step % item for step in outer):
        raise ConfigError(f'KV array with strides {kv.strides} has gaps between tokens')
    starts = _row_starts(kv.shape[:3], outer, item)
    size = int(starts[-1]) + num_tokens * head_dim
    flat = np.lib.stride_tricks.as_strided(kv, (size,), (item,), writeable=kv.flags.writeable)
    bits = flat.view(np.uint16) if kv.dtype == np.float16 else flat
    return Rows(cast('FloatArray', bits), starts)


class Quantize(Protocol):
    """Rows of float32 to int8 codes and scales."""

    def __call__(
        self, flat: FloatArray, starts: IndexArray, codes: CodeArray, scales: BitsArray, /
    ) -> int:
        """
        Fill ``codes``, shape (R, T, D), and ``scales``, shape (R, G, D).

        The scale is the smallest float16 s with 127 s >= peak, the code rint(x * (1 / s)) in
        float32, and both are 0 where the peak is 0.

        Returns
        -------
        int
            Float32 bits of the largest magnitude; above those of 127 * 65504 a scale does not
            fit or a value is not finite, and the codes must not be used.

        """


class QuantizeInt4(Protocol):
    """Rows of float32 to int4 codes, two in a byte, and scales with minima."""

    def __call__(
        self, flat: FloatArray, starts: IndexArray, codes: ByteArray, scales: BitsArray, /
    ) -> int:
        """
        Fill ``codes``, shape (R, T, W), and ``scales``, shape (R, G, 2, D), scale before minimum.

        W = ceil(D / 2), G counts groups of 64 tokens. Byte j holds channel j in its low half and
        channel W + j in its high one. The minimum is the largest float16 that is not above any
        value, the scale the smallest float16 s with 15 s >= the largest value less the minimum,
        the code rint((x - minimum) * (1 / s)) in float32, kept within 0..15; 0 where s is 0.

        Returns
        -------
        int
            Float32 bits of the largest magnitude; above those of 65504 nothing else must be used.

        """


class StoreFloats(Protocol):
    """Rows of float32 to float16 or float32 codes."""

    def __call__(
        self, flat: FloatArray, starts: IndexArray, codes: npt.NDArray[Element], /
    ) -> int:
        """Fill ``codes``, shape (R, T, D), and return the bits of the largest magnitude."""


class Dequantize(Protocol):
    """int8 codes and scales to rows."""

    def __call__(  # noqa: PLR0917 - compiled code takes no keywords
        self,
        payload: ByteArray,
        staging: ByteArray,
        places: IndexArray,
        scales: BitsArray,
        flat: npt.NDArray[Element],
        starts: IndexArray,
        num_tokens: int,
        /,
    ) -> None:
        """
        Write code * scale; float16 is rounded to nearest even and saturated.

        ``scales`` has the shape (R, G, D) and is finite. Only the rows of ``flat`` are written.
        """


class DequantizeInt4(Protocol):
    """int4 codes, scales and minima to rows."""

    def __call__(  # noqa: PLR0917 - compiled code takes no keywords
        self,
        payload: ByteArray,
        staging: ByteArray,
        places: IndexArray,
        scales: BitsArray,
        flat: npt.NDArray[Element],
        starts: IndexArray,
        num_tokens: int,
        /,
    ) -> None:
        """
        Write code * scale + minimum, rounded once to float32, then as `Dequantize` does.

        ``scales`` has the shape (R, G, 2, D) and is finite; a block is H * T * ceil(D / 2) bytes.
        """


class LoadFloats(Protocol):
    """float16 or float32 codes to rows."""

    def __call__(  # noqa: PLR0917 - compiled code takes no keywords
        self,
        payload: ByteArray,
        staging: ByteArray,
        places: IndexArray,
        like: npt.NDArray[Stored],
        flat: npt.NDArray[Element],
        starts: IndexArray,
        row_elements: int,
        /,
    ) -> None:
        """Write the codes, of the type of ``like``, converted as `Dequantize` does."""


class LargestBits(Protocol):
    """Look for values that are not finite or too large."""

    def __call__(
        self, payload: ByteArray, staging: ByteArray, places: IndexArray, mask: Mask, count: int, /
    ) -> int:
        """
        Return the bits of the largest magnitude among ``count`` codes in each block.

        ``mask`` has one element, all bits but the sign's; its type has the size of a code.
        """


class Look(Protocol):
    """A look at a few tokens of int8 rows, for `cwm_ros.proof`."""

    def __call__(  # noqa: PLR0917 - compiled code takes no keywords
        self,
        values: npt.NDArray[Element],
        scales: BitsArray,
        tokens: IndexArray,
        weights: FloatArray,
        expected: FloatArray,
        room: FloatArray,
        sums: FloatArray,
        /,
    ) -> float:
        """
        Fill ``sums``, shape (3, 2 L, N), of N tokens of the decoded ``values`` (L, 2, H, T, D).

        They are, over heads and channels, the sums of value * weight, of (error * weight)^2 and
        of (value * weight)^2. An error is half of a scale, see `cwm_ros.codec.bound_at`;
        ``weights`` has the shape (H, D).

        Returns
        -------
        float
            By how much a value of the first layer is farther from ``expected``, shape
            (2, H, M, D) for the first M of the tokens, than its error and ``room``, shape
            (2, M), allow; at most 0 if none is.

        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The loops; all sets of them give the same bits, but for the sums of a `Look`."""

    name: str
    quantize: Quantize
    store_floats: StoreFloats
    dequantize: Dequantize
    quantize_int4: QuantizeInt4
    dequantize_int4: DequantizeInt4
    load_floats: LoadFloats
    largest_bits: LargestBits
    look: Look | None = None


def numpy_kernels() -> Kernels:
    """Return the kernels that need no compiler: the definition of the result."""
    return Kernels(
        name='numpy',
        quantize=quantize.quantize,
        store_floats=quantize.store_floats,
        dequantize=quantize.dequantize,
        quantize_int4=quantize.quantize_int4,
        dequantize_int4=quantize.dequantize_int4,
        load_floats=quantize.load_floats,
        largest_bits=quantize.largest_bits,
    )


class KernelLoader:
    """
    Gives NumPy kernels at once and compiled ones as soon as they are loaded.

    A cold start waits for neither the import of numba nor a compilation. Where compiled kernels
    cannot be had, the NumPy ones stay and a warning says why.

    Parameters
    ----------
    cache_dir
        Folder for compiled code, see `cwm_ros.codec.native.numba_kernels`.

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
        """Begin to load in the background; again, it does nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until loading has ended [s], and say whether compiled kernels are there."""
        self._thread.join(timeout_s)
        return self._kernels.name != 'numpy'

    def _load(self, cache_dir: Path) -> None:
        interval_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            from cwm_ros.codec.native import (  # takes half a second
                compile_aside,
                numba_kernels,
            )

            compile_aside(cache_dir)
            self._kernels = numba_kernels(cache_dir)
        except (ImportError, OSError) as exc:
            log.warning('kernels=numpy reason=%s', exc)
        finally:
            sys.setswitchinterval(interval_s)
