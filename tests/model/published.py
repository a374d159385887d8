# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Chat templates as the families publish them, with tiny tokenizers of the same kind."""

from __future__ import annotations

from dataclasses import dataclass
import json
import string
from typing import TYPE_CHECKING

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

if TYPE_CHECKING:
    from pathlib import Path

ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    '{% endif %}'
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    '{% set loop_messages = messages %}{% set system_message = false %}{% endif %}'
    '{% for message in loop_messages %}' + ALTERNATE + '{% if loop.index0 == 0 and system_message '
    "!= false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
    "message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    '{% endif %}{% endfor %}'
)
LLAMA_3 = (
    '{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    '{{ content }}{% endfor %}{% if add_generation_prompt %}'
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    '{{ bos_token }}{% for message in messages %}'
    + ALTERNATE
    + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    + ALTERNATE
    + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + "
    "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{'<start_of_turn>model\n'}}{% endif %}"
)
PHI_3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    '{% endfor %}'
)
QWEN_2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_3 = r"""
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""  # noqa: E501 - as published


@dataclass(frozen=True, kw_only=True)
class Published:
    """
    A family's way to write a conversation.

    ``markers`` begin with those of bos, eos; ``end`` is what ends an answer; ``expected`` is the
    text of S, U, A, U and the beginning of an answer.
    """

    template: str
    kind: str
    markers: tuple[str, ...]
    end: str
    expected: str


PUBLISHED = {
    'llama-2': Published(
        template=LLAMA_2,
        kind='prepend',
        markers=('<s>', '</s>', '<unk>'),
        end='</s>',
        expected='<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]',
    ),
    'llama-3': Published(
        template=LLAMA_3,
        kind='bytes',
        markers=(
            '<|begin_of_text|>', '<|end_of_text|>', '<|start_header_id|>', '<|end_header_id|>',
            '<|eot_id|>',
        ),
        end='<|eot_id|>',
        expected='<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>'
        '<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>'
        '<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>'
        '<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>'
        '<|start_header_id|>assistant<|end_header_id|>\n\n',
    ),
    'mistral': Published(
        template=MISTRAL,
        kind='prepend',
        markers=('<s>', '</s>', '<unk>'),
        end='</s>',
        expected='<s>[INST] S\n\nU [/INST]A</s>[INST] V [/INST]',
    ),
    'gemma': Published(
        template=GEMMA,
        kind='plain',
        markers=('<bos>', '<eos>', '<start_of_turn>', '<end_of_turn>'),
        end='<end_of_turn>',
        expected='<bos><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA'
        '<end_of_turn>\n<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n',
    ),
    'phi-3': Published(
        template=PHI_3,
        kind='prepend',
        markers=(
            '<s>', '<|endoftext|>', '<|end|>', '<|system|>', '<|user|>', '<|assistant|>'
        ),
        end='<|end|>',
        expected='<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\nA<|end|>\n'
        '<|user|>\nV<|end|>\n<|assistant|>\n',
    ),
    'tinyllama': Published(
        template=ZEPHYR,
        kind='prepend',
        markers=('<s>', '</s>', '<unk>'),
        end='</s>',
        expected='<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n'
        '<|assistant|>\n',
    ),
    'stablelm': Published(
        template=ZEPHYR,
        kind='bytes',
        markers=('<|padding|>', '<|endoftext|>'),
        end='<|endoftext|>',
        expected='<|system|>\nS<|endoftext|>\n<|user|>\nU<|endoftext|>\n<|assistant|>\n'
        'A<|endoftext|>\n<|user|>\nV<|endoftext|>\n<|assistant|>\n',
    ),
    'qwen2': Published(
        template=QWEN_2,
        kind='bytes',
        markers=('<|im_start|>', '<|endoftext|>', '<|im_end|>'),
        end='<|im_end|>',
        expected='<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n'
        '<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n'
        '<|im_start|>assistant\n',
    ),
    'qwen3': Published(
        template=QWEN_3,
        kind='bytes',
        markers=('<|im_start|>', '<|endoftext|>', '<|im_end|>', '<think>', '</think>'),
        end='<|im_end|>',
        expected='<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n'
        '<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n'
        '<|im_start|>assistant\n<think>\n\n</think>\n\n',
    ),
}  # fmt: skip
"""By family. S, U, A and V stand for what is said."""

WORDS = ('INST', 'SYS', 'user', 'system', 'assistant', 'model', '<|', '|>')


def write_rendering(published: Published, folder: Path) -> FastTokenizer:
    """Write tokenizer and template into ``folder`` and return the plain tokenizer."""
    is_bytes = published.kind == 'bytes'
    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) if is_bytes else _letters()
    vocab = {m: index for index, m in enumerate([*published.markers, *letters])}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        for length in range(2, len(word) + 1):
            if word[:length] not in vocab:
                vocab[word[:length]] = len(vocab)
                merges.append((word[: length - 1], word[length - 1]))
    tokenizer = FastTokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=not is_bytes))
    _dress(tokenizer, published.kind)
    tokenizer.add_special_tokens(
        [AddedToken(m, rstrip=m in ('<|end|>', '<|assistant|>'), normalized=False)
         for m in published.markers]
    )  # fmt: skip
    tokenizer.save(str(folder / 'tokenizer.json'))
    bos, eos = published.markers[:2]
    config = {'bos_token': bos, 'eos_token': eos, 'chat_template': published.template}
    (folder / 'tokenizer_config.json').write_text(json.dumps(config))
    return tokenizer


def _letters() -> list[str]:
    visible = sorted(set(string.printable) - set(string.whitespace))
    return [f'<0x{byte:02X}>' for byte in range(256)] + ['\u2581', *visible]


def _dress(tokenizer: FastTokenizer, kind: str) -> None:
    """Add what turns spaces into letters, as byte-level and SentencePiece tokenizers do."""
    if kind == 'bytes':
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return
    spaces = normalizers.Replace(' ', '\u2581')
    prefix = [normalizers.Prepend('\u2581')] if kind == 'prepend' else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, spaces])
    strip = [decoders.Strip(' ', 1, 0)] if kind == 'prepend' else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace('\u2581', ' '), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
