# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What leaves the disk: deleted windows, and chunks that no window refers to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cwm_ros.errors import CwmError
from cwm_ros.store import chunkfile, files
from cwm_ros.store.catalog import GONE_SUFFIX, LOG_SUFFIX, MANIFEST_SUFFIX, WindowRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

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
    finish_deletions(folder)


def finish_deletions(folder: Path) -> None:
    """Remove what is left of deleted windows, the mark last."""
    for name in files.list_sizes(folder):
        stem, dot, suffix = name.partition('.')
        if dot + suffix == GONE_SUFFIX:
            for other in (LOG_SUFFIX, MANIFEST_SUFFIX):
                files.unlink(folder / (stem + other))
            files.sync_folder(folder)
            files.unlink(folder / name)


def unreferenced(
    records: Mapping[str, WindowRecord], sizes: Iterable[str], *, keep: set[str]
) -> list[str]:
    """
    Return the chunk files that no window refers to.

    None are, as long as one window cannot be read: it may be of a later version, and its
    chunks are not known.
    """
    if any(record.problem for record in records.values()):
        return []
    used = {name for record in records.values() for name in record.chunks} | keep
    return [name for name in sizes if chunkfile.is_chunk_name(name) and name not in used]


def remove_chunks(folder: Path, names: Iterable[str], sizes: dict[str, int]) -> int:
    """Remove chunk files and their sizes from the list; return the bytes won."""
    won = 0
    for name in names:
        try:
            files.unlink(folder / name)
        except CwmError as exc:
            _log.warning('chunk=%s problem=%s it stays for now', name, exc)
            continue
        won += sizes.pop(name, 0)
    return won
