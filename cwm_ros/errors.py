# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
One exception tree with stable codes.

The numbers in `ErrorCode` are the contract with ROS messages and the command line: they are
append-only. Every error says what is wrong, where, and (in `hint`) what to do about it::

    CwmError
    ├── ConfigError             a setting must be mended
    │   └── BadNameError        a window or profile name
    ├── NotFoundError  ExistsError  BusyError  ReadOnlyError
    ├── FormatError             a file must not be used
    │   └── FormatTooNewError   written by a later version: never deleted
    ├── RestoreNotEffectiveError  what was restored is not what was frozen
    ├── IdentityError           whole, but made by another model
    ├── KeyMissingError         the windows are there, their key is not
    ├── StorageError            the device refuses
    │   └── QuotaError          room must be made
    ├── ModelError              this checkpoint cannot run here
    ├── EngineError             inference failed
    │   ├── ContextFullError    the prompt does not fit
    │   └── OutOfMemoryError
    ├── NotActiveError          the lifecycle state does not allow it
    ├── DeferredPowerError      the power policy does not allow it now
    ├── EngineHungError         a step is overdue
    ├── DeadlineError           time ran out
    └── InterruptedOperation    cancelled by the caller
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


SHOWN_LETTERS = 40
FORMAT_HINT = 'the file is kept as it is: run cwm doctor, or restore it from a backup'


class ErrorCode(IntEnum):
    """Stable numbers of the ROS contract; the command line exits with the code plus 10."""

    NONE = 0
    NOT_ACTIVE = 1
    NOT_FOUND = 2
    BUSY = 3
    IDENTITY_MISMATCH = 4
    CORRUPT = 5
    QUOTA = 6
    DEADLINE = 7
    DEFERRED_POWER = 8
    CANCELLED = 9
    ENGINE = 10
    UNSUPPORTED_MODEL = 11
    KEY_MISSING = 12
    IO = 13
    RESTORE_NOT_EFFECTIVE = 14
    BAD_NAME = 15
    CONTEXT_FULL = 16
    ENGINE_HUNG = 17
    MEMORY = 18
    EXISTS = 19
    BAD_VALUE = 20
    FORMAT_TOO_NEW = 21
    READ_ONLY = 22


class CwmError(Exception):
    """
    Base of every expected failure.

    Parameters
    ----------
    message
        One sentence that names the file, field and value.
    hint
        The remedy, as an instruction; empty when there is none.

    """

    code: ClassVar[ErrorCode] = ErrorCode.NONE

    def __init__(self, message: str, *, hint: str = '') -> None:
        self.message = message
        self.hint = hint
        super().__init__(f'{message} ({hint})' if hint else message)


class ConfigError(CwmError):
    """A setting or argument has a value that cannot be used."""

    code = ErrorCode.BAD_VALUE


class BadNameError(ConfigError):
    """A window or profile name is not allowed."""

    code = ErrorCode.BAD_NAME

    def __init__(self, kind: str, name: str, *, hint: str = '') -> None:
        self.name = name
        shown = ascii(name if len(name) <= SHOWN_LETTERS else name[:SHOWN_LETTERS] + '...')
        super().__init__(
            f'{kind} name {shown} is not allowed',
            hint=hint
            or "use 1 to 64 of A-Z a-z 0-9 '.' '_' '-', beginning with a letter or digit",
        )


class NotFoundError(CwmError):
    """What was asked for does not exist."""

    code = ErrorCode.NOT_FOUND


class ExistsError(CwmError):
    """What was to be created exists."""

    code = ErrorCode.EXISTS


class BusyError(CwmError):
    """Another process or operation holds what is needed; try later."""

    code = ErrorCode.BUSY


class NotActiveError(CwmError):
    """The node is not in the lifecycle state that this needs."""

    code = ErrorCode.NOT_ACTIVE


class DeferredPowerError(CwmError):
    """The power policy does not allow it now; it may be tried again."""

    code = ErrorCode.DEFERRED_POWER


class EngineHungError(CwmError):
    """A step of the engine is overdue; the process ends."""

    code = ErrorCode.ENGINE_HUNG


class DeadlineError(CwmError):
    """Time ran out; what was done until then stays."""

    code = ErrorCode.DEADLINE


class ReadOnlyError(CwmError):
    """The store was opened for reading, or lies on a read-only device."""

    code = ErrorCode.READ_ONLY


class FormatError(CwmError):
    """
    A file is damaged or lies; it must not be used.

    Parameters
    ----------
    path
        The file.
    problem
        What is wrong with it, beginning with the field.
    hint
        As for `CwmError`; a general one when empty.

    """

    code = ErrorCode.CORRUPT

    def __init__(self, path: Path, problem: str, *, hint: str = '') -> None:
        self.path = path
        self.problem = problem
        super().__init__(f'{path}: {problem}', hint=hint or FORMAT_HINT)


class FormatTooNewError(FormatError):
    """A file was written by a later version of this package; it is kept as it is."""

    code = ErrorCode.FORMAT_TOO_NEW


class RestoreNotEffectiveError(CwmError):
    """A window came back, and the model does not continue as it did before."""

    code = ErrorCode.RESTORE_NOT_EFFECTIVE


class IdentityError(CwmError):
    """KV of another model, or of other weights, was offered."""

    code = ErrorCode.IDENTITY_MISMATCH


class KeyMissingError(CwmError):
    """The key of a profile is not there, or is another's; its windows are kept as they are."""

    code = ErrorCode.KEY_MISSING


class StorageError(CwmError):
    """The storage device refused a read or a write."""

    code = ErrorCode.IO


class QuotaError(StorageError):
    """There is no room within the quota or on the device."""

    code = ErrorCode.QUOTA


class ModelError(CwmError):
    """
    A checkpoint folder cannot be run, and the message says which file and why.

    Parameters
    ----------
    message, hint
        As for `CwmError`.
    is_template_lost
        Whether its chat template could not even be asked: it cannot be compiled, or its process
        is lost. Otherwise a template's failure says which conversations it takes.

    """

    code = ErrorCode.UNSUPPORTED_MODEL

    def __init__(self, message: str, *, hint: str = '', is_template_lost: bool = False) -> None:
        self.is_template_lost = is_template_lost
        super().__init__(message, hint=hint)


class EngineError(CwmError):
    """The inference engine failed or was asked for what it cannot do."""

    code = ErrorCode.ENGINE


class ContextFullError(EngineError):
    """More tokens than the engine's context holds."""

    code = ErrorCode.CONTEXT_FULL


class OutOfMemoryError(EngineError):
    """Memory for weights or cache could not be had."""

    code = ErrorCode.MEMORY


class InterruptedOperation(CwmError):  # noqa: N818 - an outcome the caller asked for
    """The caller cancelled; what was done before stays valid."""

    code = ErrorCode.CANCELLED
