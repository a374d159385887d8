# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Install the package, its entry points and its shared files; metadata is in setup.cfg."""

from pathlib import Path

from setuptools import setup

SHARE = 'share/cwm_ros'


def shared_files(folder: str, pattern: str = '*') -> list[tuple[str, list[str]]]:
    """Return data_files entries for the files that match below ``folder``."""
    entries: dict[str, list[str]] = {}
    for path in sorted(Path(folder).glob(pattern)):
        if path.is_file():
            entries.setdefault(f'{SHARE}/{path.parent}', []).append(str(path))
    return sorted(entries.items())


setup(
    python_requires='>=3.10',  # here and not in setup.cfg, whose parsed form colcon cannot read
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/cwm_ros']),
        (SHARE, ['package.xml']),
        *shared_files('engines', '*/*'),
        *shared_files('config'),
        *shared_files('launch'),
    ],
)
