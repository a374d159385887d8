# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory and disk a model and its windows take."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cwm_ros.model.spec import ModelSpec

BYTES_OF = {'fp32': 4.0, 'raw': 4.0, 'fp16': 2.0, 'int8': 1 + 2 / 128, 'int4': 0.5 + 4 / 64}
"""
Bytes of one value.

KV in int8 has a float16 scale for 128 tokens of each channel, in int4 scale and minimum for 64.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """
    What a model needs.

    Parameters
    ----------
    num_parameters
        Weights, a tied output projection counted once.
    kv_elements_per_token
        KV values that a token adds: layers x 2 x KV heads x head dimension.
    max_tokens
        Trained context length.
    flops_per_token, flops_per_pair
        Multiplications and additions of a prefill: for each token, and for each two tokens of
        which one sees the other.
    reach
        How many tokens a token sees, itself included; 0 is all.

    """

    num_parameters: int
    kv_elements_per_token: int
    max_tokens: int
    flops_per_token: int
    flops_per_pair: int
    reach: int

    def weight_bytes(self, kind: str = 'fp32') -> int:
        """Return the bytes of the weights as 'fp32' (as the CPU engine computes) or 'fp16'."""
        return math.ceil(self.num_parameters * BYTES_OF[kind])

    def kv_bytes(self, num_tokens: int, kind: str = 'fp16') -> int:
        """Return the bytes of the KV of ``num_tokens`` as 'raw', 'fp16', 'int8' or 'int4'."""
        return math.ceil(num_tokens * self.kv_elements_per_token * BYTES_OF[kind])

    def tokens_that_fit(
        self, memory_bytes: int, *, weights: str = 'fp32', kv: str = 'fp32'
    ) -> int:
        """Return how many tokens, at most the trained length, fit beside the weights."""
        left = memory_bytes - self.weight_bytes(weights)
        per_token = self.kv_elements_per_token * BYTES_OF[kv]
        return max(0, min(self.max_tokens, int(left / per_token)))

    def prefill_flops(self, num_tokens: int) -> int:
        """Return the multiplications and additions of computing ``num_tokens``."""
        seen = min(num_tokens, self.reach or num_tokens)
        pairs = seen * (seen + 1) // 2 + (num_tokens - seen) * seen
        return num_tokens * self.flops_per_token + pairs * self.flops_per_pair


def size_model(spec: ModelSpec) -> Sizing:
    """Return what the described model needs; no weights are read."""
    shapes = spec.tensor_shapes()
    matrices = (shape for name, shape in shapes.items() if '.layers.' in name)
    return Sizing(
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        flops_per_token=2 * sum(math.prod(shape) for shape in matrices),
        flops_per_pair=4 * spec.num_layers * spec.query_size,
        reach=spec.reach,
        kv_elements_per_token=spec.kv_spec.elements_per_token(),
        max_tokens=spec.max_tokens,
    )
