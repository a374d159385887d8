# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How late a 100 Hz process beside the assistant is while a window is thawed, by ``runtime.*``.

The neighbour wakes every 10 ms, as a driver of a sensor would, and does a little work. Beside it
another process thaws the same window again and again, with one kind of settings after another;
the kinds take turns, so that all of them see the same machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
import gc
from hashlib import blake2b
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
from threading import Event, Thread
import time
from typing import TYPE_CHECKING

from cwm_ros.bench.tables import describe_machine
from cwm_ros.bench.thaw_reference import write_window
from cwm_ros.config import (
    CodecSettings,
    EngineSettings,
    Settings,
    StorageSettings,
    ThawSettings,
)
from cwm_ros.config_vehicle import RuntimeSettings
from cwm_ros.errors import EngineError
from cwm_ros.manager import Manager
from cwm_ros.runtime import apply_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PERIOD_S = 0.01
WORK_BYTES = 1 << 19
"""Hashed in each period, about half a millisecond."""
WINDOW = 'jitter'
ALONE = 'no thaw'


def kinds(last_core: int) -> dict[str, Settings]:
    """Return what is compared: the groups engine, thaw and runtime count."""
    gentle = RuntimeSettings(nice=10, io_class='idle')
    bound = RuntimeSettings(cpu_affinity=str(last_core))
    one = Settings(engine=EngineSettings(threads=1), thaw=ThawSettings(io_threads=1))
    return {
        'as the defaults are': Settings(),
        'engine.threads 1, thaw.io_threads 1': one,
        'runtime.nice 10, io_class idle': Settings(runtime=gentle),
        f'runtime.cpu_affinity {last_core}': Settings(runtime=bound),
        'all of these': replace(one, runtime=replace(gentle, cpu_affinity=str(last_core))),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class JitterRow:
    """
    One kind of settings.

    Parameters
    ----------
    kind
        Which.
    p50_s, p99_s, max_s
        How late the neighbour's work was done, against doing it in time and undisturbed [s].
    overruns
        Part of the periods whose work was not done when the next one began.
    thaw_s
        Median time of a thaw meanwhile, until complete; 0 without [s].
    periods
        How many.

    """

    kind: str
    p50_s: float
    p99_s: float
    max_s: float
    overruns: float
    thaw_s: float
    periods: int


def measure_jitter(
    settings: Settings,
    folder: Path,
    *,
    tokens: int,
    rounds: int,
    seconds: float,
    note: Callable[[str], None] = lambda _: None,
) -> list[JitterRow]:
    """
    Let the kinds take turns beside a neighbour.

    Parameters
    ----------
    settings
        Of model and codec; the store is one of this bench.
    folder
        On the drive to be measured.
    tokens
        Most tokens of the window.
    rounds, seconds
        How often each kind's turn comes, and how long it is [s].
    note
        Told what is being done.

    Raises
    ------
    EngineError
        The process that thaws failed.

    """
    late_s: dict[str, list[float]] = {}
    thaw_s: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as root:
        storage = StorageSettings(root=Path(root), quota_mib=4096)
        note('writing the window')
        with Manager(replace(settings, storage=storage)) as manager:
            manager.warm_up()
            manager.kernels.wait()
            write_window(manager, WINDOW, tokens)
        given = kinds(max(os.sched_getaffinity(0)))
        for number in range(rounds):
            note(f'round {number + 1} of {rounds}')
            late_s.setdefault(ALONE, []).extend(_be_neighbour(seconds))
            for kind, special in given.items():
                mixed = replace(
                    settings,
                    storage=storage,
                    runtime=special.runtime,
                    thaw=replace(settings.thaw, io_threads=special.thaw.io_threads),
                    engine=replace(settings.engine, threads=special.engine.threads),
                )
                late, thaws = _beside_thaws(mixed, seconds)
                late_s.setdefault(kind, []).extend(late)
                thaw_s.setdefault(kind, []).extend(thaws)
    # Undisturbed is the best that was seen anywhere: the work itself, and waking up.
    base_s = min(min(late) for late in late_s.values())
    return [_row(kind, late, base_s, thaw_s.get(kind, [])) for kind, late in late_s.items()]


def _row(kind: str, late: Sequence[float], base_s: float, thaws: Sequence[float]) -> JitterRow:
    cuts = statistics.quantiles(late, n=100)
    return JitterRow(
        kind=kind,
        p50_s=cuts[49] - base_s,
        p99_s=cuts[98] - base_s,
        max_s=max(late) - base_s,
        overruns=sum(value > PERIOD_S for value in late) / len(late),
        thaw_s=statistics.median(thaws) if thaws else 0.0,
        periods=len(late),
    )


def _be_neighbour(seconds: float) -> list[float]:
    """Work at 100 Hz; return when each period's work was done, since the period began [s]."""
    data, late = bytes(WORK_BYTES), []
    gc.collect()
    gc.disable()  # a driver of a sensor has none
    try:
        due_s = time.monotonic()
        until_s = due_s + seconds
        while due_s < until_s:
            due_s += PERIOD_S
            time.sleep(max(0.0, due_s - time.monotonic()))
            blake2b(data).digest()
            done_s = time.monotonic()
            late.append(done_s - due_s)
            due_s += PERIOD_S * int((done_s - due_s) / PERIOD_S)  # periods that were missed
    finally:
        gc.enable()
    return late


def _beside_thaws(settings: Settings, seconds: float) -> tuple[list[float], list[float]]:
    """Be the neighbour of a process that thaws; return its and the process's times [s]."""
    told = {
        'root': str(settings.storage.root),
        'chunk_tokens': settings.codec.chunk_tokens,
        'model': settings.engine.model,
        'cache_dir': settings.engine.cache_dir,
        'threads': settings.engine.threads,
        'io_threads': settings.thaw.io_threads,
        'runtime': asdict(settings.runtime),
    }
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, '-m', __name__, json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(path for path in sys.path if path)},
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        is_ready = process.stdout.readline().strip() == 'ready'
        try:
            late = _be_neighbour(seconds) if is_ready else []
        finally:
            process.stdin.close()
        line = process.stdout.readline()
    if not line:
        raise EngineError('the process that thaws failed')
    return late, list(json.loads(line))


