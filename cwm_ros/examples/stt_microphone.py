# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Publishes what a speech-to-text action, as that of whisper_ros, has heard, as prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rclpy.action import ActionClient
from rclpy.node import Node
from std_msgs.msg import String

from cwm_ros.examples.running import find_message, run

if TYPE_CHECKING:
    from rclpy.task import Future

RETRY_S = 1.0


class SttMicrophone(Node):  # type: ignore[misc]
    """
    Listens again and again: each result of the action is a prompt.

    Parameters `package` and `action` name the action's type, `server` where it is.
    """

    def __init__(self) -> None:
        super().__init__('stt_microphone')
        package = self.declare_parameter('package', 'whisper_msgs').value
        action = self.declare_parameter('action', 'STT').value
        server = self.declare_parameter('server', '/whisper/listen').value
        self._kind = find_message(package, 'action', action)
        self._prompts = self.create_publisher(String, 'prompt', 10)
        self._client = ActionClient(self, self._kind, server)
        self._is_listening = False
        self.create_timer(RETRY_S, self._listen)

    def _listen(self) -> None:
        if self._is_listening or not self._client.server_is_ready():
            return
        self._is_listening = True
        self._client.send_goal_async(self._kind.Goal()).add_done_callback(self._accepted)  # type: ignore[attr-defined]

    def _accepted(self, future: Future) -> None:
        handle = future.result()
        if handle.accepted:
            handle.get_result_async().add_done_callback(self._heard)
        else:
            self._is_listening = False

    def _heard(self, future: Future) -> None:
        result = future.result().result
        text = getattr(result, 'transcription', result).text.strip()
        if text:
            self._prompts.publish(String(data=text))
        self._is_listening = False
        self._listen()


def main() -> int:
    """Run the node."""
    return run(SttMicrophone)
