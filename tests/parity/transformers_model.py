# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Random Llama checkpoints, and logits of transformers under any mask; and the golden files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import decoders, models, pre_tokenizers, Tokenizer
import torch
from transformers import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    import numpy.typing as npt

GOLDEN = Path(__file__).parents[1] / 'model' / 'golden'
MARKERS = ('<|bos|>', '<|end|>', '<|system|>', '<|user|>', '<|assistant|>', '<|pad|>')
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|> ' "
    "+ message['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TINY = {
    'vocab_size': 262,
    'hidden_size': 32,
    'intermediate_size': 64,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 8,
    'max_position_embeddings': 8192,
    'rms_norm_eps': 1e-5,
    'tie_word_embeddings': True,
    'bos_token_id': 0,
    'eos_token_id': 1,
}


def random_model(folder: Path, *, shard: str = '5GB', **config: object) -> LlamaForCausalLM:
    """Write a checkpoint with weights large enough that attention is not uniform."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**TINY, 'rope_theta': 10000.0, **config})).eval()
    for parameter in model.parameters():
        is_norm = parameter.ndim == 1
        std = 0.1 if is_norm else 1.5 * parameter.shape[1] ** -0.5
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=std)
    model.half().save_pretrained(folder, max_shard_size=shard)
    write_tokenizer(folder)
    return load_model(folder)


def load_model(folder: Path) -> LlamaForCausalLM:
    """Open a checkpoint for float32; only so are its RoPE buffers float32 as well."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer without merges: 6 markers and 256 bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index + len(MARKERS) for index, letter in enumerate(letters)}
    tokenizer = Tokenizer(
        models.BPE(vocab={m: i for i, m in enumerate(MARKERS)} | vocab, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(MARKERS))
    tokenizer.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text(
        '{"bos_token": "<|bos|>", "eos_token": "<|end|>"}\n'
    )
    (folder / 'chat_template.jinja').write_text(TEMPLATE)


def logits_of(
    model: LlamaForCausalLM,
    tokens: npt.NDArray[np.int32],
    positions: npt.NDArray[np.int64],
    allowed: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """Return logits (T, V) when token i may attend to token j where ``allowed[i, j]``."""
    mask = torch.zeros(1, 1, len(tokens), len(tokens))
    mask.masked_fill_(~torch.from_numpy(allowed), torch.finfo(torch.float32).min)
    with torch.no_grad():
        output = model(
            input_ids=torch.from_numpy(tokens.astype(np.int64))[None],
            position_ids=torch.from_numpy(positions)[None],
            attention_mask=mask,
        )
    return np.asarray(output.logits[0].numpy(), np.float32)


def write_golden() -> None:
    """Write the golden checkpoint and its logits; files are added, never changed."""
    folder = GOLDEN / 'tiny'
    model = random_model(folder)
    tokens = np.random.default_rng(1).integers(0, TINY['vocab_size'], 48).astype(np.int32)
    causal = np.tri(len(tokens), dtype=np.bool_)
    holes = causal.copy()
    holes[24:, 8:16] = False
    near = np.arange(len(tokens))
    np.savez(
        GOLDEN / 'tiny-logits.npz',
        tokens=tokens,
        whole=logits_of(model, tokens, near, causal),
        holes=logits_of(model, tokens, near, holes)[24:],
        late=logits_of(model, tokens, near + 7000, causal)[40:],
    )


if __name__ == '__main__':
    write_golden()
