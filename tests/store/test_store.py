# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a store promises to its users."""

from __future__ import annotations

from dataclasses import replace
import os
from pathlib import Path
import sqlite3
import tempfile
import time
from typing import TYPE_CHECKING

from hypothesis import given, HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.errors import (
    BadNameError,
    ConfigError,
    ExistsError,
    FormatError,
    FormatTooNewError,
    KeyMissingError,
    NotFoundError,
    ReadOnlyError,
)
from cwm_ros.kv import ChunkId, Turn
from cwm_ros.store import layout, Manifest, Store
from tests import oracle
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as opened:
        yield opened


def opened_as(root: Path, *, writable: bool) -> AbstractContextManager[Store]:
    return Store.open(makers.settings(root), writable=writable, clock=makers.clock)


def reopen(root: Path, *, writable: bool = False) -> Iterator[Store]:
    with Store.open(makers.settings(root), writable=writable, clock=makers.clock) as opened:
        yield opened


def profile(root: Path) -> Path:
    return root / 'profiles' / 'default'


def files_of(root: Path, folder: str) -> list[str]:
    return sorted(path.name for path in (profile(root) / folder).iterdir())


def read_all(store: Store, manifest: Manifest) -> list[bytes | None]:
    buffer = bytearray(1 << 10)
    payloads: list[bytes | None] = []
    for entry in manifest.chunks:
        payload = store.read_chunk(manifest, entry, buffer)
        payloads.append(None if payload is None else bytes(payload))
    return payloads


def test_a_window_comes_back_as_it_was_committed(tmp_path: Path, store: Store) -> None:
    stored = makers.commit(store, 'w')
    for reader in (store, *reopen(tmp_path)):
        window = reader.window('w')
        assert window.manifest is not None
        assert window.manifest.chunks == stored.chunks
        assert window.manifest.tokens.tolist() == stored.tokens.tolist()
        assert window.turns == tuple(makers.turns_of(2))
        expected = [makers.payload_of(entry.id) for entry in stored.chunks]
        assert read_all(reader, window.manifest) == expected
        assert reader.verify(None, makers.check_payload).ok


def test_the_store_stamps_times_and_counts_revisions(tmp_path: Path) -> None:
    now = [1000]
    with Store.open(makers.settings(tmp_path), writable=True, clock=lambda: now[0]) as store:
        first = makers.commit(store, 'w')
        now[0] = 2000
        second = makers.commit(store, 'w', count=30)
    assert (first.created_ms, first.updated_ms, first.revision) == (1000, 1000, 1)
    assert (second.created_ms, second.updated_ms, second.revision) == (1000, 2000, 2)


def test_turns_alone_make_a_window(tmp_path: Path, store: Store) -> None:
    assert store.commit_turns('w', makers.turns_of(2)) == 2
    assert store.commit_turns('w', []) == 2
    assert store.commit_turns('w', makers.turns_of(3)[2:]) == 3
    for reader in reopen(tmp_path):
        window = reader.window('w')
        assert window.manifest is None
        assert window.turns == tuple(makers.turns_of(3))
        (info,) = reader.windows()
        assert (info.name, info.turns, info.tokens, info.chunks) == ('w', 3, 0, 0)


def test_a_partial_last_chunk_is_superseded(tmp_path: Path, store: Store) -> None:
    before = makers.commit(store, 'w', count=20)
    after = makers.commit(store, 'w', count=30)
    assert after.chunks[:2] == before.chunks[:2]
    assert files_of(tmp_path, 'chunks') == sorted(entry.file_name for entry in after.chunks)


def test_nothing_is_written_twice(store: Store) -> None:
    makers.commit(store, 'w', count=24)
    written = store.storage().lifetime_bytes
    tokens = makers.tokens_of(24)
    ids = store.chunk_ids(makers.IDENTITY, tokens, makers.SIZE)
    assert all(store.has_chunk(chunk_id, 'int8') for chunk_id in ids)
    assert not store.has_chunk(ids[0], 'fp16')
    found = store.find_chunk(ids[1], 'int8')
    assert found is not None
    assert makers.write_chunks(store, tokens)[1] == replace(found, priority=1)
    assert store.storage().lifetime_bytes == written


