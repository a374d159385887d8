# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Many random lives: no turn lost, no chunk lost, no KV that is not right; see `tests.soak`."""

from __future__ import annotations

from collections import Counter
import json
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.config import (
    CodecSettings,
    EngineSettings,
    Settings,
    StorageSettings,
    ThawSettings,
)
from tests.soak import ANY_CHUNK, copy_of, Life, make_template, turns_in

if TYPE_CHECKING:
    from tests.soak import Oracle

CHILD = Path(__file__).parent / 'soaking_child.py'
STEPS = 8
BATCH = 50
"""Lives in one slow test; twenty of them make a thousand."""
TOLERANCE = {'raw': 1e-3, 'int8': 0.08}
"""int8 rounds to 0.4 % of a channel's largest; what is computed from it deviates more."""


def soak_settings(folder: Path, cache: Path, codec: str) -> Settings:
    return Settings(
        storage=StorageSettings(root=folder, free_floor_mib=0, lock_timeout_s=10),
        codec=CodecSettings(kind=codec, chunk_tokens=128),
        thaw=ThawSettings(first_tokens=100, last_tokens=100, relevant_chunks=1, io_threads=2),
        engine=EngineSettings(threads=1, cache_dir=str(cache)),
    )


@pytest.mark.parametrize('codec', ['raw', 'int8'])
@pytest.mark.parametrize(
    'seeds',
    [
        range(8),
        *(
            pytest.param(range(start, start + BATCH), marks=pytest.mark.slow)
            for start in range(BATCH, BATCH + 500, BATCH)
        ),
    ],
    ids=lambda seeds: f'{seeds.start}-{seeds.stop}',
)
def test_random_lives_lose_nothing_and_hold_nothing_wrong(
    one_engine: Oracle, tmp_path: Path, model_cache: Path, codec: str, seeds: range
) -> None:
    template = soak_settings(tmp_path / 'template', model_cache, codec)
    said = make_template(template)
    done: Counter[str] = Counter()
    for seed in seeds:
        settings = copy_of(template, tmp_path / 'store')
        rng = np.random.default_rng(seed)
        life = Life(
            settings, said, oracle=one_engine, tolerance=TOLERANCE[codec], rng=rng, done=done
        )
        try:
            life.live_through(STEPS)
        except BaseException:
            print(f'{codec}: seed {seed}')  # noqa: T201 - shown when it fails
            raise
        shutil.rmtree(tmp_path / 'store')
    print(codec, dict(done))  # noqa: T201 - shown with -s, and when it fails

    assert done['sequences'] == len(seeds)
    assert done['tokens compared'] > 100 * len(seeds)


@pytest.mark.parametrize('num_kills', [1, pytest.param(12, marks=pytest.mark.slow)])
def test_lives_that_are_killed_lose_nothing(
    one_engine: Oracle, tmp_path: Path, model_cache: Path, num_kills: int
) -> None:
    """A real process, killed at a random moment; its store is then taken up here."""
    template = soak_settings(tmp_path / 'template', model_cache, 'int8')
    make_template(template)
    done: Counter[str] = Counter()
    for seed in range(num_kills):
        settings = copy_of(template, tmp_path / 'store')
        rng = np.random.default_rng([7, num_kills, seed])
        told = _kill_child(settings, seed, float(rng.uniform(0.05, 1.5)))
        committed = turns_in(settings)
        life = Life(
            settings,
            committed,
            oracle=one_engine,
            tolerance=TOLERANCE['int8'],
            rng=rng,
            done=done,
        )
        for name, texts in told.items():
            found = [turn.text for turn in committed[name]]
            assert found[: len(texts)] == texts, f'{name} after kill {seed}'
        life.right.removed.add(ANY_CHUNK)  # the child did not tell
        life.live_through(STEPS)
        shutil.rmtree(tmp_path / 'store')
    print(dict(done))  # noqa: T201 - shown with -s, and when it fails

    assert done['sequences'] == num_kills


def _kill_child(settings: Settings, seed: int, seconds: float) -> dict[str, list[str]]:
    """Let a child live and kill it; return what it said was committed last."""
    arguments = [settings.storage.root, settings.engine.cache_dir, settings.codec.kind, seed]
    child = subprocess.Popen(
        [sys.executable, str(CHILD), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == 'ready\n', child.stderr.read()
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    output, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors
    whole = [line for line in output.splitlines(keepends=True) if line.endswith('}\n')]
    told: dict[str, list[str]] = json.loads(whole[-1]) if whole else {}
    return told
