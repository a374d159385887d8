# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What goes when room is short, what never does, and that somebody is told."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
import shutil
import tempfile
from typing import TYPE_CHECKING

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, RuleBasedStateMachine
import pytest

from cwm_ros.config import MIB
from cwm_ros.errors import CwmError, QuotaError
from cwm_ros.store import files, Store
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.store import Manifest

PAYLOAD = 50_000
CHUNK = PAYLOAD + 192
LIMIT = MIB - MIB // 32
"""What chunks may take of a quota of 1 MiB; the rest is for turns."""


@contextmanager
def open_store(root: Path, *, keep_recent: int = 0, remove: bool = False) -> Iterator[Store]:
    settings = replace(
        makers.settings(root, quota_mib=1), keep_recent=keep_recent, remove_cold_windows=remove
    )
    # A clock at 1970: nothing may depend on the time.
    with Store.open(settings, writable=True, clock=lambda: 0) as store:
        yield store


def commit(store: Store, window: str, *, chunks: int, seed: int) -> Manifest:
    """Commit a window whose first and last chunk make it usable."""
    held = len(store.turns(window)) if store.has_window(window) else 0
    store.commit_turns(window, makers.turns_of(2, seed=seed)[held:])
    tokens = makers.tokens_of(makers.SIZE * chunks, seed=seed)
    entries = makers.write_chunks(store, tokens, payload_bytes=PAYLOAD)
    last = len(entries) - 1
    table = tuple(
        replace(entry, priority=int(0 < index < last)) for index, entry in enumerate(entries)
    )
    return store.commit_window(makers.manifest_of(window, tokens, table, num_turns=2))


def squeeze(store: Store, chunks: int) -> None:
    """Ask for so much room that ``chunks`` have to go, beside garbage."""
    report = store.storage()
    used = report.used_bytes - report.garbage_bytes
    store.reserve_room(LIMIT - used + (chunks - 1) * CHUNK + 1)


def present(store: Store, window: str) -> str:
    """Return which chunks of a window are on the disk, as in '#..#'."""
    manifest = store.window(window).manifest
    assert manifest is not None
    return ''.join(
        '#' if store.chunk_path(entry.id, entry.codec).exists() else '.'
        for entry in manifest.chunks
    )


