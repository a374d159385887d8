# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import threading

from hypothesis import given
from hypothesis import strategies as st
import pytest

from cwm_ros.config import EngineSettings, Settings, StorageSettings
from cwm_ros.machine import rate_file
from cwm_ros.rates import LoadMeter, MIN_PREFILL_TOKENS, RateBook, UNKNOWN

KNOWN = {
    'version': 1,
    'loads': [[1000, 0.5, 0.25]],
    'prefills': [[256, 1024, 0.1]],
}


def close_to(value: float) -> object:
    return pytest.approx(value, rel=0.1)


@given(st.floats(1e-6, 1e-2), st.floats(0, 4), st.integers(0, 5))
def test_the_cost_of_prefill_is_found_from_a_growing_window(
    token_s: float, share: float, seed: int
) -> None:
    """``share`` is how much attention costs at 4096 positions, against all else."""
    reach_s = token_s * share / 4096
    book = RateBook()
    for index in range(20):
        reach = 256 << ((index + seed) % 5)
        book.add_prefill(256, reach, 256 * (token_s + reach * reach_s))
    for reach in (256, 4096, 8192):
        expected = 100 * (token_s + reach * reach_s)
        assert book.rates.compute_s(100, reach) == pytest.approx(expected, rel=0.15)


def test_one_reach_tells_about_that_reach() -> None:
    book = RateBook()
    for _ in range(3):
        book.add_prefill(256, 2048, 0.4)

    assert book.rates.compute_s(256, 2048) == close_to(0.4)
    assert 0.2 < book.rates.compute_s(256, 256) < 0.4 < book.rates.compute_s(256, 8192)


def test_newer_samples_count_more() -> None:
    book = RateBook()
    for seconds in (1.0, 1.0, 0.1, 0.1, 0.1):
        book.add_load(10, 1000, seconds, 0.0)
    assert book.rates.load_s(1000) < 0.35

    for seconds in (1.0, *(0.1,) * 40):
        book.add_prefill(256, 1024, seconds)
    assert book.rates.compute_s(256, 1024) == close_to(0.1)


def test_what_tells_nothing_is_not_counted() -> None:
    book = RateBook()
    book.add_load(2, 1000, 1.0, 0.0)
    book.add_load(5, 0, 1.0, 0.0)
    book.add_load(5, 1000, 0.0, 0.0)
    book.add_prefill(MIN_PREFILL_TOKENS - 1, 256, 1.0)
    book.add_prefill(256, 256, 0.0)

    assert book.rates == UNKNOWN
    assert not book.rates.is_known


def test_an_engine_on_the_same_cores_slows_loading_down() -> None:
    own, shared = RateBook(), RateBook(shared_cores=4)
    for book in (own, shared):
        book.add_load(10, 1000, 1.0, 1.0)

    assert (own.rates.load_loss, own.rates.drag) == (0.0, 1.0)
    assert shared.rates.load_loss == pytest.approx(0.5)
    assert shared.rates.drag == pytest.approx(4 / 3)


