# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the example nodes run, and what they say when a message package is not there."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import rclpy
from rclpy.executors import ExternalShutdownException

if TYPE_CHECKING:
    from collections.abc import Callable

    from rclpy.node import Node


def run(make: Callable[[], Node]) -> int:
    """
    Run a node until a signal ends it, or its own ``SystemExit``.

    Returns
    -------
    int
        Exit status: of the ``SystemExit``, else 0.

    """
    rclpy.init()
    try:
        node = make()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        rclpy.try_shutdown()
    return 0


def find_message(package: str, kind: str, name: str) -> type:
    """
    Return a message or action of a package that need not be there.

    Parameters
    ----------
    package, kind, name
        As 'whisper_msgs', 'action', 'STT'.

    Raises
    ------
    SystemExit
        It is not there; a line on stderr says what to do.

    """
    try:
        return getattr(importlib.import_module(f'{package}.{kind}'), name)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as exc:
        sys.stderr.write(
            f'cwm_ros: {package}/{kind}/{name} is not there ({exc}). Build or install the package '
            f'{package}, and source its workspace.\n'
        )
        raise SystemExit(1) from exc
