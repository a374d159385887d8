# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Damaged files are set aside for people to look at, the newest up to a bound.

Their names begin with eight digits and a dash. What bears another name is not the store's: it is
neither counted nor removed.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from cwm_ros.store import files

if TYPE_CHECKING:
    from pathlib import Path

_LAST_NUMBER = 99_999_999
_OURS = re.compile(r'(\d{8})-', re.ASCII)

_log = logging.getLogger(__name__)


def set_aside(path: Path, folder: Path, limit_bytes: int) -> bool:
    """
    Move a file to the quarantine; return whether it was there.

    Parameters
    ----------
    path
        The file; in ``folder`` its name gets a rising number in front.
    folder
        The quarantine, which is made when needed.
    limit_bytes
        What the quarantine may hold; the oldest files leave it first.

    """
    files.make_folder(folder)
    target = folder / next_name(folder, path.name)
    try:
        files.rename(path, target)
    except FileNotFoundError:
        return False
    files.sync_folder(folder)  # or a power cut brings the damage back
    files.sync_folder(path.parent)
    _log.warning('file=%s was set aside as %s', path.name, target)
    trim(folder, limit_bytes)
    return True


def next_name(folder: Path, name: str) -> str:
    """
    Return the name under which the next file is kept.

    After the last number it stays that one, so that setting aside never fails: only planted
    names bring it there, and a file of the same name and number is replaced.
    """
    # Also of folders and links, for no file can take the place of one.
    matches = [_OURS.match(other) for other in files.list_names(folder)]
    last = max((int(match[1]) for match in matches if match), default=0)
    return f'{min(last + 1, _LAST_NUMBER):08d}-{name}'


def kept(folder: Path) -> dict[str, int]:
    """Return the sizes of the files in quarantine by name."""
    sizes = files.list_sizes(folder)
    return {name: size for name, size in sizes.items() if _OURS.match(name)}


def trim(folder: Path, limit_bytes: int) -> None:
    """Remove the oldest files until the rest is within the bound."""
    sizes = kept(folder)
    total = sum(sizes.values())
    for name in sorted(sizes):
        if total <= limit_bytes:
            return
        _log.warning('file=%r leaves the quarantine, which is full', name)
        files.unlink(folder / name)
        total -= sizes[name]
