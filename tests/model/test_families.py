# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every family: golden logits, that each part of its description counts, and its reach."""

from __future__ import annotations

from dataclasses import fields, replace
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.config import EngineSettings
from cwm_ros.engine import LogitRows
from cwm_ros.engine.ort import OrtEngine
from cwm_ros.errors import ErrorCode, ModelError
from cwm_ros.model import build_graph
from cwm_ros.model.families import read_spec
from tests.families import FAMILIES, GOLDEN, open_family
from tests.model.golden_plan import FIRST_SEEING_HOLE, golden_logits, golden_tokens, HOLE

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from cwm_ros.model import Checkpoint

    Logits = npt.NDArray[np.float32]

SETTINGS = EngineSettings(threads=1, prefill_slice=64)
WITHOUT = {
    'norm_offset': 0.0,
    'embedding_scale': 1.0,
    'attention_scale': 0.0,
    'attention_cap': 0.0,
    'logit_cap': 0.0,
    'reaches': (),
    'activation': 'silu',
}
"""What a part of a description is replaced by, to see whether it counts."""


@pytest.fixture(scope='module')
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('families')


@pytest.fixture(scope='module', params=list(FAMILIES))
def checkpoint(request: pytest.FixtureRequest, parent: Path) -> Checkpoint:
    return open_family(request.param, parent)


def open_engine(checkpoint: Checkpoint, formulation: str, graphs: Path) -> OrtEngine:
    graph = build_graph(checkpoint, formulation, graphs)
    return OrtEngine(graph, checkpoint.kv_spec, checkpoint.identity, SETTINGS)


def computed(engine: OrtEngine) -> dict[str, Logits]:
    """Compute what the golden file holds; the last rows by steps."""

    def compute(tokens: np.ndarray, start: int, allowed: np.ndarray) -> Logits:
        engine.reset()
        has_hole = not allowed[-1, HOLE[0]]
        first = FIRST_SEEING_HOLE if has_hole else len(tokens) - 4
        parts = [engine.run(tokens[:first], start, rows=LogitRows.ALL)]
        if has_hole:
            engine.drop(*HOLE)
            parts.append(engine.run(tokens[first:-4], first, rows=LogitRows.ALL))
        steps = range(len(tokens) - 4, len(tokens))
        parts += [engine.run(tokens[i : i + 1], start + i) for i in steps]
        return np.concatenate(parts)

    return golden_logits(compute)


@pytest.mark.parametrize('formulation', ['scatter', 'delta'])
def test_golden_logits(checkpoint: Checkpoint, formulation: str, parent: Path) -> None:
    golden = np.load(GOLDEN / 'families' / f'{checkpoint.folder.name}.npz')
    with open_engine(checkpoint, formulation, parent) as engine:
        logits = computed(engine)

    assert sorted(logits) == sorted(golden)
    for name in golden:
        np.testing.assert_allclose(logits[name], golden[name], atol=1e-4, rtol=0)


