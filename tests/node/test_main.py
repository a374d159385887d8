# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node's program says when it cannot start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cwm_ros.node.main import EXIT_FAILED

START = (
    'import sys; sys.modules[{name!r}] = None; from cwm_ros.node.main import main; '
    "sys.exit(main(['cwm_node']))"
)


def start_without(name: str) -> str:
    done = subprocess.run(
        [sys.executable, '-c', START.format(name=name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EXIT_FAILED
    return done.stderr


def test_without_ros_it_says_what_to_source() -> None:
    said = start_without('rclpy')

    assert 'source install/setup.bash' in said
    assert 'Traceback' not in said


def test_without_a_library_it_says_which_one() -> None:
    pytest.importorskip('rclpy')
    said = start_without('cryptography')

    assert 'cryptography' in said
    assert 'README.md' in said
    assert 'Source the workspace' not in said
