# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels give the bits of the NumPy ones; the NumPy ones give what the page says."""

from __future__ import annotations

import logging
from pathlib import Path
import time
from typing import TYPE_CHECKING

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
import psutil
import pytest

from cwm_ros.codec.kernels import Blocks, KernelLoader, numpy_kernels, rows_of
from cwm_ros.codec.quantize import int8_scales, largest_halves, num_groups
from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.kv import FloatArray

    Dtype = type[np.float32 | np.float16]

EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SPECIAL = np.array(
    [0, -0.0, 1e-45, -1e-40, 6e-8, 3e-8, 2.98e-8, 6.1e-5, 65504, -65519, 65520, 8319008, 3e38],
    dtype=np.float32,
)
FLOATS = st.sampled_from([np.float32, np.float16])
SHAPES = st.tuples(*(st.integers(1, n) for n in (2, 3, 300, 70)))


@st.composite
def kv_views(draw: st.DrawFn) -> FloatArray:
    """Draw ranges of tokens in live caches, with values of all magnitudes."""
    layers, heads, tokens, dim = draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    cache = rng.standard_normal((layers, 2, heads, before + tokens + after, dim), np.float32)
    cache *= np.float32(10.0) ** rng.integers(-9, 3, (layers, 2, heads, 1, dim)).astype(np.float32)
    if draw(st.booleans()):
        where = rng.random(cache.shape) < 0.1
        cache[where] = rng.choice(SPECIAL, int(where.sum()))
    if draw(st.booleans()):
        cache[..., rng.integers(0, dim)] = 0
    return cache[:, :, :, before : before + tokens]


def shape_of(kv: FloatArray) -> tuple[int, int, int]:
    layers, _, heads, tokens, dim = kv.shape
    return layers * 2 * heads, tokens, dim


@EXAMPLES
@given(kv=kv_views())
def test_quantize_agrees(kv: FloatArray, compiled: Kernels) -> None:
    rows, tokens, dim = shape_of(kv)
    results = []
    for kernels in (numpy_kernels(), compiled):
        codes = np.full((rows, tokens, dim), 99, dtype=np.int8)
        scales = np.full((rows, num_groups(tokens), dim), 99, dtype=np.uint16)
        results.append((kernels.quantize(*rows_of(kv), codes, scales), codes, scales))
    (expected, codes, scales), (found, other_codes, other_scales) = results
    assert found == expected == np.abs(kv).max().view(np.uint32)
    np.testing.assert_array_equal(other_scales, scales)
    if expected <= np.float32(8319008).view(np.uint32):
        np.testing.assert_array_equal(other_codes, codes)
        assert codes.min() >= -127


