# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What a checkpoint's config.json says about the decoder, as a description of its blocks.

The graph is built from the description alone, so a further family is a reader that fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
import math
from typing import TYPE_CHECKING

from cwm_ros.errors import ModelError
from cwm_ros.kv import KVSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """
    Rotary position embedding over all of a head's dimensions, halves rotated.

    Parameters
    ----------
    theta
        Base of the wavelengths.
    kind
        'default', 'linear' (all wavelengths times ``factor``) or 'llama3' (long ones only).
    factor, low_factor, high_factor, original_tokens
        Parameters of the scaled kinds.

    """

    theta: float
    kind: str = 'default'
    factor: float = 1.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    original_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """
    A pre-norm decoder with grouped-query attention and a gated feed-forward.

    Parameters
    ----------
    architecture
        As in config.json.
    vocab_size, hidden_size, ffn_size, num_layers, num_heads, num_kv_heads, head_dim
        Geometry.
    max_tokens
        Trained context length.
    norm, norm_eps
        'rms', and what is added to the mean square.
    activation
        Of the gate: 'silu'.
    rope
        Positions.
    has_attention_bias, has_ffn_bias
        Whether the four attention, and the three feed-forward, projections add a bias.
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
    activation: str = 'silu'
    has_attention_bias: bool = False
    has_ffn_bias: bool = False
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

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every tensor that the checkpoint must hold."""
        shapes: dict[str, tuple[int, ...]] = {
            'model.embed_tokens.weight': (self.vocab_size, self.hidden_size),
            'model.norm.weight': (self.hidden_size,),
        }
        if not self.is_tied:
            shapes['lm_head.weight'] = (self.vocab_size, self.hidden_size)
        for layer in range(self.num_layers):
            shapes |= self._layer_shapes(f'model.layers.{layer}.')
        return shapes

    def _layer_shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            f'{prefix}input_layernorm.weight': (self.hidden_size,),
            f'{prefix}post_attention_layernorm.weight': (self.hidden_size,),
        }
        projections = {
            'self_attn.q_proj': (self.query_size, self.hidden_size, self.has_attention_bias),
            'self_attn.k_proj': (self.kv_size, self.hidden_size, self.has_attention_bias),
            'self_attn.v_proj': (self.kv_size, self.hidden_size, self.has_attention_bias),
            'self_attn.o_proj': (self.hidden_size, self.query_size, self.has_attention_bias),
            'mlp.gate_proj': (self.ffn_size, self.hidden_size, self.has_ffn_bias),
            'mlp.up_proj': (self.ffn_size, self.hidden_size, self.has_ffn_bias),
            'mlp.down_proj': (self.hidden_size, self.ffn_size, self.has_ffn_bias),
        }
        for name, (rows, columns, has_bias) in projections.items():
            shapes[f'{prefix}{name}.weight'] = (rows, columns)
            if has_bias:
                shapes[f'{prefix}{name}.bias'] = (rows,)
        return shapes


