# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from cwm_ros.errors import ModelError
from cwm_ros.model import Checkpoint, find_model

if TYPE_CHECKING:
    from pathlib import Path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_identity_names_what_matters(copy: Path, tiny: Checkpoint, tmp_path: Path) -> None:
    cache = tmp_path / 'cache'
    same = Checkpoint(copy, cache)
    edit(copy / 'config.json', transformers_version='6')
    again = Checkpoint(copy, cache)
    edit(copy / 'config.json', rms_norm_eps=2e-5)
    other_config = Checkpoint(copy, cache)
    (copy / 'chat_template.jinja').write_text('{{ messages }}')
    other_template = Checkpoint(copy, cache)
    edit(copy / 'tokenizer.json', normalizer={'type': 'Lowercase'})
    other_tokenizer = Checkpoint(copy, cache)

    assert same.identity == tiny.identity == again.identity
    assert len(same.identity.model) == len(same.identity.rendering) == 32
    assert other_config.identity.model != same.identity.model
    assert other_config.identity.rendering == same.identity.rendering
    assert other_template.identity.model == other_config.identity.model
    assert other_template.identity.rendering != same.identity.rendering
    assert other_tokenizer.identity.model == other_config.identity.model
    assert other_tokenizer.identity.rendering != other_template.identity.rendering


def test_changed_weights_are_another_model_even_under_the_old_time(
    copy: Path, tmp_path: Path
) -> None:
    path = copy / 'model.safetensors'
    before = Checkpoint(copy, tmp_path)
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert Checkpoint(copy, tmp_path).identity.model != before.identity.model

    content[2000] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Checkpoint(copy, tmp_path).identity.model != before.identity.model


def test_the_weights_are_hashed_once(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Checkpoint(copy, tmp_path)
    monkeypatch.setattr('cwm_ros.model.identity._hash_files', lambda _: pytest.fail('hashed'))
    assert Checkpoint(copy, tmp_path).identity == first.identity


@pytest.mark.parametrize('content', [b'', b'{}', b'[]', b'{"stamp": 1, "weights": 2}'])
def test_a_damaged_sidecar_is_made_again(copy: Path, tmp_path: Path, content: bytes) -> None:
    first = Checkpoint(copy, tmp_path)
    (sidecar,) = (tmp_path / 'identity').iterdir()
    sidecar.write_bytes(content)
    assert Checkpoint(copy, tmp_path).identity == first.identity


def test_stop_ids_come_from_the_published_files(copy: Path, tmp_path: Path) -> None:
    assert Checkpoint(copy, tmp_path).stop_ids == {1}
    edit(copy / 'generation_config.json', eos_token_id=[1, 4])
    assert Checkpoint(copy, tmp_path).stop_ids == {1, 4}
    (copy / 'generation_config.json').unlink()
    assert Checkpoint(copy, tmp_path).stop_ids == {1}
    edit(copy / 'config.json', eos_token_id='1')  # noqa: S106 - no password
    with pytest.raises(ModelError, match="eos_token_id is '1'"):
        Checkpoint(copy, tmp_path)
    edit(copy / 'config.json', eos_token_id=None)
    with pytest.raises(ModelError, match='no eos_token_id'):
        Checkpoint(copy, tmp_path)


def test_a_tokenizer_of_a_larger_model_is_refused(copy: Path, tmp_path: Path) -> None:
    edit(copy / 'config.json', vocab_size=200)
    with pytest.raises(ModelError, match=r'ids up to 261.*vocab_size of 200'):
        Checkpoint(copy, tmp_path)


@pytest.mark.parametrize('content', ['{}', '{"added_tokens": [{}]}', '{"model": 3}', '['])
def test_a_damaged_tokenizer_is_refused(copy: Path, tmp_path: Path, content: str) -> None:
    (copy / 'tokenizer.json').write_text(content)
    with pytest.raises(ModelError, match=r'tokenizer\.json'):
        Checkpoint(copy, tmp_path)


def test_models_are_found(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / 'share' / 'cwm_ros' / 'engines' / 'reference'
    installed.parent.mkdir(parents=True)
    copy.rename(installed)
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/nowhere{os.pathsep}{tmp_path}')
    monkeypatch.setattr('cwm_ros.model.checkpoint.__file__', str(tmp_path / 'a' / 'b' / 'c.py'))

    assert find_model('reference') == installed == find_model(str(installed))
    with pytest.raises(ModelError, match='is not a folder'):
        find_model(str(tmp_path / 'absent'))


def test_an_absent_reference_model_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('cwm_ros.model.checkpoint._reference_places', lambda: [tmp_path])
    with pytest.raises(ModelError, match=str(tmp_path)):
        find_model('reference')


def test_the_identity_of_the_reference_model_does_not_change_by_accident(tmp_path: Path) -> None:
    """Change it only together with the weights: every window's KV is computed again then."""
    identity = Checkpoint(find_model('reference'), tmp_path).identity

    assert identity.model.hex() == (
        '606929d1d3ea05b6f6c56f7218136a584e9f3fa4109431bd31013b30198dbe71'
    )
    assert identity.rendering.hex() == (
        'a23d1130b3f3466e3968266feca2c34fd79dd1673281bbabdaf3eb8784a3347c'
    )
