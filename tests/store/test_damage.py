# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a damaged file costs, and what is rebuilt from the others."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from cwm_ros.errors import FormatError, FormatTooNewError
from cwm_ros.kv import Role
from cwm_ros.optimize import optimize
from cwm_ros.store import quarantine, Store
from cwm_ros.store.doctor import LOST_TEXT
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cwm_ros.store import DoctorReport


def open_store(root: Path, *, quarantine_mib: int = 16) -> Iterator[Store]:
    settings = makers.settings(root)
    settings = settings.__class__(
        root=root, free_floor_mib=0, lock_timeout_s=0.0, quarantine_mib=quarantine_mib
    )
    with Store.open(settings, writable=True, clock=makers.clock) as store:
        yield store


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def file_of(root: Path, suffix: str) -> Path:
    (path,) = (root / 'profiles' / 'default' / 'windows').glob(f'*{suffix}')
    return path


def kept(root: Path) -> list[str]:
    folder = root / 'profiles' / 'default' / 'quarantine'
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def mend(root: Path) -> DoctorReport:
    for store in open_store(root):
        report = store.mend(makers.check_payload)
        assert store.verify(None, makers.check_payload).ok
    for store in open_store(root):
        assert store.mend(makers.check_payload).recovered == ()
    return report


def test_a_damaged_chunk_is_set_aside_not_deleted(ram_path: Path) -> None:
    for store in open_store(ram_path):
        manifest = makers.commit(store, 'w')
        path = store.chunk_path(manifest.chunks[1].id, 'int8')
        flip(path, -1)
        damaged = path.read_bytes()
        assert store.discard_chunk(manifest.chunks[1])
        assert not path.exists()
        assert kept(ram_path) == [f'00000001-{path.name}']
        assert store.storage().quarantine_bytes == len(damaged)
        makers.write_chunks(store, manifest.tokens)
        flip(path, 40)
        makers.write_chunks(store, manifest.tokens)
        assert kept(ram_path) == [f'0000000{n}-{path.name}' for n in (1, 2)]
        assert store.verify(None, makers.check_payload).ok
    aside = ram_path / 'profiles' / 'default' / 'quarantine'
    assert (aside / f'00000001-{path.name}').read_bytes() == damaged


def test_the_quarantine_has_a_bound(tmp_path: Path) -> None:
    folder = tmp_path / 'quarantine'
    for number in range(1, 6):
        path = tmp_path / f'f{number}'
        path.write_bytes(bytes(40))
        assert quarantine.set_aside(path, folder, 100)
    assert sorted(quarantine.kept(folder)) == ['00000004-f4', '00000005-f5']
    assert not quarantine.set_aside(path, folder, 100)
    path.write_bytes(bytes(101))
    assert quarantine.set_aside(path, folder, 100)
    assert quarantine.kept(folder) == {}


def test_a_damaged_manifest_opens_from_turns_and_says_so(ram_path: Path) -> None:
    for store in open_store(ram_path):
        makers.commit(store, 'w')
    path = file_of(ram_path, '.cwm')
    flip(path, 60)
    for store in open_store(ram_path):
        window, problem = store.window_or_turns('w')
        assert (window.manifest, window.turns) == (None, tuple(makers.turns_of(2)))
        assert str(path) in problem
        makers.commit(store, 'w')
        assert kept(ram_path) == [f'00000001-{path.name}']
        assert store.window_or_turns('w')[1] == ''


def test_turns_that_are_missing_are_not_passed_over(ram_path: Path) -> None:
    for store in open_store(ram_path):
        makers.commit(store, 'w', num_turns=3)
    path = file_of(ram_path, '.log')
    path.write_bytes(path.read_bytes()[:-8])
    for store in open_store(ram_path):
        with pytest.raises(FormatError, match='covers 3 turns'):
            store.window_or_turns('w')


def test_the_doctor_finds_nothing_in_a_whole_store(ram_path: Path) -> None:
    for store in open_store(ram_path):
        makers.commit(store, 'w')
        report = store.mend(makers.check_payload)
        assert (report.recovered, report.lost, report.kept) == ((), (), ())


def test_the_doctor_saves_the_turns_around_a_damaged_one(ram_path: Path) -> None:
    for store in open_store(ram_path):
        for count in range(1, 7):
            store.commit_turns('w', makers.turns_of(count)[-1:])
        tokens = makers.tokens_of(20)
        chunks = makers.write_chunks(store, tokens)
        store.commit_window(makers.manifest_of('w', tokens, chunks, num_turns=6))
    path = file_of(ram_path, '.log')
    size = (path.stat().st_size - 104) // 6
    flip(path, 104 + 2 * size + 3)
    flip(path, 104 + 3 * size + 40)
    report = mend(ram_path)
    assert report.recovered == ('w: 4 of 6 turns',)
    assert 'w: the text of turns 2, 3' in report.lost[0]
    for store in open_store(ram_path):
        turns = store.window('w').turns
        whole = makers.turns_of(6)
        assert [turn for turn in turns if turn.text != LOST_TEXT] == [*whole[:2], *whole[4:]]
        assert [turn.role for turn in turns] == [turn.role for turn in whole]
        assert store.window('w').manifest.tokens.tolist() == tokens.tolist()  # type: ignore[union-attr]
    assert kept(ram_path) == [f'00000001-{path.name}']


