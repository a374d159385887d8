# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Engines on the GPU of this machine; without one, or without TensorRT, everything here is skipped.

Engines are built once, into ``$CWM_HIL_CACHE`` when it is set, else into a temporary folder.
"""

from __future__ import annotations

from dataclasses import replace
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cwm_ros.config import EngineSettings
from cwm_ros.engine.cuda import Device
from cwm_ros.engine.plans import engine_folder, read_sidecar
from cwm_ros.engine.trt import import_tensorrt
from cwm_ros.errors import CwmError
from cwm_ros.model import Checkpoint, find_model

if TYPE_CHECKING:
    from collections.abc import Callable

TINY = Path(__file__).parents[1] / 'model' / 'golden' / 'tiny'


@pytest.fixture(scope='session', autouse=True)
def gpu() -> Device:
    try:
        import_tensorrt()
        return Device()
    except CwmError as exc:
        pytest.skip(f'no GPU to test: {exc}')


@pytest.fixture(scope='session')
def hil_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = os.environ.get('CWM_HIL_CACHE')
    return Path(folder) if folder else tmp_path_factory.mktemp('hil')


@pytest.fixture(scope='session')
def built(gpu: Device, hil_cache: Path) -> Callable[..., EngineSettings]:
    """Return a function that builds an engine where there is none, and says how to open it."""
    assert gpu.info.name

    def build(
        settings: EngineSettings, *, group_layers: int = 2, level: int = 2
    ) -> EngineSettings:
        from cwm_ros.engine_build import build_engine

        settings = replace(settings, kind='tensorrt', cache_dir=str(hil_cache))
        checkpoint = Checkpoint(find_model(settings.model), hil_cache)
        folder = engine_folder(hil_cache, checkpoint.identity, settings.precision)
        if not (folder / 'engine.json').exists():
            *_, last = build_engine(checkpoint, settings, group_layers=group_layers, level=level)
            assert last.folder == str(folder)
            seconds = read_sidecar(folder).build_s
            print(f'built {settings.model} {settings.precision}: {seconds:.1f} s')
        return settings

    return build


@pytest.fixture(scope='session')
def reference_fp16(built: Callable[..., EngineSettings]) -> EngineSettings:
    return built(EngineSettings(model='reference', precision='fp16', prefill_slice=256))


@pytest.fixture(scope='session')
def tiny_settings() -> EngineSettings:
    return EngineSettings(model=str(TINY), context_tokens=1024, prefill_slice=64)
