# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A tiny checkpoint of every family, with weights that are the same everywhere and for ever.

The weights are digests of the tensors' names, so golden logits need no golden weights.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
import shutil

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from cwm_ros.model import Checkpoint
from cwm_ros.model.families import read_spec

GOLDEN = Path(__file__).parent / 'model' / 'golden'
RENDERING = ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja')

COMMON: dict[str, object] = {
    'vocab_size': 262,
    'hidden_size': 32,
    'intermediate_size': 48,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'max_position_embeddings': 4096,
    'rms_norm_eps': 1e-5,
    'rope_theta': 10000.0,
    'tie_word_embeddings': False,
    'bos_token_id': 0,
    'eos_token_id': 1,
    'pad_token_id': 5,
    'torch_dtype': 'float32',
}
LLAMA3_ROPE = {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 1024,
}
LONGROPE = {
    'type': 'longrope',
    'short_factor': [1.0, 1.1, 1.2, 1.5],
    'long_factor': [1.1, 2.0, 4.5, 9.0],
}
GELU = {'hidden_act': 'gelu_pytorch_tanh', 'hidden_activation': 'gelu_pytorch_tanh'}


def _config(family: str, **changes: object) -> dict[str, object]:
    named = {'architectures': [f'{family}ForCausalLM'], 'model_type': family.lower()}
    return {**COMMON, 'hidden_act': 'silu', **named, **changes}


FAMILIES: dict[str, dict[str, object]] = {
    'llama-2': _config('Llama', num_key_value_heads=4),
    'tinyllama': _config('Llama'),
    'llama-3': _config(
        'Llama', rope_scaling=LLAMA3_ROPE, rope_theta=500000.0, tie_word_embeddings=True
    ),
    'mistral': _config('Mistral', sliding_window=40, head_dim=16),
    'mistral-all': _config('Mistral', sliding_window=None),
    'qwen2': _config('Qwen2', tie_word_embeddings=True, use_sliding_window=False),
    'qwen2-late': _config(
        'Qwen2', use_sliding_window=True, sliding_window=40, max_window_layers=1
    ),
    'qwen3': _config('Qwen3', head_dim=16, tie_word_embeddings=True),
    'phi-3': _config('Phi3', num_key_value_heads=4, sliding_window=63),
    'phi-3-long': _config(
        'Phi3', rope_scaling=LONGROPE, original_max_position_embeddings=1024
    ),
    'stablelm': _config(
        'StableLm', layer_norm_eps=1e-5, num_key_value_heads=4, partial_rotary_factor=0.25,
        head_dim=None, hidden_size=64,
    ),
    'stablelm-2': _config(
        'StableLm', layer_norm_eps=1e-5, partial_rotary_factor=0.5, use_qkv_bias=True
    ),
    'gemma': _config(
        'Gemma', head_dim=16, num_key_value_heads=1, tie_word_embeddings=True, **GELU
    ),
    'gemma-2': _config(
        'Gemma2',
        num_hidden_layers=3,
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=40,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
        tie_word_embeddings=True,
        **GELU,
    ),
}  # fmt: skip
"""config.json by the name of a test case, in the published form."""


def family_folder(family: str, parent: Path, **changes: object) -> Path:
    """Write the checkpoint of a family into a folder of ``parent``."""
    folder = parent / family
    folder.mkdir(parents=True)
    config = {k: v for k, v in {**FAMILIES[family], **changes}.items() if v is not None}
    (folder / 'config.json').write_text(json.dumps(config, indent=1))
    shapes = read_spec(folder).tensor_shapes()
    tensors = {name: tensor_of(name, shape) for name, shape in shapes.items()}
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
    for name in RENDERING:
        shutil.copy(GOLDEN / 'tiny' / name, folder / name)
    return folder


def open_family(family: str, parent: Path, **changes: object) -> Checkpoint:
    return Checkpoint(family_folder(family, parent, **changes), parent / 'cache')


def tensor_of(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return values in a range that keeps attention far from uniform."""
    size = int(np.prod(shape))
    digest = hashlib.shake_256(name.encode()).digest(2 * size)
    uniform = np.frombuffer(digest, '<u2').astype(np.float32).reshape(shape) / 32768 - 1
    if len(shape) == 1:
        return uniform * np.float32(0.2) + np.float32(name.endswith('norm.weight'))
    return uniform * np.float32(2.5 * shape[1] ** -0.5)
