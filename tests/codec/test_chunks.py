# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from oracle_payload import read_payload
import pytest

from cwm_ros.codec import (
    codec_named,
    CodecId,
    decode_chunk,
    encode_chunk,
    error_bound,
    max_payload_bytes,
    Scratch,
)
from cwm_ros.config import CODECS, COMPRESSIONS
from cwm_ros.errors import ConfigError, EngineError

if TYPE_CHECKING:
    import numpy.typing as npt

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.kv import FloatArray, KVSpec

FILE = Path('chunk.int8')


def decode(
    payload: memoryview | bytes,
    spec: KVSpec,
    codec: CodecId,
    tokens: int,
    dtype: type[np.float32 | np.float16] = np.float32,
) -> FloatArray:
    """Decode into the middle of a cache of sevens, and look at what is around it."""
    cache = np.full(spec.shape(tokens + 5), 7, dtype=dtype)
    out = cache[:, :, :, 2 : 2 + tokens]
    decode_chunk(
        memoryview(payload),
        spec=spec,
        num_tokens=tokens,
        codec=codec,
        out=out,
        scratch=Scratch(),
        source=FILE,
    )
    assert (cache[:, :, :, :2] == 7).all()
    assert (cache[:, :, :, 2 + tokens :] == 7).all()
    return out


def bound_of_each(kv: FloatArray, codec: CodecId) -> FloatArray:
    return np.repeat(error_bound(kv, codec), 128, axis=3)[:, :, :, : kv.shape[3]]


@pytest.mark.parametrize('codec', CodecId)
@pytest.mark.parametrize('compression', COMPRESSIONS)
@pytest.mark.parametrize('tokens', [1, 127, 128, 129, 256, 300])
def test_values_return_within_the_bound(
    codec: CodecId, compression: str, tokens: int, spec: KVSpec, cache: FloatArray
) -> None:
    kv = cache[:, :, :, 200 : 200 + tokens]
    before = cache.copy()
    payload = encode_chunk(kv, codec, compression, Scratch())
    assert len(payload) <= max_payload_bytes(spec, tokens, codec)
    values = decode(payload, spec, codec, tokens)
    assert (np.abs(values - kv) <= bound_of_each(kv, codec)).all()
    np.testing.assert_array_equal(cache, before)
    halves = decode(payload, spec, codec, tokens, np.float16)
    np.testing.assert_array_equal(halves, values.astype(np.float16))


@pytest.mark.parametrize('codec', CodecId)
@pytest.mark.parametrize('compression', COMPRESSIONS)
def test_the_format_page_alone_is_enough_to_read(
    codec: CodecId, compression: str, spec: KVSpec, cache: FloatArray
) -> None:
    payload = encode_chunk(cache[:, :, :, :200], codec, compression, Scratch())
    expected = read_payload(bytes(payload), layers=3, heads=2, tokens=200, dim=8, codec=codec)
    np.testing.assert_array_equal(decode(payload, spec, codec, 200), expected)


@pytest.mark.parametrize('codec', CodecId)
@pytest.mark.parametrize('compression', COMPRESSIONS)
def test_all_kernels_give_the_same_payload(
    codec: CodecId, compression: str, cache: FloatArray, compiled: Kernels
) -> None:
    kv = cache[:, :, :, 7:263]
    first = encode_chunk(kv, codec, compression, Scratch())
    assert first == encode_chunk(kv, codec, compression, Scratch(lambda: compiled))


def test_decoded_values_encode_to_the_same_payload(spec: KVSpec, cache: FloatArray) -> None:
    payload = bytes(encode_chunk(cache[:, :, :, :256], CodecId.INT8, 'lz4', Scratch()))
    again = decode(payload, spec, CodecId.INT8, 256)
    assert encode_chunk(again, CodecId.INT8, 'lz4', Scratch()) == payload
    expected = error_bound(cache[:, :, :, :256], CodecId.INT8)
    np.testing.assert_array_equal(error_bound(again, CodecId.INT8), expected)


@pytest.mark.parametrize('offset', [0.0, 1e-7, 40.0, -3000.0])
def test_the_bound_of_int4_holds_from_either_side(
    offset: float, spec: KVSpec, cache: FloatArray
) -> None:
    kv = cache[:, :, :, :300] * np.float32(0.1) + np.float32(offset)
    values = decode(encode_chunk(kv, CodecId.INT4, 'lz4', Scratch()), spec, CodecId.INT4, 300)
    error = np.abs(values - kv)

    assert (error <= bound_of_each(kv, CodecId.INT4)).all()
    assert (error <= bound_of_each(values, CodecId.INT4)).all()


def test_raw_is_exact_and_fp16_is_exact_for_fp16_values(spec: KVSpec, cache: FloatArray) -> None:
    payload = encode_chunk(cache, CodecId.RAW, 'lz4', Scratch())
    np.testing.assert_array_equal(decode(payload, spec, CodecId.RAW, 600), cache)
    halves = cache.astype(np.float16)
    payload = encode_chunk(halves.astype(np.float32), CodecId.FP16, 'lz4', Scratch())
    np.testing.assert_array_equal(decode(payload, spec, CodecId.FP16, 600, np.float16), halves)


