# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Windows between a GPU and a processor, and through the death of a process."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from cwm_ros.answer import When
from cwm_ros.config import Settings, StorageSettings, ThawSettings
from cwm_ros.engine.plans import engine_folder
from cwm_ros.engine_build import build_engine
from cwm_ros.manager import Manager
from cwm_ros.model import Checkpoint, find_model
from tests.fakes import complete, freeze, ingest, say

if TYPE_CHECKING:
    from cwm_ros.config import EngineSettings

NUM_TURNS = 30


def settings_of(engine: EngineSettings, root: Path) -> Settings:
    return Settings(
        thaw=ThawSettings(strategy='load'),
        engine=engine,
        storage=StorageSettings(root=root, free_floor_mib=0, lock_timeout_s=5.0),
    )


def answer(settings: Settings, window: str, text: str) -> tuple[str, int]:
    """Return what is answered after a thaw, without keeping it, and how much was reused."""
    with closing(Manager(settings)) as manager:
        thaw = manager.open_window(window)
        complete(manager)
        reused = thaw.progress().reused_tokens
        return say(manager, text, When.COMPLETE, max_tokens=40).text, reused


@pytest.mark.parametrize('first', ['tensorrt', 'onnxruntime'])
def test_a_window_goes_to_the_other_engine(
    reference_fp16: EngineSettings, tmp_path: Path, first: str
) -> None:
    second = {'tensorrt': 'onnxruntime', 'onnxruntime': 'tensorrt'}[first]
    here = settings_of(replace(reference_fp16, kind=first), tmp_path / 'store')
    there = settings_of(replace(reference_fp16, kind=second), tmp_path / 'store')
    with closing(Manager(here)) as manager:
        manager.create('w')
        ingest(manager, NUM_TURNS)
        complete(manager)
        freeze(manager)
        num_tokens = manager.session.num_tokens
        before = say(manager, 'What did I say?', When.COMPLETE, max_tokens=40).text
    found, reused = answer(there, 'w', 'What did I say?')

    assert reused > num_tokens - 300
    assert found == before


def test_windows_survive_a_rebuild(
    reference_fp16: EngineSettings, hil_cache: Path, tmp_path: Path
) -> None:
    """Frozen with one engine, thawed with one of another precision and grouping."""
    checkpoint = Checkpoint(find_model('reference'), hil_cache)
    here = settings_of(reference_fp16, tmp_path / 'store')
    with closing(Manager(here)) as manager:
        manager.create('w')
        ingest(manager, NUM_TURNS)
        complete(manager)
        freeze(manager)
        num_tokens = manager.session.num_tokens
        before = say(manager, 'What did I say?', When.COMPLETE, max_tokens=40).text
    rebuilt = replace(reference_fp16, precision='fp32', context_tokens=4096)
    if not engine_folder(hil_cache, checkpoint.identity, 'fp32').exists():
        for _ in build_engine(checkpoint, rebuilt, group_layers=3, level=1):
            pass
    found, reused = answer(settings_of(rebuilt, tmp_path / 'store'), 'w', 'What did I say?')

    assert reused > num_tokens - 300
    assert found == before


CHILD = """
import sys
from pathlib import Path
from cwm_ros.config import load_settings
from cwm_ros.manager import Manager
from tests.fakes import complete, ingest
manager = Manager(load_settings(Path(sys.argv[1])))
manager.create('w')
ingest(manager, 30)
complete(manager)
print('ready', flush=True)
for progress in manager.freeze():
    print('frozen', progress.chunks_done, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize('moment', ['ready', 'frozen 2'])
def test_killed_in_the_middle_of_a_freeze_all_turns_come_back(
    reference_fp16: EngineSettings, tmp_path: Path, moment: str
) -> None:
    engine = reference_fp16
    config = tmp_path / 'cwm.yaml'
    config.write_text(
        '/**:\n  ros__parameters:\n'
        f'    storage: {{root: {tmp_path / "store"}, free_floor_mib: 0}}\n'
        f'    engine: {{kind: tensorrt, model: reference, cache_dir: {engine.cache_dir}}}\n'
    )
    child = subprocess.Popen(
        [sys.executable, '-c', CHILD, config],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    deadline = time.monotonic() + 120
    while not child.stdout.readline().startswith(moment):
        assert time.monotonic() < deadline
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.communicate()
    settings = settings_of(engine, tmp_path / 'store')
    with closing(Manager(settings)) as manager:
        manager.open_window('w')
        complete(manager)
        assert len(manager.session.turns) == 31
        assert manager.engine.resident.covers(0, manager.session.num_tokens)
        freeze(manager)
