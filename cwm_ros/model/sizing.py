# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory and disk a model and its windows take."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import TYPE_CHECKING

from cwm_ros.model.weight_codes import BLOCK

if TYPE_CHECKING:
    from cwm_ros.model.spec import ModelSpec

BYTES_OF = {'fp32': 4.0, 'raw': 4.0, 'fp16': 2.0, 'int8': 1 + 2 / 128, 'int4': 0.5 + 4 / 64}
"""
Bytes of one value of KV.

int8 has a float16 scale for 128 tokens of each channel, int4 has scale and minimum for 64.
"""
CODE_BYTES = {'int8': 1.0, 'int4': 0.5}
SCALE_BYTES = 4 / BLOCK
"""Of one value of coded weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """
    What a model needs.

    Parameters
    ----------
    num_parameters
        Weights, a tied output projection counted once.
    coded_parameters
        Those that weights 'int8' and 'int4' hold as codes of 8 or 4 bits.
    vocabulary_parameters, is_tied
        Those of the embedding, and whether it is the output projection as well.
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
    coded_parameters: int
    vocabulary_parameters: int
    is_tied: bool
    kv_elements_per_token: int
    max_tokens: int
    flops_per_token: int
    flops_per_pair: int
    reach: int

    def weight_bytes(self, kind: str = 'fp32') -> int:
        """
        Return the bytes of the weights as 'fp32', 'fp16', 'int8' or 'int4'.

        In the last two the vocabulary has 8 bits and is there twice, to be looked up and to be
        multiplied by; norms, biases and what chunks are proven by stay float32.
        """
        if kind not in CODE_BYTES:
            return math.ceil(self.num_parameters * BYTES_OF[kind])
        vocabulary = 2 * self.vocabulary_parameters
        plain = self.num_parameters - self.coded_parameters - vocabulary
        plain += self.vocabulary_parameters * self.is_tied
        coded = self.coded_parameters * (CODE_BYTES[kind] + SCALE_BYTES)
        return math.ceil(4 * plain + coded + vocabulary * (CODE_BYTES['int8'] + SCALE_BYTES))

    def stored_values(self, kind: str) -> int:
        """Return how many numbers the data file of a graph holds, about."""
        if kind not in CODE_BYTES:
            return self.num_parameters
        coded = self.coded_parameters + 2 * self.vocabulary_parameters
        return self.num_parameters + self.vocabulary_parameters * self.is_tied + coded // BLOCK

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
    exact = {f'model.layers.0.{name}.weight' for name in spec.qkv_names}
    coded = (
        math.prod(shape)
        for name, shape in shapes.items()
        if '.layers.' in name and len(shape) > 1 and name not in exact
    )
    return Sizing(
        coded_parameters=sum(coded),
        vocabulary_parameters=spec.vocab_size * spec.hidden_size,
        is_tied=spec.is_tied,
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        flops_per_token=2 * sum(math.prod(shape) for shape in matrices),
        flops_per_pair=4 * spec.num_layers * spec.query_size,
        reach=spec.reach,
        kv_elements_per_token=spec.kv_spec.elements_per_token(),
        max_tokens=spec.max_tokens,
    )
