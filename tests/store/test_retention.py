# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Windows leave after as many days as a setting says, and never by a wrong clock."""

from __future__ import annotations

from contextlib import closing, contextmanager
import sqlite3
from typing import TYPE_CHECKING

import pytest

from cwm_ros.config_privacy import PrivacySettings
from cwm_ros.optimize import optimize
from cwm_ros.store import layout, Store
from tests.store import makers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = 86_400_000
START = 1_800_000_000_000  # 2027
UNSET = 5_000


@contextmanager
def opened(root: Path, now: int, *, days: int = 30, encrypt: bool = False) -> Iterator[Store]:
    privacy = PrivacySettings(retention_days=days, encrypt=encrypt, key_dir=str(root / 'keys'))
    with Store.open(
        makers.settings(root / 'store'), writable=True, clock=lambda: now, privacy=privacy
    ) as store:
        yield store


def names(store: Store) -> list[str]:
    return [info.name for info in store.windows()]


@pytest.mark.parametrize('encrypt', [False, True])
def test_windows_go_after_as_many_days_without_use(ram_path: Path, *, encrypt: bool) -> None:
    with opened(ram_path, START, encrypt=encrypt) as store:
        for name in ('idle', 'used', 'pinned'):
            makers.commit(store, name)
        store.set_pinned('pinned', is_pinned=True)
    with opened(ram_path, START + 20 * DAY) as store:
        store.touch('used')
        store.set_pinned('pinned', is_pinned=True)
        assert store.take_evictions() == ()
    with opened(ram_path, START + 30 * DAY) as store:
        assert len(names(store)) == 3
    with opened(ram_path, START + 31 * DAY) as store:
        assert names(store) == ['pinned', 'used']
        (told,) = store.take_evictions()
        assert (told.window, told.is_removed, told.is_expired) == ('idle', True, True)
    with opened(ram_path, START + 60 * DAY) as store:
        assert names(store) == ['pinned']
        assert store.verify(None, makers.check_payload).ok


@pytest.mark.parametrize('later', [UNSET, 0, START - 400 * DAY, START + 4000 * DAY])
def test_a_clock_that_is_wrong_deletes_nothing(ram_path: Path, later: int) -> None:
    with opened(ram_path, START) as store:
        makers.commit(store, 'w')
    with opened(ram_path, later) as store:
        assert names(store) == ['w']
        assert store.expire_windows() == 0


def test_what_was_said_before_the_clock_was_set_stays_as_long_from_then_on(
    ram_path: Path,
) -> None:
    with opened(ram_path, UNSET) as store:
        makers.commit(store, 'w')
    path = next(ram_path.rglob('*.log'))
    import os

    os.utime(path, (5, 5))
    for now, is_there in ((START, True), (START + 29 * DAY, True), (START + 31 * DAY, False)):
        with opened(ram_path, now) as store:
            assert bool(names(store)) is is_there
        if is_there:
            os.utime(path, (5, 5))


def test_an_open_window_stays_and_optimise_deletes_the_others(ram_path: Path) -> None:
    now = [START]
    privacy = PrivacySettings(retention_days=7)
    with Store.open(
        makers.settings(ram_path), writable=True, clock=lambda: now[0], privacy=privacy
    ) as store:
        makers.commit(store, 'a')
        makers.commit(store, 'b')
        store.hold('a')
        now[0] += 8 * DAY
        *_, last = optimize(store, makers.check_payload, bytes_per_s=1e9)
        assert last.expired_windows == 1
        assert names(store) == ['a']


def test_without_the_setting_nothing_goes(ram_path: Path) -> None:
    with opened(ram_path, START, days=0) as store:
        makers.commit(store, 'w')
    with opened(ram_path, START + 3000 * DAY, days=0) as store:
        assert names(store) == ['w']


def test_a_day_of_use_before_the_last_commit_is_not_believed(ram_path: Path) -> None:
    with opened(ram_path, START) as store:
        makers.commit(store, 'w')
        makers.commit(store, 'v')
        window_id = layout.window_id(store.key, 'w')
    path = next(ram_path.rglob('state.sqlite'))
    with closing(sqlite3.connect(path)) as database, database:
        one_bit = 'UPDATE used SET day = day - 64 WHERE id = ? AND day & 64'
        assert database.execute(one_bit, (window_id,)).rowcount == 1
    for days, expected in ((30, ['v', 'w']), (31, [])):
        with opened(ram_path, START + days * DAY) as store:
            assert names(store) == expected
