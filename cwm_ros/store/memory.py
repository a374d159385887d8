# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A store in memory, for guests; see docs/decisions/guest-in-memory.md.

It lies in a folder of a file system that has no drive. What it holds is encrypted under a key
that only this process has, so neither a swapped page nor what a killed process left can be read.
"""

from __future__ import annotations

from contextlib import contextmanager, ExitStack, suppress
from dataclasses import replace
import os
from pathlib import Path
import stat
import tempfile
from typing import TYPE_CHECKING

from cwm_ros.errors import BusyError, ReadOnlyError, StorageError
from cwm_ros.store import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.config import StorageSettings

GUEST = 'guest'
"""The profile that is gone when its process is."""
SHARED_MEMORY = Path('/dev/shm')  # noqa: S108 - our folder in it is checked
MOUNTS = Path('/proc/self/mountinfo')
MEMORY_SYSTEMS = ('tmpfs', 'ramfs')
_LOCK_TIMEOUT_S = 10.0


@contextmanager
def in_memory(settings: StorageSettings) -> Iterator[StorageSettings]:
    """
    Make a store in memory; it is gone afterwards, and so is what dead processes left.

    Parameters
    ----------
    settings
        What else shall hold: a folder in memory takes the place of the root.

    Raises
    ------
    StorageError
        There is no place in memory here.

    """
    parent = _own_folder()
    with ExitStack() as closing:
        with files.writer_lock(parent / 'lock', timeout_s=_LOCK_TIMEOUT_S):
            _remove_leftovers(parent)
            root = Path(tempfile.mkdtemp(dir=parent))
            closing.callback(files.remove_tree, root)
            closing.enter_context(files.writer_lock(root / 'alive', timeout_s=0))
        yield replace(settings, root=root)


def _own_folder() -> Path:
    if not is_in_memory(SHARED_MEMORY):
        raise StorageError(
            f'a guest lives in memory only, and {SHARED_MEMORY} is not a file system in memory',
            hint=f'mount a tmpfs on {SHARED_MEMORY}, or use another profile',
        )
    folder = SHARED_MEMORY / f'cwm-{os.geteuid()}'
    files.make_folder(folder)
    info = folder.lstat()
    if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise ReadOnlyError(f"{folder}: is not this user's alone", hint='remove it')
    return folder


def _remove_leftovers(parent: Path) -> None:
    """Remove the stores whose process is gone."""
    for name in files.list_folders(parent):
        with suppress(BusyError), files.writer_lock(parent / name / 'alive', timeout_s=0):
            files.remove_tree(parent / name)


def is_in_memory(path: Path) -> bool:
    """Say whether ``path`` is on a file system that has no drive."""
    kinds = {}
    for line in MOUNTS.read_text(encoding='utf-8', errors='replace').splitlines():
        fields, _, rest = line.partition(' - ')
        kinds[Path(fields.split()[4])] = rest.split()[0]
    path = path.resolve()
    mounted = next(place for place in (path, *path.parents) if place in kinds)
    return kinds[mounted] in MEMORY_SYSTEMS
