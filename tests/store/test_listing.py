# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A new reader's inventory comes from one file, and is still that of the files."""

from __future__ import annotations

from contextlib import contextmanager
import json
import os
from typing import TYPE_CHECKING

import pytest

from cwm_ros.errors import FormatError
from cwm_ros.store import files, layout, reader, Store
from cwm_ros.store.layout import Section
from cwm_ros.store.listing import LISTING_MAGIC
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cwm_ros.store import WindowInfo


@contextmanager
def opened(root: Path, *, writable: bool = False) -> Iterator[Store]:
    with Store.open(makers.settings(root), writable=writable, clock=makers.clock) as store:
        yield store


def listed(root: Path) -> list[WindowInfo]:
    with opened(root) as store:
        return store.windows()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with opened(tmp_path, writable=True) as store:
        makers.commit(store, 'a')
        makers.commit(store, 'b', seed=2)
        store.set_pinned('b', is_pinned=True)
    return tmp_path / 'profiles' / 'default'


def test_a_new_reader_looks_at_no_window(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / 'listing').rename(tmp_path / 'kept')
    expected = listed(tmp_path)
    (tmp_path / 'kept').rename(folder / 'listing')
    monkeypatch.setattr(reader, 'scan_windows', None)

    assert listed(tmp_path) == expected
    assert [(info.name, info.is_pinned) for info in expected] == [('a', False), ('b', True)]


def remove_chunk(folder: Path) -> None:
    min((folder / 'chunks').iterdir()).unlink()


def remove_log(folder: Path) -> None:
    min((folder / 'windows').glob('*.log')).unlink()


def replace_manifest(folder: Path) -> None:
    path = min((folder / 'windows').glob('*.cwm'))
    path.with_name('other').write_bytes(b'another file')
    path.with_name('other').rename(path)


@pytest.mark.parametrize('change', [remove_chunk, remove_log, replace_manifest])
def test_a_file_that_somebody_else_removed_or_replaced_is_seen(
    tmp_path: Path, folder: Path, change: Callable[[Path], None]
) -> None:
    before = listed(tmp_path)
    for name in ('windows', 'chunks'):  # a folder's time has the steps of the system's clock
        os.utime(folder / name, ns=(1, 1))
    with opened(tmp_path, writable=True) as store:
        store.set_pinned('a', is_pinned=True)
    change(folder)

    after = listed(tmp_path)

    assert after != before
    assert sum(info.chunks_present for info in after) < 6 or any(info.problem for info in after)


def test_a_window_changed_in_place_is_found_by_who_opens_it(tmp_path: Path, folder: Path) -> None:
    with opened(tmp_path) as store:
        path = folder / 'windows' / (layout.window_id(store.key, 'a') + '.cwm')
        path.write_bytes(path.read_bytes()[:-1])
        assert store.windows()[0].problem == ''
        with pytest.raises(FormatError):
            store.window('a')
        assert len(store.verify(None, makers.check_payload).problems) == 1
    with opened(tmp_path, writable=True) as store:
        assert 'file size' in store.windows()[0].problem
        store.touch('b')
        makers.commit(store, 'b', seed=2, count=24)
    assert 'file size' in listed(tmp_path)[0].problem


@pytest.mark.parametrize('what', ['turns', 'pin', 'delete', 'window'])
def test_the_first_change_removes_it_and_closing_writes_it(
    tmp_path: Path, folder: Path, what: str
) -> None:
    work: dict[str, Callable[[Store], object]] = {
        'turns': lambda store: store.commit_turns('a', makers.turns_of(3)[2:]),
        'pin': lambda store: store.set_pinned('a', is_pinned=True),
        'delete': lambda store: store.delete_window('a'),
        'window': lambda store: makers.commit(store, 'a', count=30),
    }
    with opened(tmp_path, writable=True) as store:
        assert (folder / 'listing').exists()
        work[what](store)
        assert not (folder / 'listing').exists()
        assert listed(tmp_path) == store.windows()
    assert (folder / 'listing').exists()
    with opened(tmp_path, writable=True) as store:
        assert listed(tmp_path) == store.windows()


def test_opening_for_writing_without_a_change_writes_nothing_new(
    tmp_path: Path, folder: Path
) -> None:
    before = files.stamp(folder / 'listing')
    with opened(tmp_path, writable=True):
        pass

    assert files.stamp(folder / 'listing') == before


@pytest.mark.parametrize(
    'data', [b'', b'garbage' * 9, layout.pack_frame(b'\x93CWMLST\n', []), None]
)
def test_a_damaged_listing_costs_time_alone(
    tmp_path: Path, folder: Path, data: bytes | None
) -> None:
    expected = listed(tmp_path)
    if data is None:
        (folder / 'listing').unlink()
        (folder / 'listing').symlink_to('/dev/zero')
    else:
        (folder / 'listing').write_bytes(data)

    assert listed(tmp_path) == expected
    with opened(tmp_path, writable=True) as store:
        makers.commit(store, 'c', seed=3)
    assert [info.name for info in listed(tmp_path)] == ['a', 'b', 'c']
    assert not (folder / 'listing').is_symlink()


@pytest.mark.parametrize('value', ['x', None, [1], {'a': 1}, 1.5, 1e400, 1 << 64])
def test_a_listing_of_other_types_is_made_anew(
    tmp_path: Path, folder: Path, value: object
) -> None:
    expected = listed(tmp_path)
    path = folder / 'listing'
    (section,) = layout.unpack_frame(path, path.read_bytes(), LISTING_MAGIC)
    values = json.loads(bytes(section.data))
    for column in range(len(values['columns'])):
        lie = {**values, 'columns': [list(old) for old in values['columns']]}
        lie['columns'][column][0] = value
        if isinstance(value, str) and isinstance(expected[0][column], str):
            continue  # a name or a sentence: a listing may say what it likes
        data = json.dumps(lie).encode()
        path.write_bytes(layout.pack_frame(LISTING_MAGIC, [Section(kind=b'JSON', data=data)]))
        assert listed(tmp_path) == expected


def test_a_listing_of_no_window_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path, writable=True):
        pass
    monkeypatch.setattr(reader, 'scan_windows', None)
    assert listed(tmp_path) == []
    assert caplog.messages == []
