# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `cwm` command: a shell around `cwm_ros.manager` that works without ROS."""

from __future__ import annotations

import sys

__all__ = ['main']

EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; Ctrl-C is an answer also while modules are imported."""
    try:
        from cwm_ros.cli.app import run

        run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        sys.stderr.write('interrupted; what was committed is safe\n')
        sys.exit(EXIT_INTERRUPTED)
