# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node's bench with real processes; what it measured is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.ros.vehicle import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.ros, pytest.mark.slow]

STAGES = ['answers', 'configured', 'active', 'loaded', 'usable', 'complete']


def test_the_bench_sees_a_start_answers_and_an_end(tmp_path: Path) -> None:
    limits = ['--tokens', '600', '--starts', '1', '--rounds', '2', '--folder', str(tmp_path)]
    ended = subprocess.run(
        [sys.executable, '-m', 'cwm_ros.cli', '--json', 'bench', 'node', *limits],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    rows = {row['case']: row for row in told['rows']}
    times = [rows[stage]['median_s'] for stage in STAGES]
    assert times[0] > 0
    assert times[4] <= times[5], 'usable comes before complete'
    assert times[3] <= times[4], 'the model comes before usable'
    assert rows['ended']['median_s'] > 0
    for door in ('topic, first sentence', 'action, first token'):
        for side in ('node', 'library'):
            assert rows[f'{door}, {side}']['runs'] == 2
            assert rows[f'{door}, {side}']['min_s'] > 0
    assert told['resident_bytes']['window complete'] > told['weights_bytes'] + told['cache_bytes']
    assert [target['limit'] for target in told['targets']] == [250, 500, 1, 5, 5]
    assert not list(tmp_path.iterdir())
