# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A short run of every fuzzer; `make fuzz` is the long one."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys

import pytest

from cwm_ros.errors import CwmError
from tests.fuzz.targets import seeds, TARGETS

RUNS = 1000
QUICK = ('manifest', 'turn_log', 'chunk_prefix', 'payload', 'key')


@pytest.mark.parametrize('name', TARGETS)
def test_right_and_cut_inputs_raise_our_errors_alone(name: str) -> None:
    chance = random.Random(1)
    for data in seeds(name):
        parts = [data, *(data[: chance.randrange(len(data))] for _ in range(3)), b'']
        for part in parts:
            try:
                TARGETS[name](part)
            except CwmError:  # noqa: PERF203
                continue


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec('atheris') is None, reason='needs atheris, the extra "fuzz"'
)
@pytest.mark.parametrize('name', TARGETS)
def test_a_fuzzer_finds_nothing_in_hundreds_of_executions(name: str) -> None:
    runs = RUNS if name in QUICK else RUNS // 5
    command = [sys.executable, '-m', 'tests.fuzz', '--target', name, '--runs', str(runs)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)

    assert done.returncode == 0, done.stderr[-3000:]
    assert f'{runs} executions' in done.stdout
