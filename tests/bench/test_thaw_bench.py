# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of the thaw bench are complete and honest; how fast it is, is not tested."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.bench import thaw as bench
from cwm_ros.bench.tables import Report, Row
from cwm_ros.bench.thaw_contest import Contestant, hold_contest, Reached
from cwm_ros.bench.thaw_plot import draw
from cwm_ros.bench.thaw_synthetic import (
    ArrayEngine,
    Geometry,
    make_kv,
    make_tokens,
    thaw_window,
    WINDOW,
    write_window,
)
from cwm_ros.codec import codec_named, error_bound, KernelLoader
from cwm_ros.config import CodecSettings, Settings, StorageSettings, ThawSettings
from cwm_ros.errors import EngineError
from cwm_ros.kv import KVSpec
from cwm_ros.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = Geometry(
    spec=KVSpec(num_layers=2, num_kv_heads=2, head_dim=16, max_tokens=2048), num_tokens=1500
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    storage = StorageSettings(root=tmp_path / 'store')
    with Store.open(storage, writable=True, clock=lambda: 0) as opened:
        write_window(opened, SMALL, CodecSettings())
        yield opened


@pytest.fixture(scope='module')
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    work = bench.ThawBench(
        folder=tmp_path_factory.mktemp('drive'),
        rounds=2,
        cases=(bench.SYNTHETIC, bench.SYNTHETIC_SINGLE),
        geometry=SMALL,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, 'has_llama', lambda: False)
        return bench.bench_thaw(work)


@pytest.mark.parametrize('state', ['cold', 'warm'])
def test_cwm_has_three_stages_in_order(report: Report, state: str) -> None:
    for case in (bench.SYNTHETIC, bench.SYNTHETIC_SINGLE):
        stages = ('header', 'usable', 'complete')
        rows = [report.find(case, 'cwm', state, stage) for stage in stages]
        assert all(row is not None and row.runs == 2 for row in rows)
        times = [row.min_s for row in rows if row]
        sizes = [row.bytes for row in rows if row]
        assert times == sorted(times)
        assert sizes == sorted(sizes)


def test_peers_and_limits_are_there(report: Report) -> None:
    paths = ('np.load', 'np.load-mmap', 'safetensors', 'raw-read', 'raw-read-parallel')
    for path in paths:
        assert report.find(bench.SYNTHETIC, path, 'cold')
        assert report.find(bench.SYNTHETIC, path, 'warm')
    copied = report.find(bench.SYNTHETIC, 'memcpy', 'warm')
    assert copied
    assert copied.bytes == SMALL.half_bytes
    assert report.find(bench.SYNTHETIC, 'memcpy', 'cold') is None


def test_an_absent_peer_is_said_to_be_absent(report: Report) -> None:
    assert report.find(bench.SYNTHETIC, 'llama.cpp', 'cold') is None
    assert any('llama.cpp is absent' in note for note in report.notes)


def test_json_has_the_promised_keys(report: Report) -> None:
    values = report.as_json()
    assert set(values) == {'machine', 'rows', 'targets', 'notes'}
    keys = {
        'case',
        'path',
        'state',
        'stage',
        'median_s',
        'min_s',
        'bytes',
        'runs',
        'limit_fraction',
    }
    rows = values['rows']
    assert isinstance(rows, list)
    assert all(set(row) == keys for row in rows)


def test_the_picture_is_a_png(report: Report, tmp_path: Path) -> None:
    pytest.importorskip('matplotlib')
    draw(report, tmp_path / 'rows.png')
    assert (tmp_path / 'rows.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_the_cache_holds_what_was_frozen(
    store: Store, tmp_path: Path, dtype: type[np.float16 | np.float32]
) -> None:
    engine = ArrayEngine(SMALL, dtype)
    thaw_window(store, engine, KernelLoader(tmp_path), ThawSettings(io_threads=2))
    tokens = make_tokens(SMALL.num_tokens)
    for start in range(0, SMALL.num_tokens, 256):
        stop = min(start + 256, SMALL.num_tokens)
        kv = make_kv(SMALL.spec, tokens[start:stop], start)
        bound = error_bound(kv, codec_named('int8')).max() + np.abs(kv).max() * 2**-11
        assert np.abs(engine.cache[:, :, :, start:stop] - kv).max() <= bound


def test_a_thaw_that_lost_a_chunk_is_not_timed(store: Store, tmp_path: Path) -> None:
    manifest = store.window(WINDOW).manifest
    assert manifest
    store.discard_chunk(manifest.chunks[2])
    engine = ArrayEngine(SMALL, np.float16)
    with pytest.raises(EngineError):
        thaw_window(store, engine, KernelLoader(tmp_path), ThawSettings(io_threads=2))


def test_contestants_take_turns_and_slow_ones_stop_early() -> None:
    turns: list[str] = []

    def contestant(path: str, **limits: int) -> Contestant:
        def run() -> list[Reached]:
            turns.append(path)
            return [Reached('complete', len(turns), 7)]

        return Contestant(case='c', path=path, run=run, states=('warm',), **limits)

    rows = hold_contest([contestant('a'), contestant('b', max_runs=1)], 3, lambda _: None)
    assert turns == ['a', 'a', 'b', 'a', 'a', 'a', 'a']
    assert [(row.path, row.median_s, row.min_s, row.runs) for row in rows] == [
        ('a', 5, 2, 3),
        ('b', 3, 3, 1),
    ]


def test_targets_say_what_is_met_and_what_is_missed() -> None:
    def row(path: str, seconds: float, state: str, stage: str = 'complete') -> Row:
        return Row.of((bench.SYNTHETIC, path, state, stage), [seconds], 0)

    rows = [
        row('cwm', 0.02, 'cold', 'usable'),
        row('cwm', 0.08, 'cold'),
        row('np.load', 0.1, 'cold'),
    ]
    report = Report(machine={}, rows=tuple(rows))
    usable, complete = bench.thaw_targets(report)
    assert usable.measured == pytest.approx(0.2)
    assert usable.is_met
    assert complete.is_met
    against_llama = replace(report, rows=(*rows, row('llama.cpp', 0.05, 'cold')))
    missed = next(iter(bench.thaw_targets(against_llama)))
    assert not missed.is_met
    assert 'llama.cpp' in missed.name
    assert str(missed).startswith('MISSED')


def test_the_limit_ratio_is_of_the_slower_limit() -> None:
    key = (bench.SYNTHETIC, 'cwm', 'warm', 'complete')
    rows = [Row.of(key, [0.04], 0)]
    for path, seconds in (('raw-read', 0.01), ('memcpy', 0.02)):
        rows.append(Row.of((bench.SYNTHETIC, path, 'warm', 'complete'), [seconds], 0))
    report = Report(machine={}, rows=tuple(rows))
    assert report.limit_ratio(rows[0]) == pytest.approx(0.5)
    assert report.limit_ratio(rows[1]) is None


def test_cases_go_to_the_trained_length() -> None:
    names = bench.case_names(Settings())
    assert names[:3] == [bench.SYNTHETIC, bench.SYNTHETIC_SINGLE, 'reference-1024']
    assert bench.FASTER_THAN in names
