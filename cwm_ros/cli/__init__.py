# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `cwm` command: a shell around `cwm_ros.manager` that works without ROS."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ['main']

EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; Ctrl-C is an answer also while modules are imported."""
    try:
        from cwm_ros.cli.app import run

        run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        _end_interrupted()
    except ImportError as exc:  # what a native library makes of Ctrl-C while it is loaded
        if not isinstance(exc.__cause__ or exc.__context__, KeyboardInterrupt):
            raise
        _end_interrupted()


def _end_interrupted() -> NoReturn:
    sys.stderr.write('interrupted; what was committed is safe\n')
    sys.exit(EXIT_INTERRUPTED)
