# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Killed writers, failing devices, several processes."""

from __future__ import annotations

from contextlib import contextmanager
import errno
import os
from pathlib import Path
import random
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.errors import BusyError, CwmError, QuotaError, ReadOnlyError, StorageError
from cwm_ros.store import files, Store
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IS_ROOT = os.geteuid() == 0
NOBODY = 65534

pytestmark = pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')


def fork(work: Callable[[int], None]) -> tuple[int, int]:
    """Run ``work`` in a child with a pipe to write to; return its pid and the pipe's end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status = 1
    try:
        os.close(reader)
        work(writer)
        status = 0
    finally:
        os._exit(status)


def read_lines(reader: int) -> list[str]:
    with os.fdopen(reader, encoding='ascii') as pipe:
        return pipe.read().splitlines()


def open_store(root: Path, *, writable: bool = True) -> Iterator[Store]:
    with Store.open(makers.settings(root), writable=writable, clock=makers.clock) as store:
        yield store


def leftovers(root: Path) -> list[Path]:
    return list(root.rglob('*.tmp'))


def turns_so_far(store: Store, name: str) -> int:
    return len(store.window(name).turns) if store.has_window(name) else 0


def grow(root: Path, pipe: int, seed: int) -> None:
    """Commit turns, chunks and windows until killed, and say what is durable."""
    chance = random.Random(seed)
    for store in open_store(root):
        counts = {name: turns_so_far(store, name) for name in 'abc'}
        while True:
            name = chance.choice('abc')
            counts[name] += chance.randint(1, 3)
            turns = makers.turns_of(counts[name], seed=ord(name))
            store.commit_turns(name, turns[turns_so_far(store, name) :])
            os.write(pipe, b'T %s %d\n' % (name.encode(), counts[name]))
            tokens = makers.tokens_of(3 * counts[name], seed=ord(name))
            chunks = makers.write_chunks(store, tokens, payload_bytes=3000)
            made = makers.manifest_of(name, tokens, chunks, num_turns=counts[name])
            revision = store.commit_window(made).revision
            os.write(pipe, b'W %s %d\n' % (name.encode(), revision))
            if counts[name] > 40:
                os.write(pipe, b'D %s 0\n' % name.encode())
                store.delete_window(name)
                counts[name] = 0


def check_after_kill(root: Path, durable: dict[str, dict[str, int]]) -> None:
    for store in open_store(root):
        assert leftovers(root) == []
        assert [info.name for info in store.windows() if info.is_pinned] == ['pinned']
        report = store.verify(None, makers.check_payload)
        assert report.problems == ()
        assert report.missing_chunks == 0
        for name, counts in durable.items():
            if not counts['D']:
                window = store.window(name)
                assert len(window.turns) >= counts['T']
                assert window.turns == tuple(makers.turns_of(len(window.turns), seed=ord(name)))
                revision = window.manifest.revision if window.manifest else 0
                assert revision >= counts['W']


@pytest.mark.parametrize('num_kills', [12, pytest.param(80, marks=pytest.mark.slow)])
def test_a_killed_writer_loses_nothing_that_was_acknowledged(
    tmp_path: Path, num_kills: int
) -> None:
    chance = random.Random(num_kills)
    for store in open_store(tmp_path):
        makers.commit(store, 'pinned', payload_bytes=3000)
        store.set_pinned('pinned', is_pinned=True)
    durable: dict[str, dict[str, int]] = {}
    kill = num_useful = 0
    while num_useful < num_kills:
        assert kill < 10 * num_kills
        pid, reader = fork(lambda pipe, seed=kill: grow(tmp_path, pipe, seed))  # type: ignore[misc]
        if chance.random() < 0.8:
            select.select([reader], [], [], 10)  # the first commit is done
        time.sleep(chance.uniform(0.0, 0.06))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        lines = read_lines(reader)
        kill, num_useful = kill + 1, num_useful + bool(lines)
        for line in lines:
            what, name, count = line.split()
            if what == 'T' and name in durable and durable[name]['D']:
                del durable[name]
            durable.setdefault(name, {'T': 0, 'W': 0, 'D': 0})[what] = int(count) or 1
        check_after_kill(tmp_path, durable)


def test_a_second_writer_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    def hold(pipe: int) -> None:
        for _ in open_store(tmp_path):
            os.write(pipe, b'open\n')
            time.sleep(60)

    pid, reader = fork(hold)
    try:
        assert os.read(reader, 5) == b'open\n'
        begin = time.monotonic()
        settings = makers.settings(tmp_path, lock_timeout_s=0.2)
        with (
            pytest.raises(BusyError, match=f'process {pid} is writing'),
            Store.open(settings, writable=True, clock=makers.clock),
        ):
            pass
        assert 0.2 <= time.monotonic() - begin < 5
        for store in open_store(tmp_path, writable=False):
            assert store.windows() == []
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
    for _ in open_store(tmp_path):
        pass


def test_a_writer_waits_for_the_one_before(tmp_path: Path) -> None:
    settings = makers.settings(tmp_path, lock_timeout_s=10)
    with Store.open(settings, writable=True, clock=makers.clock) as first:
        results: list[int] = []

        def second() -> None:
            with Store.open(settings, writable=True, clock=makers.clock) as store:
                results.append(len(store.windows()))

        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        makers.commit(first, 'w')
    thread.join()
    assert results == [1]


def read_under_load(root: Path, stop: threading.Event, seen: list[int]) -> None:
    buffer = bytearray(4096)
    while not stop.is_set():
        for store in open_store(root, writable=False):
            store.windows()
            window = store.window('w')
            assert window.manifest is not None
            assert len(window.turns) >= window.manifest.num_turns
            for entry in window.manifest.chunks:
                payload = store.read_chunk(window.manifest, entry, buffer)
                if payload is not None:
                    assert bytes(payload) == makers.payload_of(entry.id, len(payload))
            seen.append(window.manifest.revision)


def test_readers_see_whole_windows_while_another_process_writes(tmp_path: Path) -> None:
    for store in open_store(tmp_path):
        makers.commit(store, 'w')

    def write(_pipe: int) -> None:
        chance = random.Random(7)
        for store in open_store(tmp_path):
            while True:
                makers.commit(store, 'w', count=chance.randint(8, 90), num_turns=2)
                store.commit_turns('w', makers.turns_of(1))

    pid, reader = fork(write)
    stop = threading.Event()
    results: list[list[int]] = [[], [], []]
    failures: list[BaseException] = []

    def read(seen: list[int]) -> None:
        try:
            read_under_load(tmp_path, stop, seen)
        except BaseException as exc:  # noqa: BLE001 - shown by the assert below
            failures.append(exc)

    threads = [threading.Thread(target=read, args=(seen,)) for seen in results]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    assert failures == []
    for seen in results:
        assert seen == sorted(seen)
        assert len(set(seen)) > 3


class Fault:
    """Fails the n-th call that changes the disk, before or after it is done."""

    def __init__(self, error: BaseException, nth: int, *, is_late: bool) -> None:
        self.error = error
        self.left = nth
        self.is_late = is_late
        self.fired = False

    def wrap(self, function: Callable[..., object]) -> Callable[..., object]:  # type: ignore[explicit-any]
        def call(*args: object, **kwargs: object) -> object:
            self.left -= 1
            if self.left == 0:
                self.fired = True
                if self.is_late:
                    function(*args, **kwargs)
                raise self.error
            return function(*args, **kwargs)

        return call


@contextmanager
def failing(fault: Fault) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ('pwritev', 'fsync', 'rename', 'ftruncate', 'unlink', 'open'):
            patch.setattr(os, name, fault.wrap(getattr(os, name)))
        yield


def turn_and_window(store: Store) -> None:
    if len(store.window('w').turns) < 4:
        store.commit_turns('w', makers.turns_of(4)[2:])
    if not store.has_window('v'):
        store.commit_turns('v', makers.turns_of(1))
    tokens = makers.tokens_of(30)
    chunks = makers.write_chunks(store, tokens)
    store.commit_window(makers.manifest_of('w', tokens, chunks, num_turns=4))


def attempt(store: Store, expected: type[BaseException]) -> BaseException | None:
    try:
        turn_and_window(store)
    except expected as exc:
        return exc
    return None


@pytest.mark.parametrize('is_late', [False, True])
@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (OSError(errno.ENOSPC, 'full'), QuotaError),
        (OSError(errno.EROFS, 'read-only'), ReadOnlyError),
        (OSError(errno.EIO, 'broken'), StorageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failure_at_any_step_leaves_whole_windows_and_can_be_repeated(
    ram_path: Path, error: BaseException, expected: type[BaseException], *, is_late: bool
) -> None:
    raised = 0
    for nth in range(1, 200):
        root = ram_path / str(nth)
        fault = Fault(error, nth, is_late=is_late)
        for store in open_store(root):
            makers.commit(store, 'w', count=20)
            with failing(fault):
                caught = attempt(store, expected)
            raised += caught is not None
            if isinstance(caught, CwmError):
                assert str(root) in str(caught)
                assert caught.hint
            assert leftovers(root) == []
            assert store.verify(None, makers.check_payload).problems == ()
            turn_and_window(store)
            assert store.window('w').turns == tuple(makers.turns_of(4))
            assert store.window('v').turns == tuple(makers.turns_of(1))
        for store in open_store(root, writable=False):
            report = store.verify(None, makers.check_payload)
            assert (report.problems, report.missing_chunks) == ((), 0)
        shutil.rmtree(root)
        if not fault.fired:
            break
    assert not fault.fired
    assert raised > 20


@contextmanager
def small_device(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small file system, where that is allowed."""
    if not IS_ROOT or not Path('/bin/mount').exists():
        pytest.skip('only root can mount a small file system')
    folder.mkdir()
    command = ['/bin/mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip('this root cannot mount')
    try:
        yield folder
    finally:
        subprocess.run(['/bin/umount', str(folder)], check=True)


def test_a_full_device_is_a_quota_error_and_nothing_is_lost(tmp_path: Path) -> None:
    with small_device(tmp_path / 'small', 'size=1m') as root:
        for store in open_store(root):
            makers.commit(store, 'w')
            (root / 'ballast').write_bytes(
                bytes(max(0, files.free_bytes(root) - 40_000) // 4096 * 4096)
            )
            tokens = makers.tokens_of(80, seed=9)
            with pytest.raises(QuotaError) as caught:
                makers.write_chunks(store, tokens, payload_bytes=20_000)
            assert caught.value.hint
            (root / 'ballast2').write_bytes(bytes(files.free_bytes(root)))
            many = makers.turns_of(20_000)
            with pytest.raises(QuotaError, match='No space left'):
                store.commit_turns('w', many[2:])
            assert leftovers(root) == []
            assert store.verify('w', makers.check_payload).ok
            assert store.window('w').turns == tuple(makers.turns_of(2))
            (root / 'ballast').unlink()
            assert store.commit_turns('w', makers.turns_of(4)[2:]) == 4
        for store in open_store(root):
            assert len(store.window('w').turns) == 4
            store.delete_window('w')


def test_a_window_can_be_deleted_on_a_full_device(tmp_path: Path) -> None:
    with small_device(tmp_path / 'small', 'size=1m') as root:
        for store in open_store(root):
            makers.commit(store, 'w', payload_bytes=50_000)
        (root / 'ballast').write_bytes(bytes(files.free_bytes(root)))
        for store in open_store(root):
            store.delete_window('w')
            assert store.windows() == []
        for store in open_store(root, writable=False):
            assert store.storage().used_bytes == 0


def test_a_read_only_device_can_be_read(tmp_path: Path) -> None:
    with small_device(tmp_path / 'small', 'size=4m') as root:
        for store in open_store(root):
            manifest = makers.commit(store, 'w')
            store.set_pinned('w', is_pinned=True)
        subprocess.run(['/bin/mount', '-o', 'remount,ro', str(root)], check=True)
        for store in open_store(root, writable=False):
            assert store.windows()[0].is_pinned
            assert store.verify(None, makers.check_payload).chunks == len(manifest.chunks)
        with pytest.raises(ReadOnlyError, match='Read-only file system'):
            list(open_store(root))


def test_a_reader_needs_no_write_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / 'store'
        for store in open_store(root):
            makers.commit(store, 'w')
        for path in (Path(folder), root, *root.rglob('*')):
            if IS_ROOT:
                os.chown(path, NOBODY, NOBODY)
            path.chmod(0o500 if path.is_dir() else 0o400)

        def look(pipe: int) -> None:
            if IS_ROOT:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            for store in open_store(root, writable=False):
                report = store.verify(None, makers.check_payload)
                os.write(pipe, b'%d %d\n' % (report.chunks, len(report.problems)))
            try:
                list(open_store(root))
            except ReadOnlyError:
                os.write(pipe, b'read only\n')

        pid, reader = fork(look)
        os.waitpid(pid, 0)
        assert read_lines(reader) == ['3 0', 'read only']
        for path in (Path(folder), root, *root.rglob('*')):
            path.chmod(0o700)


def test_the_quota_is_kept_before_anything_is_written(tmp_path: Path) -> None:
    settings = makers.settings(tmp_path, quota_mib=1)
    with Store.open(settings, writable=True, clock=makers.clock) as store:
        makers.commit(store, 'w', payload_bytes=100_000)
        store.set_pinned('w', is_pinned=True)
        before = store.storage()
        assert before.can_store
        tokens = makers.tokens_of(80, seed=9)
        with pytest.raises(QuotaError, match=r'bytes are used, .* more exceed') as caught:
            makers.write_chunks(store, tokens, payload_bytes=100_000)
        assert 'storage.quota_mib' in caught.value.hint
        report = store.storage()
        assert before.used_bytes < report.used_bytes <= report.quota_bytes
        assert not report.can_store
        assert leftovers(tmp_path) == []
        # Turns are the truth: the share that chunks may not take is for them.
        assert store.commit_turns('w', makers.turns_of(100)[2:]) == 100
        assert store.verify(None, makers.check_payload).ok
    with Store.open(settings, writable=True, clock=makers.clock) as store:
        assert store.storage().garbage_bytes > 500_000
        assert store.storage().can_store
        store.reserve_room(500_000)
        assert store.storage().garbage_bytes == 0
        with pytest.raises(QuotaError):
            store.reserve_room(1_000_000)
        assert store.verify(None, makers.check_payload).missing_chunks == 0


def test_the_free_floor_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(
        makers.settings(tmp_path).__class__(root=tmp_path, free_floor_mib=64),
        writable=True,
        clock=makers.clock,
    ) as store:
        makers.commit(store, 'w')
        monkeypatch.setattr(files, 'free_bytes', lambda _folder: 64 << 20)
        tokens = makers.tokens_of(80, seed=9)
        with pytest.raises(QuotaError, match='free on the device'):
            makers.write_chunks(store, tokens)
        assert not store.storage().can_store
        assert store.commit_turns('w', makers.turns_of(3)[2:]) == 3


def test_garbage_is_what_no_window_and_no_freeze_needs(tmp_path: Path) -> None:
    tokens = makers.tokens_of(24, seed=5)
    for store in open_store(tmp_path):
        makers.write_chunks(store, tokens)
        assert store.collect_garbage() == 0
        assert store.storage().garbage_bytes == 0
    for store in open_store(tmp_path):
        makers.write_chunks(store, tokens[:8])
        assert store.collect_garbage() == 2 * 292
        assert np.sum([s.chunks for s in store.windows()]) == 0
