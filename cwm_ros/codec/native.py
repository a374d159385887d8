# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The loops of `cwm_ros.codec.kernels` compiled with numba; the only door to it.

The functions are plain Python until `numba_kernels` compiles them for explicit types, so that
nothing is compiled or looked up later, in the middle of a thaw. They use one thread; callers run
several. Arrays of codes are declared unaligned because a block begins where the one before ended.
Inner loops run over a slice from 0, which lets LLVM vectorise them.
"""

from __future__ import annotations

import ctypes
from hashlib import blake2b
import mmap
import os
from pathlib import Path
import subprocess
import sys
from tempfile import TemporaryFile
from typing import cast, TYPE_CHECKING, TypeVar

from llvmlite import binding, ir  # type: ignore[import-untyped]
import numba
from numba import types
from numba.extending import intrinsic
import numpy as np

from cwm_ros.codec.kernels import Kernels
from cwm_ros.codec.quantize import (
    BOUND_MARGIN,
    FLOAT16_MAX,
    GROUP_TOKENS,
    INT4_GROUP_TOKENS,
    INT4_MAX,
    INT8_LARGEST,
    INT8_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from cwm_ros.codec.quantize import (
        BitsArray,
        ByteArray,
        CodeArray,
        Element,
        IndexArray,
        Mask,
        Stored,
    )
    from cwm_ros.kv import FloatArray

    Bits = npt.NDArray[np.int32]

Function = TypeVar('Function')

MAGNITUDE = np.int32(0x7FFFFFFF)
INT8_PEAK = np.float32(INT8_MAX)
LARGEST_PEAK = np.int32(INT8_LARGEST.view(np.int32))
ONE, ZERO = np.float32(1), np.float32(0)
SAFE_FACTOR = np.float32(511)
"""Times any int8 code it fits into float16."""
INT4_PEAK = np.float32(INT4_MAX)
HALF_MIN, HALF_MAX = -FLOAT16_MAX, FLOAT16_MAX
NEGATIVE = 0x8000
SMALLEST_SCALE, HALF_STEP = np.float32(2**-14), np.float32(0.5 + 127 * 2**-23)
MARGIN = np.float32(BOUND_MARGIN)


def _inline(function: Function) -> Function:
    """Make a function callable from compiled ones."""
    return cast('Function', numba.njit(error_model='numpy')(function))


def _widen_typed(_context: object, bits: types.Type) -> tuple[object, object]:
    def generate(
        _ctx: object, builder: ir.IRBuilder, _sig: object, args: list[ir.Value]
    ) -> object:
        if bits == types.uint16:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())
        return args[0]

    return types.float32(bits), generate


def _narrow_typed(_context: object, value: types.Type, to: types.DType) -> tuple[object, object]:
    def generate(
        _ctx: object, builder: ir.IRBuilder, _sig: object, args: list[ir.Value]
    ) -> object:
        x = args[0]
        if to.dtype != types.uint16:
            return x
        for compare, limit in (('>', FLOAT16_MAX), ('<', -FLOAT16_MAX)):
            bound = ir.Constant(ir.FloatType(), float(limit))
            x = builder.select(builder.fcmp_ordered(compare, x, bound), bound, x)
        return builder.bitcast(builder.fptrunc(x, ir.HalfType()), ir.IntType(16))

    return to.dtype(value, to), generate


def _narrow_small_typed(
    _context: object, value: types.Type, to: types.DType
) -> tuple[object, object]:
    def generate(
        _ctx: object, builder: ir.IRBuilder, _sig: object, args: list[ir.Value]
    ) -> object:
        if to.dtype != types.uint16:
            return args[0]
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return to.dtype(value, to), generate


def _round_typed(_context: object, value: types.Type) -> tuple[object, object]:
    def generate(
        _ctx: object, builder: ir.IRBuilder, _sig: object, args: list[ir.Value]
    ) -> object:
        return builder.call(builder.module.declare_intrinsic('llvm.rint', [ir.FloatType()]), args)

    return types.float32(value), generate


_widen = cast('Callable[[np.uint16 | np.float32], np.float32]', intrinsic(_widen_typed))
"""float16 bits, or float32, to float32."""
_narrow = cast('Callable[[np.float32, np.dtype[Element]], Element]', intrinsic(_narrow_typed))
"""float32 to float16 bits, nearest even, saturated; or to float32, unchanged."""
_narrow_small = cast(
    'Callable[[np.float32, np.dtype[Element]], Element]', intrinsic(_narrow_small_typed)
)
"""The same for what is known to fit."""
_round = cast('Callable[[np.float32], np.float32]', intrinsic(_round_typed))
"""Nearest even integer."""


@_inline
def _raise_peaks(peaks: Bits, bits: Bits, first: int, last: int) -> None:
    """Bits of magnitudes are ordered as the magnitudes are, and NaN comes last."""
    head_dim = len(peaks)
    for token in range(first, last, 2):  # two at a time: half the traffic of peaks
        values = bits[token * head_dim : (token + 1) * head_dim]
        other = min(token + 1, last - 1)
        others = bits[other * head_dim : (other + 1) * head_dim]
        for d in range(head_dim):
            larger = max(values[d] & MAGNITUDE, others[d] & MAGNITUDE)
            peaks[d] = max(peaks[d], larger)


@_inline
def _choose_scales(
    peaks: FloatArray, largest_code: np.float32, scales: BitsArray, inverses: FloatArray
) -> None:
    for d in range(len(peaks)):
        scale = _narrow(peaks[d] / largest_code, scales.dtype)
        if largest_code * _widen(scale) < peaks[d]:
            scale = np.uint16(scale + 1)
        scales[d] = scale
        inverses[d] = ONE / _widen(scale) if scale > 0 else ZERO


@_inline
def _round_codes(
    source: FloatArray, inverses: FloatArray, codes: CodeArray, first: int, last: int
) -> None:
    head_dim = len(inverses)
    for token in range(first, last):
        values = source[token * head_dim : (token + 1) * head_dim]
        target = codes[token]
        for d in range(head_dim):
            target[d] = np.int8(np.int32(_round(values[d] * inverses[d])))


def _quantize(flat: FloatArray, starts: IndexArray, codes: CodeArray, scales: BitsArray) -> int:
    _, num_tokens, head_dim = codes.shape
    peaks, inverses = np.empty(head_dim, np.int32), np.empty(head_dim, np.float32)
    largest = np.int32(0)
    for row in range(len(starts)):
        source = flat[starts[row] : starts[row] + num_tokens * head_dim]
        for group in range(scales.shape[1]):
            first = group * GROUP_TOKENS
            last = min(first + GROUP_TOKENS, num_tokens)
            peaks[:] = 0
            _raise_peaks(peaks, source.view(np.int32), first, last)
            largest = max(largest, peaks.max())
            peaks[:] = np.minimum(peaks, LARGEST_PEAK)
            _choose_scales(peaks.view(np.float32), INT8_PEAK, scales[row, group], inverses)
            _round_codes(source, inverses, codes[row], first, last)
    return int(largest)


@_inline
def _widen_range(
    lows: FloatArray, highs: FloatArray, source: FloatArray, first: int, last: int
) -> np.int32:
    """Find the smallest and largest values of each channel, and the bits of the largest size."""
    head_dim, largest = len(lows), np.int32(0)
    lows[:], highs[:] = HALF_MAX, HALF_MIN
    for token in range(first, last):
        values = source[token * head_dim : (token + 1) * head_dim]
        bits = values.view(np.int32)
        for d in range(head_dim):
            largest = max(largest, bits[d] & MAGNITUDE)
            lows[d] = min(lows[d], values[d])
            highs[d] = max(highs[d], values[d])
    return largest


@_inline
def _choose_minima(lows: FloatArray, highs: FloatArray, minima: BitsArray) -> None:
    """Round ``lows`` down to float16, and make ``highs`` the ranges above that."""
    for d in range(len(lows)):
        low = min(max(lows[d], HALF_MIN), HALF_MAX) + ZERO
        minimum = _narrow(low, minima.dtype)
        if _widen(minimum) > low:
            minimum = np.uint16(minimum + 1) if minimum & NEGATIVE else np.uint16(minimum - 1)
        minima[d] = minimum
        lows[d] = _widen(minimum)
        highs[d] = min(max(highs[d], HALF_MIN), HALF_MAX) - lows[d]


@_inline
def _pack_codes(  # noqa: PLR0917 - compiled code takes no keywords
    source: FloatArray,
    lows: FloatArray,
    inverses: FloatArray,
    codes: ByteArray,
    first: int,
    last: int,
) -> None:
    head_dim, num_low = len(lows), codes.shape[1]
    steps = np.empty(head_dim, np.float32)
    for token in range(first, last):
        values = source[token * head_dim : (token + 1) * head_dim]
        for d in range(head_dim):
            step = _round((values[d] - lows[d]) * inverses[d])
            steps[d] = min(max(step, ZERO), INT4_PEAK)
        target = codes[token]
        for j in range(num_low):
            target[j] = np.uint8(steps[j])
        for j in range(head_dim - num_low):
            target[j] |= np.uint8(np.uint8(steps[num_low + j]) << 4)


def _quantize_int4(
    flat: FloatArray, starts: IndexArray, codes: ByteArray, scales: BitsArray
) -> int:
    num_tokens, head_dim = codes.shape[1], scales.shape[3]
    lows, highs, inverses = np.empty((3, head_dim), np.float32)
    largest = np.int32(0)
    for row in range(len(starts)):
        source = flat[starts[row] : starts[row] + num_tokens * head_dim]
        for group in range(scales.shape[1]):
            first = group * INT4_GROUP_TOKENS
            last = min(first + INT4_GROUP_TOKENS, num_tokens)
            largest = max(largest, _widen_range(lows, highs, source, first, last))
            _choose_minima(lows, highs, scales[row, group, 1])
            _choose_scales(highs, INT4_PEAK, scales[row, group, 0], inverses)
            _pack_codes(source, lows, inverses, codes[row], first, last)
    return int(largest)


def _store_floats(flat: FloatArray, starts: IndexArray, codes: npt.NDArray[Element]) -> int:
    size = codes.shape[1] * codes.shape[2]
    largest = np.int32(0)
    for row in range(len(starts)):
        values = flat[starts[row] : starts[row] + size]
        bits = values.view(np.int32)
        target = codes[row].reshape(size)
        for i in range(size):
            largest = max(largest, bits[i] & MAGNITUDE)
            target[i] = _narrow(values[i], codes.dtype)
    return int(largest)


@_inline
def _bytes_at(
    payload: ByteArray, staging: ByteArray, place: IndexArray, offset: int, size: int
) -> ByteArray:
    start = place[1] + offset
    return (staging if place[0] else payload)[start : start + size]


@_inline
def _scale_codes(
    codes: CodeArray, factors: FloatArray, target: npt.NDArray[Element], first: int, last: int
) -> None:
    head_dim = len(factors)
    if factors.max() <= SAFE_FACTOR:  # saturating takes a quarter of the time
        for token in range(first, last):
            source = codes[token * head_dim : (token + 1) * head_dim]
            values = target[token * head_dim : (token + 1) * head_dim]
            for d in range(head_dim):
                values[d] = _narrow_small(np.float32(source[d]) * factors[d], target.dtype)
        return
    for token in range(first, last):
        source = codes[token * head_dim : (token + 1) * head_dim]
        values = target[token * head_dim : (token + 1) * head_dim]
        for d in range(head_dim):
            values[d] = _narrow(np.float32(source[d]) * factors[d], target.dtype)


def _dequantize(  # noqa: PLR0917 - compiled code takes no keywords
    payload: ByteArray,
    staging: ByteArray,
    places: IndexArray,
    scales: BitsArray,
    flat: npt.NDArray[Element],
    starts: IndexArray,
    num_tokens: int,
) -> None:
    num_rows, num_groups, head_dim = scales.shape
    heads, size = num_rows // len(places), num_tokens * head_dim
    factors = np.empty(head_dim, np.float32)
    for row in range(num_rows):
        place, offset = places[row // heads], row % heads * size
        codes = _bytes_at(payload, staging, place, offset, size).view(np.int8)
        target = flat[starts[row] : starts[row] + size]
        for group in range(num_groups):
            first = group * GROUP_TOKENS
            for d in range(head_dim):
                factors[d] = _widen(scales[row, group, d])
            _scale_codes(codes, factors, target, first, min(first + GROUP_TOKENS, num_tokens))


@_inline
def _scale_pairs(  # noqa: PLR0917 - compiled code takes no keywords
    codes: ByteArray,
    factors: FloatArray,
    minima: FloatArray,
    target: npt.NDArray[Element],
    first: int,
    last: int,
) -> None:
    head_dim = len(factors)
    num_low = (head_dim + 1) // 2
    for token in range(first, last):
        source = codes[token * num_low : (token + 1) * num_low]
        values = target[token * head_dim : (token + 1) * head_dim]
        for j in range(num_low):
            code = np.float32(source[j] & INT4_MAX)
            values[j] = _narrow(code * factors[j] + minima[j], target.dtype)
        for j in range(head_dim - num_low):
            d = num_low + j
            code = np.float32(source[j] >> 4)
            values[d] = _narrow(code * factors[d] + minima[d], target.dtype)


def _dequantize_int4(  # noqa: PLR0917 - compiled code takes no keywords
    payload: ByteArray,
    staging: ByteArray,
    places: IndexArray,
    scales: BitsArray,
    flat: npt.NDArray[Element],
    starts: IndexArray,
    num_tokens: int,
) -> None:
    num_rows, num_groups, _, head_dim = scales.shape
    heads, size = num_rows // len(places), num_tokens * ((head_dim + 1) // 2)
    factors, minima = np.empty((2, head_dim), np.float32)
    for row in range(num_rows):
        place, offset = places[row // heads], row % heads * size
        codes = _bytes_at(payload, staging, place, offset, size)
        target = flat[starts[row] : starts[row] + num_tokens * head_dim]
        for group in range(num_groups):
            first = group * INT4_GROUP_TOKENS
            for d in range(head_dim):
                factors[d] = _widen(scales[row, group, 0, d])
                minima[d] = _widen(scales[row, group, 1, d])
            last = min(first + INT4_GROUP_TOKENS, num_tokens)
            _scale_pairs(codes, factors, minima, target, first, last)


def _load_floats(  # noqa: PLR0917 - compiled code takes no keywords
    payload: ByteArray,
    staging: ByteArray,
    places: IndexArray,
    like: npt.NDArray[Stored],
    flat: npt.NDArray[Element],
    starts: IndexArray,
    row_elements: int,
) -> None:
    heads, size = len(starts) // len(places), row_elements * like.itemsize
    for row in range(len(starts)):
        place, offset = places[row // heads], row % heads * size
        codes = _bytes_at(payload, staging, place, offset, size).view(like.dtype)
        target = flat[starts[row] : starts[row] + row_elements]
        for i in range(row_elements):
            target[i] = _narrow(_widen(codes[i]), target.dtype)


def _largest_bits(
    payload: ByteArray, staging: ByteArray, places: IndexArray, mask: Mask, count: int
) -> int:
    largest = mask[0] & 0
    for block in range(len(places)):
        raw = _bytes_at(payload, staging, places[block], 0, count * mask.itemsize)
        bits = raw.view(mask.dtype)
        for i in range(count):
            largest = max(largest, bits[i] & mask[0])
    return int(largest)


def _look(  # noqa: PLR0917 - compiled code takes no keywords
    values: npt.NDArray[Element],
    scales: BitsArray,
    tokens: IndexArray,
    weights: FloatArray,
    expected: FloatArray,
    room: FloatArray,
    sums: FloatArray,
) -> float:
    layers, _, heads, _, head_dim = values.shape
    excess = -FLOAT16_MAX
    for layer in range(layers):
        for part in range(2):
            block = 2 * layer + part
            for n in range(len(tokens)):
                total, errors, sizes = ZERO, ZERO, ZERO
                for head in range(heads):
                    row = scales[block * heads + head, tokens[n] // GROUP_TOKENS]
                    for d in range(head_dim):
                        value = _widen(values[layer, part, head, tokens[n], d])
                        error = max(_widen(row[d]), SMALLEST_SCALE) * HALF_STEP
                        weight = weights[head, d]
                        total += value * weight
                        errors += (error * weight) * (error * weight)
                        sizes += (value * weight) * (value * weight)
                        if layer == 0 and n < expected.shape[2]:
                            off = abs(value - expected[part, head, n, d])
                            excess = max(excess, off - error * MARGIN - room[part, n])
                sums[0, block, n], sums[1, block, n], sums[2, block, n] = total, errors, sizes
    return float(excess)


def _array(dtype: types.Type, ndim: int = 1, *, readonly: bool = False) -> types.Array:
    return types.Array(dtype, ndim, 'C', readonly=readonly, aligned=False)


INDEX = types.Array(types.int64, 1, 'C')
SOURCE = (types.Array(types.float32, 1, 'C', readonly=True), INDEX)
BYTES = _array(types.uint8, readonly=True)
BLOCKS = (BYTES, BYTES, INDEX.copy(ndim=2))
SCALES, PAIRS = _array(types.uint16, 3), _array(types.uint16, 4)
HALF, SINGLE = _array(types.uint16), _array(types.float32)
MASKS = (_array(types.int16), _array(types.int32))


def has_half_conversion() -> bool:
    """Say whether the CPU converts float16 itself: every 64-bit Arm, x86 since 2012."""
    is_x86 = binding.get_default_triple().startswith('x86_64')
    return not is_x86 or bool(binding.get_host_cpu_features().get('f16c'))


def compile_aside(cache_dir: Path) -> None:
    """
    Fill the cache, unless it is full, in a process of its own that gives way to all others.

    Compiling takes some ten seconds and 110 MB, which this process would keep, and takes turns
    with its other threads. Should the other process fail, `numba_kernels` compiles here.

    Raises
    ------
    OSError
        The folder cannot be used.

    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    if not has_half_conversion() or _mark(cache_dir).exists():
        return
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run(  # noqa: S603
        [sys.executable, '-m', __name__, str(cache_dir)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, 'PYTHONPATH': path},
        check=False,
    )