@EXAMPLES
@given(kv=kv_views())
def test_quantize_int4_agrees(kv: FloatArray, compiled: Kernels) -> None:
    rows, tokens, dim = shape_of(kv)
    results = []
    for kernels in (numpy_kernels(), compiled):
        codes = np.full((rows, tokens, -(-dim // 2)), 99, dtype=np.uint8)
        scales = np.full((rows, num_groups(tokens, 64), 2, dim), 99, dtype=np.uint16)
        results.append((kernels.quantize_int4(*rows_of(kv), codes, scales), codes, scales))
    (expected, codes, scales), (found, other_codes, other_scales) = results
    assert found == expected == np.abs(kv).max().view(np.uint32)
    np.testing.assert_array_equal(other_scales, scales)
    if expected <= np.float32(65504).view(np.uint32):
        np.testing.assert_array_equal(other_codes, codes)
        if dim % 2:
            assert (codes[:, :, -1] < 16).all()


@EXAMPLES
@given(kv=kv_views())
def test_store_floats_agrees(kv: FloatArray, compiled: Kernels) -> None:
    for dtype in (np.float32, np.uint16):
        first, second = (np.empty(shape_of(kv), dtype=dtype) for _ in range(2))
        largest = numpy_kernels().store_floats(*rows_of(kv), first)
        assert compiled.store_floats(*rows_of(kv), second) == largest
        np.testing.assert_array_equal(first.view(np.uint8), second.view(np.uint8))


def unaligned(codes: npt.NDArray[np.generic], layers: int) -> Blocks:
    """Put even blocks into the payload and odd ones into staging, at odd offsets."""
    raw = codes.reshape(layers * 2, -1).view(np.uint8)
    parts = [np.concatenate([np.zeros(1, np.uint8), *raw[i::2]]) for i in range(2)]
    blocks = np.arange(layers * 2)
    return Blocks(*parts, np.stack([blocks % 2, 1 + blocks // 2 * raw.shape[1]], axis=1))


def decoded(kernels: Kernels, kv: FloatArray, call: str, *inputs: object) -> bytes:
    target = np.full((*kv.shape[:3], kv.shape[3] + 3, kv.shape[4]), 7, dtype=kv.dtype)
    rows = rows_of(target[:, :, :, 1:-2])
    blocks, middle, last = inputs
    getattr(kernels, call)(*blocks, middle, *rows, last)  # type: ignore[misc]
    assert (target[:, :, :, 0] == 7).all()
    assert (target[:, :, :, -2:] == 7).all()
    return target.tobytes()


@EXAMPLES
@given(shape=SHAPES, seed=st.integers(0, 1 << 30), dtype=FLOATS)
def test_dequantize_agrees(
    shape: tuple[int, int, int, int], seed: int, dtype: Dtype, compiled: Kernels
) -> None:
    layers, heads, tokens, dim = shape
    rng = np.random.default_rng(seed)
    rows = layers * 2 * heads
    codes = rng.integers(-128, 128, (rows, tokens, dim), dtype=np.int8)
    scales = rng.integers(0, 0x7C00, (rows, num_groups(tokens), dim), dtype=np.uint16)
    kv = np.empty((layers, 2, heads, tokens, dim), dtype=dtype)
    inputs = ('dequantize', unaligned(codes, layers), scales, tokens)
    assert decoded(compiled, kv, *inputs) == decoded(numpy_kernels(), kv, *inputs)


@EXAMPLES
@given(shape=SHAPES, seed=st.integers(0, 1 << 30), dtype=FLOATS)
def test_dequantize_int4_agrees(
    shape: tuple[int, int, int, int], seed: int, dtype: Dtype, compiled: Kernels
) -> None:
    layers, heads, tokens, dim = shape
    rng = np.random.default_rng(seed)
    rows = layers * 2 * heads
    codes = rng.integers(0, 256, (rows, tokens, -(-dim // 2)), dtype=np.uint8)
    scales = rng.integers(0, 0x7C00, (rows, num_groups(tokens, 64), 2, dim), dtype=np.uint16)
    scales[:, :, 1] |= rng.integers(0, 2, scales[:, :, 1].shape, dtype=np.uint16) << 15
    kv = np.empty((layers, 2, heads, tokens, dim), dtype=dtype)
    inputs = ('dequantize_int4', unaligned(codes, layers), scales, tokens)
    assert decoded(compiled, kv, *inputs) == decoded(numpy_kernels(), kv, *inputs)


@EXAMPLES
@given(kv=kv_views(), dtype=FLOATS, target_dtype=FLOATS)
def test_load_floats_agrees(
    kv: FloatArray, dtype: Dtype, target_dtype: Dtype, compiled: Kernels
) -> None:
    half = dtype is np.float16
    stored = np.clip(kv, -65504, 65504).astype(dtype) if half else kv.copy()
    stored = stored.view(np.uint16) if half else stored
    target = np.empty(kv.shape, dtype=target_dtype)
    elements = kv.shape[3] * kv.shape[4]
    blocks = unaligned(stored, len(kv))
    inputs = ('load_floats', blocks, np.empty(0, stored.dtype), elements)
    assert decoded(compiled, target, *inputs) == decoded(numpy_kernels(), target, *inputs)
    mask = np.array([0x7FFF if half else 0x7FFFFFFF], dtype=np.int16 if half else np.int32)
    count = kv.shape[2] * elements
    expected = numpy_kernels().largest_bits(*blocks, mask, count)
    assert compiled.largest_bits(*blocks, mask, count) == expected
    assert expected == (stored.view(mask.dtype) & mask).max()


def test_every_float16_and_every_tie_converts_as_numpy_does(compiled: Kernels) -> None:
    bits = np.arange(0x7C00, dtype=np.uint16)
    exact = bits.view(np.float16).astype(np.float32)
    ties = (exact[1:] + exact[:-1]) / 2
    values = np.concatenate([exact, ties, np.nextafter(ties, np.float32(0)), -ties])
    values = np.concatenate([values, np.nextafter(ties, np.float32(np.inf))])
    codes = np.empty((1, 1, values.size), dtype=np.uint16)
    compiled.store_floats(values, np.zeros(1, np.int64), codes)
    np.testing.assert_array_equal(codes[0, 0], values.astype(np.float16).view(np.uint16))

    widened = np.empty(bits.size, dtype=np.float32)
    blocks = Blocks(bits.view(np.uint8), np.empty(0, np.uint8), np.zeros((1, 2), np.int64))
    compiled.load_floats(
        *blocks, np.empty(0, np.uint16), widened, np.zeros(1, np.int64), bits.size
    )
    np.testing.assert_array_equal(widened, exact)


def test_scale_is_the_smallest_float16_that_holds_the_peak() -> None:
    all_scales = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    edges = np.float32(127) * all_scales
    peaks = np.concatenate([edges, np.nextafter(edges[:-1], np.float32(np.inf)), SPECIAL[:6]])
    peaks = np.abs(peaks)
    expected = np.searchsorted(edges, peaks, side='left')
    np.testing.assert_array_equal(int8_scales(peaks).view(np.uint16), expected)


def test_minimum_is_the_largest_float16_that_is_not_above() -> None:
    positive = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = np.concatenate([-positive[:0:-1], positive])
    values = np.concatenate(
        [halves, np.nextafter(halves[:-1], np.float32(np.inf)), -SPECIAL[:7], SPECIAL[:9]]
    )
    expected = halves[np.searchsorted(halves, values, side='right') - 1]
    found = largest_halves(values)
    np.testing.assert_array_equal(found.astype(np.float32), expected)
    assert not (found.view(np.uint16) == 0x8000).any()


@EXAMPLES
@given(kv=kv_views(), dtype=FLOATS, seed=st.integers(0, 1 << 30))
def test_a_look_sees_what_is_there(
    kv: FloatArray, dtype: Dtype, seed: int, compiled: Kernels
) -> None:
    """The sums are those of float64; the excess tells how far the first layer is off."""
    assert compiled.look is not None
    kv = np.clip(kv, -1e3, 1e3)
    layers, _, heads, num_tokens, head_dim = kv.shape
    rng = np.random.default_rng(seed)
    cache = np.zeros((layers, 2, heads, num_tokens + 9, head_dim), dtype)
    values = cache[:, :, :, 4 : 4 + num_tokens]
    values[...] = kv
    wide = values.astype(np.float64)
    tokens = np.sort(rng.choice(num_tokens, min(4, num_tokens), replace=False)).astype(np.int64)
    weights = rng.uniform(-1, 1, (heads, head_dim)).astype(np.float32)
    scales = rng.uniform(0, 2, (2 * layers * heads, num_groups(num_tokens), head_dim))
    scales = scales.astype(np.float16)
    off = np.float32(rng.choice([0.0, 5.0]))
    picked = wide[:, :, :, tokens]
    expected = np.ascontiguousarray(picked[0] + off, np.float32)
    room = np.full((2, len(tokens)), 0.5, np.float32)
    sums = np.empty((3, 2 * layers, len(tokens)), np.float32)
    bits = values.view(np.uint16) if dtype is np.float16 else values
    found = compiled.look(bits, scales.view(np.uint16), tokens, weights, expected, room, sums)

    at = scales.astype(np.float64)[:, tokens // 128].reshape(picked.shape)
    errors = np.maximum(at, 2**-14) * (0.5 + 127 * 2**-23)
    by_weight = weights.astype(np.float64)[:, np.newaxis]
    truth = [picked * by_weight, (errors * by_weight) ** 2, (picked * by_weight) ** 2]
    for total, terms in zip(sums, truth, strict=True):
        right = terms.sum(axis=(2, 4)).reshape(total.shape)
        room_for = np.abs(terms).sum(axis=(2, 4)).reshape(total.shape) * 1e-4 + 1e-30
        assert (np.abs(total - right) <= room_for).all()
    excess = (np.abs(picked[0] - expected) - 1.01 * errors[0] - 0.5).max()
    assert found == pytest.approx(excess, abs=1e-3)


def test_not_finite_shows_in_the_largest_bits(compiled: Kernels) -> None:
    for kernels in (numpy_kernels(), compiled):
        for bad in (np.nan, -np.nan, np.inf, -np.inf):
            kv = np.ones((1, 2, 1, 5, 3), dtype=np.float32)
            kv[0, 1, 0, 3, 1] = bad
            codes = np.empty((2, 5, 3), dtype=np.int8)
            scales = np.empty((2, 1, 3), dtype=np.uint16)
            assert kernels.quantize(*rows_of(kv), codes, scales) >= 0x7F800000


@pytest.mark.parametrize('axes', [(0, 1, 2, 4, 3), (0, 1, 3, 2, 4)])
def test_rows_with_gaps_are_refused(axes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match='gaps between tokens'):
        rows_of(np.zeros((2, 2, 3, 4, 5), dtype=np.float32).transpose(axes))


def test_loader_has_kernels_at_once_and_better_ones_later(
    compiled: Kernels, pytestconfig: pytest.Config
) -> None:
    assert compiled.name == 'numba'
    assert pytestconfig.cache is not None
    loader = KernelLoader(pytestconfig.cache.mkdir('kernels'))
    assert loader().name == 'numpy'
    loader.start()
    assert loader.wait(60)
    assert loader().name == 'numba'


def test_loader_keeps_numpy_where_it_cannot_compile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip('numba')
    (tmp_path / 'file').write_bytes(b'')
    loader = KernelLoader(tmp_path / 'file' / 'cache')
    with caplog.at_level(logging.WARNING):
        loader.start()
        assert not loader.wait(60)
    assert loader().name == 'numpy'
    assert 'kernels=numpy' in caplog.text


@pytest.mark.slow
def test_kernels_are_compiled_in_another_process(tmp_path: Path) -> None:
    loader = KernelLoader(tmp_path)
    before = set(psutil.Process().children())  # other tests may have left some
    loader.start()
    until_s = time.monotonic() + 60
    while not (new := set(psutil.Process().children()) - before) and time.monotonic() < until_s:
        time.sleep(0.01)

    assert new
    assert loader.wait()
    compiled = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob('*.nbc'))
    ended_ns = max(path.stat().st_mtime_ns for path in tmp_path.glob('*.compiled'))
    assert compiled
    assert max(compiled) <= ended_ns

    again = KernelLoader(tmp_path)
    again.start()
    assert again.wait()
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob('*.nbc')) == compiled


def test_the_compilers_code_does_not_stay_resident(compiled: Kernels) -> None:
    from cwm_ros.codec import native

    assert compiled.name == 'numba'
    native._let_go_of_compiler()
    resident_kib, is_code = 0, False
    for line in Path('/proc/self/smaps').read_text(encoding='ascii').splitlines():
        if ' r-xp ' in line:
            is_code = 'libllvmlite' in line
        elif ' r--p ' in line or ' rw-p ' in line:
            is_code = False
        elif is_code and line.startswith('Rss:'):
            resident_kib += int(line.split()[1])
    assert resident_kib < 4096
    numba = pytest.importorskip('numba')
    assert numba.njit(lambda x: x + 1)(3) == 4  # it is read again
