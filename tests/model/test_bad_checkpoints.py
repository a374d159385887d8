# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged folders: a clear error, and nothing half-written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cwm_ros.errors import ErrorCode, ModelError
from cwm_ros.kv import Role, Turn
from cwm_ros.model import build_graph, Checkpoint
from tests.families import family_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    Damage = Callable[[Path], None]
    Tensors = dict[str, npt.NDArray[np.float32]]

QKV = 'model.layers.1.self_attn.qkv_proj.weight'
FIRST, SECOND = (f'model-0000{n}-of-00002.safetensors' for n in (1, 2))
INDEX = 'model.safetensors.index.json'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a Phi-3 in two shards."""
    folder = family_folder('phi-3', tmp_path)
    tensors = load_file(folder / 'model.safetensors')
    (folder / 'model.safetensors').unlink()
    names = sorted(tensors)
    parts = {FIRST: names[:6], SECOND: names[6:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / INDEX).write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
    return folder


def config(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / 'config.json'
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def end(token: int) -> Damage:
    """Let an answer end with a token that only the tokenizer of a larger model has."""
    return lambda folder: (folder / 'generation_config.json').write_text(
        json.dumps({'eos_token_id': [1, token]})
    )


def tensors(change: Callable[[Tensors], object]) -> Damage:
    def damage(folder: Path) -> None:
        path = next(p for p in (folder / FIRST, folder / SECOND) if QKV in load_file(p))
        content = load_file(path)
        change(content)
        save_file(content, path)

    return damage


def poison(content: Tensors) -> None:
    content[QKV] = content[QKV].copy()
    content[QKV][3, 4] = np.nan


def shape(content: Tensors) -> None:
    content[QKV] = np.ascontiguousarray(content[QKV].T)


def twice(folder: Path) -> None:
    save_file({QKV: load_file(folder / SECOND).get(QKV, np.zeros(1, np.float32))}, folder / 'x')
    content = load_file(folder / FIRST) | load_file(folder / 'x')
    (folder / 'x').unlink()
    save_file(content, folder / FIRST)


def truncated(folder: Path) -> None:
    path = folder / SECOND
    path.write_bytes(path.read_bytes()[:-100])


def index(content: object) -> Damage:
    def damage(folder: Path) -> None:
        (folder / INDEX).write_text(json.dumps(content))

    return damage


def template(source: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / 'chat_template.jinja').write_text(source)

    return damage


BAD: dict[str, tuple[Damage, str]] = {
    'a missing tensor': (tensors(lambda c: c.pop(QKV)), rf'tensor {QKV} is missing'),
    'an extra tensor': (tensors(lambda c: c.update(extra=c[QKV])), 'tensor extra has no place'),
    'a misshapen tensor': (tensors(shape), rf'tensor {QKV} has shape'),
    'a tensor twice': (twice, rf'tensor {QKV} is also in'),
    'codes of another dtype': (
        tensors(lambda c: c.update({QKV: c[QKV].astype(np.int8)})), rf'tensor {QKV} has dtype I8'
    ),
    'NaN': (tensors(poison), rf'tensor {QKV} holds values that are not finite'),
    'more layers than weights': (config(num_hidden_layers=3), r'layers\.2\..* is missing'),
    'fewer layers than weights': (config(num_hidden_layers=1), r'layers\.1\..* has no place'),
    'another width': (config(intermediate_size=64), 'config.json says'),
    'tied with another family': (config(architectures=['LlamaForCausalLM']), 'is missing'),
    'a truncated shard': (truncated, f'{SECOND}: is not whole'),
    'a missing shard': (lambda f: (f / SECOND).unlink(), f'{SECOND}: is missing'),
    'an index outside': (index({'weight_map': {QKV: '../x.safetensors'}}), 'weight_map names'),
    'an index of nothing': (index({}), 'weight_map is missing or empty'),
    'a larger tokenizer': (config(vocab_size=261), 'ids up to 261'),
    'a smaller tokenizer': (end(262), 'eos_token_id names 262, .* ids up to 261'),
    'GPTQ': (config(quantization_config={'quant_method': 'gptq'}), 'quantization_config is'),
    'a template that loops': (
        template('{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}'),
        'takes more than',
    ),
    'a template that imports': (template('{% import "os" as os %}'), 'chat template fails'),
    'a template that does not compile': (template('{% if %}'), 'cannot be compiled'),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_a_bad_folder_is_refused_and_leaves_nothing(
    folder: Path, tmp_path: Path, name: str
) -> None:
    damage, problem = BAD[name]
    damage(folder)
    with pytest.raises(ModelError, match=problem) as caught:
        run(folder, tmp_path)

    assert caught.value.code is ErrorCode.UNSUPPORTED_MODEL
    assert str(folder) in caught.value.message
    assert caught.value.hint
    graphs = tmp_path / 'graphs'
    assert not graphs.exists() or list(graphs.iterdir()) == []


def test_the_folder_runs_when_nothing_is_wrong(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path)


def run(folder: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint(folder, tmp_path / 'cache')
    checkpoint.chat.render([Turn(role=Role.USER, text='hello')], add_generation_prompt=True)
    build_graph(checkpoint, 'delta', tmp_path / 'graphs')
