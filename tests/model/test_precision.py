# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs with smaller weights compute what the same graph does with those weights written out."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cwm_ros.config import EngineSettings
from cwm_ros.engine import LogitRows, ort
from cwm_ros.engine.ort import OrtEngine
from cwm_ros.errors import ConfigError
from cwm_ros.kv import Role, Turn
from cwm_ros.model import build_graph, Checkpoint, FirstLayer, size_model
from cwm_ros.model.weight_codes import code_columns
from tests.fakes import complete, freeze, say
from tests.families import family_folder

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime

    from cwm_ros.kv import FloatArray
    from tests.conftest import OpenManager

BITS = {'int8': 8, 'int4': 4}
FORMULATIONS = ('scatter', 'delta')
FAMILIES = ('llama-2', 'qwen2', 'phi-3')
TOKENS = np.arange(5, 65, dtype=np.int32)


def logits(checkpoint: Checkpoint, formulation: str, graphs: Path) -> FloatArray:
    graph = build_graph(checkpoint, formulation, graphs)
    settings = EngineSettings(threads=1, prefill_slice=64)
    with OrtEngine(graph, checkpoint.kv_spec, checkpoint.identity, settings) as engine:
        whole = engine.run(TOKENS[:50], 0, rows=LogitRows.ALL)
        steps = [engine.run(TOKENS[i : i + 1], i) for i in range(50, len(TOKENS))]
        first = FirstLayer(
            checkpoint.folder, checkpoint.spec, is_coded=checkpoint.is_embedding_coded
        )
        with first:
            proof = first.kv(TOKENS, np.arange(len(TOKENS)))
        np.testing.assert_allclose(engine.export_kv(0, len(TOKENS)).kv[0], proof, atol=2e-5)
        return np.concatenate([whole, *steps])


def written_out(folder: Path, kind: str) -> Path:
    """Copy a checkpoint with the weights that its codes stand for."""
    copy = folder.parent / kind / folder.name
    shutil.copytree(folder, copy)
    tensors = load_file(copy / 'model.safetensors')
    for name, tensor in tensors.items():
        is_exact = '.layers.0.self_attn.' in name and 'o_proj' not in name
        if tensor.ndim == 2 and not is_exact:
            bits = BITS[kind] if '.layers.' in name else 8
            codes, scales = code_columns(np.ascontiguousarray(tensor.T), bits)
            wide = codes * np.repeat(scales, 32, axis=0)[: len(codes)]
            tensors[name] = np.ascontiguousarray(wide.T.astype(np.float32))
    save_file(tensors, copy / 'model.safetensors', metadata={'format': 'pt'})
    return copy


@pytest.mark.parametrize('kind', BITS)
@pytest.mark.parametrize('family', FAMILIES)
def test_coded_weights_are_multiplied_as_what_they_stand_for(
    family: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the letter with activations in float32, and near it with the 8 bits that are used."""
    folder = family_folder(family, tmp_path / 'models')
    meant = Checkpoint(written_out(folder, kind), tmp_path)
    coded = Checkpoint(folder, tmp_path, kind)
    expected = logits(meant, 'delta', tmp_path / 'graphs')
    usual = [logits(coded, formulation, tmp_path / 'graphs') for formulation in FORMULATIONS]
    options = ort._session_options

    def precise(settings: EngineSettings) -> onnxruntime.SessionOptions:
        changed = options(settings)
        changed.add_session_config_entry('session.qdq_matmulnbits_accuracy_level', '1')
        return changed

    monkeypatch.setattr(ort, '_session_options', precise)
    for formulation, found in zip(FORMULATIONS, usual, strict=True):
        exact = logits(coded, formulation, tmp_path / 'graphs')
        np.testing.assert_allclose(exact, expected, atol=2e-4)
        assert np.square(found - expected).mean() < 0.05**2 * np.square(expected).mean()


def test_half_weights_are_the_same_model(tmp_path: Path) -> None:
    folder = family_folder('llama-3', tmp_path / 'models')
    tensors = load_file(folder / 'model.safetensors')
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    save_file(halves, folder / 'model.safetensors')
    whole, half = Checkpoint(folder, tmp_path), Checkpoint(folder, tmp_path, 'fp16')

    assert half.identity == whole.identity
    for formulation in FORMULATIONS:
        expected = logits(whole, formulation, tmp_path / 'graphs')
        found = logits(half, formulation, tmp_path / 'graphs')
        assert np.square(found - expected).mean() < 0.002**2 * np.square(expected).mean()


def test_coded_weights_are_models_of_their_own(tmp_path: Path) -> None:
    folder = family_folder('llama-3', tmp_path / 'models')
    kinds = ('fp32', 'int8', 'int4', 'int8-columns')
    identities = [Checkpoint(folder, tmp_path, kind).identity for kind in kinds]

    assert len({identity.model for identity in identities}) == len(kinds)
    assert len({identity.rendering for identity in identities}) == 1


@pytest.mark.parametrize('kind', ['fp32', 'fp16', 'int8', 'int4'])
@pytest.mark.parametrize('family', ['llama-2', 'qwen2'])
def test_the_size_of_weights_is_what_was_foretold(family: str, kind: str, tmp_path: Path) -> None:
    sizes = {'vocab_size': 2048, 'hidden_size': 256, 'intermediate_size': 1024}
    folder = family_folder(family, tmp_path, max_position_embeddings=64, **sizes)
    checkpoint = Checkpoint(folder, tmp_path / 'cache', kind)
    data = build_graph(checkpoint, 'scatter', tmp_path / 'graphs').with_name('model.onnx.data')
    size = size_model(checkpoint.spec).weight_bytes(kind)

    assert size <= data.stat().st_size < size * 1.02 + 40 * 4096  # tensors begin at pages


@pytest.mark.parametrize('kind', BITS)
def test_a_window_belongs_to_the_kind_of_weights(
    kind: str, open_tiny: OpenManager, tmp_path: Path
) -> None:
    engine: dict[str, object] = {'cache_dir': str(tmp_path / 'cache')}
    with open_tiny(engine={**engine, 'precision': kind}) as manager:
        manager.create('trip', 'You are the voice of a car.')
        said = 'Remember that the next stop is at kilometre forty-two, behind the mill, please. '
        for _ in range(4):
            manager.add_turns([Turn(role=Role.USER, text=said * 2)])
        assert say(manager, 'How far is it?').text is not None
        complete(manager)
        freeze(manager)
        tokens = manager.session.tokens.copy()
        kv = manager.engine.export_kv(0, len(tokens)).kv.copy()
    with open_tiny(engine={**engine, 'precision': kind}) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.progress().reused_tokens == len(tokens)
        np.testing.assert_array_equal(manager.engine.export_kv(0, len(tokens)).kv, kv)
    with open_tiny(engine=engine) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.progress().reused_tokens == 0
        assert manager.session.tokens.tolist() == tokens.tolist()


def test_what_no_engine_computes_with_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'engine\.precision of tensorrt'):
        EngineSettings(kind='tensorrt', precision='int4')
    with pytest.raises(ConfigError, match='cpu_fallback'):
        EngineSettings(kind='tensorrt', precision='int8', cpu_fallback=True)
    assert EngineSettings(kind='tensorrt').weights == 'fp16'
    assert EngineSettings(kind='tensorrt', precision='int8').weights == 'int8-columns'
    assert EngineSettings().weights == 'fp32'
