# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The Llama equations in float64, written down plainly; nothing of the package is used.

A token attends to the positions that ``sees`` lists for it, so any pattern of holes can be asked
for. RoPE angles are formed in float32, as published models are trained and served.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


class OracleModel:
    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / 'config.json').read_text())
        tensors = load_file(folder / 'model.safetensors')
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def linear(self, x: Array, name: str) -> Array:
        y = self.tensors[f'{name}.weight'] @ x
        bias = self.tensors.get(f'{name}.bias')
        return y if bias is None else y + bias

    def norm(self, x: Array, name: str) -> Array:
        mean_square = float(np.mean(x * x))
        unit = x / math.sqrt(mean_square + self.config['rms_norm_eps'])
        return self.tensors[f'{name}.weight'] * unit

    def rotate(self, head: Array, position: int) -> Array:
        half = len(head) // 2
        turned = np.empty_like(head)
        group = self.config.get('rope_parameters') or self.config
        base = np.float32(group['rope_theta'])
        for i in range(half):
            inverse = np.float32(1) / base ** np.float32(2 * i / len(head))
            angle = float(np.float32(position) * np.float32(inverse))
            cos, sin = math.cos(angle), math.sin(angle)
            turned[i] = head[i] * cos - head[i + half] * sin
            turned[i + half] = head[i + half] * cos + head[i] * sin
        return turned

    def logits(
        self, tokens: list[int], positions: list[int], sees: Callable[[int], list[int]]
    ) -> Array:
        """Return logits (T, V); ``sees`` maps an index of a token to the indices it attends to."""
        hidden = [self.tensors['model.embed_tokens.weight'][token] for token in tokens]
        for layer in range(self.config['num_hidden_layers']):
            hidden = self.block(f'model.layers.{layer}', hidden, positions, sees)
        is_tied = self.config['tie_word_embeddings']
        head = 'model.embed_tokens' if is_tied else 'lm_head'
        return np.array([self.linear(self.norm(h, 'model.norm'), head) for h in hidden])

    def block(
        self,
        name: str,
        hidden: list[Array],
        positions: list[int],
        sees: Callable[[int], list[int]],
    ) -> list[Array]:
        normed = [self.norm(h, f'{name}.input_layernorm') for h in hidden]
        dim = self.config['head_dim']

        def heads(projection: str, index: int) -> list[Array]:
            flat = self.linear(normed[index], f'{name}.self_attn.{projection}')
            return [flat[i : i + dim] for i in range(0, len(flat), dim)]

        everything = range(len(hidden))
        queries = [[self.rotate(h, positions[i]) for h in heads('q_proj', i)] for i in everything]
        keys = [[self.rotate(h, positions[i]) for h in heads('k_proj', i)] for i in everything]
        values = [heads('v_proj', i) for i in everything]
        group = self.config['num_attention_heads'] // self.config['num_key_value_heads']
        out = []
        for i in everything:
            mixed = []
            for h, query in enumerate(queries[i]):
                scores = [query @ keys[j][h // group] / math.sqrt(dim) for j in sees(i)]
                weights = [math.exp(score - max(scores)) for score in scores]
                total = sum(weights)
                parts = [
                    w / total * values[j][h // group]
                    for w, j in zip(weights, sees(i), strict=True)
                ]
                mixed.append(sum(parts, np.zeros(dim)))
            x = hidden[i] + self.linear(np.concatenate(mixed), f'{name}.self_attn.o_proj')
            y = self.norm(x, f'{name}.post_attention_layernorm')
            gate = self.linear(y, f'{name}.mlp.gate_proj')
            gated = gate / (1 + np.exp(-gate)) * self.linear(y, f'{name}.mlp.up_proj')
            out.append(x + self.linear(gated, f'{name}.mlp.down_proj'))
        return out