def _mark(cache_dir: Path) -> Path:
    """Return the file that says that the cache has what this source and this machine need."""
    source = Path(__file__)
    status = source.stat()
    what = (
        source.resolve(),
        status.st_mtime_ns,
        status.st_size,
        sys.version,
        numba.__version__,
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
    )
    return cache_dir / f'{blake2b(repr(what).encode(), digest_size=8).hexdigest()}.compiled'


def numba_kernels(cache_dir: Path) -> Kernels:
    """
    Load the kernels from the cache, or compile them into it.

    Parameters
    ----------
    cache_dir
        Folder for compiled code, made when missing. Code is executed from it: nobody else may be
        able to write there.

    Raises
    ------
    ImportError
        The CPU cannot convert float16.
    OSError
        The folder cannot be used.

    """
    if not has_half_conversion():
        raise ImportError('this CPU has no float16 conversion')
    cache_dir.mkdir(parents=True, exist_ok=True)
    TemporaryFile(dir=cache_dir).close()  # where it cannot write, numba chooses another folder
    settings = vars(numba.config)
    before, settings['CACHE_DIR'] = settings['CACHE_DIR'], str(cache_dir)
    try:
        kernels = _compile_all()
    finally:
        settings['CACHE_DIR'] = before
    _mark(cache_dir).touch()
    _let_go_of_compiler()
    return kernels


