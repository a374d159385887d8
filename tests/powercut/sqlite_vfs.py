# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Watches SQLite change the drive: a VFS in front of its own one, made with ctypes.

The VFS is a copy of the default one with other functions for opening and deleting; a file that it
opened gets a copy of its methods with other functions for writing, truncating and syncing.
"""

from __future__ import annotations

import _sqlite3
from contextlib import contextmanager
import ctypes
import os
from typing import TYPE_CHECKING

from tests.powercut.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.powercut.door import Door

POINTER = ctypes.c_void_p
OPEN = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, POINTER, ctypes.c_int, POINTER)
DELETE = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, ctypes.c_char_p, ctypes.c_int)
WRITE = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, ctypes.c_int, ctypes.c_int64)
TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, ctypes.c_int64)
SYNC = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, ctypes.c_int)
OPEN_CREATE = 0x4
OPEN_JOURNAL = 0x800 | 0x80000  # rollback journal, write-ahead log


class _Vfs(ctypes.Structure):
    _fields_ = (
        ('version', ctypes.c_int),
        ('file_bytes', ctypes.c_int),
        ('longest_path', ctypes.c_int),
        ('next', POINTER),
        ('name', ctypes.c_char_p),
        ('data', POINTER),
        ('open', POINTER),
        ('delete', POINTER),
        ('others', POINTER * 13),
    )


class _Methods(ctypes.Structure):
    _fields_ = (
        ('version', ctypes.c_int),
        ('close', POINTER),
        ('read', POINTER),
        ('write', POINTER),
        ('truncate', POINTER),
        ('sync', POINTER),
        ('others', POINTER * 13),
    )


def _library() -> ctypes.CDLL:
    """Return the SQLite that the standard library uses: the same code, the same list of VFS."""
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
    library.sqlite3_vfs_register.argtypes = [POINTER, ctypes.c_int]
    library.sqlite3_vfs_unregister.argtypes = [POINTER]
    return library


class _Watch:
    """
    The functions in between.

    Parameters
    ----------
    door
        What is told.
    original
        The default VFS.

    """

    def __init__(self, door: Door, original: _Vfs) -> None:
        self._door = door
        self._open = OPEN(original.open)
        self._delete = DELETE(original.delete)
        self._methods: list[_Methods] = []
        self._names: dict[int, str] = {}
        self._files: dict[int, int] = {}
        self._unsynced_journals: set[int] = set()
        self._callbacks = (OPEN(self.open), DELETE(self.delete))
        self.vfs = _Vfs.from_buffer_copy(original)
        self.vfs.name = b'watched'
        self.vfs.open = ctypes.cast(self._callbacks[0], POINTER)
        self.vfs.delete = ctypes.cast(self._callbacks[1], POINTER)
        self._own_methods: dict[int, tuple[_Methods, object]] = {}

    def open(self, vfs: int, place: int | None, file: int, flags: int, out: int) -> int:
        path = ctypes.string_at(place) if place else b''
        name = self._door.short(path) if path else ''
        is_new = bool(path) and bool(flags & OPEN_CREATE) and not os.path.lexists(path)

        def work(_part: float) -> int:
            return self._open(vfs, place, file, flags, out)  # SQLite keeps the pointer

        if name and is_new:
            operation = Operation(kind='create', path=name, file=self._door.new_file(name))
            code = int(self._door.do(operation, work))  # type: ignore[call-overload]
            if flags & OPEN_JOURNAL:
                self._unsynced_journals.add(file)
        else:
            code = work(1.0)
        if code == 0 and name:
            self._names[file] = name
            self._files[file] = self._door.file_of(name)
            self._replace_methods(file)
        return code

    def _replace_methods(self, file: int) -> None:
        place = ctypes.cast(file, ctypes.POINTER(POINTER))
        address = place[0]
        if address not in self._own_methods:
            original = _Methods.from_address(address)
            copy = _Methods.from_buffer_copy(original)
            write, truncate, sync = (
                WRITE(original.write),
                TRUNCATE(original.truncate),
                SYNC(original.sync),
            )
            calls = (
                WRITE(lambda f, data, size, offset: self._write(write, f, data, size, offset)),
                TRUNCATE(lambda f, size: self._truncate(truncate, f, size)),
                SYNC(lambda f, flags: self._sync(sync, f, flags)),
            )
            copy.write, copy.truncate, copy.sync = (ctypes.cast(c, POINTER) for c in calls)
            self._own_methods[address] = copy, calls
        place[0] = ctypes.addressof(self._own_methods[address][0])

    def _write(self, call: object, file: int, data: int, size: int, offset: int) -> int:
        operation = Operation(
            kind='write',
            path=self._names[file],
            file=self._files[file],
            offset=offset,
            data=ctypes.string_at(data, size),
        )
        return self._do(operation, lambda part: call(file, data, int(size * part), offset))  # type: ignore[operator]

    def _truncate(self, call: object, file: int, size: int) -> int:
        operation = Operation(
            kind='truncate', path=self._names[file], file=self._files[file], offset=size
        )
        return self._do(operation, lambda _part: call(file, size))  # type: ignore[operator]

    def _sync(self, call: object, file: int, flags: int) -> int:
        name = self._names[file]
        operation = Operation(kind='sync', path=name, file=self._files[file])
        code = self._do(operation, lambda _part: call(file, flags))  # type: ignore[operator]
        if file in self._unsynced_journals:  # SQLite syncs the folder of a new journal, too
            self._unsynced_journals.discard(file)
            folder = Operation(kind='sync_folder', path=os.path.dirname(name))  # noqa: PTH120
            self._do(folder, lambda _part: 0)
        return code

    def delete(self, vfs: int, path: bytes, sync_folder: int) -> int:
        name = self._door.short(path)
        if not name or not os.path.lexists(path):
            return self._delete(vfs, path, sync_folder)
        operation = Operation(kind='unlink', path=name, file=self._door.file_of(name))
        code = self._do(operation, lambda _part: self._delete(vfs, path, sync_folder))
        self._door.forget(name)
        if sync_folder:
            folder = Operation(kind='sync_folder', path=os.path.dirname(name))  # noqa: PTH120
            self._do(folder, lambda _part: 0)
        return code

    def _do(self, operation: Operation, work: object) -> int:
        return int(self._door.do(operation, work))  # type: ignore[call-overload, arg-type]


@contextmanager
def watched_sqlite(door: Door) -> Iterator[None]:
    """Let ``door`` be told what SQLite does with databases that are opened within."""
    library = _library()
    original = library.sqlite3_vfs_find(None)
    watch = _Watch(door, original.contents)
    vfs = ctypes.byref(watch.vfs)
    assert library.sqlite3_vfs_register(vfs, 1) == 0
    try:
        yield
    finally:
        library.sqlite3_vfs_unregister(vfs)
        library.sqlite3_vfs_register(original, 1)
