# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for the whole house and no linter knows."""

from __future__ import annotations

import ast
import configparser
import importlib
from pathlib import Path
import pkgutil
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

import cwm_ros

ROOT = Path(__file__).parents[1]
SPDX = (
    '# SPDX-FileCopyrightText: 2026 The cwm_ros authors\n# SPDX-License-Identifier: Apache-2.0\n'
)
HEAVY = ('onnxruntime', 'numba', 'onnx', 'matplotlib', 'rich', 'torch', 'tokenizers')
FOLDERS = ('cwm_ros', 'tests', 'engines', 'examples', 'launch', 'docs')


def python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob('*.py'))]
    return [*found, *sorted(ROOT.glob('*.py'))] if folders == FOLDERS else found


def imported(path: Path) -> set[str]:
    """Return the first names of all that a module imports, also within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split('.')[0])
    return names


def test_every_python_file_begins_with_its_licence() -> None:
    bare = [
        str(path.relative_to(ROOT))
        for path in python_files(*FOLDERS)
        if not path.read_text(encoding='utf-8')
        .removeprefix('#!/usr/bin/env python3\n')
        .startswith(SPDX)
    ]

    assert bare == []


def test_the_versions_agree() -> None:
    package = ET.parse(ROOT / 'package.xml').getroot()  # noqa: S314 - our own file
    changelog = (ROOT / 'CHANGELOG.rst').read_text(encoding='utf-8')
    newest = re.search(r'^(\d+\.\d+\.\d+) \(\d{4}-\d{2}-\d{2}\)\n-+$', changelog, re.MULTILINE)
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')

    assert newest is not None
    assert package.findtext('version') == newest.group(1) == cwm_ros.__version__
    assert setup['metadata']['version'] == 'attr: cwm_ros.__version__'
    assert package.findtext('name') == setup['metadata']['name'] == 'cwm_ros'
    assert package.findtext('license') == setup['metadata']['license']


def test_ros_is_imported_in_the_node_room_and_the_examples_only() -> None:
    ros = {'rclpy', 'rosidl_runtime_py', 'std_msgs', 'std_srvs', 'sensor_msgs', 'cwm_interfaces'}
    wrong = [
        str(path.relative_to(ROOT))
        for path in python_files('cwm_ros')
        if imported(path) & ros and path.relative_to(ROOT).parts[1] not in ('node', 'examples')
    ]

    assert wrong == []


def test_nothing_is_pickled() -> None:
    """Nor read in any other way that runs what a file says."""
    loaders = {'pickle', 'cloudpickle', 'dill', 'shelve', 'marshal', 'joblib'}
    wrong = [
        str(path.relative_to(ROOT))
        for path in python_files('cwm_ros')
        if imported(path) & loaders or 'yaml.load(' in path.read_text(encoding='utf-8')
    ]

    assert wrong == []


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        f'import sys, cwm_ros.cli.app; print([name for name in {HEAVY!r} if name in sys.modules])'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert result.stdout.strip() == '[]'


def test_every_module_can_be_imported_first() -> None:
    """No cycle hides behind an import that came before."""
    names = [module.name for module in pkgutil.walk_packages(['cwm_ros'], 'cwm_ros.')]
    assert 'cwm_ros.manager' in names
    for name in names:
        if name.endswith('__main__') or '.node' in name or '.examples' in name:
            continue
        importlib.import_module(name)


@pytest.mark.parametrize('room', ['engine', 'model', 'codec', 'store', 'cli', 'bench'])
def test_what_a_room_offers_is_there_and_sorted(room: str) -> None:
    module = importlib.import_module(f'cwm_ros.{room}')
    offered = getattr(module, '__all__', [])

    assert all(hasattr(module, name) for name in offered)
    assert sorted(offered) == sorted(set(offered))


def test_rooms_import_downwards_only() -> None:
    command = Path(sys.executable).with_name('lint-imports')
    if not command.exists():
        pytest.skip('import-linter is not installed')
    result = subprocess.run(
        [command], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )

    assert result.returncode == 0, result.stdout
