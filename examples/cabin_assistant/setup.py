# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Install the example."""

from setuptools import setup

NAME = 'cabin_assistant'

setup(
    name=NAME,
    version='0.1.0',
    packages=[NAME],
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        (f'share/{NAME}/launch', ['launch/cabin.launch.py']),
    ],
    entry_points={'console_scripts': [f'assistant = {NAME}.assistant:main']},
)
