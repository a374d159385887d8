# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cwm_ros.errors import ModelError
from cwm_ros.model.weights import Weights

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from cwm_ros.model import Checkpoint

    Tensors = dict[str, npt.NDArray[np.float16]]

NORM = 'model.norm.weight'


def open_weights(folder: Path) -> Weights:
    shapes = {
        name: tensor.shape for name, tensor in load_file(folder / 'model.safetensors').items()
    }
    return Weights(folder, shapes)


def change(folder: Path, **changes: object) -> None:
    """Replace tensors; None removes one."""
    tensors: dict[str, object] = dict(load_file(folder / 'model.safetensors'))
    tensors |= {name.replace('__', '.'): tensor for name, tensor in changes.items()}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / 'model.safetensors')  # type: ignore[arg-type]


def shard(folder: Path) -> None:
    """Split the weights in two files with an index."""
    tensors = load_file(folder / 'model.safetensors')
    (folder / 'model.safetensors').unlink()
    names = sorted(tensors)
    weight_map = {}
    for index, part in enumerate((names[:7], names[7:])):
        file = f'model-{index + 1:05}-of-00002.safetensors'
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index_path = folder / 'model.safetensors.index.json'
    index_path.write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))


@pytest.mark.parametrize('dtype', [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_published_dtype_becomes_float32(copy: Path, dtype: type) -> None:
    values = np.arange(32).astype(dtype)
    change(copy, model__norm__weight=values)
    with open_weights(copy) as weights:
        tensor = weights.get(NORM)

    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, np.arange(32))


def test_shards_equal_one_file(copy: Path, tiny: Checkpoint) -> None:
    shard(copy)
    shapes = tiny.spec.tensor_shapes()
    with Weights(copy, shapes) as shards, Weights(tiny.folder, shapes) as single:
        for name in shapes:
            np.testing.assert_array_equal(shards.get(name), single.get(name))


@pytest.mark.parametrize(
    'name', ['../model.safetensors', '/etc/x.safetensors', 'a\\b.safetensors']
)
def test_an_index_that_points_outside_is_refused(copy: Path, tiny: Checkpoint, name: str) -> None:
    shard(copy)
    index = copy / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': {NORM: name}}))
    with pytest.raises(ModelError, match='weight_map names'):
        Weights(copy, tiny.spec.tensor_shapes())


def test_a_missing_and_a_truncated_shard_are_named(copy: Path, tiny: Checkpoint) -> None:
    shard(copy)
    second = copy / 'model-00002-of-00002.safetensors'
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r'model-00002-of-00002\.safetensors: is not whole'):
        Weights(copy, tiny.spec.tensor_shapes())
    second.unlink()
    with pytest.raises(ModelError, match=r'model-00002-of-00002\.safetensors: is missing'):
        Weights(copy, tiny.spec.tensor_shapes())


@pytest.mark.parametrize(
    ('tensor', 'problem'),
    [
        (None, 'is missing'),
        (np.zeros(31, np.float16), r'has shape \(31,\), config\.json says \(32,\)'),
        (np.zeros(32, np.int32), 'has dtype I32'),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    copy: Path, tiny: Checkpoint, tensor: object, problem: str
) -> None:
    change(copy, model__norm__weight=tensor)
    with pytest.raises(ModelError, match=rf'tensor model\.norm\.weight {problem}'):
        Weights(copy, tiny.spec.tensor_shapes())


def test_a_tensor_that_the_config_does_not_know_is_refused(copy: Path, tiny: Checkpoint) -> None:
    change(copy, model__layers__0__self_attn__q_proj__bias=np.zeros(32, np.float16))
    with pytest.raises(ModelError, match='has no place'):
        Weights(copy, tiny.spec.tensor_shapes())


def test_codes_of_gptq_are_refused_by_name(copy: Path, tiny: Checkpoint) -> None:
    """Older releases say so in quantize_config.json only."""
    projection = 'model__layers__0__self_attn__q_proj__'
    codes = np.zeros((4, 32), np.int32)
    change(copy, **{f'{projection}weight': None, f'{projection}qweight': codes})
    with pytest.raises(ModelError, match=r'q_proj\.weight is missing') as caught:
        Weights(copy, tiny.spec.tensor_shapes())

    assert 'GPTQ and AWQ weights are not supported' in caught.value.hint


def test_values_that_are_not_finite_are_refused(copy: Path, tiny: Checkpoint) -> None:
    change(copy, model__norm__weight=np.full(32, np.inf, np.float16))
    with (
        Weights(copy, tiny.spec.tensor_shapes()) as weights,
        pytest.raises(ModelError, match='not finite'),
    ):
        weights.get(NORM)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='has neither'):
        Weights(tmp_path, {})
