# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from cwm_ros import errors
from cwm_ros.errors import BadNameError, CwmError, ErrorCode, FormatError

CODES = {
    'NONE': 0,
    'NOT_ACTIVE': 1,
    'NOT_FOUND': 2,
    'BUSY': 3,
    'IDENTITY_MISMATCH': 4,
    'CORRUPT': 5,
    'QUOTA': 6,
    'DEADLINE': 7,
    'DEFERRED_POWER': 8,
    'CANCELLED': 9,
    'ENGINE': 10,
    'UNSUPPORTED_MODEL': 11,
    'KEY_MISSING': 12,
    'IO': 13,
    'RESTORE_NOT_EFFECTIVE': 14,
    'BAD_NAME': 15,
    'CONTEXT_FULL': 16,
    'ENGINE_HUNG': 17,
    'MEMORY': 18,
    'EXISTS': 19,
    'BAD_VALUE': 20,
    'FORMAT_TOO_NEW': 21,
    'READ_ONLY': 22,
}
"""The contract: rows may be added, none may change."""

OF_CLASS = {
    'ConfigError': 'BAD_VALUE',
    'BadNameError': 'BAD_NAME',
    'NotFoundError': 'NOT_FOUND',
    'ExistsError': 'EXISTS',
    'BusyError': 'BUSY',
    'ReadOnlyError': 'READ_ONLY',
    'FormatError': 'CORRUPT',
    'FormatTooNewError': 'FORMAT_TOO_NEW',
    'IdentityError': 'IDENTITY_MISMATCH',
    'StorageError': 'IO',
    'QuotaError': 'QUOTA',
    'ModelError': 'UNSUPPORTED_MODEL',
    'EngineError': 'ENGINE',
    'ContextFullError': 'CONTEXT_FULL',
    'OutOfMemoryError': 'MEMORY',
    'InterruptedOperation': 'CANCELLED',
}

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, CwmError) and kind is not CwmError
]


def test_codes_are_unique_and_keep_their_numbers() -> None:
    found = {code.name: code.value for code in ErrorCode}

    assert {name: found.get(name) for name in CODES} == CODES
    assert len(set(found.values())) == len(ErrorCode.__members__)
    assert all(value > max(CODES.values()) for name, value in found.items() if name not in CODES)


def test_exit_statuses_fit_a_byte() -> None:
    assert max(ErrorCode) + 10 < 126


@pytest.mark.parametrize('kind', CLASSES)
def test_every_class_has_a_code_of_its_own(kind: type[CwmError]) -> None:
    assert 'code' in vars(kind)
    assert kind.code is not ErrorCode.NONE
    assert [other for other in CLASSES if other.code is kind.code] == [kind]
    if kind.__name__ in OF_CLASS:
        assert kind.code.name == OF_CLASS[kind.__name__]


def test_no_class_has_gone() -> None:
    assert OF_CLASS.keys() <= {kind.__name__ for kind in CLASSES}


def test_the_tree_in_the_docstring_names_every_class() -> None:
    assert errors.__doc__ is not None
    for kind in CLASSES:
        assert kind.__name__ in errors.__doc__


def test_every_error_outside_this_module_is_one_of_ours() -> None:
    """No other module grows a tree of its own."""
    package = Path(errors.__file__).parent
    for path in package.rglob('*.py'):
        for line in path.read_text(encoding='utf-8').splitlines():
            is_error = line.startswith('class ') and 'Error(' in line.split(':')[0]
            assert path.name == 'errors.py' or not is_error or line.startswith('class _'), path


def test_an_error_says_what_is_wrong_and_what_to_do() -> None:
    error = errors.QuotaError('/store: full', hint='free some room')

    assert (error.message, error.hint) == ('/store: full', 'free some room')
    assert str(error) == '/store: full (free some room)'
    assert str(errors.QuotaError('/store: full')) == '/store: full'


def test_a_format_error_names_file_and_field() -> None:
    error = FormatError(Path('/a/b.cwm'), 'tokens: one is negative')

    assert (error.path, error.problem) == (Path('/a/b.cwm'), 'tokens: one is negative')
    assert error.message == '/a/b.cwm: tokens: one is negative'


@pytest.mark.parametrize('name', ['../x', 'a' * 500, 'ä\n\x1b[31m', ''])
def test_a_bad_name_is_shown_short_and_harmless(name: str) -> None:
    error = BadNameError('window', name)

    assert error.name == name
    assert error.message.isascii()
    assert error.message.isprintable()
    assert len(error.message) < 150