def test_middle_chunks_of_the_coldest_windows_go_first(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        for seed, name in enumerate('abc'):
            commit(store, name, chunks=6, seed=seed)
        store.touch('a')
        squeeze(store, 2)
        assert [present(store, name) for name in 'abc'] == ['######', '#..###', '######']
        squeeze(store, 9)
        assert [present(store, name) for name in 'abc'] == ['#...##', '#....#', '#....#']
        squeeze(store, 3)
        assert [present(store, name) for name in 'abc'] == ['#....#', '......', '#....#']


def test_the_windows_used_last_come_after_all_others(ram_path: Path) -> None:
    with open_store(ram_path, keep_recent=1) as store:
        for seed, name in enumerate('abc'):
            commit(store, name, chunks=6, seed=seed)
        squeeze(store, 12)
        assert [present(store, name) for name in 'abc'] == ['......', '......', '######']
        squeeze(store, 3)
        assert present(store, 'c') == '#...##'


def test_garbage_goes_before_any_window(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        commit(store, 'a', chunks=6, seed=0)
    with open_store(ram_path) as store:
        makers.write_chunks(store, makers.tokens_of(48, seed=7), payload_bytes=PAYLOAD)
    with open_store(ram_path) as store:
        assert store.storage().garbage_bytes == 6 * CHUNK
        store.reserve_room(13 * CHUNK)
        assert present(store, 'a') == '######'
        assert store.take_evictions() == ()


def test_what_is_pinned_open_or_being_frozen_stays(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        for seed, name in enumerate('abc'):
            commit(store, name, chunks=5, seed=seed)
        store.set_pinned('a', is_pinned=True)
        store.hold('b')
        fresh = makers.write_chunks(store, makers.tokens_of(16, seed=9), payload_bytes=PAYLOAD)
        reused = store.window('c').manifest.chunks[2]  # type: ignore[union-attr]
        assert store.find_chunk(reused.id, reused.codec)
        squeeze(store, 4)
        assert [present(store, name) for name in 'abc'] == ['#####', '#####', '..#..']
        assert all(store.has_chunk(entry.id, entry.codec) for entry in fresh)
        with pytest.raises(QuotaError, match='exceed') as caught:
            squeeze(store, 1)
        assert 'unpin' in caught.value.hint
        store.let_go('b')
        squeeze(store, 2)
        assert [present(store, name) for name in 'ab'] == ['#####', '#..##']
        store.set_pinned('a', is_pinned=False)
        squeeze(store, 3)
        assert present(store, 'a') == '#...#'


def test_nothing_is_evicted_in_vain(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        commit(store, 'a', chunks=6, seed=0)
        with pytest.raises(QuotaError):
            store.reserve_room(2 * MIB)
        assert present(store, 'a') == '######'
        assert store.storage().evictions == 0


def test_a_shared_chunk_is_as_warm_as_its_warmest_window(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        commit(store, 'a', chunks=6, seed=0)
        store.clone_window('a', 'b')
        commit(store, 'c', chunks=6, seed=2)
        store.touch('b')
        squeeze(store, 4)
        assert [present(store, name) for name in 'abc'] == ['######', '######', '#....#']
        store.set_pinned('a', is_pinned=True)
        squeeze(store, 2)
        assert [present(store, name) for name in 'abc'] == ['######', '######', '......']
        store.set_pinned('a', is_pinned=False)
        store.delete_window('b')
        squeeze(store, 4)
        assert present(store, 'a') == '#....#'


def test_what_is_the_end_of_one_window_is_no_middle_of_another(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        commit(store, 'long', chunks=8, seed=0)
        commit(store, 'short', chunks=4, seed=0)
        store.touch('long')
        squeeze(store, 4)
        assert present(store, 'long') == '#..#..##'
        assert present(store, 'short') == '#..#'


def test_turns_are_committed_when_chunks_fill_the_store(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        for seed in range(3):
            commit(store, f'w{seed}', chunks=6, seed=seed)
        text = [replace(turn, text='x' * 30_000) for turn in makers.turns_of(12)]
        for count in range(2, 12):
            assert store.commit_turns('w0', text[count : count + 1]) == count + 1
        assert store.storage().used_bytes <= MIB
        assert store.take_evictions()
        assert store.verify(None, makers.check_payload).ok


def test_turns_are_never_evicted_unless_the_settings_allow_it(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        for seed, name in enumerate('abc'):
            text = [replace(turn, text='x' * 60_000) for turn in makers.turns_of(3)]
            store.commit_turns(name, text)
            commit(store, name, chunks=2, seed=seed)
        store.set_pinned('b', is_pinned=True)
        with pytest.raises(QuotaError):
            store.reserve_room(18 * CHUNK)
        assert all(len(store.turns(name)) == 3 for name in 'abc')
    with open_store(ram_path, remove=True) as store:
        store.reserve_room(8 * CHUNK)
        assert [info.name for info in store.windows()] == ['b', 'c']
        assert [e.window for e in store.take_evictions() if e.is_removed] == ['a']
        with pytest.raises(QuotaError):
            store.reserve_room(2 * MIB)
        assert [info.name for info in store.windows()] == ['b', 'c']


def test_what_was_evicted_is_told_once_and_counted_for_ever(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        for seed, name in enumerate('abc'):
            commit(store, name, chunks=6, seed=seed)
        assert store.take_evictions() == ()
        squeeze(store, 5)
        told = store.take_evictions()
        assert [(e.window, e.chunks, e.bytes) for e in told] == [
            ('a', 4, 4 * CHUNK),
            ('b', 1, CHUNK),
        ]
        assert store.take_evictions() == ()
    with open_store(ram_path) as store:
        assert store.storage().evictions == 5
        assert store.verify(None, makers.check_payload).missing_chunks == 5


def test_an_evicted_chunk_is_written_again_by_the_next_freeze(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        commit(store, 'a', chunks=6, seed=0)
        commit(store, 'b', chunks=6, seed=1)
        squeeze(store, 4)
        assert present(store, 'a') == '#....#'
        commit(store, 'a', chunks=6, seed=0)
        assert present(store, 'a') == '######'


def test_the_order_of_uses_survives_a_restart_without_a_clock(ram_path: Path) -> None:
    with open_store(ram_path) as store:
        for seed, name in enumerate('abc'):
            commit(store, name, chunks=6, seed=seed)
        store.touch('a')
    with open_store(ram_path) as store:
        squeeze(store, 8)
        assert [present(store, name) for name in 'abc'] == ['######', '#....#', '#....#']


def test_the_free_floor_makes_chunks_go(ram_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(makers.settings(ram_path), free_floor_mib=1, keep_recent=0)
    with Store.open(settings, writable=True, clock=makers.clock) as store:
        commit(store, 'a', chunks=6, seed=0)
        held = store.storage().used_bytes
        free = MIB + CHUNK  # and what chunks give back
        monkeypatch.setattr(
            files, 'free_bytes', lambda _: free + held - store._inventory.num_bytes
        )
        store.reserve_room(3 * CHUNK)
        assert present(store, 'a') == '#..###'


class Crowded(RuleBasedStateMachine):
    """Whatever is done to a small store, its books are right and its promises kept."""

    def __init__(self) -> None:
        super().__init__()
        shared = Path('/dev/shm')  # noqa: S108 - the folder made in it is our own
        self.root = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
        self.turns: dict[str, int] = {}
        self.pinned: dict[str, int] = {}
        self.open()

    def open(self) -> None:
        self.opened = open_store(self.root, keep_recent=1)
        self.store = self.opened.__enter__()

    def teardown(self) -> None:
        self.opened.__exit__(None, None, None)
        shutil.rmtree(self.root)

    @rule(name=st.sampled_from('abcd'), chunks=st.integers(1, 8), seed=st.integers(0, 2))
    def freeze(self, name: str, chunks: int, seed: int) -> None:
        with suppress(QuotaError):
            commit(self.store, name, chunks=chunks, seed=seed)
        self.turns[name] = 2
        self._count_pinned()

    @rule(name=st.sampled_from('abcd'), new=st.sampled_from('abcd'))
    def clone(self, name: str, new: str) -> None:
        with suppress(CwmError):
            self.store.clone_window(name, new)
            self.turns[new] = self.turns[name]

    @rule(name=st.sampled_from('abcd'))
    def delete(self, name: str) -> None:
        with suppress(CwmError):
            self.store.delete_window(name)
            del self.turns[name]
            self.pinned.pop(name, None)

    @rule(name=st.sampled_from('abcd'), is_pinned=st.booleans())
    def pin(self, name: str, *, is_pinned: bool) -> None:
        with suppress(CwmError):
            self.store.set_pinned(name, is_pinned=is_pinned)
            self.pinned.pop(name, None)
            if is_pinned:
                self.pinned[name] = 0
        self._count_pinned()

    @rule(chunks=st.integers(1, 19))
    def reserve(self, chunks: int) -> None:
        with suppress(QuotaError):
            self.store.reserve_room(chunks * CHUNK)

    @rule()
    def reopen(self) -> None:
        self.opened.__exit__(None, None, None)
        self.open()

    def _count_pinned(self) -> None:
        infos = {info.name: info for info in self.store.windows()}
        self.pinned = {name: infos[name].chunks_present for name in self.pinned}

    @invariant()
    def the_books_are_right(self) -> None:
        folder = self.root / 'profiles' / 'default'
        on_disk = [p for name in ('windows', 'chunks') for p in (folder / name).iterdir()]
        report = self.store.storage()
        assert report.used_bytes == sum(path.stat().st_size for path in on_disk) <= MIB
        windows = [self.store.window(info.name) for info in self.store.windows()]
        tables = [w.manifest.chunks for w in windows if w.manifest]
        used = {entry.file_name for table in tables for entry in table}
        garbage = [p for p in on_disk if p.suffix == '.int8' and p.name not in used]
        fresh = self.store._fresh
        assert report.garbage_bytes == sum(
            p.stat().st_size for p in garbage if p.name not in fresh
        )

    @invariant()
    def no_turn_is_lost_and_nothing_pinned_goes(self) -> None:
        infos = {info.name: info for info in self.store.windows()}
        assert {name: info.turns for name, info in infos.items()} == self.turns
        for name, chunks in self.pinned.items():
            assert infos[name].chunks_present >= chunks


TestCrowded = Crowded.TestCase
TestCrowded.settings = hypothesis_settings(max_examples=25, stateful_step_count=20, deadline=None)
