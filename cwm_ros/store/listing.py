# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The inventory as it was when the last writer closed, so that a new reader need not look at files.

A cache of a cache: it counts only while no writer has changed anything since, for the first change
removes it, and while the folders of windows and chunks are as they were, so that a file added,
removed or replaced by somebody else is seen. A file changed in place by somebody else is not: that
is found when the window is opened or verified, and by the next writer, which looks at every file.
"""

from __future__ import annotations

from array import array
from functools import partial
import json
import logging
from typing import cast, TYPE_CHECKING

from cwm_ros.errors import CwmError
from cwm_ros.store import files, layout
from cwm_ros.store.inventory import WindowInfo
from cwm_ros.store.layout import Section
from cwm_ros.store.seal import FileKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cwm_ros.store.seal import Seal

LISTING_MAGIC = b'\x93CWMLST\n'
LISTING_NAME = 'listing'
LISTING_ID = '0' * 2 * layout.ID_BYTES
LISTING_VERSION = 1
MAX_LISTING_BYTES = 1 << 28
_STAMPED = ('windows', 'chunks')
_WORDS, _NUMBERS, _FLAGS = ''.join, partial(array, 'q'), bytes
_CHECKS = cast(
    'tuple[Callable[[list[object]], object], ...]',
    (_WORDS, *[_NUMBERS] * 5, _FLAGS, _WORDS, *[_NUMBERS] * 2, _WORDS),
)
"""Of each field of `WindowInfo`: what fails for values of another type; a list shall be fast."""

_log = logging.getLogger(__name__)


class Listing:
    """
    The stored inventory of a profile.

    Parameters
    ----------
    folder
        The profile's.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LISTING_NAME
        self._is_broken = False

    def load(self, seal: Seal) -> list[WindowInfo] | None:
        """Return the inventory by name; None when it is not known to be as it was."""
        try:
            data = files.read_file(self._path, limit_bytes=MAX_LISTING_BYTES)
            frame = seal.unwrap(self._path, FileKind.LISTING, LISTING_ID, data)
            (section,) = layout.unpack_frame(self._path, frame, LISTING_MAGIC)
            values = json.loads(bytes(section.data))
            if (values['version'], values['stamps']) != (LISTING_VERSION, self._stamps()):
                return None
            return _infos(values['columns'])
        except FileNotFoundError:
            return None
        except (CwmError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as exc:
            _log.warning('path=%s problem=%s the inventory is made anew', self._path, exc)
            return None

    def break_once(self) -> None:
        """Remove it before the first change, durably: a cut must not bring it back."""
        if self._is_broken:
            return
        if files.unlink(self._path):
            files.sync_folder(self._folder)
        self._is_broken = True

    def save(self, infos: Sequence[WindowInfo], seal: Seal) -> int:
        """Store the inventory if anything has changed; return the bytes written."""
        if not self._is_broken and files.exists(self._path):
            return 0
        values = {
            'version': LISTING_VERSION,
            'stamps': self._stamps(),
            'columns': list(zip(*infos, strict=True)),
        }
        data = json.dumps(values, separators=(',', ':')).encode()
        frame = layout.pack_frame(LISTING_MAGIC, [Section(kind=b'JSON', data=data)])
        try:
            return files.write_file(self._path, [seal.wrap(FileKind.LISTING, LISTING_ID, frame)])
        except CwmError as exc:
            _log.warning('path=%s problem=%s the inventory is not stored', self._path, exc)
            return 0

    def _stamps(self) -> list[list[int]]:
        return [list(files.stamp(self._folder / name)) for name in _STAMPED]


def _infos(columns: list[list[object]]) -> list[WindowInfo]:
    for column, check in zip(columns, _CHECKS, strict=bool(columns)):
        check(column)
    return [WindowInfo(*row) for row in zip(*columns, strict=True)]
