# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A decoder as a description of its blocks.

The graph, the tensors that a checkpoint must hold, and the sizes follow from the description
alone; `cwm_ros.model.families` fills it in from what a checkpoint publishes.
"""

from __future__ import annotations

from dataclasses import dataclass

from cwm_ros.kv import KVSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """
    Rotary position embedding, halves rotated.

    Parameters
    ----------
    theta
        Base of the wavelengths.
    kind
        'default', 'linear' (all wavelengths times ``factor``), 'llama3' (long ones only) or
        'longrope' (each times its own).
    factor, low_factor, high_factor, original_tokens
        Parameters of 'linear' and 'llama3'.
    wave_factors, amplitude
        Parameters of 'longrope': one factor for each wavelength, and what cosines and sines are
        multiplied by.
    num_dims
        How many of a head's dimensions, from the first, are rotated; 0 is all.

    """

    theta: float
    kind: str = 'default'
    factor: float = 1.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    original_tokens: int = 0
    wave_factors: tuple[float, ...] = ()
    amplitude: float = 1.0
    num_dims: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """
    A pre-norm decoder with grouped-query attention and a gated feed-forward.

    A field that a further family needs gets a default that means what was before: fields at
    their default are no part of a model's identity, so windows survive the new field.

    Parameters
    ----------
    architecture
        As in config.json.
    vocab_size, hidden_size, ffn_size, num_layers, num_heads, num_kv_heads, head_dim
        Geometry.
    max_tokens
        Trained context length.
    rope
        Positions.
    norm, norm_eps
        'rms', or 'layer' with mean and bias; and what is added to the mean square.
    norm_offset
        Added to the published weights of every norm.
    has_post_norms
        Whether the outputs of attention and feed-forward are normed as well.
    has_qk_norm
        Whether each head's query and key are normed before they are rotated.
    activation
        Of the gate: 'silu' or 'gelu_tanh'.
    embedding_scale
        What embeddings are multiplied by.
    attention_scale
        What scores are multiplied by; 0 is one over the root of the head dimension.
    attention_cap, logit_cap
        Bound b of scores or logits x, as b * tanh(x / b); 0 is none.
    reaches
        For each layer, how many tokens a token sees, itself included; 0 is all. Empty when all
        layers see all.
    has_qkv_bias, has_output_bias, has_ffn_bias
        Whether projections into and out of attention, and of the feed-forward, add a bias.
    has_fused_projections
        Whether the checkpoint stores query, key and value as one tensor, and gate and up.
    is_tied
        Whether the output projection is the embedding.

    """

    architecture: str
    vocab_size: int
    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_tokens: int
    rope: RopeSpec
    norm: str = 'rms'
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    has_post_norms: bool = False
    has_qk_norm: bool = False
    activation: str = 'silu'
    embedding_scale: float = 1.0
    attention_scale: float = 0.0
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    reaches: tuple[int, ...] = ()
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    has_ffn_bias: bool = False
    has_fused_projections: bool = False
    is_tied: bool = False

    @property
    def kv_spec(self) -> KVSpec:
        """Return the geometry of the cache."""
        return KVSpec(
            num_layers=self.num_layers,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            max_tokens=self.max_tokens,
        )

    @property
    def query_size(self) -> int:
        """Return the width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Return the width of all key heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def query_scale(self) -> float:
        """Return what scores are multiplied by."""
        return self.attention_scale or self.head_dim**-0.5

    @property
    def rotated_dims(self) -> int:
        """Return how many of a head's dimensions are rotated."""
        return self.rope.num_dims or self.head_dim

    @property
    def reach(self) -> int:
        """Return how many tokens back the KV is ever read, the token itself included; 0 is all."""
        return max(self.reaches) if self.reaches and all(self.reaches) else 0

    def layer_reach(self, layer: int) -> int:
        """Return how many tokens a token sees in ``layer``, itself included; 0 is all."""
        return self.reaches[layer] if self.reaches else 0

    @property
    def qkv_names(self) -> tuple[str, ...]:
        """Return the projections whose outputs, one below another, are query, key and value."""
        if self.has_fused_projections:
            return ('self_attn.qkv_proj',)
        return ('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj')

    @property
    def gate_up_names(self) -> tuple[str, ...]:
        """Return the projections whose outputs, one below another, are gate and up."""
        if self.has_fused_projections:
            return ('mlp.gate_up_proj',)
        return ('mlp.gate_proj', 'mlp.up_proj')

    @property
    def ffn_norm_name(self) -> str:
        """Return the norm before the feed-forward."""
        return f'{"pre_feedforward" if self.has_post_norms else "post_attention"}_layernorm'

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every tensor that the checkpoint must hold."""
        vocabulary = (self.vocab_size, self.hidden_size)
        shapes: dict[str, tuple[int, ...]] = {'model.embed_tokens.weight': vocabulary}
        if not self.is_tied:
            shapes['lm_head.weight'] = vocabulary
        shapes |= self._norm_shapes('model.norm')
        for layer in range(self.num_layers):
            shapes |= self._layer_shapes(f'model.layers.{layer}.')
        return shapes

    def _norm_shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        kinds = ('weight', 'bias') if self.norm == 'layer' else ('weight',)
        return {f'{name}.{kind}': (self.hidden_size,) for kind in kinds}

    def _layer_shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        norms = ['input_layernorm', self.ffn_norm_name]
        if self.has_post_norms:
            norms += ['post_attention_layernorm', 'post_feedforward_layernorm']
        shapes: dict[str, tuple[int, ...]] = {}
        for name in norms:
            shapes |= self._norm_shapes(f'{prefix}{name}')
        if self.has_qk_norm:
            for name in ('q_norm', 'k_norm'):
                shapes[f'{prefix}self_attn.{name}.weight'] = (self.head_dim,)
        for name, (rows, columns, has_bias) in self._projections().items():
            shapes[f'{prefix}{name}.weight'] = (rows, columns)
            if has_bias:
                shapes[f'{prefix}{name}.bias'] = (rows,)
        return shapes

    def _projections(self) -> dict[str, tuple[int, int, bool]]:
        """Return outputs, inputs and whether there is a bias, for each projection of a layer."""
        qkv = [self.query_size, self.kv_size, self.kv_size]
        gate_up = [self.ffn_size, self.ffn_size]
        if self.has_fused_projections:
            qkv, gate_up = [sum(qkv)], [sum(gate_up)]
        hidden = self.hidden_size
        qkv_sizes = zip(self.qkv_names, qkv, strict=True)
        gate_up_sizes = zip(self.gate_up_names, gate_up, strict=True)
        return (
            {name: (rows, hidden, self.has_qkv_bias) for name, rows in qkv_sizes}
            | {'self_attn.o_proj': (hidden, self.query_size, self.has_output_bias)}
            | {name: (rows, hidden, self.has_ffn_bias) for name, rows in gate_up_sizes}
            | {'mlp.down_proj': (hidden, self.ffn_size, self.has_ffn_bias)}
        )