def test_windows_share_chunks_and_each_counts_once(store: Store) -> None:
    makers.commit(store, 'a')
    used = store.storage().used_bytes
    store.clone_window('a', 'b')
    grown = store.storage().used_bytes - used
    assert grown < 1000
    infos = store.windows()
    assert [info.name for info in infos] == ['a', 'b']
    assert infos[0].chunks_present == infos[1].chunks_present == 3
    store.delete_window('a')
    assert store.verify('b', makers.check_payload).missing_chunks == 0
    assert store.window('b').turns == tuple(makers.turns_of(2))


def test_a_deleted_window_leaves_nothing(tmp_path: Path, store: Store) -> None:
    makers.commit(store, 'w')
    store.commit_turns('v', makers.turns_of(1))
    store.delete_window('w')
    store.delete_window('v')
    assert files_of(tmp_path, 'windows') == files_of(tmp_path, 'chunks') == []
    assert store.storage().used_bytes == 0
    assert store.windows() == []
    with pytest.raises(NotFoundError):
        store.window('w')
    with pytest.raises(NotFoundError):
        store.delete_window('w')
    makers.commit(store, 'w', seed=3)
    assert store.window('w').turns == tuple(makers.turns_of(2, seed=3))


def test_a_deletion_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'w')
    log = next((profile(tmp_path) / 'windows').glob('*.log'))
    log.rename(log.with_suffix('.gone'))
    for store in reopen(tmp_path):
        assert store.windows() == []
        with pytest.raises(NotFoundError):
            store.window('w')
    for store in reopen(tmp_path, writable=True):
        assert store.windows() == []
        assert files_of(tmp_path, 'windows') == []
        assert store.collect_garbage() == 3 * 292
        assert store.storage().used_bytes == 0


def test_an_evicted_chunk_is_absent_and_the_window_stays(tmp_path: Path, store: Store) -> None:
    manifest = makers.commit(store, 'w')
    (profile(tmp_path) / 'chunks' / manifest.chunks[1].file_name).unlink()
    payloads = read_all(store, manifest)
    assert [payload is None for payload in payloads] == [False, True, False]
    report = store.verify('w', makers.check_payload)
    assert report.ok
    assert report.missing_chunks == 1
    store.release(manifest.chunks)


def test_without_its_key_a_profile_is_refused_and_kept(tmp_path: Path) -> None:
    root = tmp_path / 'a'
    for folder in (root, tmp_path / 'b'):
        with opened_as(folder, writable=True) as store:
            makers.commit(store, 'w')
    key, foreign = (profile(folder) / 'key' for folder in (root, tmp_path / 'b'))
    kept = key.read_bytes()
    key.unlink()
    for writable in (True, False):
        with (
            pytest.raises(KeyMissingError, match='missing'),
            opened_as(root, writable=writable),
        ):
            pass
    key.write_bytes(foreign.read_bytes())
    with (
        pytest.raises(KeyMissingError, match='not the key'),
        opened_as(root, writable=True),
    ):
        pass
    key.write_bytes(kept)
    with opened_as(root, writable=True) as store:
        assert [info.name for info in store.windows()] == ['w']


@pytest.mark.parametrize('name', ['catalog.sqlite', 'state.sqlite'])
@pytest.mark.parametrize('kind', ['pipe', 'link'])
def test_a_pipe_or_a_link_for_a_database_is_not_opened(
    tmp_path: Path, name: str, kind: str
) -> None:
    with opened_as(tmp_path, writable=True) as store:
        makers.commit(store, 'w')
    path = profile(tmp_path) / name
    path.unlink()
    if kind == 'pipe':
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / 'elsewhere')
    for writable in (False, True, False):
        with opened_as(tmp_path, writable=writable) as store:
            assert [info.name for info in store.windows()] == ['w']
    assert not path.is_symlink()
    assert not path.is_fifo()
    assert not (tmp_path / 'elsewhere').exists()


def test_a_damaged_chunk_is_found_discarded_and_written_again(
    tmp_path: Path, store: Store
) -> None:
    manifest = makers.commit(store, 'w')
    entry = manifest.chunks[0]
    path = profile(tmp_path) / 'chunks' / entry.file_name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (problem,) = store.verify('w', lambda *_: None).problems
    assert problem == f'{path}: payload checksum does not match'
    assert store.discard_chunk(entry)
    assert not store.discard_chunk(entry)
    makers.write_chunks(store, manifest.tokens)
    assert store.verify('w', makers.check_payload).ok