def _let_go_of_compiler() -> None:
    """
    Give back the resident code of LLVM, 51 MB of this process that nothing runs any more.

    The pages are clean and of a file: whoever runs it all the same reads them again.
    """
    try:
        maps = Path('/proc/self/maps').read_text(encoding='ascii', errors='replace').splitlines()
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return  # not Linux: it stays
    for line in maps:
        span, rights, *_, name = line.split(maxsplit=5)
        if rights == 'r-xp' and 'libllvmlite' in name:
            start, stop = (int(part, 16) for part in span.split('-'))
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_DONTNEED)


def _compile(function: Function, *signatures: object) -> Function:
    jit = numba.njit(list(signatures), nogil=True, cache=True, error_model='numpy')
    return cast('Function', jit(function))


def _compile_all() -> Kernels:
    scales, ends = SCALES.copy(readonly=True), (INDEX, types.int64)
    pairs = [(stored, target) for stored in (HALF, SINGLE) for target in (HALF, SINGLE)]
    return Kernels(
        name='numba',
        quantize=_compile(_quantize, types.int64(*SOURCE, _array(types.int8, 3), SCALES)),
        store_floats=_compile(
            _store_floats, *(types.int64(*SOURCE, t.copy(ndim=3)) for t in (HALF, SINGLE))
        ),
        dequantize=_compile(
            _dequantize, *(types.void(*BLOCKS, scales, t, *ends) for t in (HALF, SINGLE))
        ),
        quantize_int4=_compile(
            _quantize_int4, types.int64(*SOURCE, BYTES.copy(ndim=3, readonly=False), PAIRS)
        ),
        dequantize_int4=_compile(
            _dequantize_int4,
            *(types.void(*BLOCKS, PAIRS.copy(readonly=True), t, *ends) for t in (HALF, SINGLE)),
        ),
        load_floats=_compile(_load_floats, *(types.void(*BLOCKS, *pair, *ends) for pair in pairs)),
        largest_bits=_compile(
            _largest_bits, *(types.int64(*BLOCKS, t, types.int64) for t in MASKS)
        ),
        look=_compile(
            _look,
            *(
                types.float64(t, scales, INDEX, *(SINGLE.copy(ndim=n) for n in (2, 4, 2, 3)))
                for t in (types.Array(e, 5, 'A') for e in (types.uint16, types.float32))
            ),
        ),
    )


if __name__ == '__main__':
    os.nice(10)
    numba_kernels(Path(sys.argv[1]))