def test_each_part_of_a_description_counts(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that could be left out would not be proven by the golden logits."""
    spec = checkpoint.spec
    golden = np.load(GOLDEN / 'families' / f'{checkpoint.folder.name}.npz')['whole']
    parts = {name: WITHOUT[name] for name in WITHOUT if getattr(spec, name) != WITHOUT[name]}
    others = [replace(spec, **{name: value}) for name, value in parts.items()]
    ropes = {field.name for field in fields(spec.rope)} & {'num_dims', 'amplitude'}
    for name in ropes:
        default = 1.0 if name == 'amplitude' else 0
        if getattr(spec.rope, name) != default:
            others.append(replace(spec, rope=replace(spec.rope, **{name: default})))
    for index, other in enumerate(others):
        monkeypatch.setattr(checkpoint, 'spec', other)
        with open_engine(checkpoint, 'delta', tmp_path / str(index)) as engine:
            tokens = golden_tokens()
            logits = engine.run(tokens, 0, rows=LogitRows.ALL)[-12:, ::16]
        assert np.abs(logits - golden).max() > 1e-2, other


@pytest.mark.parametrize('formulation', ['scatter', 'delta'])
def test_what_lies_behind_the_reach_does_not_count(parent: Path, formulation: str) -> None:
    """All layers of Mistral see 40 tokens: older KV may be missing, at no loss at all."""
    mistral = open_family('mistral', parent / formulation)
    assert mistral.spec.reach == 40
    tokens = golden_tokens()
    with open_engine(mistral, formulation, parent) as engine:
        engine.run(tokens[:80], 0)
        whole = engine.run(tokens[80:], 80, rows=LogitRows.ALL)
        engine.drop(80, 96)
        engine.drop(0, 41)
        partial = engine.run(tokens[80:], 80, rows=LogitRows.ALL)
        engine.drop(80, 96)
        engine.drop(41, 42)
        too_little = engine.run(tokens[80:], 80, rows=LogitRows.ALL)

    np.testing.assert_array_equal(partial, whole)
    assert np.abs(too_little[0] - whole[0]).max() > 1e-3


def test_one_layer_that_sees_all_makes_everything_count(parent: Path) -> None:
    gemma = open_family('gemma-2', parent / 'reach')
    assert gemma.spec.reaches == (40, 0, 40)
    assert gemma.spec.reach == 0
    assert open_family('qwen2-late', parent / 'reach').spec.reaches == (0, 40)
    tokens = golden_tokens()
    with open_engine(gemma, 'delta', parent) as engine:
        engine.run(tokens[:80], 0)
        whole = engine.run(tokens[80:], 80)
        engine.drop(80, 96)
        engine.drop(0, 8)
        partial = engine.run(tokens[80:], 80)

    assert np.abs(partial - whole).max() > 1e-3


def test_a_reach_as_long_as_the_context_is_none(parent: Path) -> None:
    wide = open_family('mistral', parent / 'wide', sliding_window=4096)

    assert wide.spec.reaches == ()


@pytest.mark.parametrize('family', ['mistral', 'qwen2-late', 'gemma-2'])
def test_a_field_that_is_absent_means_what_the_family_publishes(
    tmp_path: Path, family: str
) -> None:
    """transformers takes 4096 tokens where config.json names no window, and none where null."""
    config = {**FAMILIES[family], 'max_position_embeddings': 32768}
    del config['sliding_window']
    reaches = {}
    for name, said in {'absent': config, 'null': {**config, 'sliding_window': None}}.items():
        (tmp_path / 'config.json').write_text(json.dumps(said))
        reaches[name] = read_spec(tmp_path).reaches

    assert set(reaches['absent']) - {0} == {4096}
    if family != 'gemma-2':  # whose null transformers cannot run
        assert reaches['null'] == ()


@pytest.mark.parametrize(
    ('architecture', 'reason'),
    [
        ('MambaForCausalLM', 'recurrent state'),
        ('Mamba2ForCausalLM', 'recurrent state'),
        ('FalconMambaForCausalLM', 'recurrent state'),
        ('RwkvForCausalLM', 'recurrent state'),
        ('JambaForCausalLM', 'recurrent state'),
        ('Zamba2ForCausalLM', 'recurrent state'),
        ('RecurrentGemmaForCausalLM', 'recurrent state'),
        ('Qwen3NextForCausalLM', 'recurrent state'),
        ('Lfm2ForCausalLM', 'recurrent state'),
        ('GraniteMoeHybridForCausalLM', 'recurrent state'),
        ('NemotronHForCausalLM', 'recurrent state'),
        ('Phi3SmallForCausalLM', 'block-sparse attention'),
        ('MixtralForCausalLM', 'mixtures of experts'),
        ('Qwen3MoeForCausalLM', 'mixtures of experts'),
        ('GPT2LMHeadModel', 'use a model of LlamaForCausalLM'),
    ],
)
def test_what_cannot_run_is_refused_by_name(
    tmp_path: Path, architecture: str, reason: str
) -> None:
    config = {**FAMILIES['mistral'], 'architectures': [architecture]}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ModelError, match=architecture) as caught:
        read_spec(tmp_path)

    assert caught.value.code is ErrorCode.UNSUPPORTED_MODEL
    assert reason in caught.value.hint


@pytest.mark.parametrize(
    ('family', 'field', 'value'),
    [
        ('gemma', 'hidden_activation', 'relu'),
        ('gemma-2', 'attn_logit_softcapping', -1),
        ('gemma-2', 'layer_types', ['full_attention']),
        ('gemma-2', 'layer_types', ['chunked_attention'] * 3),
        ('gemma-2', 'use_bidirectional_attention', True),
        ('mistral', 'sliding_window', '40'),
        ('qwen3', 'head_dim', None),
        ('stablelm', 'qk_layernorm', True),
        ('stablelm', 'use_parallel_residual', True),
        ('stablelm', 'partial_rotary_factor', 1.5),
        ('stablelm', 'partial_rotary_factor', 0.01),
        ('qwen2', 'quantization_config', {'quant_method': 'gptq', 'bits': 4}),
        ('llama-2', 'quantization_config', {'quant_method': 'awq', 'bits': 4}),
        ('phi-3-long', 'original_max_position_embeddings', None),
        ('phi-3-long', 'long_factor', None),
        ('phi-3-long', 'long_factor', [1.0] * 3),
        ('phi-3-long', 'long_factor', [1.0, 2.0, 'x', 4.0]),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, family: str, field: str, value: object) -> None:
    config = dict(FAMILIES[family])
    if field == 'long_factor':
        config['rope_scaling'] = {**config['rope_scaling'], field: value}  # type: ignore[dict-item]
    else:
        config[field] = value
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf'config\.json: {field} is ') as caught:
        read_spec(tmp_path)

    assert caught.value.hint
