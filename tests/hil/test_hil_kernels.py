# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Our kernels without TensorRT, so that compute-sanitizer sees nothing but them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.codec import (
    CodecId,
    decode_chunk,
    encode_chunk,
    encode_quantized,
    open_quantized,
    Scratch,
)
from cwm_ros.engine.gpu_cache import GpuCache
from cwm_ros.engine.gpu_transfer import Transfer
from cwm_ros.engine_build import compile_kernels
from cwm_ros.errors import EngineError
from cwm_ros.kv import KVSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.engine.cuda import Device

    OpenCache = Callable[..., tuple[GpuCache, Transfer]]

SPEC = KVSpec(num_layers=3, num_kv_heads=2, head_dim=20, max_tokens=4096)


@pytest.fixture
def open_cache(gpu: Device, tmp_path: Path) -> Iterator[OpenCache]:
    opened: list[GpuCache | Transfer] = []

    def make(*, is_half: bool, is_mapped: bool = False) -> tuple[GpuCache, Transfer]:
        capability = '.'.join(map(str, gpu.info.capability))
        compile_kernels(capability, tmp_path / 'k', is_half=is_half)
        kernels, stream = gpu.kernels((tmp_path / 'k').read_bytes()), gpu.stream()
        cache = GpuCache(gpu, kernels, stream, SPEC, 4096, is_half=is_half)
        transfer = Transfer(gpu, kernels, stream, cache, is_mapped=is_mapped, priority=0)
        opened.extend((cache, transfer))
        return cache, transfer

    yield make
    for each in reversed(opened):
        each.close()


@pytest.mark.parametrize('is_half', [True, False])
@pytest.mark.parametrize('is_mapped', [True, False])
@pytest.mark.parametrize('num_tokens', [1, 127, 256, 300])
def test_in_and_out_are_those_of_the_codec(
    open_cache: OpenCache, *, is_half: bool, is_mapped: bool, num_tokens: int
) -> None:
    cache, transfer = open_cache(is_half=is_half, is_mapped=is_mapped)
    kv = np.random.default_rng(num_tokens).normal(size=SPEC.shape(num_tokens)).astype(np.float32)
    kv[0, 1] = 0.25
    kv[1, 1, 0, :, 5] = 0
    kv[2, 0, 1, :, 7] *= 1e-7
    payload = bytes(encode_chunk(kv, CodecId.INT8, 'lz4', Scratch()))
    expected = np.empty(kv.shape, np.float16 if is_half else np.float32)
    common = {'spec': SPEC, 'num_tokens': num_tokens, 'source': Path('x')}
    decode_chunk(
        memoryview(payload), codec=CodecId.INT8, out=expected, scratch=Scratch(), **common
    )
    for lead in (0, 1, 6):
        staged = transfer.staging(len(payload) + lead)[lead:]
        staged[:] = np.frombuffer(payload, np.uint8)
        cache.reserve(1000)
        quantized = open_quantized(
            staged.data,
            start=37,
            is_half=is_half,
            scratch=Scratch(allocate=transfer.staging),
            **common,
        )
        transfer.import_quantized(quantized)
        found = transfer.export_floats(37, 37 + num_tokens)
        np.testing.assert_array_equal(found, expected.astype(np.float32))
        again = transfer.export_quantized(37, 37 + num_tokens)
        wanted = bytes(encode_chunk(found, CodecId.INT8, 'lz4', Scratch()))
        assert bytes(encode_quantized(again, SPEC, 'lz4', Scratch())) == wanted


@pytest.mark.parametrize('is_half', [True, False])
def test_growth_keeps_what_is_resident(open_cache: OpenCache, *, is_half: bool) -> None:
    cache, transfer = open_cache(is_half=is_half)
    kv = np.random.default_rng(0).normal(size=SPEC.shape(200)).astype(np.float16)
    rows = kv.astype(np.float32)
    transfer.import_floats(rows, 10, is_half=is_half)
    cache.add(10, 210)
    for size in (300, 600, 3000):
        cache.reserve(size)
        np.testing.assert_array_equal(transfer.export_floats(10, 210), rows)


def test_what_is_not_finite_is_found(open_cache: OpenCache, gpu: Device) -> None:
    cache, transfer = open_cache(is_half=True)
    cache.add(0, 256)
    address = cache.part(2, 1) + 2 * (256 * 20 + 77 * 20 + 3)
    gpu.stream().upload(address, np.array([0x7C00], np.uint16))
    with pytest.raises(EngineError, match='not finite'):
        transfer.export_quantized(0, 128)
    assert list(cache.scrub()) == [(77, 78)]
    assert list(cache.resident) == [(0, 77), (78, 256)]
    assert np.isfinite(transfer.export_floats(0, 256)).all()