def read_json(path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, object]:
    """
    Read a JSON object of at most ``limit`` bytes.

    Raises
    ------
    ModelError
        The file is missing, too long, not JSON, or not an object.

    """
    try:
        if path.stat().st_size > limit:
            raise ModelError(f'{path}: longer than {limit} bytes')
        document = json.loads(path.read_bytes())
    except OSError as exc:
        raise ModelError(
            f'{path}: cannot be read: {exc.strerror}',
            hint='give a checkpoint folder in the published Hugging Face layout',
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise ModelError(f'{path}: is not JSON: {exc}', hint='download the file again') from exc
    if not isinstance(document, dict):
        raise ModelError(f'{path}: is not a JSON object', hint='download the file again')
    return document


def read_spec(folder: Path) -> ModelSpec:
    """
    Read config.json.

    Raises
    ------
    ModelError
        The architecture is not supported, or a field is missing, of a wrong type or
        contradicts another; the message names file, field and value.

    """
    config = _Config(folder / 'config.json')
    architectures = config.get('architectures')
    names = architectures if isinstance(architectures, list) else []
    readers = {'LlamaForCausalLM': _read_llama}
    for name in names:
        if name in readers:
            return readers[name](config, name)
    raise config.refuse('architectures', 'use a model of ' + ', '.join(readers))


class _Config:
    """Typed access to config.json, with errors that name the field."""

    def __init__(self, path: Path, fields: Mapping[str, object] | None = None) -> None:
        self.path = path
        self.fields = read_json(path) if fields is None else fields

    def get(self, name: str) -> object:
        return self.fields.get(name)

    def refuse(self, name: str, remedy: str) -> ModelError:
        return ModelError(f'{self.path}: {name} is {self.get(name)!r}', hint=remedy)

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 < value <= 1 << 24:
            raise self.refuse(name, 'it must be a positive integer')
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float):
            raise self.refuse(name, 'it must be a number')
        result = float(value)  # type: ignore[arg-type]
        if not (math.isfinite(result) and result > 0):
            raise self.refuse(name, 'it must be positive and finite')
        return result

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.refuse(name, 'it must be true or false')
        return value

    def only(self, name: str, *allowed: object) -> None:
        if self.get(name) is not None and self.get(name) not in allowed:
            raise self.refuse(name, 'supported: ' + ', '.join(map(repr, allowed)))

    def sub(self, name: str) -> _Config | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.refuse(name, 'it must be an object')
        return _Config(self.path, value)


def _read_llama(config: _Config, architecture: str) -> ModelSpec:
    config.only('hidden_act', 'silu')
    config.only('partial_rotary_factor', 1, 1.0)
    config.only('quantization_config')
    hidden_size = config.integer('hidden_size')
    num_heads = config.integer('num_attention_heads')
    num_kv_heads = config.integer('num_key_value_heads', num_heads)
    if num_heads % num_kv_heads:
        raise config.refuse('num_key_value_heads', f'it must divide {num_heads} heads')
    if config.get('head_dim') is None and hidden_size % num_heads:
        raise config.refuse('hidden_size', f'{num_heads} heads must divide it')
    head_dim = config.integer('head_dim', hidden_size // num_heads)
    if head_dim % 2:
        raise config.refuse('head_dim', 'it must be even')
    return ModelSpec(
        architecture=architecture,
        vocab_size=config.integer('vocab_size'),
        hidden_size=hidden_size,
        ffn_size=config.integer('intermediate_size'),
        num_layers=config.integer('num_hidden_layers'),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_tokens=config.integer('max_position_embeddings', 2048),
        rope=_read_rope(config),
        norm_eps=config.number('rms_norm_eps', 1e-6),
        has_attention_bias=config.flag('attention_bias', default=False),
        has_ffn_bias=config.flag('mlp_bias', default=False),
        is_tied=config.flag('tie_word_embeddings', default=False),
    )


def _read_rope(config: _Config) -> RopeSpec:
    """Read RoPE in both published forms: flat with rope_scaling, or rope_parameters."""
    scaling = config.sub('rope_parameters') or config.sub('rope_scaling')
    theta = config.number('rope_theta', 10000.0)
    if scaling is None:
        return RopeSpec(theta=theta)
    theta_in_group = scaling.number('rope_theta', theta)
    if config.get('rope_theta') is not None and theta_in_group != theta:
        raise config.refuse('rope_theta', f'rope_parameters says {theta_in_group}')
    name = 'rope_type' if scaling.get('rope_type') is not None else 'type'
    scaling.only(name, 'default', 'linear', 'llama3')
    kind = str(scaling.get(name) or 'default')
    if kind == 'default':
        return RopeSpec(theta=theta_in_group)
    if kind == 'linear':
        return RopeSpec(theta=theta_in_group, kind=kind, factor=scaling.number('factor'))
    return RopeSpec(
        theta=theta_in_group,
        kind=kind,
        factor=scaling.number('factor'),
        low_factor=scaling.number('low_freq_factor'),
        high_factor=scaling.number('high_freq_factor'),
        original_tokens=scaling.integer('original_max_position_embeddings'),
    )
