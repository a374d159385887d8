# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Lets a text-to-speech action, as that of audio_common, speak each sentence, one at a time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rclpy.action import ActionClient
from rclpy.node import Node
from std_msgs.msg import String

from cwm_ros.examples.running import find_message, run

if TYPE_CHECKING:
    from rclpy.task import Future

MAX_WAITING = 50
RETRY_S = 1.0


class TtsSpeaker(Node):  # type: ignore[misc]
    """
    Sentences of the topic `response` to goals of an action that has a field `text`.

    Parameters `package` and `action` name the action's type, `server` where it is.
    """

    def __init__(self) -> None:
        super().__init__('tts_speaker')
        package = self.declare_parameter('package', 'audio_common_msgs').value
        action = self.declare_parameter('action', 'TTS').value
        server = self.declare_parameter('server', 'say').value
        self._kind = find_message(package, 'action', action)
        self._client = ActionClient(self, self._kind, server)
        self._waiting: deque[str] = deque(maxlen=MAX_WAITING)
        self._is_speaking = False
        self.create_subscription(String, 'response', self._say, MAX_WAITING)
        self.create_timer(RETRY_S, self._speak)

    def _say(self, message: String) -> None:
        self._waiting.append(message.data)
        self._speak()

    def _speak(self) -> None:
        if self._is_speaking or not self._waiting or not self._client.server_is_ready():
            return
        self._is_speaking = True
        goal = self._kind.Goal(text=self._waiting.popleft())  # type: ignore[attr-defined]
        self._client.send_goal_async(goal).add_done_callback(self._accepted)

    def _accepted(self, future: Future) -> None:
        handle = future.result()
        if handle.accepted:
            handle.get_result_async().add_done_callback(self._spoken)
        else:
            self._spoken(future)

    def _spoken(self, _future: Future) -> None:
        self._is_speaking = False
        self._speak()


def main() -> int:
    """Run the node."""
    return run(TtsSpeaker)
