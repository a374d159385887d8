# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The store's one door to the file system.

Everything that changes the disk goes through `write_at`, `truncate`, `sync`, `sync_folder`,
`rename`, `unlink` and `make_folder`; everything that reads goes through `open_regular`. Symbolic
links are never followed, and only regular files are read. A missing file stays a
`FileNotFoundError`, for absence is often an answer; every other failure of the device becomes
one of our errors, with the path and the remedy.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
import errno
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING

from cwm_ros.errors import (
    BusyError,
    CwmError,
    ExistsError,
    FormatError,
    QuotaError,
    ReadOnlyError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

TMP_SUFFIX = '.tmp'
LOCK_POLL_S = 0.02
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Buffer = bytes | bytearray | memoryview


def to_error(exc: OSError, path: Path) -> CwmError:
    """Say which of our errors a failure of the device is."""
    reason = f'{path}: {os.strerror(exc.errno) if exc.errno else exc}'
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return QuotaError(reason, hint='free room on the device or lower storage.quota_mib')
    if exc.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnlyError(reason, hint='mount it writable and own it, or open for reading')
    if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
        return FormatError(path, 'is a symbolic link, a folder or a device, not a plain file')
    return StorageError(reason, hint='check the device with its own tools, then run cwm verify')


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an OSError about ``path`` into ours; absence passes through."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise to_error(exc, path) from exc


# --- what changes the disk ----------------------------------------------------------------------


def write_at(descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
    """Write all of ``buffers`` at ``offset``; return the number of bytes."""
    views = [memoryview(buffer).cast('B') for buffer in buffers if len(buffer)]
    total = 0
    while views:
        written = os.pwritev(descriptor, views, offset + total)
        total += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if views:
            views[0] = views[0][written:]
    return total


def truncate(descriptor: int, size: int) -> None:
    """Cut a file to ``size`` bytes."""
    os.ftruncate(descriptor, size)


def sync(descriptor: int) -> None:
    """Make a file's bytes durable."""
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    with translated(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file another name in the same folder, replacing what is there."""
    with translated(target):
        os.rename(source, target)  # noqa: PTH104 - the door speaks to the system


def unlink(path: Path) -> bool:
    """Remove a file; return whether it was there."""
    try:
        with translated(path):
            os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return False
    return True


def wipe(path: Path) -> bool:
    """
    Overwrite a file and remove it, durably; return whether it was there.

    A drive may keep the old bytes where only its maker finds them.
    """
    try:
        with translated(path):
            descriptor = os.open(path, _WRITE_FLAGS)
    except FileNotFoundError:
        return False
    try:
        with translated(path):
            write_at(descriptor, [bytes(_check_regular(descriptor, path))], 0)
            sync(descriptor)
    finally:
        os.close(descriptor)
    unlink(path)
    sync_folder(path.parent)
    return True


def remove_tree(folder: Path) -> None:
    """Remove a folder of the store and what is in it; links are removed, not followed."""
    if not check_folder(folder):
        return
    for name in list_folders(folder):
        remove_tree(folder / name)
    with translated(folder):
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            unlink(folder / name)
        os.rmdir(folder)  # noqa: PTH106


def make_folder(folder: Path) -> None:
    """Make a folder that only the owner may enter, and its parents."""
    if check_folder(folder):
        return
    # Above the store a link is the owner's choice (a data partition); inside it, each level is
    # made, and so checked, by itself.
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    try:
        with translated(folder), suppress(FileExistsError):
            os.mkdir(folder, mode=0o700)  # noqa: PTH102
            sync_folder(folder.parent)
    except FileNotFoundError as exc:  # a file system that takes no folders, such as /proc
        raise StorageError(f'{folder}: cannot be made', hint='choose another folder') from exc


def write_file(path: Path, buffers: Sequence[Buffer], *, sync_parent: bool = True) -> int:
    """
    Write a file so that at any instant the old or the new one is there, whole.

    Parameters
    ----------
    path
        The file; ``<name>.tmp`` beside it is used meanwhile and is gone after a failure.
    buffers
        The content.
    sync_parent
        Whether the name must be durable on return; otherwise the caller syncs the folder.

    """
    temporary = path.with_name(path.name + TMP_SUFFIX)
    unlink(temporary)
    try:
        with translated(path):
            descriptor = os.open(temporary, _WRITE_FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                total = write_at(descriptor, buffers, 0)
                sync(descriptor)
            finally:
                os.close(descriptor)
        rename(temporary, path)
    except BaseException:
        with suppress(CwmError):
            unlink(temporary)
        raise
    if sync_parent:
        sync_folder(path.parent)
    return total


@contextmanager
def new_file(path: Path) -> Iterator[Callable[[Buffer], int]]:
    """
    Write a new file part by part; it has its name when all is there, durably.

    Yields
    ------
    Callable
        Appends bytes.

    Raises
    ------
    ExistsError
        There is a file of this name.

    """
    temporary = path.with_name(path.name + TMP_SUFFIX)
    unlink(temporary)
    with translated(path):
        if os.path.lexists(path):
            raise ExistsError(f'{path}: is there already', hint='choose another file')
        descriptor = os.open(temporary, _WRITE_FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    position = 0

    def write(data: Buffer) -> int:
        nonlocal position
        with translated(path):
            written = write_at(descriptor, [data], position)
        position += written
        return written

    try:
        try:
            yield write
            with translated(path):
                sync(descriptor)
        finally:
            os.close(descriptor)
        rename(temporary, path)
    except BaseException:
        with suppress(CwmError):
            unlink(temporary)
        raise
    sync_folder(path.parent)


def append(path: Path, data: bytes, *, offset: int) -> None:
    """Write ``data`` at ``offset`` of an existing file, cut what was behind, make it durable."""
    with translated(path):
        descriptor = os.open(path, _WRITE_FLAGS)
        try:
            size = _check_regular(descriptor, path)
            if size < offset:
                raise FormatError(path, f'size {size} is less than the {offset} bytes committed')
            if size > offset:
                truncate(descriptor, offset)
            try:
                write_at(descriptor, [data], offset)
                sync(descriptor)
            except BaseException:
                with suppress(OSError):
                    truncate(descriptor, offset)
                raise
        finally:
            os.close(descriptor)


def cut(path: Path, size: int) -> None:
    """Cut a file to ``size`` bytes, durably."""
    append(path, b'', offset=size)


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files that a killed writer left; return how many."""
    names = [name for name in list_names(folder) if name.endswith(TMP_SUFFIX)]
    return sum(unlink(folder / name) for name in names)


# --- what reads ---------------------------------------------------------------------------------


def _check_regular(descriptor: int, path: Path) -> int:
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode):
        raise FormatError(path, 'is not a plain file')
    return info.st_size


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[int, int]]:
    """Open for reading; yield descriptor and size [bytes]."""
    with translated(path):
        descriptor = os.open(path, _READ_FLAGS)
    try:
        yield descriptor, _check_regular(descriptor, path)
    finally:
        os.close(descriptor)


def read_into(descriptor: int, path: Path, buffers: Sequence[Buffer], offset: int = 0) -> int:
    """
    Fill ``buffers`` from ``offset``; return the number of bytes, fewer only at the end.

    Each buffer is a read of its own. A short first one, such as a head, makes the kernel read
    the rest ahead by itself, in large pages, while we copy. One read of a whole cold file waits
    for all of it and gets small pages, and so does `POSIX_FADV_WILLNEED`: twice as slow cold,
    and when read again.
    """
    total = 0
    with translated(path):
        for buffer in buffers:
            view = memoryview(buffer).cast('B')
            while len(view):
                count = os.preadv(descriptor, [view], offset + total)
                if count == 0:
                    return total
                total += count
                view = view[count:]
    return total


def read_file(path: Path, *, limit_bytes: int) -> bytes:
    """Return a file's bytes; a file larger than the limit is refused before it is read."""
    with open_regular(path) as (descriptor, size):
        if size > limit_bytes:
            raise FormatError(path, f'size {size} is more than the limit of {limit_bytes} bytes')
        data = bytearray(size)
        count = read_into(descriptor, path, [data])
        return bytes(data[:count])


def exists(path: Path) -> bool:
    """Say whether a plain file is there."""
    try:
        with translated(path):
            return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def check_folder(folder: Path) -> bool:
    """Say whether a folder is there; what is something else is refused."""
    try:
        with translated(folder):
            info = os.lstat(folder)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(info.st_mode):
        raise FormatError(folder, 'is not a folder (symbolic links are not followed)')
    return True


def check_plain(path: Path) -> None:
    """
    Refuse what is not a plain file, before a library opens it and waits for ever.

    Raises
    ------
    FileNotFoundError
        There is nothing.
    FormatError
        There is a link, a pipe or a device.

    """
    with translated(path):
        info = os.lstat(path)
    if not stat.S_ISREG(info.st_mode):
        raise FormatError(path, 'is a link, a pipe or a device, not a plain file')


def is_private(path: Path) -> bool:
    """Say whether nobody but its owner (and root) may read a file."""
    with translated(path):
        return not stat.S_IMODE(os.lstat(path).st_mode) & 0o077


def is_other_than_folder(path: Path) -> bool:
    """Say whether a path leads to something that is no folder; links are followed."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return False


def stamp(path: Path) -> tuple[int, int, int]:
    """Return (size, mtime_ns, inode), which change when a file does."""
    with translated(path):
        info = os.lstat(path)
    return info.st_size, info.st_mtime_ns, info.st_ino


def list_stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return the stamps of the plain files in a folder by name; none when it is missing."""
    stamps = {}
    try:
        with translated(folder), os.scandir(folder) as entries:
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(info.st_mode):
                    stamps[entry.name] = info.st_size, info.st_mtime_ns, info.st_ino
    except FileNotFoundError:
        return {}
    return stamps


def list_sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of the plain files in a folder by name; none when it is missing."""
    return {name: size for name, (size, _, _) in list_stamps(folder).items()}


def list_names(folder: Path) -> list[str]:
    """Return all names in a folder, whatever they are of; much faster than their sizes."""
    try:
        with translated(folder):
            return os.listdir(folder)  # noqa: PTH208 - a name is all that is needed
    except FileNotFoundError:
        return []


def list_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder; none when it is missing."""
    try:
        with translated(folder), os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def drop_pages(path: Path) -> None:
    """Let a file's pages in the page cache go; absence is no error."""
    with suppress(FileNotFoundError), open_regular(path) as (descriptor, size):
        os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_DONTNEED)


