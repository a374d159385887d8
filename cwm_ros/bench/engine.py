# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How fast the engine is at the end of a long context, beside llama.cpp with the same weights.

The weights are the model's, or random ones of a published geometry, in one or more kinds.

All engines take turns within a round, so that a busy minute slows each of them; llama.cpp joins
when ``pip install 'cwm_ros[peers]'`` was. A turn is told as soon as it was taken, so a run that
is stopped early has said what it found.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import NamedTuple, TYPE_CHECKING

import numpy as np

from cwm_ros.bench.engine_contenders import Contest, PEER, SLICE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from cwm_ros.bench.engine_contenders import Contender
    from cwm_ros.config import EngineSettings
    from cwm_ros.kv import TokenArray

NUM_STEPS = 64


class Rates(NamedTuple):
    """
    How fast an engine was, or how many times faster than another [tokens/s, or 1].

    The whole context but its last 256 tokens, those last 256, and single tokens there.
    """

    prefill_all: float
    prefill_last: float
    decode: float


class Turn(NamedTuple):
    """One engine's turn in a round."""

    round: int
    engine: str
    weights: str
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One engine's turns together.

    Parameters
    ----------
    engine, weights
        'scatter', 'delta' or 'llama.cpp', and the kind of its weights.
    rounds
        How many turns it had.
    rates
        Medians over its turns [tokens/s].
    ratios
        Medians of the rounds' ratios to llama.cpp; None when that has not run.

    """

    engine: str
    weights: str
    rounds: int
    rates: Rates
    ratios: Rates | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBench:
    """
    What to measure.

    Parameters
    ----------
    settings
        Model and threads; its formulation, precision and slice are not used.
    context_tokens
        Length of the context at whose end the rates are measured.
    rounds
        How often each engine takes its turn.
    seconds
        No second or later round begins after so long; 0 is no limit [s].
    geometry
        A model of the table of published ones: random weights of its sizes instead of the
        settings' model; empty for none.
    keep
        Folder where random weights, their graphs and llama.cpp's files stay for another run.
    weights
        Kinds of weights, 'fp32', 'fp16', 'int8' or 'int4'.
    formulations
        Of our graphs.

    """

    settings: EngineSettings
    context_tokens: int = 4096
    rounds: int = 7
    seconds: float = 0.0
    geometry: str = ''
    keep: Path | None = None
    weights: Sequence[str] = ('fp32',)
    formulations: Sequence[str] = ('scatter', 'delta')


def take_turns(bench: EngineBench, note: Callable[[str], None]) -> Generator[Turn, None, None]:
    """
    Let the formulations, and llama.cpp when it is installed, take turns with each kind of weights.

    ``note`` is told what is being made before the first turn.
    """
    contest = Contest(
        bench.settings,
        bench.context_tokens,
        formulations=bench.formulations,
        kinds=bench.weights,
        geometry=bench.geometry,
        keep=bench.keep,
        note=note,
    )
    with closing(contest):
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, contest.vocab_size, bench.context_tokens).astype(np.int32)
        begun = perf_counter()
        for number in range(1, bench.rounds + 1):
            if number > 1 and 0 < bench.seconds <= perf_counter() - begun:
                return
            for (engine, weights), contender in contest.contenders.items():
                yield Turn(number, engine, weights, _take_turn(contender, tokens))


def _take_turn(contender: Contender, tokens: TokenArray) -> Rates:
    last = len(tokens) - SLICE_TOKENS
    contender.rewind(0)
    begun = perf_counter()
    contender.run(tokens[:last])
    prefilled = perf_counter()
    contender.run(tokens[last:])
    finished = perf_counter()
    contender.rewind(last)
    steps = []
    for token in range(last, last + NUM_STEPS):
        before = perf_counter()
        contender.run(tokens[token : token + 1])
        steps.append(perf_counter() - before)
    return Rates(
        last / (prefilled - begun), SLICE_TOKENS / (finished - prefilled), 1 / median(steps)
    )


def summarize(turns: Sequence[Turn]) -> list[Row]:
    """Return a row for each engine and kind of weights; rounds need not be whole."""
    taken: dict[tuple[str, str], dict[int, Rates]] = defaultdict(dict)
    for turn in turns:
        taken[turn.engine, turn.weights][turn.round] = turn.rates
    return [
        Row(
            engine=engine,
            weights=weights,
            rounds=len(own),
            rates=_medians(list(own.values())),
            ratios=_ratios(own, taken.get((PEER, weights), {})),
        )
        for (engine, weights), own in taken.items()
    ]


def _ratios(own: dict[int, Rates], peer: dict[int, Rates]) -> Rates | None:
    both = [(own[number], peer[number]) for number in own if number in peer]
    if not both:
        return None
    return _medians([Rates(*(a / b for a, b in zip(*pair, strict=True))) for pair in both])


def _medians(rates: Sequence[Rates]) -> Rates:
    return Rates(*(median(column) for column in zip(*rates, strict=True)))


def format_turn(turn: Turn) -> str:
    """Return a turn as a line for people."""
    cells = ' '.join(f'{rate:>8.1f}' for rate in turn.rates)
    return f'round {turn.round:<3} {turn.engine:<10} {turn.weights:<7} {cells}'


def format_rows(rows: Sequence[Row], context_tokens: int, threads: int) -> str:
    """Return the rows as a table for people."""
    columns = f'{"engine":<10} {"weights":<7} {"prefill":>15} {"last 256":>15} {"decode":>15}'
    where = f'{context_tokens} tokens, {threads} threads'
    lines = [f'{columns}   tokens/s (x {PEER}), medians of rounds, {where}']
    for row in rows:
        ratios = [f'({ratio:>4.2f})' for ratio in row.ratios] if row.ratios else [''] * 3
        cells = zip(row.rates, ratios, strict=True)
        shown = ' '.join(f'{rate:>8.1f} {ratio:<6}' for rate, ratio in cells)
        lines.append(f'{row.engine:<10} {row.weights:<7} {shown}   {row.rounds} rounds')
    return '\n'.join(lines)