def test_verify_asks_the_codec_about_each_payload_once(store: Store) -> None:
    makers.commit(store, 'a')
    store.clone_window('a', 'b')
    seen: list[tuple[str, int]] = []
    report = store.verify(
        None, lambda _header, payload, path: seen.append((path.name, len(payload)))
    )
    assert (report.windows, report.chunks, report.turns, len(seen)) == (2, 3, 4, 3)

    def refuse(_header: object, _payload: memoryview, path: Path) -> None:
        raise FormatError(path, 'block 3 fails its checksum')

    assert len(store.verify('a', refuse).problems) == 3


def test_verify_finds_ids_of_other_tokens(store: Store) -> None:
    manifest = makers.commit(store, 'w')
    swapped = replace(manifest.chunks[0], id=ChunkId(bytes(16)))
    store.commit_window(replace(manifest, chunks=(swapped, *manifest.chunks[1:])))
    (problem,) = store.verify('w', makers.check_payload).problems
    assert 'chunk 0..8 has an id of other tokens' in problem


def test_verify_knows_a_partial_chunk_that_tokens_followed(store: Store) -> None:
    manifest = makers.commit(store, 'w', count=20)
    longer = np.concatenate([manifest.tokens, makers.tokens_of(10, seed=5)])
    store.commit_window(replace(manifest, tokens=longer))
    report = store.verify('w', makers.check_payload)
    assert (report.ok, report.chunks) == (True, 3)


def test_a_manifest_may_not_cover_turns_that_are_not_durable(store: Store) -> None:
    store.commit_turns('w', makers.turns_of(1))
    manifest = makers.manifest_of('w', makers.tokens_of(4), (), num_turns=2)
    with pytest.raises(ConfigError, match='2 turns are covered, 1 committed'):
        store.commit_window(manifest)


def test_a_log_that_lost_committed_turns_is_refused_and_kept(tmp_path: Path) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'w')
    (log,) = (profile(tmp_path) / 'windows').glob('*.log')
    data = log.read_bytes()
    log.write_bytes(data[:-10])
    for store in reopen(tmp_path, writable=True):
        with pytest.raises(FormatError, match='covers 2 turns but the log holds 1'):
            store.window('w')
        with pytest.raises(FormatError, match='cannot be read'):
            store.commit_turns('w', makers.turns_of(1))
        (info,) = store.windows()
        assert (info.name, 'covers 2 turns' in info.problem) == ('w', True)
        assert store.collect_garbage() == 0
        assert log.read_bytes() == data[:-10]
        makers.commit(store, 'v', seed=8)
        store.delete_window('w')
        assert [info.name for info in store.windows()] == ['v']


def test_a_damaged_manifest_is_made_anew_from_turns(tmp_path: Path) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'w')
    (path,) = (profile(tmp_path) / 'windows').glob('*.cwm')
    path.write_bytes(path.read_bytes()[:-1])
    for store in reopen(tmp_path, writable=True):
        with pytest.raises(FormatError, match='file size'):
            store.window('w')
        assert store.turns('w') == tuple(makers.turns_of(2))
        assert 'file size' in store.windows()[0].problem
        assert store.commit_turns('w', makers.turns_of(3)[2:]) == 3
        tokens = makers.tokens_of(20)
        chunks = makers.write_chunks(store, tokens)
        store.commit_window(makers.manifest_of('w', tokens, chunks, num_turns=3))
        assert store.windows()[0].problem == ''
        assert store.verify(None, makers.check_payload).ok
        with pytest.raises(NotFoundError):
            store.turns('x')


def test_a_manifest_of_a_later_version_is_kept_with_its_chunks(tmp_path: Path) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'w')
    (path,) = (profile(tmp_path) / 'windows').glob('*.cwm')
    data = bytearray(path.read_bytes())
    data[8] = 2
    path.write_bytes(data)
    for store in reopen(tmp_path, writable=True):
        manifest = makers.manifest_of('w', makers.tokens_of(4), (), num_turns=2)
        for write in (
            lambda: store.commit_window(manifest),  # noqa: B023
            lambda: store.commit_turns('w', makers.turns_of(1)),  # noqa: B023
        ):
            with pytest.raises(FormatError, match='format_version is 2'):
                write()
        assert store.collect_garbage() == 0
        assert path.read_bytes() == data
        assert len(files_of(tmp_path, 'chunks')) == 3


def test_a_window_that_lost_its_log_can_be_deleted(tmp_path: Path) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'w')
    (log,) = (profile(tmp_path) / 'windows').glob('*.log')
    log.unlink()
    for store in reopen(tmp_path, writable=True):
        with pytest.raises(FormatError, match='covers 2 turns but the log holds 0'):
            store.window('w')
        assert store.turns('w') == ()
        with pytest.raises(FormatError, match='covers 2 turns'):
            store.commit_turns('w', makers.turns_of(1))
        store.delete_window('w')
        assert files_of(tmp_path, 'windows') == files_of(tmp_path, 'chunks') == []


