# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A voice assistant's dialogue node: what was heard comes in, what is to be spoken goes out.

It had a language model of its own that forgot everything at ignition-off. Now it asks cwm_ros,
and three things are new, each marked below: it asks through an action, it knows whether an answer
may be asked for, and it passes on what the assistant takes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import rclpy
from rclpy.action import ActionClient
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from cwm_interfaces.action import Generate
from cwm_interfaces.msg import ErrorCode, ResponseEvent, Usability

if TYPE_CHECKING:
    from rclpy.event_handler import QoSLivelinessChangedInfo
    from rclpy.task import Future

# 2. Usability is latched, and comes with a promise: a writer that does not assert itself for 3 s
# is gone, whatever it said last.
USABILITY = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
    liveliness_lease_duration=Duration(seconds=3),
)
SORRY = 'One moment, please: I am still waking up.'
TIMEOUT_S = 20


class CabinAssistant(Node):
    """Hears `heard`, speaks `speak`; answers come from the node that `memory` names."""

    def __init__(self) -> None:
        super().__init__('cabin_assistant')
        memory = self.declare_parameter('memory', '/cwm').value
        self._is_usable = False
        self._speaker = self.create_publisher(String, 'speak', 10)
        self.create_subscription(String, 'heard', self._hear, 10)
        # 1. The action takes the place of the model.
        self._generate = ActionClient(self, Generate, f'{memory}/generate')
        self.create_subscription(
            Usability,
            f'{memory}/usability',
            self._see,
            USABILITY,
            event_callbacks=_on_liveliness(self._lose),
        )
        self.create_subscription(ResponseEvent, f'{memory}/response_events', self._take_event, 50)

    def _hear(self, heard: String) -> None:
        if not self._generate.server_is_ready():
            self._say(SORRY)
            return
        goal = Generate.Goal(text=heard.data, when=Generate.Goal.WHEN_USABLE)
        goal.timeout.sec = TIMEOUT_S
        if not self._is_usable:
            self.get_logger().info('not usable yet: the answer waits')
        self._generate.send_goal_async(goal).add_done_callback(self._accepted)

    def _accepted(self, future: Future) -> None:
        future.result().get_result_async().add_done_callback(self._ended)

    def _ended(self, future: Future) -> None:
        """Say that there is no answer; sentences were spoken as they came."""
        result = future.result().result
        if result.error_code not in (ErrorCode.NONE, ErrorCode.CANCELLED):
            self.get_logger().warning(f'no answer: {result.error_code} {result.error_msg}')
            self._say(SORRY)

    def _take_event(self, event: ResponseEvent) -> None:
        if event.kind == ResponseEvent.SENTENCE:
            self._say(event.text)
        # 3. What was answered while memory was partial may turn out wrong when the rest is there.
        elif event.kind == ResponseEvent.REVIEW and event.verdict == ResponseEvent.CHANGED:
            self._say(f'I was wrong before. {event.text}')

    def _see(self, usability: Usability) -> None:
        self._is_usable = usability.is_usable

    def _lose(self, info: QoSLivelinessChangedInfo) -> None:
        if info.alive_count == 0:
            self._is_usable = False

    def _say(self, text: str) -> None:
        self._speaker.publish(String(data=text))


def _on_liveliness(callback: object) -> object:
    """Return callbacks for a subscription; their module moved after Humble."""
    try:
        from rclpy.event_handler import SubscriptionEventCallbacks
    except ImportError:
        from rclpy.qos_event import SubscriptionEventCallbacks
    return SubscriptionEventCallbacks(liveliness=callback)


def main() -> None:
    """Run the node."""
    rclpy.init()
    try:
        rclpy.spin(CabinAssistant())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
