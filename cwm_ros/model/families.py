# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What a family's config.json says, as a `ModelSpec`.

A family is a reader: it takes the description that all families share and says what is different.
"""

from __future__ import annotations

from dataclasses import replace
import math
from typing import TYPE_CHECKING

from cwm_ros.model.config_file import Config
from cwm_ros.model.spec import ModelSpec, RopeSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cwm_ros.errors import ModelError

STATEFUL = (
    *('bamba', 'falconh1', 'granitemoehybrid', 'griffin', 'hymba', 'hyena', 'jamba'),
    *('kimilinear', 'lfm2', 'mamba', 'minimaxtext', 'nemotronh', 'olmohybrid', 'plamo2'),
    *('qwen35', 'qwen3next', 'recurrentgemma', 'retnet', 'rwkv', 'samba', 'xlstm', 'zamba'),
)
"""Parts of names of models with recurrent layers."""
EXPERTS = ('moe', 'mixtral', 'deepseekv', 'gptoss', 'dbrx')
UNQUANTIZED = 'use the unquantized release'
UNSAID_REACH = 4096
"""What sliding_window is to Mistral, Qwen and Gemma 2 where config.json does not have it."""
REMEDIES = {
    'gptq': f'GPTQ weights are not supported: {UNQUANTIZED}',
    'awq': f'AWQ weights are not supported: {UNQUANTIZED}',
}


def read_spec(folder: Path) -> ModelSpec:
    """
    Read config.json.

    Raises
    ------
    ModelError
        The architecture is not supported, or a field is missing, of a wrong type or
        contradicts another; the message names file, field and value.

    """
    return describe(Config(folder / 'config.json'))


def describe(config: Config) -> ModelSpec:
    """
    Return the description of a model from the fields of its config.json.

    Raises
    ------
    ModelError
        As for `read_spec`.

    """
    architectures = config.get('architectures')
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    name = next((name for name in names if name in FAMILIES), '')
    if not name:
        raise _refused(config, names)
    group = config.sub('quantization_config')
    if group is not None:
        method = str(group.get('quant_method'))
        raise config.refuse('quantization_config', REMEDIES.get(method, UNQUANTIZED))
    spec = FAMILIES[name](config, _read_common(config, name))
    hides = any(0 < reach < spec.max_tokens for reach in spec.reaches)
    return spec if hides else replace(spec, reaches=())


def _refused(config: Config, names: list[str]) -> ModelError:
    """Return the error of a model that no family here describes, with the reason if known."""
    said = ' '.join([*names, str(config.get('model_type'))]).lower()
    plain = said.translate({ord(letter): None for letter in '_-.'})
    if any(word in plain for word in STATEFUL):
        return config.refuse(
            'architectures',
            'it keeps a recurrent state, which has no token ranges and so cannot be frozen in '
            'chunks: use a model with attention in every layer',
        )
    if 'phi3small' in plain:
        return config.refuse(
            'architectures', 'its block-sparse attention is not supported: use Phi-3-mini'
        )
    if any(word in plain for word in EXPERTS):
        return config.refuse('architectures', 'mixtures of experts are not supported')
    return config.refuse('architectures', 'use a model of ' + ', '.join(FAMILIES))


def _read_common(config: Config, architecture: str) -> ModelSpec:
    """Read what all families publish under the same names."""
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
        rope=_read_rope(config, head_dim),
        norm_eps=config.number('rms_norm_eps', 1e-6),
        is_tied=config.flag('tie_word_embeddings', default=False),
    )


def _read_llama(config: Config, common: ModelSpec) -> ModelSpec:
    config.only('hidden_act', 'silu')
    config.only('partial_rotary_factor', 1, 1.0)
    has_bias = config.flag('attention_bias', default=False)
    return replace(
        common,
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
        has_ffn_bias=config.flag('mlp_bias', default=False),
    )


def _read_mistral(config: Config, common: ModelSpec) -> ModelSpec:
    config.only('hidden_act', 'silu')
    return replace(common, reaches=_same_reaches(config, common, UNSAID_REACH))


def _read_qwen2(config: Config, common: ModelSpec) -> ModelSpec:
    config.only('hidden_act', 'silu')
    return replace(common, has_qkv_bias=True, reaches=_late_reaches(config, common))


def _read_qwen3(config: Config, common: ModelSpec) -> ModelSpec:
    config.only('hidden_act', 'silu')
    if config.get('head_dim') is None:
        raise config.refuse('head_dim', 'a Qwen3 checkpoint names it')
    has_bias = config.flag('attention_bias', default=False)
    return replace(
        common,
        has_qk_norm=True,
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
        reaches=_late_reaches(config, common),
    )


def _read_phi3(config: Config, common: ModelSpec) -> ModelSpec:
    config.only('hidden_act', 'silu')
    return replace(
        common,
        norm_eps=config.number('rms_norm_eps', 1e-5),
        has_fused_projections=True,
        reaches=_same_reaches(config, common),
    )


def _read_stablelm(config: Config, common: ModelSpec) -> ModelSpec:
    config.only('hidden_act', 'silu')
    config.only('qk_layernorm', False)
    config.only('use_parallel_residual', False)
    return replace(
        common,
        norm='layer',
        norm_eps=config.number('layer_norm_eps', 1e-5),
        rope=_read_rope(config, common.head_dim, part=0.25),
        has_qkv_bias=config.flag('use_qkv_bias', default=False),
    )


def _read_gemma(config: Config, common: ModelSpec) -> ModelSpec:
    # 'gelu' is what the first release said, and corrected: the model was trained with tanh.
    for name in ('hidden_act', 'hidden_activation'):
        config.only(name, 'gelu', 'gelu_pytorch_tanh')
    has_bias = config.flag('attention_bias', default=False)
    return replace(
        common,
        activation='gelu_tanh',
        norm_offset=1.0,
        embedding_scale=math.sqrt(common.hidden_size),
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
        is_tied=config.flag('tie_word_embeddings', default=True),
    )


def _read_gemma2(config: Config, common: ModelSpec) -> ModelSpec:
    config.only('use_bidirectional_attention', False)
    gemma = _read_gemma(config, common)
    reach = config.integer('sliding_window', UNSAID_REACH)
    layers = range(common.num_layers)
    alternating = tuple(reach if layer % 2 == 0 else 0 for layer in layers)
    return replace(
        gemma,
        has_post_norms=True,
        attention_scale=config.number('query_pre_attn_scalar', 256) ** -0.5,
        attention_cap=_optional(config, 'attn_logit_softcapping', 50.0),
        logit_cap=_optional(config, 'final_logit_softcapping', 30.0),
        reaches=_listed_reaches(config, common, reach) or alternating,
    )


FAMILIES: Mapping[str, Callable[[Config, ModelSpec], ModelSpec]] = {
    'LlamaForCausalLM': _read_llama,
    'MistralForCausalLM': _read_mistral,
    'Qwen2ForCausalLM': _read_qwen2,
    'Qwen3ForCausalLM': _read_qwen3,
    'Phi3ForCausalLM': _read_phi3,
    'StableLmForCausalLM': _read_stablelm,
    'GemmaForCausalLM': _read_gemma,
    'Gemma2ForCausalLM': _read_gemma2,
}
"""Readers by the name that config.json has under architectures."""


def _optional(config: Config, name: str, default: float) -> float:
    """Read a number that null switches off, as 0."""
    if name in config.fields and config.get(name) is None:
        return 0.0
    return config.number(name, default)


def _same_reaches(config: Config, common: ModelSpec, unsaid: int = 0) -> tuple[int, ...]:
    """Read how far back every layer sees (published as a sliding window; null is all)."""
    reach = 0 if 'sliding_window' in config.fields else unsaid
    if config.get('sliding_window') is not None:
        reach = config.integer('sliding_window')
    return (reach,) * common.num_layers


def _late_reaches(config: Config, common: ModelSpec) -> tuple[int, ...]:
    """Read Qwen's sliding windows: of layers from max_window_layers on, if switched on."""
    if not config.flag('use_sliding_window', default=False):
        return ()
    if config.fields.get('sliding_window', UNSAID_REACH) is None:
        return ()
    reach = config.integer('sliding_window', UNSAID_REACH)
    first = 0 if config.get('max_window_layers') == 0 else config.integer('max_window_layers', 28)
    late = tuple(reach if layer >= first else 0 for layer in range(common.num_layers))
    return _listed_reaches(config, common, reach) or late


