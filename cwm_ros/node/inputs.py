# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the vehicle tells the node: prompts, ignition, battery, its state.

Subscriptions are volatile: one that asks for transient_local never matches a volatile publisher.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
import uuid

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import BatteryState
from std_msgs.msg import String

from cwm_interfaces.msg import IgnitionState
from cwm_ros.answer import Request
from cwm_ros.errors import ConfigError, CwmError
from cwm_ros.node import convert
from cwm_ros.node.goals import MAX_TEXT
from cwm_ros.power import PowerReading

if TYPE_CHECKING:
    from rclpy.node import Node

    from cwm_ros.node.assistant import Assistant

log = logging.getLogger(__name__)

RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
ANY = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Matches reliable publishers as well as best-effort ones."""


class Inputs:
    """
    All subscriptions of the node.

    Parameters
    ----------
    node
        Where they are.
    assistant
        Who is told.

    """

    def __init__(self, node: Node, assistant: Assistant) -> None:
        self._assistant = assistant
        group = MutuallyExclusiveCallbackGroup()
        self._subscriptions = [
            node.create_subscription(kind, name, take, qos, callback_group=group)
            for kind, name, take, qos in (
                (String, '~/prompt', self._prompt, RELIABLE),
                (String, '~/vehicle_context', self._context, RELIABLE),
                (IgnitionState, '~/ignition', self._ignition, ANY),
                (BatteryState, '~/battery_state', self._battery, ANY),
            )
        ]

    def _prompt(self, message: String) -> None:
        request_id = uuid.uuid4().hex
        num_characters = len(message.data)
        if num_characters > MAX_TEXT:
            problem = f'the prompt has {num_characters} characters'
            self._assistant.refuse(request_id, ConfigError(problem, hint=f'at most {MAX_TEXT}'))
            return
        try:
            self._assistant.ask(request_id, Request(text=message.data))
        except CwmError as exc:
            self._assistant.refuse(request_id, exc)
        except Exception as exc:
            log.exception('a prompt failed')
            self._assistant.refuse(request_id, exc)

    def _context(self, message: String) -> None:
        if len(message.data) > MAX_TEXT:
            log.warning('a vehicle context of %d characters is not used', len(message.data))
            return
        self._assistant.set_context(message.data)

    def _ignition(self, message: IgnitionState) -> None:
        told_s = convert.to_seconds(message.time_to_power_cut)
        cut_s = told_s if told_s and told_s > 0 else None  # a cut in the past is not known
        self._assistant.on_ignition(convert.to_ignition(message), cut_s)

    def _battery(self, message: BatteryState) -> None:
        charge, is_charging = convert.to_battery(message)
        self._assistant.power.take_battery(PowerReading(charge=charge, is_charging=is_charging))
