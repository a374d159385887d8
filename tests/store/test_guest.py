# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A guest leaves nothing: not on the drive, not after a crash, not in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cwm_ros.errors import StorageError
from cwm_ros.kv import Role, Turn
from cwm_ros.store import memory, Store
from tests.store import makers

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.config import Settings
    from tests.conftest import OpenManager

WORD = 'Quittenmarmelade'

pytestmark = pytest.mark.skipif(
    not memory.is_in_memory(memory.SHARED_MEMORY), reason='no place in memory here'
)


def own_folder() -> Path:
    return memory.SHARED_MEMORY / f'cwm-{os.geteuid()}'


def stores() -> list[Path]:
    return [path for path in own_folder().iterdir() if path.is_dir()]


def test_a_guest_is_remembered_as_long_as_the_store_is_open(tmp_path: Path) -> None:
    settings = makers.settings(tmp_path / 'store')
    with Store.open(settings, profile='guest', writable=True, clock=makers.clock) as store:
        manifest = makers.commit(store, 'w')
        store.commit_turns('w', [Turn(role=Role.USER, text=WORD)])
        assert store.window('w').turns[-1].text == WORD
        assert store.is_encrypted
        assert store.verify(None, makers.check_payload).ok
        assert store.storage().lifetime_bytes == 0
        assert store.chunk_path(manifest.chunks[0].id, 'int8').is_relative_to(own_folder())
        (root,) = [path for path in stores() if list(path.rglob('*.log'))]
        held = b''.join(path.read_bytes() for path in root.rglob('*') if path.is_file())
        assert WORD.encode() not in held
    assert not (tmp_path / 'store').exists()
    assert not root.exists()
    with Store.open(settings, profile='guest', writable=False, clock=makers.clock) as store:
        assert store.windows() == []
    assert not (tmp_path / 'store').exists()


def test_a_manager_serves_a_guest_and_writes_nothing_to_the_drive(
    open_tiny: OpenManager, settings: Settings
) -> None:
    with open_tiny() as manager:
        manager.create('w')
    root = settings.storage.root
    before = {p: p.read_bytes() for p in root.rglob('*') if p.is_file()}
    with open_tiny(privacy={'default_profile': 'guest'}) as manager:
        assert manager.store.windows() == []
        manager.create('visit')
        manager.add_turns([Turn(role=Role.USER, text=f'I like {WORD}.')])
        list(manager.catch_up())
        *_, frozen = manager.freeze()
        assert frozen.is_committed
        manager.leave()
        thaw = manager.open_window('visit')
        list(manager.catch_up())
        assert thaw is not None
        assert any(WORD in turn.text for turn in manager.session.turns)
        assert manager.store.storage().lifetime_bytes == 0
    assert {p: p.read_bytes() for p in root.rglob('*') if p.is_file()} == before


CHILD = """
import os, signal, sys
from pathlib import Path
from cwm_ros.store import Store
from tests.store import makers
with Store.open(
    makers.settings(Path(sys.argv[1])), profile='guest', writable=True, clock=makers.clock
) as store:
    makers.commit(store, 'w')
    print(store.key.hex(), flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_at_the_next_start_and_the_living_stay(
    tmp_path: Path,
) -> None:
    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, '-c', CHILD, str(tmp_path)],
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout
        assert child.stdout.readline()
        return child

    known = set(stores()) if own_folder().exists() else set()
    with start() as first:
        (of_first,) = set(stores()) - known
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert of_first.exists()
    with start() as second:
        assert not of_first.exists()
        (of_second,) = set(stores()) - known
        settings = makers.settings(tmp_path)
        with Store.open(settings, profile='guest', writable=True, clock=makers.clock):
            assert of_second.exists()
        assert second.stdin
        second.stdin.close()
        second.wait()
    assert not of_second.exists()


def test_without_a_place_in_memory_a_guest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / 'mountinfo'
    mounts.write_text('22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:5 / /dev rw - devtmpfs d rw\n')
    monkeypatch.setattr(memory, 'MOUNTS', mounts)
    with pytest.raises(StorageError, match='memory only'):
        Store.open(
            makers.settings(tmp_path), profile='guest', writable=True, clock=makers.clock
        ).__enter__()
