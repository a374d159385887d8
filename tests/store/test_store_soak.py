# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One writer, many readers in processes and threads, and writers that die; for a while."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cwm_ros.store import Store
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = float(os.environ.get('CWM_SOAK_S', '60'))
"""Set it for a longer soak."""
PROCESSES, THREADS = 3, 2
NAMES = 'abcd'
IS_ROOT = os.geteuid() == 0
NOBODY = 65534


def read_for_ever(root: Path, counts: Counter[str], stop: threading.Event) -> None:
    """Read whole windows and compare them with what their names say."""
    buffer = bytearray(4096)
    chance = random.Random(threading.get_ident())
    while not stop.is_set():
        with Store.open(makers.settings(root), writable=False, clock=makers.clock) as store:
            infos = store.windows()
            assert [info.name for info in infos if not info.problem] == list(NAMES)
            counts['lists'] += 1
            name = chance.choice(NAMES)
            window = store.window(name)
            assert window.manifest is not None
            assert len(window.turns) >= window.manifest.num_turns
            assert window.turns == tuple(makers.turns_of(len(window.turns), seed=ord(name)))
            tokens = window.manifest.tokens
            assert (tokens == makers.tokens_of(len(tokens), seed=ord(name))).all()
            for entry in window.manifest.chunks:
                payload = store.read_chunk(window.manifest, entry, buffer)
                if payload is not None:
                    assert bytes(payload) == makers.payload_of(entry.id, len(payload))
                    counts['chunks'] += 1
            counts['windows'] += 1


def write_for_ever(root: Path, seed: int) -> None:
    """Grow and shrink windows; say how many commits returned."""
    chance = random.Random(seed)
    settings = makers.settings(root, lock_timeout_s=10)
    with Store.open(settings, writable=True, clock=makers.clock) as store:
        while True:
            name = chance.choice(NAMES)
            held = len(store.turns(name))
            store.commit_turns(name, makers.turns_of(held + 1, seed=ord(name))[held:])
            tokens = makers.tokens_of(chance.randint(8, 90), seed=ord(name))
            chunks = makers.write_chunks(store, tokens, payload_bytes=2000)
            store.commit_window(makers.manifest_of(name, tokens, chunks, num_turns=held + 1))
            print('commit', flush=True)  # noqa: T201


def become_nobody(root: Path) -> None:
    """Let go of root, who may write everything; what is imported late is of no use to nobody."""
    with Store.open(makers.settings(root), writable=False, clock=makers.clock) as store:
        assert store.verify(None, makers.check_payload).ok
        makers.tokens_of(1)
    if IS_ROOT:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)


def read_in_threads(root: Path) -> None:
    """Be a reader that may write nothing, until a line comes in; then say what was read."""
    counts: Counter[str] = Counter()
    stop = threading.Event()
    threads = [
        threading.Thread(target=read_guarded, args=(root, counts, stop)) for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(counts))  # noqa: T201


def read_guarded(root: Path, counts: Counter[str], stop: threading.Event) -> None:
    try:
        read_for_ever(root, counts, stop)
    except BaseException as exc:
        counts[f'failed: {exc!r}'] += 1
        raise


@contextmanager
def read_only(root: Path, place: Path) -> Iterator[Path]:
    """Yield where the store can be read and not written: a mount, where that is allowed."""
    place.mkdir()
    mount = ['/bin/mount', '--bind', '-o', 'ro', str(root), str(place)]
    is_mounted = IS_ROOT and not subprocess.run(mount, check=False, capture_output=True).returncode
    try:
        yield place if is_mounted else root
    finally:
        if is_mounted:
            subprocess.run(['/bin/umount', str(place)], check=True)


def start(role: str, root: Path, seed: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-m', 'tests.store.test_store_soak', role, str(root), str(seed)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip


@pytest.mark.slow
def test_readers_see_whole_windows_whatever_becomes_of_the_writers(
    ram_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ram_path.chmod(0o755)
    root = ram_path / 'store'
    with Store.open(makers.settings(root), writable=True, clock=makers.clock) as store:
        for name in NAMES:
            store.commit_turns(name, makers.turns_of(1, seed=ord(name)))
            tokens = makers.tokens_of(40, seed=ord(name))
            chunks = makers.write_chunks(store, tokens, payload_bytes=2000)
            store.commit_window(makers.manifest_of(name, tokens, chunks))
    if IS_ROOT:  # readers are nobody, and new files are the owner's alone
        for path in (root, *root.rglob('*')):
            os.chown(path, NOBODY, NOBODY)
    with read_only(root, ram_path / 'view') as view:
        total = soak(root, view)
    kind = 'with the rights of the writer' if view == root else 'on a read-only mount'
    with capsys.disabled():
        print(f'\nsoak of {SECONDS:.0f} s, readers {kind}: {dict(total)}')  # noqa: T201

    assert not [what for what in total if what.startswith('failed')]
    assert min(total[what] for what in ('windows', 'chunks', 'lists')) > 10
    assert total['killed writers'] > 1
    with Store.open(makers.settings(root), writable=True, clock=makers.clock) as store:
        assert store.verify(None, makers.check_payload).problems == ()


def soak(root: Path, view: Path) -> Counter[str]:
    """Let writers be killed one after the other while readers read; return what was done."""
    readers = [start('read', view) for _ in range(PROCESSES)]
    total: Counter[str] = Counter()
    deadline = time.monotonic() + SECONDS
    seed = 0
    while time.monotonic() < deadline:
        seed += 1
        with start('write', root, seed) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()  # the dead one before locked nobody out
            assert first == 'commit\n'
            time.sleep(random.uniform(0.0, 1.5))
            writer.send_signal(signal.SIGKILL)
            total['commits'] += 1 + len(writer.stdout.read().splitlines())
        total['killed writers'] += 1
    for reader in readers:
        out, _ = reader.communicate('stop\n', timeout=60)
        total += Counter(json.loads(out))
    return total


if __name__ == '__main__':
    become_nobody(Path(sys.argv[2]))
    if sys.argv[1] == 'read':
        read_in_threads(Path(sys.argv[2]))
    else:
        write_for_ever(Path(sys.argv[2]), int(sys.argv[3]))
