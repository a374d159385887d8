# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The power goes while the whole assistant runs: real manager and store, and an engine whose KV is
known.

What a window must be is told by its name, as in `tests.powercut.promises`; a `HashEngine` then
says whether the KV that comes back is the KV of these very tokens.
"""

from __future__ import annotations

import atexit
from contextlib import contextmanager, ExitStack
from functools import cache
from pathlib import Path
import shutil
import tempfile
from typing import TYPE_CHECKING
from unittest import mock

from cwm_ros import loaded
from cwm_ros.config import CodecSettings, EngineSettings, Settings, ThawSettings
from cwm_ros.kv import Role, Turn
from cwm_ros.manager import Manager
from cwm_ros.model import Checkpoint
from cwm_ros.restore import PayloadCheck
from tests.fakes import (
    assert_true_kv,
    complete,
    HashEngine,
    HashFirstLayer,
    NumpyKernels,
    story,
)
from tests.powercut.promises import Note, Promises
from tests.powercut.scenarios import nothing, Say, scenario
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Iterator

TINY = Path(__file__).parents[1] / 'model' / 'golden' / 'tiny'
CONTEXT_TOKENS = 2048
SYSTEM = 'You help.'


@cache
def _model() -> Checkpoint:
    folder = tempfile.mkdtemp(prefix='powercut-model-')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Checkpoint(TINY, Path(folder))


@contextmanager
def assistant(root: Path) -> Iterator[Manager]:
    """Start the assistant."""
    checkpoint = _model()
    settings = Settings(
        storage=makers.settings(root),
        codec=CodecSettings(kind='raw', chunk_tokens=128, compression='none'),
        thaw=ThawSettings(first_tokens=100, last_tokens=100, strategy='load'),
        engine=EngineSettings(
            model=str(TINY),
            cache_dir=str(root.parent / 'cache'),
            context_tokens=CONTEXT_TOKENS,
        ),
    )
    fakes = {
        'KernelLoader': NumpyKernels,
        'Checkpoint': lambda *_: checkpoint,
        'FirstLayer': lambda *_, **__: HashFirstLayer(checkpoint.identity),
        'open_engine': lambda *_: HashEngine(checkpoint.identity, capacity=CONTEXT_TOKENS),
    }
    with ExitStack() as stack:
        for name, fake in fakes.items():
            stack.enter_context(mock.patch.object(loaded, name, fake))
        yield stack.enter_context(Manager(settings, wall_ms=makers.clock))


def turns_of(count: int) -> tuple[Turn, ...]:
    """Return the turns that a window must have."""
    roles = (Role.USER, Role.ASSISTANT)
    said = [
        Turn(role=roles[index % 2], text=story(110, index), time_ms=makers.NOW_MS)
        for index in range(count - 1)
    ]
    return (Turn(role=Role.SYSTEM, text=SYSTEM, time_ms=makers.NOW_MS), *said)[:count]


def talk(manager: Manager, say: Say, window: str, count: int) -> None:
    """Let a window have so many turns."""
    say(Note('turns', window, count))
    if not manager.window:
        manager.create(window, SYSTEM)
    manager.add_turns(turns_of(count)[manager.session.num_turns :])
    say(Note('turns', window, count, is_done=True))


def freeze(manager: Manager, say: Say, window: str, *, deadline_s: float | None = None) -> None:
    """Freeze what was said."""
    tokens = manager.session.num_tokens
    say(Note('window', window, tokens))
    *_, last = manager.freeze(deadline_s=deadline_s)
    if last.is_committed:
        say(Note('window', window, tokens, is_done=True))


def broken_talk(root: Path, promises: Promises) -> list[str]:
    """Start the assistant after a cut, let each window come back, and say what is wrong."""
    found = []
    with assistant(root) as manager:
        report = manager.store.verify(None, PayloadCheck())
        found += report.problems
        if report.missing_chunks:
            found.append(f'{report.missing_chunks} chunks are missing')
        found += [f'{path.name} was left' for path in root.rglob('*.tmp')]
        for name, promise in promises.windows.items():
            if not manager.store.has_window(name):
                found += [] if promise.may_be_gone else [f'{name}: is gone']
                continue
            window = manager.store.window(name)
            count, (least, most) = len(window.turns), promise.turns
            if not least <= count <= most or window.turns != turns_of(count):
                found.append(f'{name}: its {count} turns are not those that were committed')
            held = len(window.manifest.tokens) if window.manifest else -1
            if held not in (promise.tokens or [-1]):
                found.append(f'{name}: has {held} tokens, not one of {promise.tokens}')
            manager.open_window(name)
            complete(manager)
            assert_true_kv(manager.session)
            assert manager.session.engine.resident.covers(0, manager.session.num_tokens)
            *_, last = manager.freeze()
            if not last.is_committed:
                found.append(f'{name}: cannot be frozen')
        found += manager.store.verify(None, PayloadCheck()).problems
    return found


@scenario(prepare=nothing, judge=broken_talk)
def drive(root: Path, say: Say) -> None:
    """Talk, write behind, freeze under a deadline, come back, go on, and freeze again."""
    with assistant(root) as manager:
        talk(manager, say, 'drive', 4)
        say(Note('window', 'drive', manager.session.num_tokens))
        for _ in manager.idle():
            pass
        say(Note('window', 'drive', manager.session.num_tokens, is_done=True))
        talk(manager, say, 'drive', 6)
        complete(manager)
        freeze(manager, say, 'drive', deadline_s=30.0)
    with assistant(root) as manager:
        manager.open_window('drive')
        complete(manager)
        talk(manager, say, 'drive', 8)
        complete(manager)
        freeze(manager, say, 'drive')
