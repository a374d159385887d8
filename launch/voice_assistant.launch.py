# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Start an assistant that can be talked with: its memory, ears and a mouth.

    ros2 launch cwm_ros voice_assistant.launch.py                          # keyboard and screen
    ros2 launch cwm_ros voice_assistant.launch.py microphone:=stt speaker:=tts

`stt` listens through an action like whisper_ros's, `live_speech` to hri_msgs, `tts` speaks through
an action of audio_common_msgs; their packages must be in the workspace. All arguments of
cwm.launch.py may be given as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

if TYPE_CHECKING:
    from launch import LaunchContext, LaunchDescriptionEntity

MICROPHONES = {
    'keyboard': 'keyboard_microphone',
    'stt': 'stt_microphone',
    'live_speech': 'live_speech_microphone',
    'none': '',
}
SPEAKERS = {'console': 'console_speaker', 'tts': 'tts_speaker'}


def generate_launch_description() -> LaunchDescription:
    memory = PythonLaunchDescriptionSource(str(Path(__file__).with_name('cwm.launch.py')))
    return LaunchDescription(
        [
            DeclareLaunchArgument('microphone', default_value='keyboard', choices=[*MICROPHONES]),
            DeclareLaunchArgument('speaker', default_value='console', choices=[*SPEAKERS]),
            IncludeLaunchDescription(memory),
            OpaqueFunction(function=attach),
        ]
    )


def attach(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return ears and mouth, named after the topics of the memory beside them."""
    names = ('microphone', 'speaker', 'namespace', 'name', 'prompt')
    values = {name: LaunchConfiguration(name).perform(context) for name in names}
    speaker = Node(
        package='cwm_ros',
        executable=SPEAKERS[values['speaker']],
        namespace=values['namespace'],
        remappings=[('response', f'{values["name"]}/response')],
        output='screen',
    )
    if values['microphone'] == 'none':
        return [speaker]
    is_typed = values['microphone'] == 'keyboard'
    microphone = Node(
        package='cwm_ros',
        executable=MICROPHONES[values['microphone']],
        namespace=values['namespace'],
        remappings=[('prompt', values['prompt'] or f'{values["name"]}/prompt')],
        # Processes of a launch share its terminal, but not its standard input.
        parameters=[{'device': '/dev/tty'}] if is_typed else [],
        output='screen',
    )
    return [speaker, microphone]
