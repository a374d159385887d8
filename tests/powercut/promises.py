# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a store promises, noted while a program runs and compared with what a cut left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cwm_ros.config_privacy import PrivacySettings
from cwm_ros.forget import forget
from cwm_ros.store import files, Store
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cwm_ros.kv import Turn

NEVER = 1 << 20
SECOND_TELLING = 10_000
MOST_TOKENS = 64
"""More than any window is given."""
RUN_TOKENS = 3
"""As many tokens one after the other as no file holds by chance."""


@dataclass(frozen=True, slots=True)
class Note:
    """
    Something that is going to be done, or whose call has returned.

    Parameters
    ----------
    what
        'turns', 'window', 'forget', 'delete', 'pin', 'damage', 'mend', 'evict' or 'erase'.
        'evict' says that chunks of the window may be missing; when done, that none is.
    window
        Which window.
    value
        Number of turns; number of tokens, -1 when only turns remain; whether it is pinned.
    is_done
        Whether the call has returned.

    """

    what: str
    window: str = ''
    value: int = 0
    is_done: bool = False

    def line(self) -> str:
        """Return it as a line of text."""
        return f'{self.what} {self.window or "-"} {int(self.value)} {int(self.is_done)}\n'

    @classmethod
    def of(cls, line: str) -> Note:
        """Read what `line` returned."""
        what, window, value, is_done = line.split()
        return cls(what, window.removeprefix('-'), int(value), is_done=is_done == '1')


def told(window: str, count: int, *, retold: int = NEVER) -> list[Turn]:
    """
    Return the turns that a window must have, which follow from its name.

    From turn ``retold`` on they are said in other words, so that what was forgotten stays unsaid.
    """
    first, second = (
        makers.turns_of(count, seed=seed_of(window) + telling) for telling in (0, SECOND_TELLING)
    )
    return first[:retold] + second[retold:]


@dataclass(slots=True)
class WindowPromise:
    """
    What must be and may be of a window.

    Parameters
    ----------
    turns
        The least and the most.
    tokens
        How many there may be; -1 when only turns remain.
    may_be_gone, must_be_gone
        Whether it need not, or must not, be there.
    is_pinned
        None while that changes.
    is_damaged, is_forgetting
        Whether its manifest is to be mended; whether turns are just being forgotten.
    may_lack_chunks
        Whether chunks may have been evicted or set aside, or have not arrived.
    retold
        See `told`.
    forgotten
        Bytes that no file may hold.

    """

    turns: list[int] = field(default_factory=lambda: [0, 0])
    tokens: list[int] = field(default_factory=list)
    may_be_gone: bool = True
    must_be_gone: bool = False
    is_pinned: bool | None = False
    is_damaged: bool = False
    is_forgetting: bool = False
    may_lack_chunks: bool = False
    retold: int = NEVER
    forgotten: tuple[bytes, ...] = ()

    def add(self, note: Note) -> None:
        """Take a note about this window into account."""
        if note.what == 'turns':
            self.turns = [note.value if note.is_done else self.turns[0], note.value]
            self.may_be_gone &= not note.is_done
        elif note.what == 'window':
            self.tokens = [note.value] if note.is_done else [*(self.tokens or [-1]), note.value]
        elif note.what == 'forget':
            if note.is_done:
                self._forget(note.window, self.turns[0], max(self.tokens))
                self.retold = note.value
            self.turns = [note.value, note.value if note.is_done else self.turns[1]]
            self.is_forgetting = not note.is_done
        elif note.what == 'delete':
            if note.is_done:
                self._forget(note.window, 0, 0)
            self.may_be_gone = True
            self.must_be_gone = note.is_done
        elif note.what == 'evict':
            assert not self.is_pinned, f'{note.window} is pinned: nothing of it may be evicted'
            self.may_lack_chunks = not note.is_done
        elif note.what == 'pin':
            self.is_pinned = bool(note.value) if note.is_done else None
        else:
            self.is_damaged = not (note.what == 'mend' and note.is_done)
            self.tokens = [note.value]

    def _forget(self, window: str, turns_kept: int, tokens_kept: int) -> None:
        said = told(window, self.turns[1], retold=self.retold)[turns_kept:]
        tokens = makers.tokens_of(MOST_TOKENS, seed=seed_of(window))
        starts = range(tokens_kept, MOST_TOKENS - RUN_TOKENS + 1)
        runs = [tokens[start : start + RUN_TOKENS].tobytes() for start in starts]
        self.forgotten += (*(turn.text.encode() for turn in said), *runs)