def _thaw_on(told: dict[str, str]) -> None:
    """Thaw again and again until standard input ends; print how long each took."""
    settings = Settings(
        storage=StorageSettings(root=Path(told['root'])),
        codec=CodecSettings(chunk_tokens=int(told['chunk_tokens'])),
        engine=EngineSettings(
            model=told['model'], cache_dir=told['cache_dir'], threads=int(told['threads'])
        ),
        thaw=ThawSettings(io_threads=int(told['io_threads']), strategy='load'),
        runtime=RuntimeSettings(**told['runtime']),  # type: ignore[arg-type]
    )
    for problem in apply_runtime(settings.runtime):
        sys.stderr.write(f'{problem}\n')
    with Manager(settings) as manager:
        manager.warm_up()
        manager.kernels.wait()
        _thaw_once(manager)
        times: list[float] = []
        ended = Event()
        Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
        print('ready', flush=True)
        while not (ended.is_set() and times):
            times.append(_thaw_once(manager))
    print(json.dumps(times))


def _wait_for_end(ended: Event) -> None:
    sys.stdin.read()
    ended.set()


def _thaw_once(manager: Manager) -> float:
    began_s = time.perf_counter()
    thaw = manager.open_window(WINDOW)
    while thaw.advance(wait=True):
        pass
    took_s = time.perf_counter() - began_s
    manager.leave()
    manager.engine.reset()
    return took_s


def as_json(rows: Sequence[JitterRow], folder: Path) -> dict[str, object]:
    """Return the rows for ``--json``."""
    return {'machine': describe_machine(folder), 'rows': [asdict(row) for row in rows]}


def format_jitter(rows: Sequence[JitterRow]) -> str:
    """Return a table for a person."""
    lines = [
        '| late by [ms] | median | p99 | max | not done in 10 ms | a thaw [ms] |',
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        figures = ' | '.join(f'{1e3 * value:.2f}' for value in (row.p50_s, row.p99_s, row.max_s))
        thaw = f'{1e3 * row.thaw_s:.0f}' if row.thaw_s else ''
        lines.append(f'| {row.kind} | {figures} | {row.overruns:.2%} | {thaw} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    _thaw_on(json.loads(sys.argv[1]))
