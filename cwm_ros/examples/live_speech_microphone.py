# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Publishes what people said for certain (hri_msgs/LiveSpeech) as prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rclpy.node import Node
from std_msgs.msg import String

from cwm_ros.examples.running import find_message, run

if TYPE_CHECKING:
    from typing import Protocol

    class LiveSpeech(Protocol):
        """What is read of hri_msgs/LiveSpeech."""

        final: str
        confidence: float


class LiveSpeechMicrophone(Node):  # type: ignore[misc]
    """
    Final utterances of the topic `speech` to the topic `prompt`.

    Parameter `min_confidence`, 0 to 1: what is less certain is not passed on.
    """

    def __init__(self) -> None:
        super().__init__('live_speech_microphone')
        kind = find_message('hri_msgs', 'msg', 'LiveSpeech')
        self._min_confidence = self.declare_parameter('min_confidence', 0.0).value
        self._prompts = self.create_publisher(String, 'prompt', 10)
        self.create_subscription(kind, 'speech', self._hear, 10)

    def _hear(self, speech: LiveSpeech) -> None:
        if speech.final.strip() and speech.confidence >= self._min_confidence:
            self._prompts.publish(String(data=speech.final.strip()))


def main() -> int:
    """Run the node."""
    return run(LiveSpeechMicrophone)
