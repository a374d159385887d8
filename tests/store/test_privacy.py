# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Encrypted profiles: what a thief, a garage or a copy of the drive can learn."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace
import hashlib
import os
from pathlib import Path
import re
import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from cwm_ros.config_privacy import PrivacySettings
from cwm_ros.errors import (
    BadNameError,
    BusyError,
    ConfigError,
    CwmError,
    ExistsError,
    FormatError,
    FormatTooNewError,
    KeyMissingError,
)
from cwm_ros.kv import Role, Turn
from cwm_ros.store import keyproviders, keyring, Store, turnlog
from cwm_ros.store.profiles import create_profile, erase_profile, list_profiles, ProfileState
from tests import oracle
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORDS = ('Quittenmarmelade', 'Zanzibarstrasse')
NAME = 'secret-lover-4711'
TAG = 'überaus-geheim'


def private(root: Path, *, retention_days: int = 0) -> PrivacySettings:
    return PrivacySettings(encrypt=True, key_dir=str(root / 'keys'), retention_days=retention_days)


@contextmanager
def opened(
    root: Path,
    *,
    writable: bool = True,
    privacy: PrivacySettings | None = None,
    clock: Callable[[], int] = makers.clock,
) -> Iterator[Store]:
    with Store.open(
        makers.settings(root / 'store'),
        writable=writable,
        clock=clock,
        privacy=privacy or private(root),
    ) as store:
        yield store


def profile(root: Path) -> Path:
    return root / 'store' / 'profiles' / 'default'


def fill(root: Path) -> None:
    """Say the planted words in a window of a planted name."""
    turns = [Turn(role=Role.USER, text=f'I like {word}.', time_ms=makers.NOW_MS) for word in WORDS]
    tokens = makers.tokens_of(20)
    with opened(root) as store:
        store.commit_turns(NAME, turns[:1])
        store.commit_turns(NAME, turns[1:])
        chunks = makers.write_chunks(store, tokens)
        store.commit_window(makers.manifest_of(NAME, tokens, chunks, num_turns=2))
        store.set_pinned(NAME, is_pinned=True)


def all_bytes(folder: Path) -> bytes:
    files = [path for path in folder.rglob('*') if path.is_file()]
    names = '\n'.join(str(path.relative_to(folder)) for path in files)
    return names.encode() + b''.join(path.read_bytes() for path in files)


def secret_of(root: Path) -> bytes:
    (path,) = (root / 'keys').iterdir()
    return oracle.read_key(path.read_bytes())


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    fill(tmp_path)
    for writable in (True, False):
        with opened(tmp_path, writable=writable) as store:
            assert store.is_encrypted
            assert len(store.bundle_key or b'') == 32
            window = store.window(NAME)
            assert [turn.text for turn in window.turns] == [f'I like {w}.' for w in WORDS]
            assert window.manifest
            assert window.manifest.tags == ('work', 'überall')
            buffer = bytearray(1000)
            for entry in window.manifest.chunks:
                payload = store.read_chunk(window.manifest, entry, buffer)
                assert payload == makers.payload_of(entry.id)
                assert store.find_chunk(entry.id, 'int8') is not None
            (info,) = store.windows()
            assert (info.name, info.chunks_present, info.is_pinned) == (NAME, 3, True)
            assert store.verify(None, makers.check_payload).ok
            assert store.storage().lifetime_bytes > 0


def test_the_oracle_reads_what_the_store_wrote(tmp_path: Path) -> None:
    fill(tmp_path)
    found = oracle.read_encrypted_profile(profile(tmp_path), secret_of(tmp_path))
    manifest, turns = found[NAME]
    assert [text for _, text, _ in turns] == [f'I like {w}.' for w in WORDS]  # type: ignore[misc]
    assert manifest
    assert manifest['tags'] == ['work', 'überall']
    assert manifest['tokens'] == makers.tokens_of(20).tolist()