def test_values_that_repeat_are_compressed_and_others_are_not(cache: FloatArray) -> None:
    scratch = Scratch()
    packed = len(encode_chunk(cache, CodecId.INT8, 'lz4', scratch))
    plain = len(encode_chunk(cache, CodecId.INT8, 'none', scratch))
    block = 2 * 600 * 8
    assert plain - block < packed < plain - block / 2


def test_zeros_and_subnormals_keep_their_place(spec: KVSpec) -> None:
    kv = np.zeros(spec.shape(130), dtype=np.float32)
    kv[0, 0, 0, :, 1] = 1e-45
    kv[0, 0, 1, 129, 2] = -3e-6
    payload = encode_chunk(kv, CodecId.INT8, 'lz4', Scratch())
    values = decode(payload, spec, CodecId.INT8, 130)
    assert np.count_nonzero(values) == 1
    assert values[0, 0, 1, 129, 2] == pytest.approx(-3e-6, abs=2**-25)


def test_the_smallest_chunk_has_one_value() -> None:
    kv = np.ones((1, 2, 1, 1, 1), dtype=np.float32)
    for codec in CodecId:
        assert len(encode_chunk(kv, codec, 'lz4', Scratch())) > 64


@pytest.mark.parametrize('codec', CodecId)
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(
    codec: CodecId, bad: float, cache: FloatArray
) -> None:
    cache[1, 1, 1, 77, 7] = bad
    with pytest.raises(EngineError, match='not finite'):
        encode_chunk(cache, codec, 'lz4', Scratch())


@pytest.mark.parametrize(
    ('codec', 'largest'), [(CodecId.FP16, 65504), (CodecId.INT8, 8319008), (CodecId.INT4, 65504)]
)
def test_values_that_a_codec_cannot_hold_are_refused(
    codec: CodecId, largest: float, spec: KVSpec, cache: FloatArray
) -> None:
    cache[0, 0, 0, 0, 0] = -largest
    values = decode(encode_chunk(cache, codec, 'none', Scratch()), spec, codec, 600)
    assert values[0, 0, 0, 0, 0] == -largest
    cache[0, 0, 0, 0, 0] = np.nextafter(np.float32(largest), np.float32(np.inf))
    with pytest.raises(EngineError, match='more than the'):
        encode_chunk(cache, codec, 'none', Scratch())


@pytest.mark.parametrize('codec', [CodecId.RAW, CodecId.INT8])
def test_a_float16_cache_takes_its_own_largest_values_and_no_larger_ones(
    codec: CodecId, spec: KVSpec, cache: FloatArray
) -> None:
    cache[0, 0, 0, 0, 0] = 65504
    payload = encode_chunk(cache, codec, 'none', Scratch())
    assert decode(payload, spec, codec, 600, np.float16)[0, 0, 0, 0, 0] == 65504
    cache[0, 0, 0, 0, 0] = 66000
    payload = encode_chunk(cache, codec, 'none', Scratch())
    with pytest.raises(EngineError, match='does not fit a float16 cache'):
        decode(payload, spec, codec, 600, np.float16)


def test_wrong_arguments_are_refused(spec: KVSpec, cache: FloatArray) -> None:
    scratch = Scratch()
    wrong: list[npt.NDArray[np.generic]] = [cache.astype(np.float64), cache[0], cache[:, :1]]
    for kv in (*wrong, cache[:, :, :, :0], cache[:, :, :, ::2]):
        with pytest.raises(ConfigError):
            encode_chunk(kv, CodecId.INT8, 'lz4', scratch)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='zip'):
        encode_chunk(cache, CodecId.INT8, 'zip', scratch)
    with pytest.raises(ConfigError, match='int3'):
        codec_named('int3')
    payload = bytes(encode_chunk(cache, CodecId.INT8, 'lz4', scratch))
    frozen = np.empty(spec.shape(600), dtype=np.float32)
    frozen.flags.writeable = False
    for out in (np.empty(spec.shape(601), np.float32), np.empty(spec.shape(600)), frozen):
        with pytest.raises(ConfigError):
            decode_chunk(
                memoryview(payload),
                spec=spec,
                num_tokens=600,
                codec=CodecId.INT8,
                out=out,
                scratch=scratch,
                source=FILE,
            )


def test_settings_and_codecs_have_the_same_names() -> None:
    assert {codec_named(name) for name in CODECS} == set(CodecId)


def test_threads_encode_and_decode_at_once(
    spec: KVSpec, cache: FloatArray, compiled: Kernels
) -> None:
    target = np.zeros(replace(spec, max_tokens=2048).shape(512), dtype=np.float32)

    def work(thread: int) -> None:
        scratch = Scratch(lambda: compiled)
        for turn in range(40):
            start = (thread * 40 + turn) % 4 * 128
            here = np.s_[:, :, :, start : start + 128]
            payload = encode_chunk(cache[here], CodecId.INT8, 'lz4', scratch)
            own = np.empty(spec.shape(128), dtype=np.float32)
            for out in (own, target[here]):
                decode_chunk(
                    payload,
                    spec=spec,
                    num_tokens=128,
                    codec=CodecId.INT8,
                    out=out,
                    scratch=scratch,
                    source=FILE,
                )
            assert (np.abs(own - cache[here]) <= bound_of_each(cache[here], CodecId.INT8)).all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    everything = cache[:, :, :, :512]
    assert (np.abs(target - everything) <= bound_of_each(everything, CodecId.INT8)).all()
