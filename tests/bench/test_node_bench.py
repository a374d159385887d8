# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the node's bench that need no ROS; tests/ros runs all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench import node_process
from cwm_ros.bench.node import NodeReport
from cwm_ros.config import EngineSettings, Settings, StorageSettings
from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def test_without_ros_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_process, 'NEEDED', ('no_such_rclpy',))
    with pytest.raises(ConfigError, match=r"needs ROS 2.*No module named 'no_such_rclpy'") as seen:
        node_process.check_ros()
    assert 'source the workspace' in str(seen.value)


def test_settings_become_parameters_where_they_are_not_the_defaults(tmp_path: Path) -> None:
    assert node_process._parameters(Settings()) == []
    given = replace(
        Settings(),
        storage=StorageSettings(root=tmp_path, write_behind=False),
        engine=EngineSettings(threads=1),
    )
    assert node_process._parameters(given) == [
        f'storage.root:="{tmp_path}"',
        'storage.write_behind:=false',
        'engine.threads:=1',
    ]


def test_targets_compare_medians_and_subtract_model_and_cache() -> None:
    report = NodeReport(
        machine={'cpu': 'a processor'},
        tokens=100,
        starts_s={'answers': [0.5, 0.7, 0.6]},
        resident={'unconfigured': 80 * MIB, 'window complete': 300 * MIB},
        weights=10 * MIB,
        cache=30 * MIB,
        idle=0.02,
        answers_s={'topic': {'node': [0.011, 0.010, 0.030], 'library': [0.008, 0.008, 0.001]}},
    )
    measured = {
        target.name: (round(target.measured, 3), target.is_met) for target in report.targets
    }

    assert measured == {
        'memory above model and cache [MiB]': (260, False),
        'memory in all [MiB]': (300, True),
        'idle [% of a core]': (2, False),
        'topic: later than the library [ms]': (3, True),
    }
    assert '| answers | 600.0 | 500.0 | 700.0 |' in report.as_text()
    rows = report.as_json()['rows']
    assert isinstance(rows, list)
    assert [row['runs'] for row in rows] == [3, 3, 3]