def free_bytes(folder: Path) -> int:
    """Return the room on the device that holds ``folder`` (or its nearest existing parent)."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    with translated(folder):
        info = os.statvfs(folder)
    return info.f_bavail * info.f_frsize


def bytes_written_by_thread() -> int:
    """Return what this thread has handed to the system for writing; 0 where that is not told."""
    try:
        with open('/proc/thread-self/io', 'rb') as counters:  # noqa: PTH123 - no folder of ours
            return int(counters.read().split(b'wchar: ')[1].split()[0])
    except (OSError, IndexError, ValueError):
        return 0


# --- one writer ---------------------------------------------------------------------------------


@contextmanager
def writer_lock(path: Path, *, timeout_s: float) -> Iterator[None]:
    """
    Be the only writer.

    Raises
    ------
    BusyError
        Another process held the lock for ``timeout_s``; its pid is named.

    """
    with translated(path):
        descriptor = os.open(path, _WRITE_FLAGS | os.O_CREAT, 0o600)
        try:
            _wait_for_lock(descriptor, path, timeout_s)
            with suppress(OSError):  # a full device must not keep windows from being deleted
                write_at(descriptor, [b'%-20d\n' % os.getpid()], 0)
        except BaseException:
            os.close(descriptor)
            raise
    try:
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, path: Path, timeout_s: float) -> None:
    _check_regular(descriptor, path)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # noqa: PERF203 - it waits anyway
            if time.monotonic() >= deadline:
                pid = os.pread(descriptor, 20, 0).strip().decode('ascii', 'replace')
                raise BusyError(
                    f'{path}: process {pid or "unknown"} is writing to this store',
                    hint='end it, wait for it, or open for reading',
                ) from None
            time.sleep(min(LOCK_POLL_S, max(0.0, deadline - time.monotonic())))
        else:
            return
