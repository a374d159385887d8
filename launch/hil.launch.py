# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Start the assistant's memory on a bench: a simulated ignition and battery drive it.

    ros2 launch cwm_ros hil.launch.py cycles:=20 script:=my_cycles.yaml store:=/tmp/bench

Ends when the script is done, with status 1 when a step missed what it expected. All arguments of
cwm.launch.py may be given as well, but for the topics that the simulator has: ignition, battery
and prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

if TYPE_CHECKING:
    from launch import LaunchContext, LaunchDescriptionEntity
    from launch.events.process import ProcessExited

HERE = Path(__file__).parent
TOPICS = {
    'ignition': 'vehicle/ignition',
    'battery': 'vehicle/battery',
    'prompt': 'vehicle/prompt',
}


def generate_launch_description() -> LaunchDescription:
    memory = PythonLaunchDescriptionSource(str(HERE / 'cwm.launch.py'))
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'script',
                default_value=str(HERE / 'hil_cycles.yaml'),
                description='what happens in one cycle',
            ),
            DeclareLaunchArgument('cycles', default_value='2', description='how often'),
            IncludeLaunchDescription(memory, launch_arguments=TOPICS.items()),
            OpaqueFunction(function=simulate),
        ]
    )


def end(event: ProcessExited, _context: LaunchContext) -> Shutdown:
    """End the launch with the simulator, with status 1 when it missed what it expected."""
    if event.returncode:
        raise RuntimeError(f'the simulator ended with {event.returncode}')
    return Shutdown(reason='the script is done')


def simulate(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return the simulator, whose end is the end of the launch."""
    names = ('script', 'cycles', 'namespace', 'name')
    values = {name: LaunchConfiguration(name).perform(context) for name in names}
    from_memory = [(name, f'{values["name"]}/{name}') for name in ('usability', 'response')]
    return [
        Node(
            package='cwm_ros',
            executable='vehicle_simulator',
            namespace=values['namespace'],
            parameters=[{'script': values['script'], 'cycles': int(values['cycles'])}],
            remappings=[*from_memory, *TOPICS.items()],
            output='screen',
            on_exit=end,
        )
    ]
