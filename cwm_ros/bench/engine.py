# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How fast the engine is at the end of a long context, beside llama.cpp with the same weights.

The weights are the model's, or random ones of a published geometry, in one or more kinds.

All engines take turns within a round, so that a busy minute slows each of them; llama.cpp joins
when ``pip install 'cwm_ros[peers]'`` was.
"""

from __future__ import annotations

from contextlib import closing, ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Protocol, TYPE_CHECKING

import numpy as np

from cwm_ros.bench.peer_llamacpp import LlamaCpp, write_gguf
from cwm_ros.bench.random_checkpoint import write_random_checkpoint
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.model import build_graph, Checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cwm_ros.config import EngineSettings
    from cwm_ros.engine import Engine
    from cwm_ros.kv import TokenArray

PEER = 'llama.cpp'
SLICE_TOKENS = 256
NUM_STEPS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    Rates of one engine, medians over the rounds [tokens/s].

    Parameters
    ----------
    engine, weights
        'scatter', 'delta' or 'llama.cpp', and the kind of its weights.
    context_tokens, threads
        At the end of how long a context, and with how many threads.
    prefill_all, prefill_last, decode
        The whole context but its last 256 tokens, those last 256, and single tokens there.
    prefill_all_ratio, prefill_last_ratio, decode_ratio
        Median of the rounds' ratios to llama.cpp; 0 when it is not installed.

    """

    engine: str
    weights: str
    context_tokens: int
    threads: int
    prefill_all: float
    prefill_last: float
    decode: float
    prefill_all_ratio: float = 0.0
    prefill_last_ratio: float = 0.0
    decode_ratio: float = 0.0


class _Contender(Protocol):
    def run(self, tokens: TokenArray) -> None: ...

    def rewind(self, position: int) -> None: ...


class _Ours:
    """An engine of ours, with the position kept."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._position = 0

    def run(self, tokens: TokenArray) -> None:
        self._engine.run(tokens, self._position, rows=LogitRows.LAST)
        self._position += len(tokens)

    def rewind(self, position: int) -> None:
        self._engine.drop(position, self._position)
        self._position = position


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
    geometry
        A model of the table of published ones: random weights of its sizes instead of the
        settings' model; empty for none.
    weights
        Kinds of weights, 'fp32', 'fp16', 'int8' or 'int4'.
    formulations
        Of our graphs.

    """

    settings: EngineSettings
    context_tokens: int = 4096
    rounds: int = 7
    geometry: str = ''
    weights: Sequence[str] = ('fp32',)
    formulations: Sequence[str] = ('scatter', 'delta')


def bench_engine(bench: EngineBench) -> list[Row]:
    """Measure the formulations, and llama.cpp when it is installed, with each kind of weights."""
    threads = bench.settings.threads or os.cpu_count() or 1
    settings = replace(
        bench.settings, threads=threads, prefill_slice=SLICE_TOKENS, context_tokens=0
    )
    with ExitStack() as opened:
        if bench.geometry:
            folder = Path(opened.enter_context(TemporaryDirectory(prefix='cwm-bench-')))
            made = write_random_checkpoint(bench.geometry, bench.context_tokens, folder / 'model')
            settings = replace(settings, model=str(made), cache_dir=str(folder / 'graphs'))
        contenders: dict[tuple[str, str], _Contender] = {}
        for kind in bench.weights:
            own = replace(settings, precision=kind)
            contenders |= _open_all(opened, own, bench.context_tokens, bench.formulations)
        spec = Checkpoint.configured(settings).spec
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, spec.vocab_size, bench.context_tokens).astype(np.int32)
        times: dict[tuple[str, str], list[tuple[float, ...]]] = {key: [] for key in contenders}
        for _ in range(bench.rounds):
            for key, contender in contenders.items():
                times[key].append(_take_turn(contender, tokens))
    return [_row(key, times, bench.context_tokens, threads) for key in times]


def _open_all(
    opened: ExitStack,
    settings: EngineSettings,
    context_tokens: int,
    formulations: Sequence[str],
) -> dict[tuple[str, str], _Contender]:
    checkpoint = Checkpoint.configured(settings)
    kind = checkpoint.weights
    contenders: dict[tuple[str, str], _Contender] = {}
    for name in formulations:
        engine = opened.enter_context(
            open_engine(
                lambda formulation: build_graph(checkpoint, formulation, settings.cache_path),
                checkpoint.kv_spec,
                checkpoint.identity,
                replace(settings, formulation=name),
            )
        )
        contenders[name, kind] = _Ours(engine)
    if find_spec('llama_cpp') and find_spec('gguf'):
        folder = Path(opened.enter_context(TemporaryDirectory(prefix='cwm-bench-')))
        write_gguf(checkpoint, folder / 'model.gguf')
        peer = LlamaCpp(folder / 'model.gguf', context_tokens, settings.threads)
        contenders[PEER, kind] = opened.enter_context(closing(peer))
    return contenders


def _take_turn(contender: _Contender, tokens: TokenArray) -> tuple[float, float, float]:
    """Return the seconds of: all but the last slice, the last slice, and one token there."""
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
    return prefilled - begun, finished - prefilled, median(steps)


def _row(
    key: tuple[str, str],
    times: dict[tuple[str, str], list[tuple[float, ...]]],
    context_tokens: int,
    threads: int,
) -> Row:
    engine, weights = key
    work = (context_tokens - SLICE_TOKENS, SLICE_TOKENS, 1)
    rates = [work[i] / median(turn[i] for turn in times[key]) for i in range(3)]
    ratios = [0.0, 0.0, 0.0]
    if (PEER, weights) in times:
        pairs = list(zip(times[PEER, weights], times[key], strict=True))
        ratios = [median(peer[i] / ours[i] for peer, ours in pairs) for i in range(3)]
    return Row(
        engine=engine,
        weights=weights,
        context_tokens=context_tokens,
        threads=threads,
        prefill_all=rates[0],
        prefill_last=rates[1],
        decode=rates[2],
        prefill_all_ratio=ratios[0],
        prefill_last_ratio=ratios[1],
        decode_ratio=ratios[2],
    )


def format_rows(rows: Sequence[Row]) -> str:
    """Return the rows as a table for people."""
    where = f'{rows[0].context_tokens} tokens, {rows[0].threads} threads'
    columns = f'{"engine":<10} {"weights":<7} {"prefill":>15} {"last 256":>15} {"decode":>15}'
    lines = [f'{columns}   tokens/s (x {PEER}), {where}']
    for row in rows:
        cells = (
            (row.prefill_all, row.prefill_all_ratio),
            (row.prefill_last, row.prefill_last_ratio),
            (row.decode, row.decode_ratio),
        )
        shown = ' '.join(f'{rate:>8.1f} ({ratio:>4.2f})' for rate, ratio in cells)
        lines.append(f'{row.engine:<10} {row.weights:<7} {shown}')
    return '\n'.join(lines)
