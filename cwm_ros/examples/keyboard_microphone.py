# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Publishes each line that is typed as a prompt."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
import sys
from threading import Thread
from typing import TYPE_CHECKING

from rclpy.node import Node
from std_msgs.msg import String

from cwm_ros.examples.running import run

if TYPE_CHECKING:
    from typing import TextIO


class KeyboardMicrophone(Node):  # type: ignore[misc]
    """
    Lines of a terminal or of standard input to the topic `prompt`.

    Parameter `device` names the terminal, as /dev/tty; empty is standard input.
    """

    def __init__(self) -> None:
        super().__init__('keyboard_microphone')
        self._prompts = self.create_publisher(String, 'prompt', 10)
        device = self.declare_parameter('device', '').value
        Thread(target=self._read, args=(device,), daemon=True).start()

    def _read(self, device: str) -> None:
        with ExitStack() as stack:
            lines: TextIO = sys.stdin
            if device:
                try:
                    lines = stack.enter_context(Path(device).open(encoding='utf-8'))
                except OSError as exc:
                    self.get_logger().warning(f'{device} cannot be read ({exc}); type elsewhere')
                    return
            for line in lines:
                if line.strip():
                    self._prompts.publish(String(data=line.strip()))


def main() -> int:
    """Run the node."""
    return run(KeyboardMicrophone)