@pytest.mark.parametrize('suffix', ['.log', '.cwm'])
def test_the_doctor_mends_what_has_lost_its_head(ram_path: Path, suffix: str) -> None:
    for store in open_store(ram_path):
        makers.commit(store, 'w')
    flip(file_of(ram_path, suffix), 20)
    report = mend(ram_path)
    for store in open_store(ram_path):
        assert store.window('w').turns == tuple(makers.turns_of(2))
    assert any(sentence.startswith('w:') for sentence in report.recovered)


def test_a_log_that_is_gone_is_made_anew_for_the_sake_of_the_tokens(ram_path: Path) -> None:
    for store in open_store(ram_path):
        manifest = makers.commit(store, 'w')
    file_of(ram_path, '.log').unlink()
    report = mend(ram_path)
    assert 'w: 0 of 2 turns' in report.recovered
    for store in open_store(ram_path):
        window = store.window('w')
        assert window.manifest is not None
        assert window.manifest.tokens.tolist() == manifest.tokens.tolist()
        assert {turn.text for turn in window.turns} == {LOST_TEXT}
        assert window.turns[0].role is Role.SYSTEM


@pytest.mark.parametrize('longer', [0, 64])
@pytest.mark.parametrize('kind', ['windows/*.cwm', 'windows/*.log', 'chunks/*'])
def test_what_is_of_a_later_version_is_told_and_left_alone(
    ram_path: Path, kind: str, longer: int
) -> None:
    """Whatever a writer does: it opens, commits, makes room, scrubs, mends and closes."""
    folder = ram_path / 'profiles' / 'default'
    for store in open_store(ram_path):
        makers.commit(store, 'w')
    newer = dict.fromkeys(folder.glob(kind), b'')
    for path in newer:
        flip(path, 9)
        path.write_bytes(path.read_bytes() + bytes(longer))
        newer[path] = path.read_bytes()
    for store in open_store(ram_path):
        if kind != 'chunks/*':
            with pytest.raises(FormatTooNewError):
                store.window_or_turns('w')
            assert 'format_version' in store.windows()[0].problem
        assert 'format_version' in ''.join(store.verify(None, makers.check_payload).problems)
        report = store.mend(makers.check_payload)
        assert (report.recovered, report.lost) == ((), ())
        assert len(report.kept) == (0 if kind == 'chunks/*' else 1)
        makers.commit(store, 'other', seed=5)
        store.collect_garbage()
        for _ in optimize(store, makers.check_payload, bytes_per_s=1e12):
            pass
        store.delete_window('other')
        store.expire_windows()
    assert {path: path.read_bytes() for path in newer} == newer
    assert kept(ram_path) == []


def test_a_lost_state_is_told(ram_path: Path) -> None:
    for store in open_store(ram_path):
        makers.commit(store, 'w')
        store.set_pinned('w', is_pinned=True)
    (ram_path / 'profiles' / 'default' / 'state.sqlite').write_bytes(b'no database' * 99)
    for store in open_store(ram_path):
        (lost,) = store.mend(makers.check_payload).lost
        assert lost.startswith('pins, order of use and ledger')


def test_any_flipped_bit_is_mended_or_named(ram_path: Path) -> None:
    """Whatever single bit flips: afterwards all verifies, and what changed was told."""
    chance = random.Random(3)
    for number in range(60):
        root = ram_path / str(number)
        for store in open_store(root):
            makers.commit(store, 'w', num_turns=3)
            tokens = store.window('w').manifest.tokens.tolist()  # type: ignore[union-attr]
        folder = root / 'profiles' / 'default'
        path = chance.choice([*folder.glob('windows/*'), *folder.glob('chunks/*')])
        flip(path, chance.randrange(path.stat().st_size))
        for store in open_store(root):
            report = store.mend(makers.check_payload)
            if report.kept:
                continue
            assert report.recovered or report.lost or path.suffix == '.log'
            assert store.verify(None, makers.check_payload).ok
            window = store.window('w')
            found = [turn.text for turn in window.turns]
            whole = [turn.text for turn in makers.turns_of(3)]
            assert all(
                a == b or (a == LOST_TEXT and report.lost)
                for a, b in zip(found, whole, strict=True)
            )
            if window.manifest:
                assert window.manifest.tokens.tolist() == tokens
