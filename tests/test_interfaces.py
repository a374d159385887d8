# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The message files, read as text: what they must say can be checked without a ROS."""

from __future__ import annotations

from pathlib import Path
import re

import pytest

from cwm_ros.errors import ErrorCode

FOLDER = Path(__file__).resolve().parents[1] / 'cwm_interfaces'
FILES = sorted(path for path in FOLDER.glob('*/*.*') if path.suffix in ('.msg', '.srv', '.action'))
SELF_EXPLAINING = {'header', 'fidelity', 'info', 'progress', 'chunks_total', 'windows_total'}


def read_constants(path: Path) -> dict[str, int]:
    found = re.findall(r'^u?int\d+ ([A-Z_]+)=(\d+)', path.read_text(), re.MULTILINE)
    return {name: int(value) for name, value in found}


def test_there_are_as_many_as_the_contract_names() -> None:
    suffixes = [path.suffix for path in FILES]

    assert suffixes.count('.action') == 6
    assert suffixes.count('.srv') == 9


def test_error_codes_are_the_librarys() -> None:
    constants = read_constants(FOLDER / 'msg' / 'ErrorCode.msg')

    assert constants == {code.name: int(code) for code in ErrorCode}


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_interface_and_field_says_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()

    assert lines[0].startswith('# ')
    for line in lines:
        text, _, comment = line.partition('#')
        if not text.strip() or text.strip() == '---':
            continue
        name = text.split('=')[0].split()[1]
        is_named_well = name in SELF_EXPLAINING or name.endswith(('_done', '_checked'))
        assert comment.strip() or is_named_well or name.isupper(), line
        assert len(line) <= 110, line


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_results_begin_with_the_error(path: Path) -> None:
    if path.suffix == '.msg':
        return
    result = path.read_text().split('---\n')[1].splitlines()

    assert result[0].startswith('uint16 error_code')
    assert result[1].startswith('string error_msg')
