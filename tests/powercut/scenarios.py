# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What a program is doing when the power goes; a function and a decorator add a scenario.

Each begins with the store that ``settled`` leaves, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cwm_ros.bundle_export import export_window
from cwm_ros.bundle_import import import_window
from cwm_ros.errors import FormatError, KeyMissingError
from cwm_ros.optimize import optimize
from cwm_ros.store import layout
from cwm_ros.store.profiles import erase_profile
from tests.powercut.promises import (
    broken_promises,
    Note,
    opened,
    privacy_of,
    Program,
    Promises,
    store_of,
)
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
Say = Callable[[Note], None]
Work = Callable[['Path', Say], None]
Judge = Callable[['Path', Promises], list[str]]

QUOTA_MIB = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """
    Something that can be cut.

    Parameters
    ----------
    name
        For reports.
    prepare
        Makes the store as it is, durably, when the program begins.
    work
        The program; opens the store itself.
    judge
        Starts the program after a cut and says what is not as promised.

    """

    name: str
    prepare: Work
    work: Work
    judge: Judge


SCENARIOS: dict[str, Scenario] = {}


@contextmanager
def program(
    root: Path, say: Say, *, quota_mib: int = QUOTA_MIB, is_encrypted: bool = False
) -> Iterator[Program]:
    """Open the store for writing."""
    with opened(root, writable=True, quota_mib=quota_mib, is_encrypted=is_encrypted) as store:
        yield Program(store, say)


def nothing(root: Path, _say: Say) -> None:
    """Begin with an empty drive."""
    root.mkdir(exist_ok=True)


def settled(root: Path, say: Say) -> None:
    """Begin with three windows, one pinned."""
    with program(root, say) as writer:
        for name in ('cold', 'warm', 'pinned'):
            writer.say(name, 2)
            writer.freeze(name, 20)
        writer.pin('pinned', is_pinned=True)


def scenario(
    *,
    prepare: Work = settled,
    quota_mib: int = QUOTA_MIB,
    is_encrypted: bool = False,
    judge: Judge | None = None,
) -> Callable[[Work], Work]:
    """Add a scenario that is named as the function."""
    usual = partial(broken_promises, quota_mib=quota_mib, is_encrypted=is_encrypted)

    def add(work: Work) -> Work:
        name = work.__name__
        SCENARIOS[name] = Scenario(name=name, prepare=prepare, work=work, judge=judge or usual)
        return work

    return add


@scenario(prepare=nothing)
def first_start(root: Path, say: Say) -> None:
    """Make the store and its first window."""
    with program(root, say) as writer:
        writer.say('first', 1)
        writer.freeze('first', 10)


@scenario()
def turn_commits(root: Path, say: Say) -> None:
    """Commit turns to old and new windows."""
    with program(root, say) as writer:
        for count in (3, 4, 6, 9):
            writer.say('warm', count)
        writer.say('new', 1)
        writer.say('new', 2)


@scenario()
def freeze(root: Path, say: Say) -> None:
    """Freeze a new window, and grow it twice; a partial chunk is replaced."""
    with program(root, say) as writer:
        writer.say('live', 2)
        writer.freeze('live', 20)
        writer.say('live', 4)
        writer.freeze('live', 44)
        writer.say('warm', 4)
        writer.freeze('warm', 30)


@scenario(quota_mib=1)
def eviction(root: Path, say: Say) -> None:
    """Freeze more than there is room for."""
    with program(root, say, quota_mib=1) as writer:
        for name in ('big1', 'big2', 'big3'):
            if name == 'big3':  # takes room from the cold, then from the middle of big1
                writer.may_evict('cold', 'warm', 'big1')
            writer.say(name, 2)
            writer.freeze(name, 32, payload_bytes=100_000)


@scenario()
def deletion(root: Path, say: Say) -> None:
    """Delete windows, and begin one of the same name."""
    with program(root, say) as writer:
        writer.delete('cold')
        writer.say('turns', 2)
        writer.delete('turns')
        writer.say('cold', 1)
        writer.freeze('cold', 12)
        writer.delete('pinned')