@dataclass(slots=True)
class Promises:
    """
    What must be found at the next start.

    Parameters
    ----------
    windows
        By name.
    is_lossy
        Whether the last notes may have been lost, so that more may be found than was said.
    is_erased
        Whether an erasure has returned.

    """

    windows: dict[str, WindowPromise] = field(default_factory=dict)
    is_lossy: bool = False
    is_erased: bool = False

    @classmethod
    def of(cls, notes: Iterable[Note]) -> Promises:
        """Add up what was said until the cut."""
        promises = cls()
        for note in notes:
            promises._add(note)
        return promises

    def _add(self, note: Note) -> None:
        if note.what == 'erase':
            self.is_erased = note.is_done
            return
        window = self.windows.setdefault(note.window, WindowPromise())
        if note.what == 'turns' and window.must_be_gone:
            window = self.windows[note.window] = WindowPromise()
        window.add(note)


class Program:
    """
    A writer that says what it does.

    Turns and tokens follow from the window's name, so that whoever reads them later knows
    whether they are right.

    Parameters
    ----------
    store
        Open for writing.
    say
        Where notes go.

    """

    def __init__(self, store: Store, say: Callable[[Note], None]) -> None:
        self.store = store
        self._say = say
        self._retold: dict[str, int] = {}

    def noted(self, what: str, window: str, value: int, work: Callable[[], object]) -> None:
        """Do something between two notes."""
        self._say(Note(what, window, value))
        work()
        self._say(Note(what, window, value, is_done=True))

    def say(self, window: str, count: int) -> None:
        """Commit turns until there are ``count``."""
        held = len(self.store.turns(window)) if self.store.has_window(window) else 0
        turns = told(window, count, retold=self._retold.get(window, NEVER))[held:]
        self.noted('turns', window, count, lambda: self.store.commit_turns(window, turns))

    def freeze(self, window: str, num_tokens: int, *, payload_bytes: int = 700) -> None:
        """Write the chunks of a window that are not there, then its manifest."""
        num_turns = len(self.store.turns(window))

        def work() -> None:
            tokens = makers.tokens_of(num_tokens, seed=seed_of(window))
            chunks = makers.write_chunks(self.store, tokens, payload_bytes=payload_bytes)
            manifest = makers.manifest_of(window, tokens, chunks, num_turns=num_turns)
            self.store.commit_window(manifest)

        self.noted('window', window, num_tokens, work)

    def forget(self, window: str, count: int, num_tokens: int) -> None:
        """Forget the exchange that begins with turn ``count``, the last one; tokens stay."""
        self._say(Note('forget', window, count))
        self.noted('window', window, num_tokens, lambda: forget(self.store, window, [count]))
        self._retold[window] = count
        self._say(Note('forget', window, count, is_done=True))

    def delete(self, window: str) -> None:
        """Delete a window."""
        self.noted('delete', window, 0, lambda: self.store.delete_window(window))

    def pin(self, window: str, *, is_pinned: bool) -> None:
        """Pin a window, or no longer."""
        self.noted(
            'pin', window, is_pinned, lambda: self.store.set_pinned(window, is_pinned=is_pinned)
        )

    def may_evict(self, *windows: str) -> None:
        """Say of which windows chunks may go from now on."""
        for window in windows:
            self._say(Note('evict', window))


def seed_of(window: str) -> int:
    """Return the number from which a window's turns and tokens follow."""
    return sum(window.encode())


def opened(
    root: Path, *, writable: bool, quota_mib: int, is_encrypted: bool = False
) -> AbstractContextManager[Store]:
    """Open the store; an encrypted one lies beside its keys, so that both are cut."""
    return Store.open(
        makers.settings(store_of(root, is_encrypted=is_encrypted), quota_mib=quota_mib),
        writable=writable,
        clock=makers.clock,
        privacy=privacy_of(root, is_encrypted=is_encrypted),
    )


def store_of(root: Path, *, is_encrypted: bool) -> Path:
    """Return where the store is below what is watched."""
    return root / 'store' if is_encrypted else root


def privacy_of(root: Path, *, is_encrypted: bool) -> PrivacySettings:
    """Return where the keys are."""
    return PrivacySettings(encrypt=is_encrypted, key_dir=str(root / 'keys'))