def test_no_planted_word_lies_on_the_disk(tmp_path: Path) -> None:
    fill(tmp_path)
    planted = [*WORDS, NAME, 'überall', 'toy', 'windows', 'int8', 'evictions']
    tokens = makers.tokens_of(20).astype('<i4').tobytes()
    payloads = []
    with opened(tmp_path) as store:
        manifest = store.window(NAME).manifest
        assert manifest
        payloads = [makers.payload_of(entry.id) for entry in manifest.chunks]
    databases = [profile(tmp_path) / f'{name}.sqlite' for name in ('catalog', 'state')]
    assert all(path.exists() for path in databases)
    found = b''.join(path.read_bytes() for path in profile(tmp_path).rglob('*') if path.is_file())
    # The schema of the catalog says "windows": it is in every one.
    readable = [word for word in planted[:4] if word.encode() in found]
    assert readable == []
    assert makers.IDENTITY.model not in found
    for piece in (tokens[:16], tokens[-16:], *payloads):
        assert piece not in found
    with closing(sqlite3.connect(databases[1])) as db:
        tables = db.execute('SELECT name FROM sqlite_master').fetchall()
        rows = db.execute('SELECT id, row FROM sealed').fetchall()
    assert {name for (name,) in tables} == {'sealed', 'sqlite_autoindex_sealed_1'}
    assert all(len(row_id) == 32 and row[:8] == b'\x93CWMSEC\n' for row_id, row in rows)


def test_the_same_search_finds_the_words_in_a_plain_profile(tmp_path: Path) -> None:
    privacy = PrivacySettings()
    with opened(tmp_path, privacy=privacy) as store:
        store.commit_turns(NAME, [Turn(role=Role.USER, text=WORDS[0])])
        assert not store.is_encrypted
        assert store.bundle_key is None
    assert WORDS[0].encode() in all_bytes(tmp_path)
    assert NAME.encode() in all_bytes(tmp_path)


def test_no_id_can_be_guessed_from_names_or_tokens(tmp_path: Path) -> None:
    fill(tmp_path)
    with opened(tmp_path, writable=False) as store:
        right_key = store.key
    on_disk = {path.name.partition('.')[0] for path in profile(tmp_path).rglob('*')}
    reference = (profile(tmp_path) / 'key').read_bytes()
    # All that lies beside the windows, and what a thief would try first.
    keys = [reference[16:32], reference[32:48], reference[16:48], bytes(32), b'', b'cwm']
    tokens = makers.tokens_of(20)

    def ids(key: bytes) -> set[str]:
        from cwm_ros.store import chunk_ids

        names = {oracle.window_id(key, NAME)}
        names |= {i.hex() for i in chunk_ids(key, makers.IDENTITY, tokens, makers.SIZE)}
        return names

    assert ids(right_key) <= on_disk
    for key in keys:
        assert not ids(key) & on_disk
    for text in (NAME.encode(), tokens.tobytes(), tokens[: makers.SIZE].tobytes()):
        for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256, hashlib.blake2b):
            assert digest(text).hexdigest()[:32] not in on_disk


def test_without_its_key_nothing_opens(tmp_path: Path) -> None:
    fill(tmp_path)
    (path,) = (tmp_path / 'keys').iterdir()
    before = all_bytes(profile(tmp_path) / 'windows')
    kept = path.read_bytes()
    path.unlink()
    for writable in (True, False):
        with (
            pytest.raises(KeyMissingError, match='is not there'),
            opened(tmp_path, writable=writable),
        ):
            pass
    assert all_bytes(profile(tmp_path) / 'windows') == before
    path.write_bytes(kept)
    path.chmod(0o644)
    with pytest.raises(KeyMissingError, match='others'), opened(tmp_path):
        pass


def test_a_foreign_key_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path / 'other')
    (path,) = (tmp_path / 'keys').iterdir()
    (other,) = (tmp_path / 'other' / 'keys').iterdir()
    path.write_bytes(other.read_bytes())
    with pytest.raises(KeyMissingError, match='not the key'), opened(tmp_path):
        pass
    # Nor does another profile's whole reference help, whose key is there.
    shutil.copy(profile(tmp_path / 'other') / 'key', profile(tmp_path) / 'key')
    shutil.copy(other, path.with_name(other.name))
    with pytest.raises(KeyMissingError, match='not the key'), opened(tmp_path):
        pass


def test_keys_are_the_owners_and_lie_outside_the_store(tmp_path: Path) -> None:
    fill(tmp_path)
    (path,) = (tmp_path / 'keys').iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert secret_of(tmp_path) not in all_bytes(tmp_path / 'store')
    inside = PrivacySettings(encrypt=True, key_dir=str(tmp_path / 'b' / 'store' / 'keys'))
    with pytest.raises(ConfigError, match='inside the store'):
        opened(tmp_path / 'b', privacy=inside).__enter__()