@scenario()
def database_update(root: Path, say: Say) -> None:
    """Pin and unpin; each is stored at once."""
    with program(root, say) as writer:
        writer.pin('cold', is_pinned=True)
        writer.pin('pinned', is_pinned=False)
        writer.pin('warm', is_pinned=True)
        writer.store.touch('cold')


def with_garbage(root: Path, say: Say) -> None:
    """Begin with chunks that no window needs, and a damaged one that a window does need."""
    settled(root, say)
    with program(root, say) as writer:
        makers.write_chunks(writer.store, makers.tokens_of(40, seed=77), payload_bytes=700)
        manifest = writer.store.window('cold').manifest
        assert manifest is not None
        name = manifest.chunks[1].file_name
    path = root / 'profiles' / 'default' / 'chunks' / name
    path.write_bytes(path.read_bytes()[:-1] + b'?')
    say(Note('damage', 'cold', len(manifest.tokens)))
    say(Note('evict', 'cold'))


@scenario(prepare=with_garbage)
def optimise(root: Path, say: Say) -> None:
    """Collect garbage and scrub; what is damaged is set aside."""
    with program(root, say) as writer:

        def work() -> None:
            for _ in optimize(writer.store, makers.check_payload, bytes_per_s=1e12):
                pass

        writer.noted('mend', 'cold', 20, work)
        writer.say('warm', 3)


def with_bundle(root: Path, say: Say) -> None:
    """Begin with a window that is gone, and its bundle beside the store."""
    settled(root, say)
    with program(root, say) as writer:
        writer.say('sent', 2)
        writer.freeze('sent', 40)
        data = bytearray()
        for _ in export_window(writer.store, 'sent', data.extend, makers.check_payload):
            pass
        writer.delete('sent')
    (root / 'bundle.cwmz').write_bytes(data)


@scenario(prepare=with_bundle)
def importing(root: Path, say: Say) -> None:
    """Import a window; chunks may come after it is there."""
    with program(root, say) as writer, (root / 'bundle.cwmz').open('rb') as source:

        def work() -> None:
            check, size = makers.check_payload, makers.SIZE
            for _ in import_window(writer.store, source, check, chunk_tokens=size):
                pass

        def window() -> None:
            writer.noted('evict', 'sent', 0, lambda: writer.noted('window', 'sent', 40, work))

        writer.noted('turns', 'sent', 2, window)
        writer.say('sent', 3)


def with_exchanges(root: Path, say: Say) -> None:
    """Begin with a window of three exchanges, of whose last chunk one is in quarantine, too."""
    settled(root, say)
    with program(root, say) as writer:
        writer.say('told', 6)
        writer.freeze('told', 40)
        manifest = writer.store.window('told').manifest
        assert manifest is not None
        assert writer.store.discard_chunk(manifest.chunks[-1])
        writer.freeze('told', 40)


@scenario(prepare=with_exchanges)
def forgetting(root: Path, say: Say) -> None:
    """Forget the last exchange, then the one before, and say something else."""
    with program(root, say) as writer:
        for number, tokens in ((4, 26), (2, 13)):
            writer.forget('told', number, tokens)
        writer.say('told', 3)


def with_damage(root: Path, say: Say) -> None:
    """Begin with a window whose manifest is damaged."""
    settled(root, say)
    with program(root, say) as writer:
        name = layout.window_id(writer.store.key, 'cold')
    path = root / 'profiles' / 'default' / 'windows' / f'{name}.cwm'
    path.write_bytes(path.read_bytes()[:-9])
    say(Note('damage', 'cold', -1))


@scenario(prepare=with_damage)
def doctor(root: Path, say: Say) -> None:
    """Mend a window; until then it is damaged, afterwards it has its turns."""
    with program(root, say) as writer:
        writer.noted('mend', 'cold', -1, lambda: writer.store.mend(makers.check_payload))
        writer.say('cold', 3)
        writer.freeze('cold', 25)


