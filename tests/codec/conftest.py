# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.kv import KVSpec

if TYPE_CHECKING:
    from cwm_ros.kv import FloatArray


@pytest.fixture
def spec() -> KVSpec:
    return KVSpec(num_layers=3, num_kv_heads=2, head_dim=8, max_tokens=1024)


@pytest.fixture
def cache(spec: KVSpec) -> FloatArray:
    """A live cache of 600 tokens, whose layer-0 values repeat as those of a real model do."""
    rng = np.random.default_rng(7)
    values = rng.standard_normal(spec.shape(600), dtype=np.float32)
    words = rng.standard_normal((2, 5, 8), dtype=np.float32)
    values[0, 1] = words[:, rng.integers(0, 5, 600)]
    return values
