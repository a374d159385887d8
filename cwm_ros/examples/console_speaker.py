# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Prints each sentence that the assistant says."""

from __future__ import annotations

import sys

from rclpy.node import Node
from std_msgs.msg import String

from cwm_ros.examples.running import run


class ConsoleSpeaker(Node):  # type: ignore[misc]
    """Sentences of the topic `response` to standard output."""

    def __init__(self) -> None:
        super().__init__('console_speaker')
        self.create_subscription(String, 'response', self._say, 50)

    def _say(self, message: String) -> None:
        sys.stdout.write(f'assistant: {message.data}\n')
        sys.stdout.flush()


def main() -> int:
    """Run the node."""
    return run(ConsoleSpeaker)
