# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The node with every callback of its topics, services and timers timed.

TIMES_FILE gets a line of seconds and name for each when the node ends. Goals are not among them:
each waits in a thread of its own for the engine.
"""

from __future__ import annotations

import atexit
import os
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING

from rclpy.node import Node

from cwm_ros.node.main import main

if TYPE_CHECKING:
    from collections.abc import Callable

spans: list[tuple[float, str]] = []


def timed(name: str, callback: Callable[..., object]) -> Callable[..., object]:
    def run(*given: object) -> object:
        began_s = time.monotonic()
        try:
            return callback(*given)
        finally:
            spans.append((time.monotonic() - began_s, name))

    return run


def time_callbacks(maker: str, position: int) -> None:
    """Time what a method of Node is given as callback at a position of its arguments."""
    make = getattr(Node, maker)

    def make_timed(self: Node, *given: object, **named: object) -> object:
        args = list(given)
        args[position] = timed(f'{maker} {given[1 - position % 2]}', args[position])
        return make(self, *args, **named)

    setattr(Node, maker, make_timed)


def write() -> None:
    lines = [f'{seconds:.4f} {name}' for seconds, name in spans]
    Path(os.environ['TIMES_FILE']).write_text('\n'.join(lines), encoding='utf-8')


if __name__ == '__main__':
    for maker, position in (
        ('create_subscription', 2),
        ('create_service', 2),
        ('create_timer', 1),
    ):
        time_callbacks(maker, position)
    atexit.register(write)
    sys.exit(main())
