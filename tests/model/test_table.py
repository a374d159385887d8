# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The table of published models, against the numbers of parameters that their releases state."""

from __future__ import annotations

import pytest

from cwm_ros.codec import CodecId, max_payload_bytes
from cwm_ros.errors import ModelError
from cwm_ros.model import size_model
from cwm_ros.model.table import published_names, published_spec

PARAMETERS = {
    'tinyllama-1.1b': 1_100_048_384,
    'llama-2-7b': 6_738_415_616,
    'llama-3.2-1b': 1_235_814_400,
    'llama-3.2-3b': 3_212_749_824,
    'llama-3.1-8b': 8_030_261_248,
    'mistral-7b-v0.1': 7_241_732_096,
    'mistral-7b-v0.3': 7_248_023_552,
    'gemma-2b': 2_506_172_416,
    'gemma-7b': 8_537_680_896,
    'gemma-2-2b': 2_614_341_888,
    'gemma-2-9b': 9_241_705_984,
    'phi-3-mini-4k': 3_821_079_552,
    'stablelm-3b': 2_795_443_200,
    'qwen2.5-0.5b': 494_032_768,
    'qwen2.5-1.5b': 1_543_714_304,
    'qwen2.5-3b': 3_085_938_688,
    'qwen2.5-7b': 7_615_616_512,
    'qwen3-0.6b': 596_049_920,
    'qwen3-1.7b': 1_720_574_976,
    'qwen3-4b': 4_022_468_096,
    'qwen3-8b': 8_190_735_360,
}


@pytest.mark.parametrize('name', PARAMETERS)
def test_a_published_model_has_the_published_number_of_parameters(name: str) -> None:
    assert size_model(published_spec(name)).num_parameters == PARAMETERS[name]


def test_the_table_is_tested_whole() -> None:
    assert set(published_names()) == {*PARAMETERS, 'phi-3-small-8k'}
    with pytest.raises(ModelError, match='Phi3SmallForCausalLM') as caught:
        published_spec('phi-3-small-8k')
    assert 'block-sparse attention' in caught.value.hint
    with pytest.raises(ModelError, match="'gpt-5' is neither a folder nor in the table"):
        published_spec('gpt-5')


@pytest.mark.parametrize(('name', 'kib'), [
    ('llama-3.1-8b', 128), ('llama-2-7b', 512), ('gemma-2b', 18), ('tinyllama-1.1b', 22),
    ('phi-3-mini-4k', 384), ('qwen2.5-0.5b', 12), ('mistral-7b-v0.1', 128),
])  # fmt: skip
def test_kv_of_a_token(name: str, kib: int) -> None:
    assert size_model(published_spec(name)).kv_bytes(1, 'fp16') == kib << 10


@pytest.mark.parametrize(('kind', 'codec'), [(codec.name.lower(), codec) for codec in CodecId])
@pytest.mark.parametrize('name', ['llama-3.1-8b', 'qwen2.5-0.5b', 'gemma-2b'])
def test_a_window_has_the_size_that_the_codec_gives_it(
    name: str, kind: str, codec: CodecId
) -> None:
    spec = published_spec(name)
    actual = max_payload_bytes(spec.kv_spec, 256, codec)
    estimated = size_model(spec).kv_bytes(256, kind)

    assert estimated <= actual <= estimated * 1.005


def test_a_prefill_costs_what_its_tokens_see() -> None:
    far, near = (size_model(published_spec(f'mistral-7b-v0.{n}')) for n in (3, 1))

    assert far.prefill_flops(4096) == near.prefill_flops(4096)
    assert far.prefill_flops(1) == far.flops_per_token + far.flops_per_pair
    extra = near.prefill_flops(4097) - near.prefill_flops(4096)
    assert extra == near.flops_per_token + 4096 * near.flops_per_pair
    assert far.flops_per_token == 2 * (7_248_023_552 - 2 * 32768 * 4096 - 4096)