def broken_promises(
    root: Path, promises: Promises, *, quota_mib: int, is_encrypted: bool = False
) -> list[str]:
    """
    Start the program after a cut and say what is not as promised.

    Parameters
    ----------
    root
        The store.
    promises
        What must be there.
    quota_mib, is_encrypted
        As the program was started with.

    """
    place = {'quota_mib': quota_mib, 'is_encrypted': is_encrypted}
    found = _check_forgotten(store_of(root, is_encrypted=is_encrypted), promises)
    with opened(root, writable=True, **place) as store:  # type: ignore[arg-type]
        if any(promise.is_damaged for promise in promises.windows.values()):
            store.mend(makers.check_payload)  # what was cut can be done again
        found += _check_files(store_of(root, is_encrypted=is_encrypted), store, promises)
        for name, promise in promises.windows.items():
            found += _check_window(store, name, promise, is_lossy=promises.is_lossy)
        _go_on(store)
    with opened(root, writable=False, **place) as store:  # type: ignore[arg-type]
        report = store.verify(None, makers.check_payload)
        found += [f'after going on: {problem}' for problem in report.problems]
        if len(store.turns('afterwards')) != 1:
            found.append('afterwards: its turn is not there')
    return found


def _check_forgotten(root: Path, promises: Promises) -> list[str]:
    """Search all files as the cut left them, before a writer can tidy up."""
    forgotten = [(name, w.forgotten) for name, w in promises.windows.items() if w.forgotten]
    if not forgotten:
        return []
    paths = (path for path in (root / 'profiles').rglob('*') if path.is_file())
    contents = {path.relative_to(root): path.read_bytes() for path in paths}
    return [
        f'{name}: what was forgotten is in {file}'
        for name, parts in forgotten
        for file, data in contents.items()
        if any(part in data for part in parts)
    ]


def _check_files(root: Path, store: Store, promises: Promises) -> list[str]:
    found = [f'{path.name} was left' for path in root.rglob('*.tmp')]
    found += [f'{path.name} was left' for path in root.rglob('*.gone')]
    report = store.verify(None, makers.check_payload)
    found += list(report.problems)
    missing = {name: _missing_chunks(store, name) for name in promises.windows}
    found += [
        f'{name}: {count} chunks are missing'
        for name, count in missing.items()
        if count and not promises.windows[name].may_lack_chunks
    ]
    if report.missing_chunks != sum(missing.values()):
        found.append(f'{report.missing_chunks} chunks are said to be missing, not {missing}')
    names = {info.name for info in store.windows()}
    if not promises.is_lossy:
        found += [f'{name!r} was never made' for name in names - promises.windows.keys()]
    folders = ('windows', 'chunks')
    profile = root / 'profiles' / 'default'
    sizes = [path.stat().st_size for folder in folders for path in (profile / folder).iterdir()]
    used = store.storage().used_bytes
    if used != sum(sizes):
        found.append(f'{used} bytes are said to be used, {sum(sizes)} are')
    if store._state.problem:
        found.append(f'state: {store._state.problem}')
    if files.exists(profile / 'state.sqlite.damaged'):
        found.append('the state was set aside')
    return found


def _missing_chunks(store: Store, name: str) -> int:
    manifest = store.window(name).manifest if store.has_window(name) else None
    entries = manifest.chunks if manifest else ()
    return sum(not store.chunk_path(entry.id, entry.codec).exists() for entry in entries)


def _check_window(store: Store, name: str, promise: WindowPromise, *, is_lossy: bool) -> list[str]:
    if not store.has_window(name):
        return [] if promise.may_be_gone else [f'{name}: is gone']
    if promise.must_be_gone:
        return [f'{name}: is there although it was deleted']
    window = store.window(name)
    found = []
    count = len(window.turns)
    least, most = promise.turns
    if not least <= count <= (count if is_lossy else most):
        found.append(f'{name}: has {count} turns, not {least} to {most}')
    if promise.is_forgetting and count not in (least, most):
        found.append(f'{name}: has forgotten in part, {count} turns are left')
    if window.turns != tuple(told(name, count, retold=promise.retold)):
        found.append(f'{name}: its turns are not those that were committed')
    tokens = window.manifest.tokens if window.manifest else None
    held = -1 if tokens is None else len(tokens)
    allowed = promise.tokens or [-1]
    if held not in allowed and not (is_lossy and held > min(allowed)):
        found.append(f'{name}: has {held} tokens, not one of {allowed}')
    elif tokens is not None and (tokens != makers.tokens_of(held, seed=seed_of(name))).any():
        found.append(f'{name}: its tokens are not those that were frozen')
    pinned = {info.name for info in store.windows() if info.is_pinned}
    if promise.is_pinned is not None and not is_lossy and promise.is_pinned != (name in pinned):
        found.append(f'{name}: pinned is {name in pinned}, not {promise.is_pinned}')
    return found


def _go_on(store: Store) -> None:
    """Work as if nothing had happened."""
    program = Program(store, lambda _note: None)
    program.say('afterwards', 1)
    program.freeze('afterwards', 20)
