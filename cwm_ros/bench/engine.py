# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How fast the engine is at the end of a long context, beside llama.cpp with the same weights.

All engines take turns within a round, so that a busy minute slows each of them. Run it with
``python -m cwm_ros.bench.engine``; llama.cpp joins when ``pip install 'cwm_ros[peers]'`` was.
"""

from __future__ import annotations

from argparse import ArgumentParser
from contextlib import closing, ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
import json
import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Protocol, TYPE_CHECKING

import numpy as np

from cwm_ros.bench.peer_llamacpp import LlamaCpp, write_gguf
from cwm_ros.config import EngineSettings
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.model import build_graph, Checkpoint, find_model

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    engine
        'scatter', 'delta' or 'llama.cpp'.
    context_tokens, threads
        At the end of how long a context, and with how many threads.
    prefill_all, prefill_last, decode
        The whole context but its last 256 tokens, those last 256, and single tokens there.
    prefill_all_ratio, prefill_last_ratio, decode_ratio
        Median of the rounds' ratios to llama.cpp; 0 when it is not installed.

    """

    engine: str
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


def bench_engine(
    settings: EngineSettings, *, context_tokens: int = 4096, rounds: int = 7
) -> list[Row]:
    """
    Measure both formulations, and llama.cpp when it is installed.

    Parameters
    ----------
    settings
        Model and threads; its formulation and slice are not used.
    context_tokens
        Length of the context at whose end the rates are measured.
    rounds
        How often each engine takes its turn.

    """
    threads = settings.threads or os.cpu_count() or 1
    settings = replace(settings, threads=threads, prefill_slice=SLICE_TOKENS, context_tokens=0)
    checkpoint = Checkpoint(find_model(settings.model), settings.cache_path)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, checkpoint.spec.vocab_size, context_tokens).astype(np.int32)
    with ExitStack() as opened:
        contenders = _open_all(opened, checkpoint, settings, context_tokens)
        times: dict[str, list[tuple[float, ...]]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                times[name].append(_take_turn(contender, tokens))
    return [_row(name, times, context_tokens, threads) for name in times]


def _open_all(
    opened: ExitStack, checkpoint: Checkpoint, settings: EngineSettings, context_tokens: int
) -> dict[str, _Contender]:
    contenders: dict[str, _Contender] = {}
    for name in ('scatter', 'delta'):
        engine = opened.enter_context(
            open_engine(
                lambda formulation: build_graph(checkpoint, formulation, settings.cache_path),
                checkpoint.kv_spec,
                checkpoint.identity,
                replace(settings, formulation=name),
            )
        )
        contenders[name] = _Ours(engine)
    if find_spec('llama_cpp') and find_spec('gguf'):
        folder = Path(opened.enter_context(TemporaryDirectory(prefix='cwm-bench-')))
        write_gguf(checkpoint, folder / 'model.gguf')
        peer = LlamaCpp(folder / 'model.gguf', context_tokens, settings.threads)
        contenders[PEER] = opened.enter_context(closing(peer))
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
    name: str, times: dict[str, list[tuple[float, ...]]], context_tokens: int, threads: int
) -> Row:
    work = (context_tokens - SLICE_TOKENS, SLICE_TOKENS, 1)
    rates = [work[i] / median(turn[i] for turn in times[name]) for i in range(3)]
    ratios = [0.0, 0.0, 0.0]
    if PEER in times:
        pairs = list(zip(times[PEER], times[name], strict=True))
        ratios = [median(peer[i] / ours[i] for peer, ours in pairs) for i in range(3)]
    return Row(
        engine=name,
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
    columns = f'{"engine":<10} {"prefill":>14} {"last 256":>14} {"decode":>14}'
    lines = [f'{columns}   tokens/s (x {PEER}), {where}']
    for row in rows:
        cells = (
            (row.prefill_all, row.prefill_all_ratio),
            (row.prefill_last, row.prefill_last_ratio),
            (row.decode, row.decode_ratio),
        )
        shown = ' '.join(f'{rate:>7.0f} ({ratio:>4.2f})' for rate, ratio in cells)
        lines.append(f'{row.engine:<10} {shown}')
    return '\n'.join(lines)


def main() -> None:
    """Run the bench from the command line."""
    parser = ArgumentParser(description='Rates of the engine, beside llama.cpp.')
    parser.add_argument('--model', default='reference')
    parser.add_argument('--threads', type=int, default=0)
    parser.add_argument('--tokens', type=int, default=4096)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--json', action='store_true', help='one JSON object a line')
    options = parser.parse_args()
    rows = bench_engine(
        EngineSettings(model=options.model, threads=options.threads),
        context_tokens=options.tokens,
        rounds=options.rounds,
    )
    if options.json:
        print('\n'.join(json.dumps(asdict(row)) for row in rows))
    else:
        print(format_rows(rows))


if __name__ == '__main__':
    main()
