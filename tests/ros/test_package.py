# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The package in an ordinary ROS 2 workspace: built by colcon, found by its tools."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.ros


@pytest.fixture(scope='module')
def install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package as an integrator does, in a workspace of its own."""
    workspace = tmp_path_factory.mktemp('workspace')
    ignore = shutil.ignore_patterns('.venv', '.git', 'build', 'install', 'log', '*.egg-info')
    shutil.copytree(ROOT, workspace / 'src' / 'cwm_ros', ignore=ignore)
    done = subprocess.run(
        [str(shutil.which('colcon')), 'build', '--packages-select', 'cwm_ros'],
        cwd=workspace,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return workspace / 'install' / 'cwm_ros'


def test_share_holds_the_reference_model_and_the_settings(install: Path) -> None:
    share = install / 'share' / 'cwm_ros'

    assert (share / 'package.xml').is_file()
    assert (share / 'engines' / 'reference' / 'model.safetensors').is_file()
    assert (share / 'config' / 'default.yaml').is_file()
    assert (share / 'config' / 'jetson_orin.yaml').is_file()
    assert (share / 'launch' / 'cwm.launch.py').is_file()
    assert (share / 'launch' / 'hil_cycles.yaml').is_file()


def test_ros_finds_the_package_and_its_command(install: Path) -> None:
    setup = install.parent / 'setup.bash'
    done = subprocess.run(
        [
            '/bin/bash',
            '-c',
            f'. {setup} && ros2 pkg prefix cwm_ros && ros2 pkg executables cwm_ros',
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(install) in done.stdout
    assert 'cwm_ros cwm' in done.stdout
