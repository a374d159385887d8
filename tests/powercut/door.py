# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Sees every operation of this process that changes the drive below a folder.

The store changes the drive through a few calls of ``os``, in ``store/files.py`` alone; they are
replaced while a `Door` is watched. SQLite is watched from within, as its default VFS.
"""

from __future__ import annotations

from contextlib import contextmanager, ExitStack
import os
from pathlib import Path
import signal
import stat
from typing import TYPE_CHECKING
from unittest import mock

from tests.powercut.operations import Operation, read_tree
from tests.powercut.sqlite_vfs import watched_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

WATCHED = ('open', 'pwritev', 'ftruncate', 'fsync', 'rename', 'unlink', 'mkdir', 'rmdir')
READING = (
    'close', 'fstat', 'stat', 'lstat', 'preadv', 'pread', 'scandir', 'posix_fadvise', 'statvfs',
    'getpid', 'strerror', 'listdir',
)  # fmt: skip


class Door:
    """
    Tells one listener what is done, and lets it stop the process before.

    Parameters
    ----------
    root
        Only what is below is told.
    before
        Called before each operation; its answer says how much of it is done (1.0: all) before
        the process kills itself, or None to go on.
    after
        Called with each operation that is done.

    """

    def __init__(
        self,
        root: Path,
        *,
        before: Callable[[Operation], float | None] = lambda _operation: None,
        after: Callable[[Operation], None] = lambda _operation: None,
    ) -> None:
        self._root = f'{root.resolve()}{os.sep}'
        self._before = before
        self._after = after
        known = (path for path, data in read_tree(root).items())
        self._files: dict[str, int] = {path: n for n, path in enumerate(known, start=1)}
        self._number = len(self._files)
        self._os = {name: getattr(os, name) for name in WATCHED}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Be told from now on."""
        with ExitStack() as stack:
            for name in WATCHED:
                stack.enter_context(mock.patch.object(os, name, getattr(self, f'_{name}')))
            stack.enter_context(watched_sqlite(self))
            yield

    def short(self, path: str | bytes | Path) -> str:
        """Return a path below the root; empty for one that is elsewhere."""
        whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links are not followed
        return whole.removeprefix(self._root) if whole.startswith(self._root) else ''

    def file_of(self, name: str) -> int:
        """Return the number of the file that has a name now."""
        return self._files.get(name, 0)

    def do(self, operation: Operation, work: Callable[[float], object]) -> object:
        """Tell, and do the operation; ``work`` takes how much of it."""
        part = self._before(operation)
        if part is not None:
            if part > 0:
                work(part)
            os.kill(os.getpid(), signal.SIGKILL)
        result = work(1.0)
        self._after(operation)
        return result

    def new_file(self, name: str) -> int:
        """Return the number of a file that is being made."""
        self._number += 1
        self._files[name] = self._number
        return self._number

    def forget(self, name: str) -> None:
        """A name is gone."""
        self._files.pop(name, None)

    def _open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        call = self._os['open']
        name = self.short(path)
        if not name or not flags & os.O_CREAT or os.path.lexists(path):
            return int(call(path, flags, mode))
        operation = Operation(kind='create', path=name, file=self.new_file(name))
        return int(self.do(operation, lambda _part: call(path, flags, mode)))  # type: ignore[call-overload]

    def _name_of(self, descriptor: int) -> str:
        return self.short(Path(f'/proc/self/fd/{descriptor}').readlink())

    def _pwritev(self, descriptor: int, views: Sequence[memoryview], offset: int) -> int:
        call = self._os['pwritev']
        name = self._name_of(descriptor)
        data = b''.join(views)
        operation = Operation(
            kind='write', path=name, file=self.file_of(name), offset=offset, data=data
        )

        def work(part: float) -> int:
            written = call(descriptor, [data[: int(len(data) * part)]], offset)
            assert part < 1.0 or written == len(data)
            return int(written)

        return int(self.do(operation, work)) if name else work(1.0)  # type: ignore[call-overload]

    def _ftruncate(self, descriptor: int, size: int) -> None:
        name = self._name_of(descriptor)
        if not name:
            self._os['ftruncate'](descriptor, size)
            return
        operation = Operation(kind='truncate', path=name, file=self.file_of(name), offset=size)
        self.do(operation, lambda _part: self._os['ftruncate'](descriptor, size))

    def _fsync(self, descriptor: int) -> None:
        name = self._name_of(descriptor)
        if not name and not self._is_root(descriptor):
            self._os['fsync'](descriptor)
            return
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        operation = Operation(
            kind='sync_folder' if is_folder else 'sync',
            path=name,
            file=0 if is_folder else self.file_of(name),
        )
        self.do(operation, lambda _part: self._os['fsync'](descriptor))

    def _is_root(self, descriptor: int) -> bool:
        return f'{Path(f"/proc/self/fd/{descriptor}").readlink()}{os.sep}' == self._root

    def _rename(self, source: Path, target: Path) -> None:
        old, new = self.short(source), self.short(target)
        if not old:
            self._os['rename'](source, target)
            return
        operation = Operation(kind='rename', path=old, target=new, file=self.file_of(old))
        if not os.path.lexists(source):
            self._os['rename'](source, target)
        self.do(operation, lambda _part: self._os['rename'](source, target))
        self._files[new] = self._files.pop(old)

    def _unlink(self, path: Path) -> None:
        name = self.short(path)
        if name and os.path.lexists(path):
            operation = Operation(kind='unlink', path=name, file=self.file_of(name))
            self.do(operation, lambda _part: self._os['unlink'](path))
            self.forget(name)
        else:
            self._os['unlink'](path)

    def _mkdir(self, path: Path, mode: int = 0o777) -> None:
        name = self.short(path)
        if name and not os.path.lexists(path):
            self.do(
                Operation(kind='mkdir', path=name), lambda _part: self._os['mkdir'](path, mode)
            )
        else:
            self._os['mkdir'](path, mode)

    def _rmdir(self, path: Path) -> None:
        name = self.short(path)
        if name:
            self.do(Operation(kind='rmdir', path=name), lambda _part: self._os['rmdir'](path))
        else:
            self._os['rmdir'](path)
