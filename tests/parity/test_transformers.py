# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Logits of both graphs against transformers in float32, at most 1e-4 apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.config import EngineSettings
from cwm_ros.engine import LogitRows
from cwm_ros.engine.ort import OrtEngine
from cwm_ros.errors import ModelError
from cwm_ros.kv import Role, Turn
from cwm_ros.model import build_graph, Checkpoint, find_model

pytest.importorskip('torch')
pytest.importorskip('transformers')

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import LlamaForCausalLM

    Case = tuple[OrtEngine, LlamaForCausalLM]

pytestmark = pytest.mark.parity

LLAMA3_ROPE = {
    'rope_type': 'llama3',
    'rope_theta': 500000.0,
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 1024,
}
CONFIGS: dict[str, dict[str, object]] = {
    'tied': {},
    'untied': {'tie_word_embeddings': False},
    'no groups': {'num_key_value_heads': 4},
    'one group': {'num_key_value_heads': 1},
    'wide heads': {'head_dim': 16},
    'theta': {'rope_parameters': {'rope_type': 'default', 'rope_theta': 500000.0}},
    'linear': {'rope_parameters': {'rope_type': 'linear', 'rope_theta': 1e4, 'factor': 4.0}},
    'llama3': {'rope_parameters': LLAMA3_ROPE},
    'biases': {'attention_bias': True, 'mlp_bias': True},
    'sharded': {'shard': '30KB'},
    'reference': {},
}


@pytest.fixture(scope='module', params=list(CONFIGS))
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, LlamaForCausalLM]:
    from tests.parity.transformers_model import load_model, random_model

    folder = tmp_path_factory.mktemp('model')
    if request.param != 'reference':
        model = random_model(folder, **CONFIGS[request.param])
        return Checkpoint(folder, folder / 'cache'), model
    try:
        found = find_model('reference')
    except ModelError as exc:
        pytest.skip(str(exc))
    return Checkpoint(found, folder / 'cache'), load_model(found)


@pytest.fixture(params=['scatter', 'delta'])
def case(
    request: pytest.FixtureRequest,
    checkpoint: tuple[Checkpoint, LlamaForCausalLM],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Case]:
    opened, model = checkpoint
    path = build_graph(opened, request.param, tmp_path_factory.getbasetemp() / 'graphs')
    settings = EngineSettings(threads=2, prefill_slice=64)
    with OrtEngine(path, opened.kv_spec, opened.identity, settings) as engine:
        yield engine, model


def random_tokens(engine: OrtEngine, num_tokens: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, engine.vocab_size, num_tokens).astype(np.int32)


def test_prefill_and_steps(case: Case) -> None:
    from tests.parity.transformers_model import logits_of

    engine, model = case
    tokens = random_tokens(engine, 300)
    expected = logits_of(model, tokens, np.arange(300), np.tri(300, dtype=np.bool_))
    prefill = engine.run(tokens[:250], 0, rows=LogitRows.ALL)
    steps = [engine.run(tokens[i : i + 1], i)[0] for i in range(250, 300)]

    np.testing.assert_allclose(np.concatenate([prefill, steps]), expected, atol=1e-4, rtol=0)


def test_holes(case: Case) -> None:
    from tests.parity.transformers_model import logits_of

    engine, model = case
    tokens = random_tokens(engine, 200)
    allowed = np.tri(200, dtype=np.bool_)
    allowed[120:, 30:70] = False
    allowed[180:, 5:10] = False
    expected = logits_of(model, tokens, np.arange(200), allowed)
    engine.run(tokens[:120], 0)
    engine.drop(30, 70)
    actual = [engine.run(tokens[120:180], 120, rows=LogitRows.ALL)]
    engine.drop(5, 10)
    actual += [engine.run(tokens[i : i + 1], i) for i in range(180, 200)]

    np.testing.assert_allclose(np.concatenate(actual), expected[120:], atol=1e-4, rtol=0)


def test_late_positions(case: Case) -> None:
    from tests.parity.transformers_model import logits_of

    engine, model = case
    start = engine.capacity - 100
    tokens = random_tokens(engine, 100)
    positions = np.arange(start, start + 100)
    expected = logits_of(model, tokens, positions, np.tri(100, dtype=np.bool_))
    prefill = engine.run(tokens[:90], start, rows=LogitRows.ALL)
    steps = [engine.run(tokens[i : i + 1], start + i)[0] for i in range(90, 100)]

    np.testing.assert_allclose(np.concatenate([prefill, steps]), expected, atol=1e-4, rtol=0)


def test_conversations_render_as_in_transformers(
    checkpoint: tuple[Checkpoint, LlamaForCausalLM],
) -> None:
    from transformers import PreTrainedTokenizerFast

    opened, _ = checkpoint
    theirs = PreTrainedTokenizerFast.from_pretrained(opened.folder)
    turns = [
        Turn(role=Role.SYSTEM, text='You are the voice of a car.'),
        Turn(role=Role.USER, text=' How far can I go?\n'),
        Turn(role=Role.ASSISTANT, text='312 km \u2013 enough for today.'),
    ]
    messages = [{'role': turn.role.value, 'content': turn.text} for turn in turns]
    for prompt in (False, True):
        expected = theirs.apply_chat_template(
            messages, add_generation_prompt=prompt, return_dict=False
        )
        assert opened.chat.render(turns, add_generation_prompt=prompt).tolist() == expected
