# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from cwm_ros.engine.cache import KVCache, slots_for
from cwm_ros.errors import ContextFullError, EngineError, OutOfMemoryError
from cwm_ros.kv import KVSpec

SPEC = KVSpec(num_layers=2, num_kv_heads=1, head_dim=4, max_tokens=1 << 44)


def test_slots_double_to_two_thousand_and_then_add_as_many() -> None:
    sizes = [slots_for(n) for n in (0, 1, 256, 257, 1025, 2048, 2049, 4097, 16384)]

    assert sizes == [256, 256, 256, 512, 2048, 2048, 4096, 6144, 16384]


def test_growth_keeps_residents_and_forgets_the_rest() -> None:
    cache = KVCache(SPEC, 1000)
    cache.view(0, 256)[:] = 7
    cache.add(10, 20)
    assert not cache.reserve(256)
    assert cache.reserve(257)

    assert cache.slots == 512
    assert cache.array.ctypes.data % 64 == 0
    assert (cache.view(10, 20) == 7).all()
    assert not cache.view(20, 512).any()
    assert cache.is_visible.tolist() == [10 <= i < 20 for i in range(512)]


def test_room_beyond_the_capacity_or_the_memory_is_refused() -> None:
    cache = KVCache(SPEC, 1 << 44)
    with pytest.raises(OutOfMemoryError, match='MiB'):
        cache.reserve(1 << 44)
    with pytest.raises(ContextFullError):
        KVCache(SPEC, 100).reserve(101)
    with pytest.raises(EngineError):
        cache.add(0, 257)


def test_scrubbing_drops_what_is_not_finite() -> None:
    cache = KVCache(SPEC, 1000)
    cache.add(0, 100)
    cache.view(30, 31)[0, 0, 0, 0, 0] = np.nan
    cache.view(40, 42)[1, 1] = np.inf

    assert list(cache.scrub()) == [(30, 31), (40, 42)]
    assert list(cache.resident) == [(0, 30), (31, 40), (42, 100)]
    assert not cache.array.any()
