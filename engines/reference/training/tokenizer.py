# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Train the tokenizer of the reference model.

Usage: ``python tokenizer.py FOLDER`` writes ``tokenizer.json`` and what belongs to it.
"""

from __future__ import annotations

import json
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from tokenizers import AddedToken, decoders, pre_tokenizers, Regex, Tokenizer, trainers
from tokenizers.models import BPE

from cwm_ros.bench.dialogues import training_talk

if TYPE_CHECKING:
    from collections.abc import Iterator

VOCABULARY = 2048
SPECIALS = ('<|bos|>', '<|end|>', '<|system|>', '<|user|>', '<|assistant|>', '<|pad|>')
WORDS = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
NUM_TALKS, NUM_EXCHANGES = 600, 60
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|> ' + "
    "message['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def texts() -> Iterator[str]:
    """Yield the turns of training dialogues."""
    for seed in range(NUM_TALKS):
        for count, talk in enumerate(training_talk(seed)):
            if count == NUM_EXCHANGES:
                yield from (f' {line.turn.text}' for line in talk.lines)
                break


def train() -> Tokenizer:
    """Train byte-level BPE with isolated digits."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def main() -> None:
    """Write the tokenizer's files."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    train().save(str(folder / 'tokenizer.json'))
    config = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'bos_token': '<|bos|>',
        'eos_token': '<|end|>',
        'pad_token': '<|pad|>',
        'additional_special_tokens': ['<|system|>', '<|user|>', '<|assistant|>'],
        'clean_up_tokenization_spaces': False,
        'add_bos_token': False,
        'model_max_length': 16384,
        'chat_template': CHAT_TEMPLATE,
    }
    (folder / 'tokenizer_config.json').write_text(json.dumps(config, indent=2) + '\n')
    (folder / 'chat_template.jinja').write_text(CHAT_TEMPLATE)


if __name__ == '__main__':
    main()