def test_folders_are_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        fill(tmp_path)
        with opened(tmp_path / 'plain', privacy=PrivacySettings()) as store:
            store.commit_turns('w', makers.turns_of(1))
    finally:
        os.umask(before)
    roots = (tmp_path / 'store', tmp_path / 'plain' / 'store')
    folders = [p for root in roots for p in root.rglob('*') if p.is_dir()]
    assert len(folders) == 8
    assert {p.stat().st_mode & 0o777 for p in folders} == {0o700}


@pytest.mark.parametrize('suffix', ['.cwm', '.log', '.int8'])
def test_any_flipped_bit_is_found(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path)
    path = next(iter(sorted(profile(tmp_path).rglob('*' + suffix))))
    data = path.read_bytes()
    for offset in (0, 8, 10, 16, 31, 32, 44, 48, 64, 71, 72, len(data) // 2, len(data) - 1):
        broken = bytearray(data)
        broken[offset] ^= 1
        path.write_bytes(broken)
        with opened(tmp_path, writable=False) as store:
            report = store.verify(None, makers.check_payload)
        assert not report.ok, offset
        assert not any(word in str(report) for word in WORDS)
    path.write_bytes(data)
    with opened(tmp_path, writable=False) as store:
        assert store.verify(None, makers.check_payload).ok


def test_files_cannot_be_swapped(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        makers.commit(store, 'a', seed=1)
        makers.commit(store, 'b', seed=2)
        names = [oracle.window_id(store.key, name) for name in 'ab']
        folder = profile(tmp_path) / 'windows'
        old = (folder / f'{names[0]}.log').read_bytes()
        (folder / f'{names[0]}.log').write_bytes((folder / f'{names[1]}.log').read_bytes())
        with pytest.raises(FormatError, match='header is that of another file'):
            store.window('a')
        # Under the right header, the parts of another file do not open either.
        other = (folder / f'{names[1]}.log').read_bytes()
        (folder / f'{names[0]}.log').write_bytes(old[:32] + other[32:])
        with pytest.raises(FormatError, match='header is damaged'):
            store.window('a')
        # A record of another log does not become one of this log.
        first = 32 + 40 + 104
        (folder / f'{names[0]}.log').write_bytes(old[:first] + other[first:])
        with pytest.raises(FormatError, match='covers 2 turns but the log holds 0'):
            store.window('a')
        # Nor does a manifest become a log.
        (folder / f'{names[0]}.log').write_bytes((folder / f'{names[0]}.cwm').read_bytes())
        with pytest.raises(FormatError, match='header is that of another file'):
            store.window('a')


def test_a_chunk_under_another_name_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    a, b, *_ = sorted((profile(tmp_path) / 'chunks').iterdir())
    shutil.copy(a, b)
    with opened(tmp_path) as store:
        report = store.verify(None, makers.check_payload)
        assert [p for p in report.problems if 'header is that of another file' in p]
        names = store.chunks_to_scrub()
        problems = [store.scrub_chunk(name, makers.check_payload)[1] for name in names]
    assert [bool(problem) for problem in problems].count(True) == 1


def test_a_plain_file_has_no_place_in_an_encrypted_profile(tmp_path: Path) -> None:
    fill(tmp_path)
    path = next((profile(tmp_path) / 'windows').glob('*.cwm'))
    key_id = (profile(tmp_path) / 'key').read_bytes()[16:32]
    file_key = oracle.subkey(secret_of(tmp_path), key_id, 'files')
    (plain,) = oracle.unseal(path.read_bytes(), file_key, 1, path.stem)
    path.write_bytes(plain)
    with opened(tmp_path, writable=False) as store, pytest.raises(FormatError, match='magic'):
        store.window(NAME)


def test_nonces_are_fresh(tmp_path: Path) -> None:
    nonces = set()
    total = 0
    for round_number in range(3):
        with opened(tmp_path) as store:
            store.commit_turns('w', makers.turns_of(2, seed=round_number))
            tokens = makers.tokens_of(20)
            chunks = makers.write_chunks(store, tokens)
            store.commit_window(makers.manifest_of('w', tokens, chunks, num_turns=2))
        path = next((profile(tmp_path) / 'windows').glob('*.cwm'))
        nonces.add(path.read_bytes()[32:44])
        total += 1
        data = next((profile(tmp_path) / 'windows').glob('*.log')).read_bytes()
        position = 32
        found = []
        while position < len(data):
            found.append(data[position : position + 12])
            position += 40 + int.from_bytes(data[position + 12 : position + 16], 'little')
        assert len(found) == 1 + 2 * (round_number + 1)
        assert len(set(found)) == len(found)
    assert len(nonces) == total


@settings(max_examples=25)
@given(cut=st.integers(0, 400), garbage=st.binary(max_size=100))
def test_a_torn_tail_is_cut_and_durable_turns_stay(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    root = tmp_path_factory.mktemp('torn')
    with opened(root) as store:
        store.commit_turns('w', makers.turns_of(3))
        durable = next((profile(root) / 'windows').glob('*.log')).stat().st_size
        store.commit_turns('w', makers.turns_of(5)[3:])
    path = next((profile(root) / 'windows').glob('*.log'))
    data = path.read_bytes()
    kept = min(durable + cut, len(data))
    path.write_bytes(data[:kept] + (garbage if kept < len(data) else b''))
    with opened(root) as store:
        turns = store.turns('w')
        assert 3 <= len(turns) <= 5
        assert turns == tuple(makers.turns_of(5)[: len(turns)])
        store.commit_turns('w', makers.turns_of(6)[len(turns) :])
        assert store.turns('w') == tuple(makers.turns_of(6))
        assert store.verify(None, makers.check_payload).ok


def test_damage_before_a_later_commit_is_damage_and_the_doctor_saves_the_rest(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as store:
        for count in range(1, 7):
            store.commit_turns('w', makers.turns_of(count)[-1:])
    path = next((profile(tmp_path) / 'windows').glob('*.log'))
    data = bytearray(path.read_bytes())
    size = (len(data) - 176) // 6
    data[176 + 2 * size + 12] ^= 1  # the size of a record
    data[176 + 3 * size + 60] ^= 1  # the ciphertext of another
    path.write_bytes(data)
    with opened(tmp_path, writable=False) as store, pytest.raises(FormatError, match='turn 2'):
        store.turns('w')
    with opened(tmp_path) as store:
        report = store.mend(makers.check_payload)
        assert report.recovered == ('w: 4 of 6 turns',)
        assert 'w: the text of turns 2, 3' in report.lost[0]
        whole = makers.turns_of(6)
        turns = store.turns('w')
        assert [*turns[:2], *turns[4:]] == [*whole[:2], *whole[4:]]
    assert b'turn' not in all_bytes(profile(tmp_path) / 'quarantine')


def test_erasing_makes_the_store_and_every_copy_of_it_unreadable(tmp_path: Path) -> None:
    fill(tmp_path)
    with opened(tmp_path) as store:
        store.note_export(tmp_path / 'holiday.cwmz')
    shutil.copytree(tmp_path / 'store', tmp_path / 'copy' / 'store')
    root, privacy = tmp_path / 'store', private(tmp_path)

    def erase(*, is_confirmed: bool) -> tuple[object, ...]:
        told = erase_profile(root, 'default', privacy, is_confirmed=is_confirmed, lock_timeout_s=0)
        return told.windows, told.bundles, told.is_done

    bundles = (str(tmp_path / 'holiday.cwmz'),)
    with opened(tmp_path), pytest.raises(BusyError):
        erase(is_confirmed=True)
    assert erase(is_confirmed=False) == (1, bundles, False)
    with opened(tmp_path) as store:
        assert store.window(NAME)
    assert erase(is_confirmed=True) == (1, bundles, True)
    assert list((tmp_path / 'keys').iterdir()) == []
    assert sorted(path.name for path in profile(tmp_path).iterdir()) == ['key', 'lock']
    for folder, reason in ((tmp_path, 'was erased'), (tmp_path / 'copy', 'is not there')):
        for writable in (True, False):
            with (
                pytest.raises(KeyMissingError, match=reason),
                opened(folder, writable=writable, privacy=privacy),
            ):
                pass
    (info,) = list_profiles(root, privacy)
    assert info.state is ProfileState.ERASED
    assert erase(is_confirmed=True) == (0, (), True)
    create_profile(root, 'default', privacy)
    with opened(tmp_path) as store:
        assert store.windows() == []
        store.commit_turns('new', makers.turns_of(1))


def test_an_erasure_that_found_no_key_does_not_say_that_it_was_destroyed(tmp_path: Path) -> None:
    fill(tmp_path)
    shutil.copytree(tmp_path / 'store', tmp_path / 'copy' / 'store')
    privacy = private(tmp_path)
    elsewhere = replace(privacy, key_dir=str(tmp_path / 'mistyped'))
    for is_confirmed in (False, True):
        told = erase_profile(
            tmp_path / 'store', 'default', elsewhere, is_confirmed=is_confirmed, lock_timeout_s=0
        )
        assert told.is_key_unseen
    with opened(tmp_path / 'copy', privacy=privacy) as store:
        assert store.window(NAME), 'which is why it must not be said'
    told = erase_profile(
        tmp_path / 'copy' / 'store', 'default', privacy, is_confirmed=True, lock_timeout_s=0
    )
    assert not told.is_key_unseen


@pytest.mark.parametrize('content', [b'', bytes(20), bytes(56)])
def test_a_damaged_key_comes_from_a_backup_and_from_nowhere_else(
    tmp_path: Path, content: bytes
) -> None:
    fill(tmp_path)
    (key,) = (tmp_path / 'keys').iterdir()
    key.write_bytes(content)
    with pytest.raises(FormatError) as told, opened(tmp_path, privacy=private(tmp_path)):
        pass
    assert 'backup' in told.value.hint
    assert 'doctor' not in told.value.hint


@pytest.mark.parametrize('content', [None, bytes(72), b'\x93CWMKEY\n\xff\xff' + bytes(62)])
def test_nothing_is_erased_when_nobody_knows_which_key_is_to_go(
    tmp_path: Path, content: bytes | None
) -> None:
    fill(tmp_path)
    root, key = tmp_path / 'store', profile(tmp_path) / 'key'
    before = key.read_bytes()
    if content is None:
        key.unlink()
    else:
        key.write_bytes(content)
    files = all_bytes(profile(tmp_path) / 'windows')
    for is_confirmed in (False, True):
        with pytest.raises((KeyMissingError, FormatTooNewError)) as told:
            erase_profile(
                root, 'default', private(tmp_path), is_confirmed=is_confirmed, lock_timeout_s=0
            )
        assert str(key) in str(told.value)
    assert all_bytes(profile(tmp_path) / 'windows') == files
    key.write_bytes(before)
    with opened(tmp_path) as store:
        assert store.window(NAME)


def test_an_erasure_of_a_plain_profile_that_was_cut_can_be_done_again(tmp_path: Path) -> None:
    privacy = PrivacySettings()
    with opened(tmp_path, privacy=privacy) as store:
        makers.commit(store, 'w')
    (profile(tmp_path) / 'key').write_bytes(bytes(56))
    root = tmp_path / 'store'
    told = erase_profile(root, 'default', privacy, is_confirmed=True, lock_timeout_s=0)
    assert (told.windows, list((root / 'profiles').iterdir())) == (1, [])


def test_a_plain_profile_goes_with_its_files(tmp_path: Path) -> None:
    privacy = PrivacySettings()
    with opened(tmp_path, privacy=privacy) as store:
        makers.commit(store, 'w')
    root = tmp_path / 'store'
    told = erase_profile(root, 'default', privacy, is_confirmed=True, lock_timeout_s=0)
    assert (told.is_encrypted, told.windows) == (False, 1)
    assert list((root / 'profiles').iterdir()) == []


def test_profiles_are_made_and_listed(tmp_path: Path) -> None:
    root, privacy = tmp_path / 'store', private(tmp_path)
    assert create_profile(root, 'anna', privacy).is_encrypted
    assert not create_profile(root, 'ben', PrivacySettings()).is_encrypted
    for name, error in (('anna', ExistsError), ('guest', BadNameError), ('../x', BadNameError)):
        with pytest.raises(error):
            create_profile(root, name, privacy)
    shutil.rmtree(tmp_path / 'keys')
    states = {info.name: info.state for info in list_profiles(root, privacy)}
    assert states == {'anna': ProfileState.KEY_MISSING, 'ben': ProfileState.READABLE}


class FakeTpm:
    keys: dict[str, bytes]

    def __init__(self, privacy: PrivacySettings) -> None:
        del privacy

    def create(self, key_id: str) -> bytes:
        self.keys[key_id] = os.urandom(32)
        return self.keys[key_id]

    def load(self, key_id: str) -> bytes:
        if key_id not in self.keys:
            raise KeyMissingError('the TPM has no such key')
        return self.keys[key_id]

    def destroy(self, key_id: str) -> bool:
        return self.keys.pop(key_id, None) is not None


def test_a_provider_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    privacy = PrivacySettings(encrypt=True, key_provider='tpm', key_dir=str(tmp_path / 'keys'))
    with pytest.raises(KeyMissingError, match="'tpm' is not available") as caught:
        opened(tmp_path, privacy=privacy).__enter__()
    assert 'cwm_ros.key_providers' in caught.value.hint

    class Entry:
        name = 'tpm'

        def load(self) -> type[FakeTpm]:
            return FakeTpm

    FakeTpm.keys = {}
    monkeypatch.setattr(keyproviders, 'entry_points', lambda group: [Entry()] if group else [])
    with opened(tmp_path, privacy=privacy) as store:
        makers.commit(store, 'w')
    assert not (tmp_path / 'keys').exists()
    with opened(tmp_path, writable=False, privacy=PrivacySettings()) as store:
        assert store.window('w').manifest
    erase_profile(tmp_path / 'store', 'default', privacy, is_confirmed=True, lock_timeout_s=0)
    assert FakeTpm.keys == {}


CRASHER = """
import os, sys, signal, resource
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
from pathlib import Path
from tests.store.test_privacy import opened, private
from cwm_ros.config_privacy import PrivacySettings
root = Path(sys.argv[1])
with opened(root, privacy=private(root) if sys.argv[2] == 'private' else PrivacySettings()):
    print(resource.getrlimit(resource.RLIMIT_CORE)[0], flush=True)
    os.abort()
"""


@pytest.mark.parametrize('kind', ['private', 'plain'])
def test_no_core_is_dumped_while_an_encrypted_profile_is_open(tmp_path: Path, kind: str) -> None:
    child = subprocess.Popen(
        [sys.executable, '-c', CRASHER, str(tmp_path / 'x'), kind],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    limit = int(child.stdout.readline())
    child.stdout.close()
    _, status = os.waitpid(child.pid, 0)
    child.returncode = 0
    assert os.WIFSIGNALED(status)
    if kind == 'private':
        assert limit in (0, 1)
        assert not os.WCOREDUMP(status)
        assert not [p for p in tmp_path.iterdir() if 'core' in p.name]
    else:
        assert limit not in (0, 1) or os.WCOREDUMP(status) is False


def test_errors_of_encrypted_profiles_quote_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    with opened(tmp_path) as store:
        for path in sorted(profile(tmp_path).rglob('*')):
            if path.is_file() and path.parent.name in ('windows', 'chunks'):
                data = path.read_bytes()
                path.write_bytes(data[: len(data) - 9])
                try:
                    store.window(NAME)
                except CwmError as exc:
                    assert not any(word in str(exc) for word in WORDS)  # noqa: PT017
                path.write_bytes(data)


def test_the_worked_example_of_the_format_page_is_what_we_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = Path(__file__).parents[2] / 'docs' / 'format.md'
    example = page.read_text(encoding='utf-8').partition('### The same, encrypted')[2]
    key_file, log = (
        bytes.fromhex(
            ''.join(re.findall(r'^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)', block, re.MULTILINE))
        )
        for block in re.findall(r'```\n(.*?)```', example, re.DOTALL)
    )
    secret, key_id = b's' * 32, b'i' * 16
    kind, found_id, check, provider = oracle.read_key_reference(key_file)
    assert (kind, found_id, provider) == (1, key_id, 'file')
    assert check == oracle.subkey(secret, key_id, 'check')[:16]
    name = oracle.window_id(oracle.subkey(secret, key_id, 'ids'), 'w')
    plain = b''.join(oracle.unseal(log, oracle.subkey(secret, key_id, 'files'), 2, name))
    assert oracle.read_log(plain) == ('w', name, [('user', 'Hi', 1000)])

    class Tpm(FakeTpm):
        def create(self, key_id: str) -> bytes:
            del key_id
            return secret

    monkeypatch.setattr(keyring, 'open_provider', lambda *_: Tpm(PrivacySettings()))
    written: dict[str, bytes] = {}
    monkeypatch.setattr(
        keyring.files, 'write_file', lambda path, data: written.update({path.name: b''.join(data)})
    )
    monkeypatch.setattr(os, 'urandom', lambda count: (b'i' if count == 16 else b'n') * count)
    seal = keyring.create_seal(Path('/a/b/c/key'), PrivacySettings(encrypt=True))
    header = turnlog.pack_header('w', bytes.fromhex(name))
    records = turnlog.pack_each([Turn(role=Role.USER, text='Hi', time_ms=1000)], first_sequence=0)
    assert seal.begin_log(name, header, records) == log
    assert written == {'key': key_file}