def with_leftovers(root: Path, say: Say) -> None:
    """Begin with what a killed writer leaves: a torn log, files half written or half deleted."""
    settled(root, say)
    with program(root, say) as writer:
        writer.say('torn', 2)
        writer.say('gone', 1)
        writer.freeze('gone', 9)
        ids = {name: layout.window_id(writer.store.key, name) for name in ('torn', 'gone')}
        writer.delete('gone')
    folder = root / 'profiles' / 'default' / 'windows'
    with (folder / f'{ids["torn"]}.log').open('ab') as file:
        file.write(b'torn' * 50)
    (folder / f'{ids["gone"]}.gone').write_bytes(b'')
    (folder / f'{ids["gone"]}.cwm').write_bytes(b'half deleted')
    (folder / f'{ids["torn"]}.cwm.tmp').write_bytes(b'half written')
    (folder.parent / 'chunks' / 'half.tmp').write_bytes(b'half written')


@scenario(prepare=with_leftovers)
def recovery(root: Path, say: Say) -> None:
    """Start after a cut, and be cut again."""
    with program(root, say) as writer:
        writer.say('torn', 3)


def settled_secretly(root: Path, say: Say) -> None:
    """Begin with an encrypted profile of two windows."""
    with program(root, say, is_encrypted=True) as writer:
        for name in ('cold', 'warm'):
            writer.say(name, 2)
            writer.freeze(name, 20)


@scenario(prepare=nothing, is_encrypted=True)
def encrypted_start(root: Path, say: Say) -> None:
    """Make an encrypted profile, with its key beside the store, and its first window."""
    with program(root, say, is_encrypted=True) as writer:
        writer.say('first', 1)
        writer.freeze('first', 10)


@scenario(prepare=settled_secretly, is_encrypted=True)
def encrypted_freeze(root: Path, say: Say) -> None:
    """Commit turns, freeze, pin and delete in an encrypted profile."""
    with program(root, say, is_encrypted=True) as writer:
        writer.say('warm', 5)
        writer.freeze('warm', 30)
        writer.pin('warm', is_pinned=True)
        writer.delete('cold')
        writer.say('new', 2)
        writer.freeze('new', 12)


def badly_erased(root: Path, promises: Promises) -> list[str]:
    """Say what is wrong after a cut erasure: all is there, or nothing opens; then erase again."""
    found = []
    store = store_of(root, is_encrypted=True)
    has_key = any(path.read_bytes().startswith(layout.KEY_MAGIC) for path in root.rglob('*.key'))
    if has_key and promises.is_erased:
        found.append('the key is there, although the profile was erased')
    try:
        with opened(root, writable=False, quota_mib=QUOTA_MIB, is_encrypted=True) as reader:
            report = reader.verify(None, makers.check_payload)
        if not has_key or report.windows != 2 or not report.ok:
            found.append(f'opens, but not as it was: {report}')
    except (KeyMissingError, FormatError) as exc:
        if has_key:
            found.append(f'the key is there, and the profile does not open: {exc}')
    if store.is_dir():
        erase_profile(
            store,
            'default',
            privacy_of(root, is_encrypted=True),
            is_confirmed=True,
            lock_timeout_s=0.0,
        )
    found += [f'{path.name} was left' for path in root.rglob('*.key')]
    found += [f'{path.name} was left' for path in store.rglob('*') if path.suffix]
    return found


@scenario(prepare=settled_secretly, is_encrypted=True, judge=badly_erased)
def erasure(root: Path, say: Say) -> None:
    """Erase an encrypted profile: first its key, then its files."""
    privacy = privacy_of(root, is_encrypted=True)
    say(Note('erase'))
    erase_profile(
        store_of(root, is_encrypted=True),
        'default',
        privacy,
        is_confirmed=True,
        lock_timeout_s=0.0,
    )
    say(Note('erase', is_done=True))
