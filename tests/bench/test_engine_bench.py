# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cwm_ros.bench import random_checkpoint
from cwm_ros.bench.engine import EngineBench, format_rows, Rates, summarize, take_turns, Turn
from cwm_ros.config import EngineSettings
from cwm_ros.model import find_model
from cwm_ros.model.families import read_spec

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def turn(number: int, engine: str, rate: float) -> Turn:
    return Turn(number, engine, 'int8', Rates(rate, 2 * rate, 3 * rate))


def test_ratios_are_medians_of_rounds_that_both_took() -> None:
    ours = [turn(1, 'scatter', 10), turn(2, 'scatter', 30), turn(3, 'scatter', 20)]
    theirs = [turn(1, 'llama.cpp', 20), turn(2, 'llama.cpp', 20)]
    row, peer = summarize([*ours, *theirs])

    assert (row.rounds, peer.rounds) == (3, 2)
    assert row.rates == Rates(20, 40, 60)
    assert row.ratios == Rates(1, 1, 1)  # of 0.5 and 1.5; the third round is not whole
    assert peer.ratios == Rates(1, 1, 1)
    assert '20.0 (1.00)' in format_rows([row], 768, 2)


def test_without_the_peer_there_are_rates_and_no_ratios() -> None:
    (row,) = summarize([turn(1, 'scatter', 10)])

    assert row.ratios is None
    assert '(' not in format_rows([row], 768, 2).splitlines()[1]


def test_turns_come_one_by_one_and_what_was_made_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(read_spec(find_model('reference')), num_layers=1)
    monkeypatch.setattr(random_checkpoint, 'published_spec', lambda _: small)
    bench = EngineBench(
        settings=EngineSettings(threads=1, cache_dir=str(tmp_path / 'unused')),
        context_tokens=512,
        rounds=9,
        seconds=1e-9,
        geometry='small',
        keep=tmp_path,
        weights=('fp32', 'int8'),
        formulations=('delta',),
    )
    notes: list[str] = []
    turns = list(take_turns(bench, notes.append))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*') if path.is_file()}
    again = list(take_turns(bench, lambda _: None))

    ours = [turn for turn in turns if turn.engine == 'delta']
    assert [(turn.round, turn.weights) for turn in ours] == [(1, 'fp32'), (1, 'int8')]
    assert min(min(turn.rates) for turn in turns) > 0
    assert notes[0] == 'making random weights of small'
    assert len(again) == len(turns)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not (tmp_path / 'unused').exists()
