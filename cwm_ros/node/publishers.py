# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the node tells unasked: latched state, progress, sentences, diagnostics.

State is published by one thread of its own, in order, on every edge and at 1 Hz, so that it does
not wait for a callback; and only while the engine's thread is alive, so that its liveliness means
something. Publishers are plain ones, since a lifecycle publisher is silent while inactive.
"""

from __future__ import annotations

import logging
from threading import Event, Thread
import time
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, Float32, Header, String

from cwm_interfaces.msg import (
    PowerStatus,
    ResponseEvent,
    StorageStatus,
    ThawProgress,
    Usability,
    WindowInfoArray,
)
from cwm_ros.node import convert
from cwm_ros.node.diagnostics import diagnose
from cwm_ros.node.failures import read_boot_id
from cwm_ros.node.state import Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from rclpy.node import Node

    from cwm_ros.node.state import Snapshot
    from cwm_ros.node.thaw_report import Report

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
LATE_LOOK_S = 0.05
DEADLINE_S = 2.0
LEASE_S = 3.0
CLOCK_VALID_S = 1_600_000_000
"""A clock before 2020 was never set."""

LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
STREAM = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
SPEECH = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
USABILITY = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    deadline=Duration(seconds=DEADLINE_S),
    liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
    liveliness_lease_duration=Duration(seconds=LEASE_S),
)


class Publishers:
    """
    The node's topics; `start` begins the thread that publishes state.

    Parameters
    ----------
    node
        Whose topics they are.
    snapshot
        Gives what is true now; called in the publishing thread.
    take_thaws
        Gives what is to be told of thaws since it was asked last; likewise.

    """

    def __init__(
        self,
        node: Node,
        snapshot: Callable[[], Snapshot],
        take_thaws: Callable[[], list[Report]],
    ) -> None:
        self._node = node
        self._snapshot = snapshot
        self._take_thaws = take_thaws
        self._boot_id = read_boot_id()
        self._usability = node.create_publisher(Usability, '~/usability', USABILITY)
        self._is_usable = node.create_publisher(Bool, '~/is_usable', LATCHED)
        self._progress = node.create_publisher(Float32, '~/progress', LATCHED)
        self._thaw = node.create_publisher(ThawProgress, '~/thaw_progress', STREAM)
        self._windows = node.create_publisher(WindowInfoArray, '~/windows', LATCHED)
        self._storage = node.create_publisher(StorageStatus, '~/storage', LATCHED)
        self._power = node.create_publisher(PowerStatus, '~/power_policy', LATCHED)
        self._response = node.create_publisher(String, '~/response', SPEECH)
        self._events = node.create_publisher(ResponseEvent, '~/response_events', SPEECH)
        self._diagnostics = node.create_publisher(DiagnosticArray, '/diagnostics', STREAM)
        self._sent: Snapshot | None = None
        self._sequence = 0
        self._changed = Event()
        self._is_ending = False
        self._thread = Thread(target=self._run, name='cwm-state', daemon=True)

    def start(self) -> None:
        """Begin to publish state."""
        self._thread.start()

    def wake(self) -> None:
        """Say that something changed; called from any thread."""
        self._changed.set()

    def close(self) -> None:
        """Publish the last state, and end the thread."""
        self._is_ending = True
        self._changed.set()
        self._thread.join(DEADLINE_S)

    def speak(self, event: ResponseEvent) -> None:
        """Publish a sentence, or how an answer ended; called from any thread."""
        event.header, event.time_valid = self._header()
        self._events.publish(event)
        if event.kind == ResponseEvent.SENTENCE:
            self._response.publish(String(data=event.text))

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        beat_s = -HEARTBEAT_S
        while True:
            left_s = beat_s + HEARTBEAT_S - time.monotonic()
            self._changed.wait(max(LATE_LOOK_S, left_s))
            self._changed.clear()
            is_ending = self._is_ending
            try:
                now = self._snapshot()
                self._publish_thaws()
                # A step that lasts stops the heart, so that subscribers miss it within 3 s.
                is_beat = time.monotonic() >= beat_s + HEARTBEAT_S and not now.is_late
                if is_beat:
                    beat_s = time.monotonic()
                self._publish(now, is_beat=is_beat)
            except Exception:
                if is_ending:
                    return  # the context went first
                log.exception('state could not be published')
            if is_ending:
                return

    def _publish(self, now: Snapshot, *, is_beat: bool) -> None:
        before, self._sent = self._sent, now
        is_edge = before is None or now.usability != before.usability
        # A hang is told once; then silence lets the lease run out.
        if is_edge or (is_beat and now.phase is not Phase.ENGINE_HUNG):
            self._publish_usability(now)
        if before is None or now.view.progress != before.view.progress:
            self._publish_progress(now)
        if before is None or (now.shelf, now.view.window) != (before.shelf, before.view.window):
            self._publish_shelf(now)
        power_now = (now.power, now.deferred, now.override_left_s > 0)
        if before is None or power_now != (
            before.power,
            before.deferred,
            before.override_left_s > 0,
        ):
            power = convert.to_power(
                now.power, override_left_s=now.override_left_s, deferred=now.deferred
            )
            power.header, power.time_valid = self._header()
            self._power.publish(power)
        if is_beat:
            header, _ = self._header()
            name = self._node.get_fully_qualified_name()
            self._diagnostics.publish(diagnose(now, name, header))

    def _publish_usability(self, now: Snapshot) -> None:
        self._sequence += 1
        view = now.view
        message = Usability(
            boot_id=self._boot_id,
            sequence=self._sequence,
            window=view.window,
            generation=view.generation,
            state=int(now.phase),
            is_usable=now.is_usable,
            is_complete=now.is_usable and view.is_complete,
            fidelity=convert.to_fidelity(view.fidelity),
            committed_turn=view.committed_turns,
            reason=now.reason,
        )
        message.header, message.time_valid = self._header()
        self._usability.publish(message)
        self._usability.assert_liveliness()
        self._is_usable.publish(Bool(data=now.is_usable))

    def _publish_progress(self, now: Snapshot) -> None:
        view = now.view
        part = 1.0 if view.is_complete else 0.0
        if view.progress is not None:
            fidelity = view.progress.fidelity
            part = min(1.0, fidelity.resident / max(1, fidelity.total))
        self._progress.publish(Float32(data=part))

    def _publish_thaws(self) -> None:
        for report in self._take_thaws():
            message = convert.to_thaw(report)
            message.header, message.time_valid = self._header()
            self._thaw.publish(message)

    def _publish_shelf(self, now: Snapshot) -> None:
        windows = WindowInfoArray(
            profile=now.profile,
            windows=[
                convert.to_window(info, now.shelf, open_window=now.view.window)
                for info in now.shelf.windows
            ],
        )
        windows.header, windows.time_valid = self._header()
        self._windows.publish(windows)
        if now.shelf.storage is not None:
            storage = convert.to_storage(now.shelf.storage, is_read_only=now.is_read_only)
            storage.header, storage.time_valid = self._header()
            self._storage.publish(storage)

    def _header(self) -> tuple[Header, bool]:
        stamp = self._node.get_clock().now().to_msg()
        return Header(stamp=stamp), time.time() > CLOCK_VALID_S
