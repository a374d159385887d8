# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What leaves the disk: deleted windows, and chunks that no window refers to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cwm_ros.errors import CwmError
from cwm_ros.store import files
from cwm_ros.store.catalog import GONE_SUFFIX, LOG_SUFFIX, MANIFEST_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cwm_ros.store.inventory import Inventory

_log = logging.getLogger(__name__)


def delete_window_files(folder: Path, window_id: str) -> None:
    """
    Remove a window's files as one act.

    Renaming one of them to a mark deletes the window; if the power goes after that, the next
    writer removes the rest.
    """
    mark = folder / (window_id + GONE_SUFFIX)
    for suffix in (LOG_SUFFIX, MANIFEST_SUFFIX):
        try:
            files.rename(folder / (window_id + suffix), mark)
            break
        except FileNotFoundError:
            continue
    files.sync_folder(folder)
    finish_deletion(folder, window_id)


def finish_deletion(folder: Path, window_id: str) -> None:
    """Remove what is left of a deleted window, the mark last."""
    if files.exists(folder / (window_id + GONE_SUFFIX)):
        for suffix in (LOG_SUFFIX, MANIFEST_SUFFIX):
            files.unlink(folder / (window_id + suffix))
        files.sync_folder(folder)
        files.unlink(folder / (window_id + GONE_SUFFIX))


def finish_deletions(folder: Path) -> None:
    """Remove what is left of all deleted windows."""
    for name in files.list_names(folder):
        if name.endswith(GONE_SUFFIX):
            finish_deletion(folder, name[: -len(GONE_SUFFIX)])


def remove_chunks(folder: Path, names: Iterable[str], inventory: Inventory) -> int:
    """Remove chunk files, also from the inventory; return the bytes won."""
    won = 0
    for name in names:
        try:
            files.unlink(folder / name)
        except CwmError as exc:
            _log.warning('chunk=%s problem=%s it stays for now', name, exc)
            continue
        won += inventory.drop_chunk(name)
    return won