def test_a_chunk_with_a_damaged_head_is_written_again(tmp_path: Path, store: Store) -> None:
    manifest = makers.commit(store, 'w')
    for offset, entry in zip((3, 20, 90), manifest.chunks, strict=True):
        path = store.chunk_path(entry.id, entry.codec)
        data = bytearray(path.read_bytes())
        data[offset] ^= 4
        path.write_bytes(data)
        assert store.find_chunk(entry.id, entry.codec) is None
    path = store.chunk_path(manifest.chunks[0].id, 'int8')
    path.write_bytes(store.chunk_path(manifest.chunks[1].id, 'int8').read_bytes())
    assert makers.write_chunks(store, manifest.tokens)[1] == manifest.chunks[1]
    path.write_bytes(store.chunk_path(manifest.chunks[1].id, 'int8').read_bytes())
    assert store.find_chunk(manifest.chunks[0].id, 'int8') is None
    makers.write_chunks(store, manifest.tokens)
    path.write_bytes(path.read_bytes() + b'x')
    assert store.find_chunk(manifest.chunks[0].id, 'int8') is None
    makers.write_chunks(store, manifest.tokens)
    assert store.verify(None, makers.check_payload).ok
    assert files_of(tmp_path, 'chunks') == sorted(e.file_name for e in manifest.chunks)


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'w')
    path = profile(tmp_path) / 'key'
    whole = path.read_bytes()
    assert oracle.read_key(whole) == layout.unpack_key(path, whole)
    for data in (whole[:-1], whole[:20] + b'x' + whole[21:], b'x' + whole[1:]):
        path.write_bytes(data)
        for writable in (False, True):
            with pytest.raises(FormatError, match='key'):
                list(reopen(tmp_path, writable=writable))
    assert path.read_bytes() == data


@pytest.mark.parametrize('longer', [0, 16, 999])
def test_a_key_of_a_later_version_is_refused_as_one(tmp_path: Path, longer: int) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'w')
    path = profile(tmp_path) / 'key'
    data = bytearray(path.read_bytes() + bytes(longer))
    data[8] += 1
    path.write_bytes(data)
    for writable in (False, True):
        with pytest.raises(FormatTooNewError, match='format_version'):
            list(reopen(tmp_path, writable=writable))
    assert path.read_bytes() == data


def test_a_torn_tail_is_ignored_by_readers_and_cut_by_the_writer(tmp_path: Path) -> None:
    for store in reopen(tmp_path, writable=True):
        store.commit_turns('w', makers.turns_of(2))
    (log,) = (profile(tmp_path) / 'windows').glob('*.log')
    whole = log.read_bytes()
    log.write_bytes(whole + whole[-40:-3])
    for store in reopen(tmp_path):
        assert len(store.window('w').turns) == 2
        assert len(log.read_bytes()) > len(whole)
    for store in reopen(tmp_path, writable=True):
        assert log.read_bytes() == whole
        assert store.commit_turns('w', makers.turns_of(3)[2:]) == 3
        assert store.window('w').turns == tuple(makers.turns_of(3))


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'w')
    folder = profile(tmp_path)
    leftovers = [folder / name for name in ('key.tmp', 'windows/x.cwm.tmp', 'chunks/y.int8.tmp')]
    for path in leftovers:
        path.write_bytes(b'half')
    for _ in reopen(tmp_path):
        assert all(path.exists() for path in leftovers)
    for _ in reopen(tmp_path, writable=True):
        assert not any(path.exists() for path in leftovers)


@pytest.mark.parametrize('damage', ['delete', 'garbage', 'old', 'lies'])
def test_the_catalog_is_only_a_cache(tmp_path: Path, damage: str) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'a')
        expected = store.windows()
    path = profile(tmp_path) / 'catalog.sqlite'
    if damage == 'delete':
        path.unlink()
    elif damage == 'garbage':
        path.write_bytes(b'SQLite format 3\0' + bytes(range(256)) * 20)
    else:
        query = {
            'old': 'PRAGMA user_version = 99',
            'lies': """UPDATE windows SET record = '{"nonsense": 1}'""",
        }
        database = sqlite3.connect(path)
        database.execute(query[damage])
        database.commit()
        database.close()
    for store in reopen(tmp_path):
        assert store.windows() == expected
    for store in reopen(tmp_path, writable=True):
        assert store.windows() == expected
        makers.commit(store, 'b', seed=4)
    assert path.exists()
    for store in reopen(tmp_path):
        assert [info.name for info in store.windows()] == ['a', 'b']


