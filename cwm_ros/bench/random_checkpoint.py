# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a published geometry with random weights: its speed is real."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.model import find_model
from cwm_ros.model.families import read_spec
from cwm_ros.model.table import published_spec

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.model.spec import ModelSpec

RENDERING = ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja')
SPREAD = 0.02
"""Standard deviation of the weights, as models begin their training."""


def write_random_checkpoint(name: str, max_tokens: int, folder: Path) -> Path:
    """
    Write a Llama checkpoint with the sizes of a model of the table, and return its folder.

    Parameters
    ----------
    name
        Entry of the table of published models; what is not Llama about it is left out.
    max_tokens
        Context length.
    folder
        Is made; holds float16 weights in a shard for each layer, and the reference model's
        tokenizer.

    Raises
    ------
    ModelError
        The table has no such model.

    """
    folder.mkdir(parents=True)
    config = _config(published_spec(name), max_tokens)
    (folder / 'config.json').write_text(json.dumps(config), encoding='utf-8')
    for file in RENDERING:
        shutil.copyfile(find_model('reference') / file, folder / file)
    _write_weights(read_spec(folder), folder)
    return folder


def _config(spec: ModelSpec, max_tokens: int) -> dict[str, object]:
    return {
        'architectures': ['LlamaForCausalLM'],
        'model_type': 'llama',
        'vocab_size': spec.vocab_size,
        'hidden_size': spec.hidden_size,
        'intermediate_size': spec.ffn_size,
        'num_hidden_layers': spec.num_layers,
        'num_attention_heads': spec.num_heads,
        'num_key_value_heads': spec.num_kv_heads,
        'head_dim': spec.head_dim,
        'hidden_act': 'silu',
        'max_position_embeddings': max_tokens,
        'rms_norm_eps': 1e-5,
        'rope_theta': 10000.0,
        'tie_word_embeddings': spec.is_tied,
        'eos_token_id': 1,
        'torch_dtype': 'float16',
    }


def _write_weights(spec: ModelSpec, folder: Path) -> None:
    from safetensors.numpy import save_file

    shards: dict[str, list[str]] = {}
    for name in spec.tensor_shapes():
        part = name.split('.')[2] if '.layers.' in name else 'ends'
        shards.setdefault(f'model-{part}.safetensors', []).append(name)
    rng = np.random.default_rng(0)
    for file, names in shards.items():
        shapes = {name: spec.tensor_shapes()[name] for name in names}
        save_file({n: _random(rng, shape) for n, shape in shapes.items()}, folder / file)
    index = {'weight_map': {name: file for file, names in shards.items() for name in names}}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index), encoding='utf-8')


def _random(
    rng: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    if len(shape) == 1:
        return np.ones(shape, np.float16)
    values = rng.standard_normal(shape, np.float32)
    values *= np.float32(SPREAD)
    return values.astype(np.float16)
