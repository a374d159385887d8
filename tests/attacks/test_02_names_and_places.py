# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Links, devices and names that lead elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
import stat

import pytest

from cwm_ros.errors import CwmError
from cwm_ros.store import quarantine, Store
from tests.store import makers

KINDS = ('link', 'dangling', 'pipe', 'folder', 'device')
FILES = ('key', 'windows/manifest', 'windows/log', 'chunks/chunk', 'listing', 'lock')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        makers.commit(store, 'w')
    return tmp_path / 'profiles' / 'default'


def place_of(folder: Path, name: str) -> Path:
    suffixes = {'windows/manifest': 'windows/*.cwm', 'windows/log': 'windows/*.log',
                'chunks/chunk': 'chunks/*.int8'}  # fmt: skip
    return min(folder.glob(suffixes.get(name, name)))


def plant(path: Path, kind: str, elsewhere: Path) -> None:
    path.rename(elsewhere)
    if kind == 'link':
        path.symlink_to(elsewhere)
    elif kind == 'dangling':
        path.symlink_to(elsewhere.with_name('nothing'))
    elif kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    else:
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: it never ends
        except PermissionError:
            pytest.skip('only root can make a device')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', FILES)
def test_what_is_no_plain_file_is_refused_and_what_it_leads_to_stays(
    tmp_path: Path, folder: Path, name: str, kind: str
) -> None:
    elsewhere = tmp_path / 'elsewhere'
    plant(place_of(folder, name), kind, elsewhere)
    before = elsewhere.read_bytes()
    for writable in (False, True):
        try:
            with Store.open(
                makers.settings(tmp_path), writable=writable, clock=makers.clock
            ) as store:
                store.windows()
                if writable:
                    makers.commit(store, 'w', count=30)
                store.verify(None, makers.check_payload)
        except CwmError as exc:  # noqa: PERF203
            assert str(folder) in str(exc)  # noqa: PT017
    assert elsewhere.read_bytes() == before
    assert not (tmp_path / 'nothing').exists()


@pytest.mark.parametrize('name', ['windows/manifest', 'windows/log', 'chunks/chunk'])
def test_a_hard_link_to_a_foreign_file_does_not_change_that_file(
    tmp_path: Path, folder: Path, name: str
) -> None:
    foreign = tmp_path / 'foreign'
    foreign.write_bytes(b'somebody else needs this' * 40)
    path = place_of(folder, name)
    path.unlink()
    os.link(foreign, path)
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        for work in (
            lambda: store.commit_turns('w', makers.turns_of(3)[2:]),
            lambda: makers.commit(store, 'w', count=30),
            lambda: store.mend(makers.check_payload),
            lambda: store.delete_window('w'),
        ):
            try:
                work()
            except CwmError:  # noqa: PERF203
                continue
    assert foreign.read_bytes() == b'somebody else needs this' * 40


@pytest.mark.parametrize(
    'name',
    [
        '..', '../w', '/etc/passwd', 'a/b', 'a\\b', 'a\0b', '', ' ', '-', '.hidden', 'ä', 'a' * 65,
        'a\n', '\u202egnp.exe', 'CON:', '%2e%2e',
    ],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, folder: Path, name: str) -> None:
    assert folder.exists()
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        for call in (store.window, store.delete_window, store.turns, store.has_window):
            with pytest.raises(CwmError):
                call(name)
        with pytest.raises(CwmError):
            store.commit_turns(name, makers.turns_of(1))
    with (
        pytest.raises(CwmError),
        Store.open(makers.settings(tmp_path), profile=name, writable=True, clock=makers.clock),
    ):
        pass


@pytest.mark.parametrize(
    'name', [b'x.cwm', b'..cwm', b'.log', b'\xff\xfe.cwm', b'a\nb.log', b'%s.cwm' % (b'z' * 200)]
)
def test_files_of_strange_names_are_shown_as_damaged_and_kept(
    tmp_path: Path, folder: Path, name: bytes
) -> None:
    strange = Path(os.fsdecode(os.fsencode(folder / 'windows') + b'/' + name))
    strange.write_bytes(b'strange')
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        infos = store.windows()
        assert 'w' in [info.name for info in infos]
        store.collect_garbage()
        assert store.window('w').manifest is not None
    assert strange.read_bytes() == b'strange'


def test_a_chunk_named_as_another_is_refused(tmp_path: Path, folder: Path) -> None:
    first, second, *_ = sorted((folder / 'chunks').iterdir())
    second.write_bytes(first.read_bytes())
    with Store.open(makers.settings(tmp_path), writable=False, clock=makers.clock) as store:
        (problem,) = store.verify('w', makers.check_payload).problems
        assert str(second) in problem


FOREIGN = ['00000001x-a', f'{"9" * 240}-a', '0000001-a', f'{chr(0x661) * 8}-a', '99999999', 'a']


def test_names_planted_in_quarantine_are_passed_over(tmp_path: Path, folder: Path) -> None:
    aside = folder / 'quarantine'
    aside.mkdir()
    for name in FOREIGN:
        (aside / name).write_bytes(bytes(50))
    (aside / '00000006-folder').mkdir()
    manifest = place_of(folder, 'windows/manifest')
    damaged = manifest.read_bytes()[:-1]
    manifest.write_bytes(damaged)

    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        assert store.mend(makers.check_payload).recovered
        assert store.verify(None, makers.check_payload).ok
        assert store.storage().quarantine_bytes == len(damaged)
    assert (aside / f'00000007-{manifest.name}').read_bytes() == damaged
    assert {*FOREIGN} < {path.name for path in aside.iterdir()}


def test_after_the_last_number_files_are_still_set_aside(tmp_path: Path) -> None:
    aside = tmp_path / 'aside'
    aside.mkdir()
    (aside / '99999999-planted').write_bytes(b'planted')
    for data in (b'one', b'two'):
        (tmp_path / 'f').write_bytes(data)
        assert quarantine.set_aside(tmp_path / 'f', aside, 100)
    assert (aside / '99999999-f').read_bytes() == b'two'
    assert quarantine.kept(aside) == {'99999999-planted': 7, '99999999-f': 3}


def test_a_file_that_leaves_the_quarantine_is_named_and_a_foreign_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    aside = tmp_path / 'aside'
    aside.mkdir()
    for name in ('00000001-x\ny', '00000002-kept', 'foreign'):
        (aside / name).write_bytes(bytes(60))
    quarantine.trim(aside, 100)
    assert {path.name for path in aside.iterdir()} == {'00000002-kept', 'foreign'}
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (
        'WARNING',
        r"file='00000001-x\ny' leaves the quarantine, which is full",
    )
