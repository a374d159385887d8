# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The folder in which a graph is built until it is whole, locked by who builds it."""

from __future__ import annotations

from contextlib import contextmanager, suppress
import fcntl
import logging
import os
import shutil
from typing import TYPE_CHECKING

from cwm_ros.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

UNFINISHED = '.building'
KEPT_S = 7 * 86400
"""So long an interrupted build waits to be gone on with [s]."""
MIB = 1 << 20


@contextmanager
def staging_folder(target: Path, is_whole: Callable[[Path], bool]) -> Iterator[Path | None]:
    """
    Yield a folder beside ``target`` that becomes ``target`` when the block succeeds.

    It is locked while the block runs, and yielded is None when another process was faster. What
    is in it stays when the block is interrupted, and goes when it finds the weights at fault.

    Parameters
    ----------
    target
        Folder of the finished graph.
    is_whole
        Says whether such a folder is finished.

    """
    staging = target.with_name(target.name + UNFINISHED)
    with _locked(staging, target, is_whole) as is_ours:
        if not is_ours:
            yield None
            return
        if num_bytes := _size_of(staging):
            log.info('%s: going on after %d MiB', staging, num_bytes // MIB)
        try:
            yield staging
        except ModelError:
            shutil.rmtree(staging)
            raise
        shutil.rmtree(target, ignore_errors=True)  # what is there is not whole
        staging.rename(target)


@contextmanager
def _locked(staging: Path, target: Path, is_whole: Callable[[Path], bool]) -> Iterator[bool]:
    """Lock the staging folder, made if need be; yield False once ``target`` is whole."""
    while not is_whole(target):
        staging.mkdir(exist_ok=True)
        try:
            handle = os.open(staging, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_open(handle, staging):  # else it was renamed or removed while we waited
                if is_whole(target):  # since we looked: this folder is new and empty
                    shutil.rmtree(staging)
                    break
                yield True
                return
        finally:
            os.close(handle)
    yield False


def _is_open(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def remove_leftovers(folder: Path, now: float) -> None:
    """
    Remove builds that were interrupted and not gone on with for a week, and say which are left.

    Parameters
    ----------
    folder
        Where graphs are kept.
    now
        Wall clock [s].

    """
    for staging in sorted(folder.glob(f'*{UNFINISHED}')):
        with suppress(OSError), _unlocked(staging) as is_free:
            if not is_free:
                continue
            mib = _size_of(staging) // MIB
            if now - _last_change(staging) <= KEPT_S:
                log.info('%s: an interrupted conversion, %d MiB, waits a week', staging, mib)
                continue
            shutil.rmtree(staging)
            log.warning('%s: removed an interrupted conversion, %d MiB', staging, mib)


@contextmanager
def _unlocked(staging: Path) -> Iterator[bool]:
    """Lock a staging folder and yield True; False when it is being built."""
    handle = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
