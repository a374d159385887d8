# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The parameter files of boards, read as the command line and the node read them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from cwm_ros.config import load_settings, MIB, Settings
from cwm_ros.footprint import check_footprint, full_window_bytes
from cwm_ros.model.families import read_spec
from cwm_ros.model.sizing import size_model
from cwm_ros.model.table import published_spec
from tests.boards import BOARDS, CONFIG, render

REFERENCE = CONFIG.parent / 'engines' / 'reference'
WINDOWS_AT_LEAST = 3
VEHICLES = [name for name, board in BOARDS.items() if board.is_vehicle]


def load(name: str) -> Settings:
    return load_settings(CONFIG / f'{name}.yaml')


def test_the_files_are_those_of_the_boards() -> None:
    names = {path.stem for path in CONFIG.glob('*.yaml')}

    assert names == {'default', *BOARDS}
    assert VEHICLES == ['raspberry_pi5', 'jetson_orin', 'jetson_thor', 'drive_agx']


@pytest.mark.parametrize('name', BOARDS)
def test_a_file_is_the_default_file_with_the_boards_values(name: str) -> None:
    """`make generate` writes them anew after a change of default.yaml."""
    assert (CONFIG / f'{name}.yaml').read_text(encoding='utf-8') == render(name)


@pytest.mark.parametrize('name', BOARDS)
def test_a_file_names_every_parameter_and_differs_where_it_says(name: str) -> None:
    document = yaml.safe_load((CONFIG / f'{name}.yaml').read_text(encoding='utf-8'))
    groups = document['/**']['ros__parameters']
    loaded, default = load(name), Settings()
    for group in fields(Settings):
        for item in fields(getattr(default, group.name)):
            key = f'{group.name}.{item.name}'
            assert item.name in groups[group.name] or key == 'storage.root', key
            value = getattr(getattr(loaded, group.name), item.name)
            if key in BOARDS[name].values:
                wanted = BOARDS[name].values[key][0]
                assert value == (Path(str(wanted)) if key == 'storage.root' else wanted)
                assert type(groups[group.name][item.name]) is type(wanted), key
            else:
                assert value == getattr(getattr(default, group.name), item.name), key


@pytest.mark.parametrize('name', VEHICLES)
def test_a_vehicle_keeps_nothing_of_strangers_and_nothing_in_the_clear(name: str) -> None:
    settings = load(name)

    assert settings.privacy.encrypt
    assert settings.privacy.default_profile == 'guest'
    assert not settings.privacy.key_path.is_relative_to(settings.storage.root)


@pytest.mark.parametrize('name', ['default', *BOARDS])
def test_the_quota_holds_full_windows_of_the_model(name: str) -> None:
    settings = load(name)
    model = BOARDS[name].model if name in BOARDS else ''
    spec = published_spec(model) if model else read_spec(REFERENCE)

    check_footprint(settings, spec.kv_spec)
    tokens = settings.engine.context_tokens or spec.kv_spec.max_tokens
    assert tokens <= spec.kv_spec.max_tokens
    needed = size_model(spec).kv_bytes(tokens, settings.codec.kind)
    assert settings.storage.quota_mib * MIB >= WINDOWS_AT_LEAST * needed
    assert full_window_bytes(settings, spec.kv_spec) >= needed


@pytest.mark.parametrize('name', [name for name in BOARDS if BOARDS[name].model])
def test_a_thaw_has_several_chunks_on_their_way(name: str) -> None:
    settings = load(name)
    spec = published_spec(BOARDS[name].model)
    chunk = size_model(spec).kv_bytes(settings.codec.chunk_tokens, settings.codec.kind)

    assert settings.thaw.staging_mib * MIB >= 4 * chunk
    full = size_model(spec).kv_bytes(settings.engine.context_tokens, 'fp16')
    assert settings.runtime.min_mem_available_mib * MIB >= full
