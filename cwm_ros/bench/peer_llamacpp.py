# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp with the weights of a checkpoint, as the peer that our engine is compared with."""

from __future__ import annotations

from ctypes import POINTER
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import EngineError, ModelError
from cwm_ros.model.weights import Weights

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.kv import FloatArray, TokenArray
    from cwm_ros.model import Checkpoint
    from cwm_ros.model.spec import ModelSpec

GGUF_NAMES = {
    'model.embed_tokens': 'token_embd',
    'model.norm': 'output_norm',
    'lm_head': 'output',
    'input_layernorm': 'attn_norm',
    'post_attention_layernorm': 'ffn_norm',
    'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v',
    'self_attn.o_proj': 'attn_output',
    'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down',
}
GGML_TYPE_F32 = 0


GGUF_TYPES = {'fp32': 'F32', 'fp16': 'F16', 'int8': 'Q8_0', 'int4': 'Q4_0'}
"""Blocks of 32 with a float16 scale, in 8 and 4 bits, are what is nearest to ours."""


def write_gguf(checkpoint: Checkpoint, path: Path) -> None:
    """
    Write a checkpoint as GGUF without a vocabulary: token ids go in.

    Weights are of the checkpoint's kind; beside 4 bits the vocabulary has 8, as with ours.

    Raises
    ------
    ModelError
        The model has scaled RoPE, which is not translated.

    """
    import gguf

    spec = checkpoint.spec
    if spec.rope.kind != 'default':
        raise ModelError(f'RoPE {spec.rope.kind} is not written as GGUF')
    writer = gguf.GGUFWriter(path, 'llama')
    writer.add_context_length(spec.max_tokens)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_block_count(spec.num_layers)
    writer.add_feed_forward_length(spec.ffn_size)
    writer.add_head_count(spec.num_heads)
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(spec.rope.theta)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_tokenizer_model('no_vocab')
    with Weights(checkpoint.folder, spec.tensor_shapes()) as weights:
        for name, shape in spec.tensor_shapes().items():
            tensor = _interleaved(spec, name, weights.get(name))
            kind = _gguf_type(name, shape, checkpoint.weights)
            number = gguf.GGMLQuantizationType[kind]
            coded = gguf.quants.quantize(tensor, number)
            writer.add_tensor(_gguf_name(name), coded, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_type(name: str, shape: tuple[int, ...], weights: str) -> str:
    if len(shape) == 1:
        return GGUF_TYPES['fp32']
    is_vocabulary = '.layers.' not in name
    return GGUF_TYPES['int8' if is_vocabulary and weights == 'int4' else weights]


def _gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition('.')
    if not stem.startswith('model.layers.'):
        return f'{GGUF_NAMES[stem]}.{kind}'
    _, _, layer, part = stem.split('.', 3)
    return f'blk.{layer}.{GGUF_NAMES[part]}.{kind}'


def _interleaved(spec: ModelSpec, name: str, tensor: FloatArray) -> FloatArray:
    """Reorder query and key rows: llama.cpp rotates neighbors, published weights halves."""
    heads = {'q_proj': spec.num_heads, 'k_proj': spec.num_kv_heads}.get(name.split('.')[-2])
    if heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, spec.head_dim // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)


class LlamaCpp:
    """
    A llama.cpp context with a float32 cache.

    Parameters
    ----------
    path
        GGUF file.
    context_tokens
        Size of its cache.
    threads
        For prefill and steps alike.

    """

    def __init__(self, path: Path, context_tokens: int, threads: int) -> None:
        import llama_cpp

        self._lib = llama_cpp
        self._llama = llama_cpp.Llama(
            str(path),
            n_ctx=context_tokens,
            n_batch=512,
            n_ubatch=512,
            n_threads=threads,
            n_threads_batch=threads,
            type_k=GGML_TYPE_F32,
            type_v=GGML_TYPE_F32,
            flash_attn=False,  # several times slower with a float32 cache
            verbose=False,
        )

    def run(self, tokens: TokenArray) -> None:
        """Append tokens to its context, computing logits of the last one."""
        lib = self._lib
        for start in range(0, len(tokens), 512):
            part = np.ascontiguousarray(tokens[start : start + 512], np.int32)
            pointer = part.ctypes.data_as(POINTER(lib.llama_token))
            if lib.llama_decode(self._llama.ctx, lib.llama_batch_get_one(pointer, len(part))):
                raise EngineError('llama.cpp failed')

    def logits(self) -> FloatArray:
        """Return the logits of the last token, shape (V,)."""
        pointer = self._lib.llama_get_logits(self._llama.ctx)
        return np.ctypeslib.as_array(pointer, (self._llama.n_vocab(),)).copy()

    def rewind(self, position: int) -> None:
        """Forget the positions from ``position`` on."""
        memory = self._lib.llama_get_memory(self._llama.ctx)
        self._lib.llama_memory_seq_rm(memory, 0, position, -1)

    def close(self) -> None:
        """Free it."""
        self._llama.close()
