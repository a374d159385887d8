# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The reference model: a Llama decoder whose weights carry the published names.

Everything but attention runs on flattened tokens, so that nothing is compiled again when the
length of sequences changes.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
from typing import NamedTuple, TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from pathlib import Path

EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Geometry of the model."""

    vocabulary: int = 2048
    width: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    inner: int = 704
    rope_theta: float = 500000.0


class Layer(NamedTuple):
    """Weights of one layer."""

    norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    post_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


LAYER_NAMES = Layer(
    'input_layernorm',
    'self_attn.q_proj',
    'self_attn.k_proj',
    'self_attn.v_proj',
    'self_attn.o_proj',
    'post_attention_layernorm',
    'mlp.gate_proj',
    'mlp.up_proj',
    'mlp.down_proj',
)  # type: ignore[arg-type]
EMBEDDING, FINAL_NORM = 'model.embed_tokens.weight', 'model.norm.weight'
Weights = dict[str, Tensor]


def layer_of(weights: Weights, index: int) -> Layer:
    """Return the weights of a layer."""
    return Layer(*(weights[f'model.layers.{index}.{name}.weight'] for name in LAYER_NAMES))


def initialize(shape: Shape, device: str, seed: int = 0) -> Weights:
    """Draw fresh weights, float32."""
    torch.manual_seed(seed)
    width, kv_width = shape.width, shape.kv_heads * shape.head_dim
    q_width = shape.heads * shape.head_dim
    sizes = (
        None,
        (q_width, width),
        (kv_width, width),
        (kv_width, width),
        (width, q_width),
        None,
        (shape.inner, width),
        (shape.inner, width),
        (width, shape.inner),
    )
    weights = {EMBEDDING: torch.randn(shape.vocabulary, width) * 0.02}
    for index in range(shape.layers):
        for name, size in zip(LAYER_NAMES, sizes, strict=True):
            key = f'model.layers.{index}.{name}.weight'
            if size is None:
                weights[key] = torch.ones(width)
                continue
            scale = size[1] ** -0.5
            if name in {LAYER_NAMES.o, LAYER_NAMES.down}:
                scale /= (2 * shape.layers) ** 0.5
            weights[key] = torch.randn(*size) * scale
    weights[FINAL_NORM] = torch.ones(width)
    return {key: value.to(device).requires_grad_() for key, value in weights.items()}


def rope_table(shape: Shape, positions: int, device: str) -> Tensor:
    """Return cosines and sines, shape (2, positions, D/2)."""
    steps = torch.arange(0, shape.head_dim, 2, device=device, dtype=torch.float64)
    rates = shape.rope_theta ** (-steps / shape.head_dim)
    angles = torch.arange(positions, device=device, dtype=torch.float64)[:, None] * rates
    return torch.stack((angles.cos(), angles.sin())).float()


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """Apply RMSNorm."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * weight


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate halves; x is (N, heads, D), rope (2, N, D/2)."""
    cos, sin = rope[0][:, None], rope[1][:, None]
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def before_attention(
    x: Tensor, layer: Layer, rope: Tensor, head_dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, each (N, heads, D)."""
    y = norm(x, layer.norm).to(dtype)
    q, k, v = (
        (y @ w.to(dtype).T).unflatten(-1, (-1, head_dim)) for w in (layer.q, layer.k, layer.v)
    )
    return rotate(q, rope).to(dtype), rotate(k, rope).to(dtype), v


def after_attention(x: Tensor, attended: Tensor, layer: Layer, dtype: torch.dtype) -> Tensor:
    """Add attention and the gated MLP to the residual stream."""
    x = x + (attended @ layer.o.to(dtype).T).float()
    y = norm(x, layer.post_norm).to(dtype)
    gated = functional.silu(y @ layer.gate.to(dtype).T) * (y @ layer.up.to(dtype).T)
    return x + (gated @ layer.down.to(dtype).T).float()


def weighted_loss(
    x: Tensor, final: Tensor, embedding: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean loss and the accuracy on tokens of high weight."""
    logits = (norm(x, final).to(torch.bfloat16) @ embedding.to(torch.bfloat16).T).float()
    losses = functional.cross_entropy(logits, target, reduction='none')
    is_value = weight >= 20
    right = (logits.argmax(-1) == target) & is_value
    return (losses * weight).sum() / weight.sum(), right.sum() / is_value.sum().clamp(min=1)


def config(shape: Shape, max_tokens: int) -> dict[str, object]:
    """Return config.json of the published layout."""
    return {
        'architectures': ['LlamaForCausalLM'],
        'model_type': 'llama',
        'vocab_size': shape.vocabulary,
        'hidden_size': shape.width,
        'intermediate_size': shape.inner,
        'num_hidden_layers': shape.layers,
        'num_attention_heads': shape.heads,
        'num_key_value_heads': shape.kv_heads,
        'head_dim': shape.head_dim,
        'hidden_act': 'silu',
        'max_position_embeddings': max_tokens,
        'rms_norm_eps': EPSILON,
        'rope_theta': shape.rope_theta,
        'rope_scaling': None,
        'attention_bias': False,
        'mlp_bias': False,
        'attention_dropout': 0.0,
        'initializer_range': 0.02,
        'pretraining_tp': 1,
        'tie_word_embeddings': True,
        'bos_token_id': 0,
        'eos_token_id': 1,
        'pad_token_id': 5,
        'torch_dtype': 'float16',
        'use_cache': True,
    }


def write_config(shape: Shape, max_tokens: int, folder: Path) -> None:
    """Write config.json and generation_config.json."""
    text = json.dumps(config(shape, max_tokens), indent=2)
    (folder / 'config.json').write_text(text + '\n')
    generation = {'bos_token_id': 0, 'eos_token_id': 1, 'pad_token_id': 5, 'do_sample': False}
    (folder / 'generation_config.json').write_text(json.dumps(generation, indent=2) + '\n')
