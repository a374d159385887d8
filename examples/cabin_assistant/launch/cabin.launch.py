# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Start the assistant and its memory; arguments of cwm.launch.py may be given."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node


def generate_launch_description() -> LaunchDescription:
    share = Path(get_package_share_directory('cwm_ros'))
    memory = PythonLaunchDescriptionSource(str(share / 'launch' / 'cwm.launch.py'))
    assistant = Node(package='cabin_assistant', executable='assistant', output='screen')
    return LaunchDescription([IncludeLaunchDescription(memory), assistant])