def test_the_catalog_spares_reading_unchanged_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'a')
        makers.commit(store, 'b', seed=2)
    scanned: list[str] = []
    scan = 'cwm_ros.store.catalog.scan_window'
    monkeypatch.setattr(scan, lambda _folder, window: scanned.append(window))
    for store in reopen(tmp_path, writable=True):
        assert [info.name for info in store.windows()] == ['a', 'b']
    assert scanned == []


def test_pins_last_and_uses_are_stored_with_the_next_commit(tmp_path: Path) -> None:
    path = profile(tmp_path) / 'state.sqlite'
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'a')
        makers.commit(store, 'b', seed=2)
        store.set_pinned('a', is_pinned=True)
        before = path.stat().st_mtime_ns
        store.touch('a')
        store.window('a')
        assert path.stat().st_mtime_ns == before
    for store in reopen(tmp_path):
        assert {info.name: info.is_pinned for info in store.windows()} == {'a': True, 'b': False}
        a, b = (layout.window_id(store.key, name) for name in 'ab')
    database = sqlite3.connect(path)
    uses = dict(database.execute('SELECT id, last_use FROM windows').fetchall())
    database.close()
    assert uses[a] > uses[b]
    for store in reopen(tmp_path, writable=True):
        store.set_pinned('a', is_pinned=False)
        assert not store.windows()[0].is_pinned
        with pytest.raises(NotFoundError):
            store.set_pinned('x', is_pinned=True)


def test_a_damaged_state_is_set_aside(tmp_path: Path) -> None:
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'a')
    path = profile(tmp_path) / 'state.sqlite'
    path.write_bytes(b'not a database' * 100)
    for store in reopen(tmp_path, writable=True):
        makers.commit(store, 'b', seed=2)
        makers.commit(store, 'a', count=30)
        assert [info.name for info in store.windows()] == ['a', 'b']
    assert path.with_name('state.sqlite.damaged').exists()
    for store in reopen(tmp_path):
        assert store.storage().lifetime_bytes > 0


def write_methods(store: Store, manifest: Manifest) -> list[Callable[[], object]]:
    return [
        lambda: store.commit_turns('w', makers.turns_of(1)),
        lambda: store.commit_window(manifest),
        lambda: store.clone_window('w', 'v'),
        lambda: store.set_pinned('w', is_pinned=True),
        lambda: store.delete_window('w'),
        store.collect_garbage,
        lambda: store.discard_chunk(manifest.chunks[0]),
        lambda: makers.write_chunks(store, manifest.tokens),
    ]


def test_a_profile_that_does_not_exist_is_empty_for_readers(tmp_path: Path) -> None:
    for store in reopen(tmp_path / 'none'):
        assert store.windows() == []
        assert not store.has_window('w')
        assert store.verify(None, makers.check_payload).ok
        assert store.storage().used_bytes == 0
        with pytest.raises(NotFoundError):
            store.window('w')
    assert not (tmp_path / 'none').exists()


def test_readers_do_not_write(tmp_path: Path) -> None:
    for store in reopen(tmp_path, writable=True):
        manifest = makers.commit(store, 'w')
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    for store in reopen(tmp_path):
        store.window('w')
        store.windows()
        store.storage()
        store.touch('w')
        store.verify(None, makers.check_payload)
        for method in write_methods(store, manifest):
            with pytest.raises(ReadOnlyError, match='opened for reading'):
                method()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == before


def test_profiles_are_apart(tmp_path: Path) -> None:
    for name in ('anna', 'ben'):
        with Store.open(
            makers.settings(tmp_path), profile=name, writable=True, clock=makers.clock
        ) as store:
            makers.commit(store, 'w')
            assert len(store.windows()) == 1
    both = [tmp_path / 'profiles' / name for name in ('anna', 'ben')]
    names = [{p.name for p in folder.rglob('*') if len(p.stem) == 32} for folder in both]
    assert not names[0] & names[1]
    used = sum(p.stat().st_size for f in both for p in f.rglob('*') if len(p.stem) == 32)
    with Store.open(
        makers.settings(tmp_path), profile='anna', writable=False, clock=makers.clock
    ) as store:
        assert store.storage().used_bytes == used
    for bad in ('../x', '', 'a/b'):
        with (
            pytest.raises(BadNameError),
            Store.open(makers.settings(tmp_path), profile=bad, writable=True, clock=makers.clock),
        ):
            pass