def _listed_reaches(config: Config, common: ModelSpec, reach: int) -> tuple[int, ...]:
    """Read layer_types, which newer releases list; empty when it is absent."""
    kinds = config.get('layer_types')
    if kinds is None:
        return ()
    sizes = {'full_attention': 0, 'sliding_attention': reach}
    if not isinstance(kinds, list) or len(kinds) != common.num_layers:
        raise config.refuse('layer_types', f'it must name the kind of {common.num_layers} layers')
    if not all(isinstance(kind, str) and kind in sizes for kind in kinds):
        raise config.refuse('layer_types', 'supported: ' + ', '.join(sizes))
    return tuple(sizes[kind] for kind in kinds)


def _read_rope(config: Config, head_dim: int, part: float = 1.0) -> RopeSpec:
    """Read RoPE in both published forms: flat with rope_scaling, or rope_parameters."""
    scaling = config.sub('rope_parameters') or config.sub('rope_scaling') or config.of({})
    theta = config.number('rope_theta', 10000.0)
    theta_in_group = scaling.number('rope_theta', theta)
    if config.get('rope_theta') is not None and theta_in_group != theta:
        raise config.refuse('rope_theta', f'rope_parameters says {theta_in_group}')
    part = scaling.number('partial_rotary_factor', config.number('partial_rotary_factor', part))
    num_dims = int(head_dim * part)
    if part > 1 or num_dims % 2 or not num_dims:
        raise config.refuse('partial_rotary_factor', 'it must leave an even number of dimensions')
    rope = RopeSpec(theta=theta_in_group, num_dims=num_dims if num_dims < head_dim else 0)
    name = 'rope_type' if scaling.get('rope_type') is not None else 'type'
    kinds = {'linear': _linear, 'llama3': _llama3, 'longrope': _longrope, 'su': _longrope}
    scaling.only(name, 'default', *kinds)
    kind = str(scaling.get(name) or 'default')
    if kind == 'default':
        return rope
    return kinds[kind](config, scaling, rope, num_dims // 2)


def _linear(_config: Config, scaling: Config, rope: RopeSpec, _num_waves: int) -> RopeSpec:
    return replace(rope, kind='linear', factor=scaling.number('factor'))


def _llama3(_config: Config, scaling: Config, rope: RopeSpec, _num_waves: int) -> RopeSpec:
    return replace(
        rope,
        kind='llama3',
        factor=scaling.number('factor'),
        low_factor=scaling.number('low_freq_factor'),
        high_factor=scaling.number('high_freq_factor'),
        original_tokens=scaling.integer('original_max_position_embeddings'),
    )


def _longrope(config: Config, scaling: Config, rope: RopeSpec, num_waves: int) -> RopeSpec:
    """
    Read Phi-3's two lists of factors, and take one of them for good.

    Published code changes from the short list to the long one when a sequence outgrows the
    original length, and so makes every key in the cache wrong. Here a context that is longer
    than the original has the long list from its first token.
    """
    holder = config if config.get('original_max_position_embeddings') is not None else scaling
    original = holder.integer('original_max_position_embeddings')
    extension = config.integer('max_position_embeddings') / original
    amplitude = 1.0
    if extension > 1:
        amplitude = math.sqrt(1 + math.log(extension) / math.log(original))
    factors = scaling.numbers('long_factor' if extension > 1 else 'short_factor', num_waves)
    amplitude = scaling.number('attention_factor', amplitude)
    return replace(rope, kind='longrope', wave_factors=factors, amplitude=amplitude)
