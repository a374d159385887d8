# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is configured must fit together before anything is said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cwm_ros.config import CodecSettings, EngineSettings, MIB, Settings, StorageSettings
from cwm_ros.errors import ConfigError, ModelError
from cwm_ros.footprint import check_footprint, full_window_bytes
from cwm_ros.kv import KVSpec, Role, Turn
from cwm_ros.manager import Manager

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import OpenManager

# 64 KiB a token in float16.
LARGE = KVSpec(num_layers=16, num_kv_heads=8, head_dim=128, max_tokens=8192)


def test_a_quota_smaller_than_a_full_window_is_refused() -> None:
    settings = Settings(codec=CodecSettings(kind='fp16'))
    needed = full_window_bytes(settings, LARGE)
    assert 512 * MIB < needed < 520 * MIB
    with pytest.raises(
        ConfigError, match=r'storage.quota_mib is 500, .* takes up to 51\d MiB'
    ) as e:
        check_footprint(settings, LARGE)
    least = int(e.value.hint.split()[3])
    for quota, is_enough in ((least, True), (least - 2, False)):
        other = replace(settings, storage=StorageSettings(quota_mib=quota))
        if is_enough:
            check_footprint(other, LARGE)
        else:
            with pytest.raises(ConfigError):
                check_footprint(other, LARGE)
    check_footprint(replace(settings, engine=EngineSettings(context_tokens=4096)), LARGE)
    check_footprint(Settings(), LARGE)  # int8


def test_a_daily_budget_smaller_than_a_full_window_is_refused() -> None:
    storage = StorageSettings(quota_mib=2000, daily_budget_mib=200)
    with pytest.raises(ConfigError, match=r'storage.daily_budget_mib is 200'):
        check_footprint(Settings(storage=storage), LARGE)
    check_footprint(Settings(storage=replace(storage, daily_budget_mib=0)), LARGE)


def test_another_size_of_chunks_is_refused_and_the_store_s_is_named(
    open_tiny: OpenManager,
) -> None:
    with open_tiny() as manager:
        manager.create('w')
        manager.add_turns([Turn(role=Role.USER, text='Hi')])
        list(manager.catch_up())
        list(manager.freeze())
    with pytest.raises(ConfigError, match=r'chunk_tokens is 512, .* have 128 tokens') as caught:
        open_tiny(codec={'chunk_tokens': 512})
    assert 'set it to 128' in caught.value.hint
    with open_tiny(codec={'kind': 'int8'}) as manager:
        manager.open_window('w')


@pytest.mark.parametrize('changes', [{'quota_mib': 1}, {'daily_budget_mib': 1}])
@pytest.mark.parametrize('is_deferred', [False, True])
def test_the_manager_checks_before_it_opens_the_store_and_loads_the_model(
    settings: Settings, changes: dict[str, int], *, is_deferred: bool
) -> None:
    given = replace(settings, storage=replace(settings.storage, **changes))
    with pytest.raises(ConfigError, match='a full window of this model'):
        Manager(given, defer_engine=is_deferred)
    assert not given.storage.root.exists()


def test_a_model_that_is_not_there_leaves_the_store_usable_until_it_is_loaded(
    settings: Settings, tmp_path: Path
) -> None:
    given = replace(settings, engine=replace(settings.engine, model=str(tmp_path / 'none')))
    with Manager(given, defer_engine=True) as manager:
        assert manager.store.windows() == []
        with pytest.raises(ModelError, match='is not a folder'):
            manager.load_engine()
