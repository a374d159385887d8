# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Start the assistant's memory, and start it again when it dies.

    ros2 launch cwm_ros cwm.launch.py config:=jetson_orin ignition:=/vehicle/ignition

A node that dies comes back after 1 s, 2 s, 4 s, … at most 30 s. Once it died `max_failures` times
without living a minute in between, it comes back without a model: windows can be listed, copied
and deleted, diagnostics say ERROR, and nothing crashes in a loop. SIGINT saves what is open; the
node has `shutdown.budget` of its configuration for that, and a margin to end in order.
"""

from __future__ import annotations

import json
from pathlib import Path
import time
from typing import TYPE_CHECKING

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, TimerAction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
import yaml

from cwm_ros.config import ShutdownSettings

if TYPE_CHECKING:
    from launch import LaunchContext, LaunchDescriptionEntity
    from launch.events.process import ProcessExited

CONFIG = Path(get_package_share_directory('cwm_ros')) / 'config'
ARGUMENTS = {
    'config': ('default', 'parameter file, or the name of one that comes with the package'),
    'namespace': ('', 'namespace of the node'),
    'name': ('cwm', 'name of the node'),
    'profile': ('', 'whose windows; empty: privacy.default_profile of the configuration'),
    'store': ('', 'folder of the store; empty: storage.root of the configuration'),
    'autostart': ('true', 'false: leave configure and activate to others'),
    'max_failures': ('3', 'how often it may die before it comes back without a model'),
    'prompt': ('', 'topic of prompts; empty: ~/prompt'),
    'ignition': ('', 'topic of the ignition; empty: ~/ignition'),
    'battery': ('', 'topic of the battery; empty: ~/battery_state'),
    'vehicle_context': ('', "topic of the vehicle's state in words; empty: ~/vehicle_context"),
}
TOPICS = {
    'prompt': '~/prompt',
    'ignition': '~/ignition',
    'battery': '~/battery_state',
    'vehicle_context': '~/vehicle_context',
}
PARAMETERS = {'profile': 'privacy.default_profile', 'store': 'storage.root'}
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 30.0
HEALTHY_S = 60.0
CLOSING_S = 10.0
"""What ending in order takes beyond the save."""


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=keep)])


def keep(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    return Keeper(values).start()


class Keeper:
    """Starts the node, and starts it again when it dies."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self._config = find_config(values['config'])
        self._max_failures = int(values['max_failures'])
        self._failures = 0
        self._began_s = 0.0

    def start(self) -> list[LaunchDescriptionEntity]:
        """Return the process to run now."""
        self._began_s = time.monotonic()
        arguments = ['--autostart'] if self._values['autostart'].lower() in ('true', '1') else []
        if self._failures >= self._max_failures:
            arguments += ['--store-only', f'the node died {self._failures} times']
        return [
            Node(
                package='cwm_ros',
                executable='cwm_node',
                namespace=self._values['namespace'],
                arguments=arguments,
                ros_arguments=ros_arguments(self._values, self._config),
                sigterm_timeout=str(read_budget_s(self._config) + CLOSING_S),
                output='screen',
                on_exit=self._end,
            )
        ]

    def _end(self, event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        """Return what follows the end of the process."""
        if context.is_shutdown or event.returncode == 0:
            return []
        if time.monotonic() - self._began_s > HEALTHY_S:
            self._failures = 0
        if self._failures >= self._max_failures:
            return [LogInfo(msg='cwm: it dies even without a model; it is not started again')]
        delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2**self._failures)
        self._failures += 1
        told = f'cwm: died with {event.returncode}, starts again in {delay_s:g} s'
        again = OpaqueFunction(function=lambda _context: self.start())
        return [LogInfo(msg=told), TimerAction(period=delay_s, actions=[again])]


def find_config(config: str) -> Path:
    """Return the file that an argument names."""
    known = CONFIG / f'{config}.yaml'
    path = known if known.is_file() else Path(config).expanduser()
    if not path.is_file():
        names = ', '.join(sorted(path.stem for path in CONFIG.glob('*.yaml')))
        raise FileNotFoundError(f'config:={config} is no file, and none of {names}')
    return path


def read_budget_s(config: Path) -> float:
    """Return the longest `shutdown.budget` of the nodes that a parameter file names [s]."""
    nodes = yaml.safe_load(config.read_text(encoding='utf-8')) or {}
    groups = [node['ros__parameters'].get('shutdown', {}) for node in nodes.values()]
    budgets = [float(group['budget']) for group in groups if 'budget' in group]
    return max(budgets, default=ShutdownSettings().budget)


def ros_arguments(values: dict[str, str], config: Path) -> list[str]:
    """Return name, parameters and remappings; a later parameter wins over an earlier one."""
    found = ['-r', f'__node:={values["name"]}', '--params-file', str(config)]
    for name, parameter in PARAMETERS.items():
        if values[name]:
            found += ['-p', f'{parameter}:={json.dumps(values[name])}']
    for name, topic in TOPICS.items():
        if values[name]:
            found += ['-r', f'{topic}:={values[name]}']
    return found