def test_samples_are_kept_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / 'a' / 'rates.json'
    book = RateBook(path)
    assert book.rates == UNKNOWN
    book.add_load(10, 1_000_000, 0.5, 0.25)
    book.add_prefill(256, 1024, 0.1)
    book.save()

    assert RateBook(path).rates == book.rates
    assert list(path.parent.iterdir()) == [path]
    path.unlink()
    book.save()
    assert not path.exists(), 'nothing new was there to be written'


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'\xff\xfe',
        b'[' * 50_000,
        b' ' * 100_000,
        b'[]',
        b'{}',
        b'null',
        json.dumps({**KNOWN, 'version': 2}).encode(),
        json.dumps({**KNOWN, 'loads': 3}).encode(),
        json.dumps({**KNOWN, 'loads': [3]}).encode(),
        json.dumps({**KNOWN, 'loads': [[1, 2]]}).encode(),
        json.dumps({**KNOWN, 'loads': [[0, 1, 1]]}).encode(),
        json.dumps({**KNOWN, 'loads': [[-1000, 1, 1]]}).encode(),
        json.dumps({**KNOWN, 'loads': [[True, 1, 1]]}).encode(),
        json.dumps({**KNOWN, 'loads': [['1', 1, 1]]}).encode(),
        json.dumps({**KNOWN, 'prefills': [[256, 1024, float('nan')]]}).encode(),
        json.dumps({**KNOWN, 'prefills': [[256, float('inf'), 1]]}).encode(),
        b'{"version": 1, "loads": [], "prefills": [[256, 256, 1e999]]}',
        b'{"version": 1, "loads": [], "prefills": [[256, 256, ' + b'9' * 400 + b']]}',
    ],
)
def test_a_file_that_is_not_right_is_a_board_that_is_not_known(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / 'rates.json'
    path.write_bytes(json.dumps(KNOWN).encode())
    assert RateBook(path).rates.is_known
    path.write_bytes(content)

    book = RateBook(path)
    assert book.rates == UNKNOWN
    book.add_prefill(256, 1024, 0.1)
    book.save()
    assert RateBook(path).rates == book.rates


def test_a_place_that_takes_no_file_costs_the_learning_only(tmp_path: Path) -> None:
    (tmp_path / 'file').write_bytes(b'')
    (tmp_path / 'folder').mkdir()
    for path in (tmp_path / 'file' / 'rates.json', tmp_path / 'folder'):
        book = RateBook(path)
        book.add_prefill(256, 1024, 0.1)
        book.save()
        assert book.rates.can_compute


def test_the_file_is_another_one_for_another_model_drive_or_engine(tmp_path: Path) -> None:
    settings = Settings(
        storage=StorageSettings(root=tmp_path / 'not' / 'there'),
        engine=EngineSettings(cache_dir=str(tmp_path)),
    )
    engine = replace(settings.engine, threads=3)
    elsewhere = replace(settings.storage, root=Path('/proc'))
    paths = {
        rate_file(settings, bytes(32)),
        rate_file(settings, b'x' * 32),
        rate_file(replace(settings, engine=engine), bytes(32)),
        rate_file(replace(settings, storage=elsewhere), bytes(32)),
    }

    assert len(paths) == 4
    assert rate_file(settings, bytes(32)) in paths
    assert {path.parent for path in paths} == {tmp_path / 'rates'}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_counts_once_however_many_chunks_are_on_their_way() -> None:
    clock = Clock()
    meter, book = LoadMeter(clock), RateBook()
    for _ in range(2):
        first, second = meter.loading(100), meter.loading(300)
        first.__enter__()
        clock.now += 1
        second.__enter__()
        clock.now += 1
        first.__exit__(None, None, None)
        clock.now += 1
        second.__exit__(None, None, None)
        clock.now += 10  # nothing is on its way
    meter.report(book)

    assert book.rates.load_s(800) == pytest.approx(6.0)


def test_a_chunk_that_failed_counts_its_time_alone() -> None:
    clock = Clock()
    meter, book = LoadMeter(clock), RateBook()
    for _ in range(3):
        with meter.loading(100):
            clock.now += 1

    def fail() -> None:
        with meter.loading(100):
            clock.now += 3
            raise ValueError('broken')

    with pytest.raises(ValueError, match='broken'):
        fail()
    meter.report(book)

    assert book.rates.load_s(300) == pytest.approx(6.0)


def test_a_thaw_s_own_rate_takes_the_place_of_what_was_known() -> None:
    clock = Clock()
    meter = LoadMeter(clock)
    known = replace(UNKNOWN, load_s_per_byte=1.0, token_s=1.0)
    assert meter.live(known, trust_bytes=100) == known
    for number in range(1, 31):
        with meter.loading(100):
            clock.now += 10.0
        expected = (100 + number * 10) / (100 + number * 100)
        assert meter.live(known, trust_bytes=100).load_s(1) == pytest.approx(expected)
    assert meter.live(UNKNOWN, trust_bytes=100) == UNKNOWN


def test_the_meter_is_right_under_many_threads() -> None:
    meter, book = LoadMeter(lambda: 0.0), RateBook()

    def load() -> None:
        for _ in range(500):
            with meter.loading(7):
                pass

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (meter._num_chunks, meter._num_bytes) == (4000, 28_000)
    assert (meter._num_active, meter._active_bytes) == (0, 0)
    meter.report(book)