def test_folders_and_files_are_the_owners(tmp_path: Path) -> None:
    for store in reopen(tmp_path / 's', writable=True):
        makers.commit(store, 'w')
        for path in (tmp_path / 's').rglob('*'):
            expected = 0o700 if path.is_dir() else 0o600
            if path.suffix != '.sqlite':
                assert path.stat().st_mode & 0o777 == expected


def test_names_are_checked_and_exist_once(store: Store) -> None:
    makers.commit(store, 'w')
    with pytest.raises(ExistsError):
        store.clone_window('w', 'w')
    for name in ('', '../w', 'a b'):
        with pytest.raises(BadNameError):
            store.commit_turns(name, makers.turns_of(1))
        with pytest.raises(BadNameError):
            store.window(name)


def test_a_buffer_must_be_large_enough(store: Store) -> None:
    manifest = makers.commit(store, 'w')
    entry = manifest.chunks[0]
    array = np.zeros(100, dtype=np.uint8)
    payload = store.read_chunk(manifest, entry, array)
    assert payload is not None
    assert bytes(array) == bytes(payload) == makers.payload_of(entry.id)
    for buffer in (bytearray(99), memoryview(bytes(100))):
        with pytest.raises(ConfigError, match='buffer'):
            store.read_chunk(manifest, entry, buffer)


@hypothesis_settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    st.lists(
        st.tuples(st.sampled_from('abc'), st.integers(1, 40), st.lists(makers.turns, max_size=3)),
        max_size=6,
    )
)
def test_the_oracle_reads_what_the_store_wrote(
    ram_path: Path, steps: list[tuple[str, int, list[Turn]]]
) -> None:
    root = Path(tempfile.mkdtemp(dir=ram_path))
    expected: dict[str, list[Turn]] = {}
    for store in reopen(root, writable=True):
        for name, count, turns in steps:
            held = expected.setdefault(name, [])
            held += turns
            if not held:
                del expected[name]
                continue
            store.commit_turns(name, turns)
            tokens = makers.tokens_of(count, seed=count)
            chunks = makers.write_chunks(store, tokens)
            manifest = makers.manifest_of(name, tokens, chunks, num_turns=len(held))
            store.commit_window(manifest)
        assert store.verify(None, makers.check_payload).problems == ()
        windows = {name: store.window(name) for name in expected}
    seen = oracle.read_profile(profile(root))
    assert seen.keys() == expected.keys()
    for name, (manifest_seen, turns_seen) in seen.items():
        assert turns_seen == [(t.role.value, t.text, t.time_ms) for t in expected[name]]
        manifest = windows[name].manifest  # type: ignore[assignment]
        assert manifest_seen is not None
        assert manifest_seen['tokens'] == manifest.tokens.tolist()
        for row, entry in zip(manifest_seen['chunks'], manifest.chunks, strict=True):  # type: ignore[call-overload]
            path = profile(root) / 'chunks' / f'{row[0].hex()}.{row[3]}'
            chunk = oracle.read_chunk(path.read_bytes())
            assert chunk['payload'] == makers.payload_of(entry.id)
            assert chunk['tokens'] == manifest.tokens[entry.start : entry.stop].tolist()


def test_a_window_of_32k_tokens_loads_fast(ram_path: Path) -> None:
    for store in reopen(ram_path, writable=True):
        store.commit_turns('w', makers.turns_of(500))
        tokens = makers.tokens_of(32768)
        chunks = makers.write_chunks(store, tokens[:1024])
        assert len(chunks) == 128
        rows = tuple(
            replace(
                entry,
                start=256 * index,
                stop=256 * index + 256,
                file_bytes=entry.payload_bytes + 1152,
            )
            for index, entry in enumerate(chunks)
        )
        manifest = makers.manifest_of('w', tokens, rows, num_turns=500)
        store.commit_window(replace(manifest, chunk_tokens=256))
    for store in reopen(ram_path):
        durations = []
        for _ in range(5):
            begin = time.perf_counter()
            store.window('w')
            durations.append((time.perf_counter() - begin) * 1e3)
        print(f'window of 32768 tokens, 128 chunks, 500 turns: {min(durations):.2f} ms')  # noqa: T201
        assert min(durations) < 100
