# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.errors import ErrorCode, ModelError
from cwm_ros.model import size_model
from cwm_ros.model.families import read_spec
from cwm_ros.model.rope import inverse_wavelengths, rope_tables
from cwm_ros.model.spec import RopeSpec

if TYPE_CHECKING:
    from pathlib import Path

LLAMA_3_1_8B = {
    'architectures': ['LlamaForCausalLM'],
    'hidden_act': 'silu',
    'hidden_size': 4096,
    'intermediate_size': 14336,
    'max_position_embeddings': 131072,
    'num_attention_heads': 32,
    'num_hidden_layers': 32,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-05,
    'rope_scaling': {
        'factor': 8.0,
        'low_freq_factor': 1.0,
        'high_freq_factor': 4.0,
        'original_max_position_embeddings': 8192,
        'rope_type': 'llama3',
    },
    'rope_theta': 500000.0,
    'tie_word_embeddings': False,
    'vocab_size': 128256,
}


def write(folder: Path, **changes: object) -> Path:
    config = {**LLAMA_3_1_8B, **changes}
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


def test_a_published_config_is_described(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path))

    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim) == (32, 8, 128)
    assert spec.rope == RopeSpec(theta=500000.0, kind='llama3', factor=8.0, original_tokens=8192)
    assert spec.kv_spec.elements_per_token() * 2 == 128 << 10


def test_rope_parameters_are_read_as_well(tmp_path: Path) -> None:
    parameters = {'rope_theta': 500000.0, **LLAMA_3_1_8B['rope_scaling']}  # type: ignore[dict-item]
    new = read_spec(
        write(tmp_path, rope_parameters=parameters, rope_scaling=None, rope_theta=None)
    )

    assert new == read_spec(write(tmp_path))


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('architectures', ['MambaForCausalLM']),
        ('architectures', None),
        ('hidden_size', 0),
        ('hidden_size', '4096'),
        ('hidden_size', True),
        ('hidden_size', 4095),
        ('num_key_value_heads', 7),
        ('head_dim', 127),
        ('hidden_act', 'gelu'),
        ('rms_norm_eps', -1),
        ('rms_norm_eps', float('nan')),
        ('tie_word_embeddings', 'no'),
        ('quantization_config', {'bits': 4}),
        ('partial_rotary_factor', 0.5),
        ('rope_scaling', 'llama3'),
    ],
)
def test_a_bad_field_is_named_with_its_value(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(ModelError, match=rf'config\.json: {field} is ') as caught:
        read_spec(write(tmp_path, **{field: value}))

    assert caught.value.code is ErrorCode.UNSUPPORTED_MODEL
    assert caught.value.hint


def test_an_unknown_rope_kind_and_a_contradiction_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="rope_type is 'yarn'"):
        read_spec(write(tmp_path, rope_scaling={'rope_type': 'yarn'}))
    with pytest.raises(ModelError, match='rope_theta is 500000'):
        read_spec(write(tmp_path, rope_parameters={'rope_type': 'default', 'rope_theta': 1e4}))


@pytest.mark.parametrize('content', [b'', b'[]', b'{', b'[' * 100000, b'\xff'])
def test_a_damaged_config_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'config.json').write_bytes(content)
    with pytest.raises(ModelError, match=r'config\.json'):
        read_spec(tmp_path)


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='cannot be read'):
        read_spec(tmp_path)


def test_linear_rope_stretches_positions() -> None:
    plain = rope_tables(RopeSpec(theta=10000.0), 8, 5)
    linear = rope_tables(RopeSpec(theta=10000.0, kind='linear', factor=2.0), 8, 9)

    np.testing.assert_allclose(linear[0][::2], plain[0], atol=1e-6)
    np.testing.assert_allclose(linear[1][::2], plain[1], atol=1e-6)


def test_llama3_rope_keeps_short_waves_and_stretches_long_ones() -> None:
    plain = inverse_wavelengths(RopeSpec(theta=500000.0), 128)
    scaled = inverse_wavelengths(
        RopeSpec(theta=500000.0, kind='llama3', factor=8.0, original_tokens=8192), 128
    )

    np.testing.assert_array_equal(scaled[:20], plain[:20])
    np.testing.assert_allclose(scaled[-20:], plain[-20:] / 8, rtol=1e-6)
    assert (np.diff(scaled) < 0).all()


def test_sizes_of_a_published_model(tmp_path: Path) -> None:
    sizing = size_model(read_spec(write(tmp_path)))

    assert sizing.num_parameters == 8_030_261_248
    assert sizing.kv_bytes(16384) == 2 << 30
    assert 1 << 30 < sizing.kv_bytes(16384, 'int8') < (1 << 30) * 1.04
    assert sizing.tokens_that_fit(0) == 0
    assert sizing.tokens_that_fit(1 << 50) == 131072
    left = sizing.weight_bytes('fp16') + sizing.kv_bytes(1000)
    assert sizing.tokens_that_fit(left, weights='fp16', kv='fp16') == 1000
