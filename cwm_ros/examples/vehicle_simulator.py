# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A vehicle for benches: ignition, battery and a driver who talks, by a script."""

from __future__ import annotations

from dataclasses import fields, replace
import math
from pathlib import Path
from threading import Event, Thread
import time

from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import BatteryState
from std_msgs.msg import String

from cwm_interfaces.msg import IgnitionState, Usability
from cwm_ros.errors import ConfigError
from cwm_ros.examples.drive import read_drive, Step
from cwm_ros.examples.running import run
from cwm_ros.ignition import Ignition
from cwm_ros.node import convert

SEND_S = 0.1
LOOK_S = 0.05
STAYS = ('ignition', 'cut_s', 'charge', 'charging')
"""What holds until a step says otherwise."""


class VehicleSimulator(Node):  # type: ignore[misc]
    """
    Plays the steps of a script `cycles` times, and ends.

    Topics out: `ignition` and `battery` at 10 Hz, `prompt`. In: `response` and `usability`, for
    steps that wait. Parameters: `script`, a file as launch/hil_cycles.yaml; `cycles`. Ends with
    status 0, or 1 when a step did not see what it waits for.

    Raises
    ------
    SystemExit
        The script cannot be read.

    """

    def __init__(self) -> None:
        super().__init__('vehicle_simulator')
        script = self.declare_parameter('script', '').value
        cycles = self.declare_parameter('cycles', 1).value
        try:
            steps = read_drive(Path(script))
        except ConfigError as exc:
            self.get_logger().fatal(str(exc))
            raise SystemExit(1) from exc
        self._ignition = self.create_publisher(IgnitionState, 'ignition', 10)
        self._battery = self.create_publisher(BatteryState, 'battery', 10)
        self._prompt = self.create_publisher(String, 'prompt', 10)
        self.create_subscription(String, 'response', self._hear, 50)
        self.create_subscription(Usability, 'usability', self._see, qos_profile_sensor_data)
        self._state = Step()
        self._heard, self._is_usable = '', False
        self._ended, self._status = Event(), 0
        self.create_timer(SEND_S, self._send)
        Thread(target=self._drive, args=(steps, cycles), daemon=True).start()

    def _hear(self, message: String) -> None:
        self._heard += message.data + ' '

    def _see(self, message: Usability) -> None:
        self._is_usable = message.is_usable

    def _send(self) -> None:
        if self._ended.is_set():
            raise SystemExit(self._status)
        state = self._state
        ignition = IgnitionState(
            state=int(Ignition[state.ignition or 'UNDEFINED']),
            time_to_power_cut=convert.to_duration(state.cut_s or 0.0),
        )
        ignition.header.stamp = self.get_clock().now().to_msg()
        self._ignition.publish(ignition)
        charging = {
            None: BatteryState.POWER_SUPPLY_STATUS_UNKNOWN,
            True: BatteryState.POWER_SUPPLY_STATUS_CHARGING,
            False: BatteryState.POWER_SUPPLY_STATUS_DISCHARGING,
        }
        charge = math.nan if state.charge is None else float(state.charge)
        battery = BatteryState(
            percentage=charge, power_supply_status=charging[state.charging], present=True
        )
        battery.header.stamp = ignition.header.stamp
        self._battery.publish(battery)

    # --- in a thread of its own ---------------------------------------------------------------

    def _drive(self, steps: tuple[Step, ...], cycles: int) -> None:
        for cycle in range(1, cycles + 1):
            for number, step in enumerate(steps, 1):
                if not self._play(step):
                    seen = f'heard {self._heard!r}, usable: {self._is_usable}'
                    self.get_logger().error(f'cycle {cycle}, step {number} missed {step}: {seen}')
                    self._status = 1
                    self._ended.set()
                    return
            self.get_logger().info(f'cycle {cycle} of {cycles} is done')
        self._ended.set()

    def _play(self, step: Step) -> bool:
        """Play a step to its end, and say whether it saw what it waits for."""
        given = {field.name: getattr(step, field.name) for field in fields(step)}
        changes = {name: given[name] for name in STAYS if given[name] not in (None, '')}
        self._state = replace(self._state, **changes)
        until_s = time.monotonic() + step.seconds
        self._heard = ''
        if step.say:
            self._prompt.publish(String(data=step.say))
        while time.monotonic() < until_s:
            if step.is_waiting and self._is_seen(step):
                return True
            time.sleep(LOOK_S)
        return not step.is_waiting

    def _is_seen(self, step: Step) -> bool:
        return step.expect in self._heard and (self._is_usable or not step.usable)


def main() -> int:
    """Run the node."""
    return run(VehicleSimulator)
