# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How long a thaw takes until header, usable and complete, against peers and limits.

The synthetic case is the KV of a 16-layer model with 8192 tokens, 268 MB in float16, thawed into
a live float16 cache, as a GPU engine has, and into a float32 one, as ONNX Runtime uses on a CPU.
The reference cases are windows of the model in engines/reference.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.tables import describe_machine, Report, Row, Target
from cwm_ros.bench.thaw_contest import COLD, Contestant, hold_contest, WARM
from cwm_ros.bench.thaw_generation import generation_case, TOKEN, TOKEN_THAWING
from cwm_ros.bench.thaw_peers import array_peers, copy_limit, has_llama, llama_peer, read_limits
from cwm_ros.bench.thaw_reference import reference_case, reference_lengths
from cwm_ros.bench.thaw_synthetic import (
    ArrayEngine,
    FULL_SIZE,
    Geometry,
    thaw_window,
    write_window,
)
from cwm_ros.codec import KernelLoader
from cwm_ros.config import Settings
from cwm_ros.model import Checkpoint
from cwm_ros.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SYNTHETIC = 'synthetic-268MB'
SYNTHETIC_SINGLE = 'synthetic-268MB-fp32'
REFERENCE = 'reference-'
FASTER_THAN = 'reference-4096'
"""The case whose thaw is held against recomputing."""
GENERATION_TOKENS = 8192
"""A thaw takes long enough to generate meanwhile; there must be room for an answer, too."""
THREADS = 2
STORE_MIB = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawBench:
    """
    What to measure.

    Parameters
    ----------
    folder
        On the drive to be measured; a temporary folder is made in it and removed.
    rounds
        How often each contestant runs in each state.
    cases
        Names of cases, see `case_names`; empty means all.
    settings
        Model and codec; the store is the bench's own, and the thaw has two threads unless
        `ThawSettings.io_threads` says how many.
    geometry
        Size of the synthetic KV.

    """

    folder: Path
    rounds: int = 9
    cases: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    geometry: Geometry = FULL_SIZE


def case_names(settings: Settings) -> list[str]:
    """Return the cases there are for the model of the settings."""
    engine = settings.engine
    trained = Checkpoint.configured(engine).kv_spec.max_tokens
    lengths = reference_lengths(engine.context_tokens or trained)
    return [SYNTHETIC, SYNTHETIC_SINGLE, *(f'{REFERENCE}{length}' for length in lengths)]


def bench_thaw(bench: ThawBench, note: Callable[[str], None] = lambda _: None) -> Report:
    """
    Measure.

    Parameters
    ----------
    bench
        What.
    note
        Is told how far it is.

    """
    cases = bench.cases or tuple(case_names(bench.settings))
    machine = describe_machine(bench.folder)
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(dir=bench.folder)))
        contestants, notes = _enter(bench, cases, folder, closing, note)
        rows = hold_contest(contestants, bench.rounds, note)
    report = Report(machine=machine, rows=tuple(rows), notes=tuple(notes))
    return replace(report, targets=tuple(thaw_targets(report)))


def _enter(
    bench: ThawBench,
    cases: Sequence[str],
    folder: Path,
    closing: ExitStack,
    note: Callable[[str], None],
) -> tuple[list[Contestant], list[str]]:
    """Prepare the contestants of all cases; return them, and what is to be said."""
    settings = _own_settings(bench.settings, folder)
    contestants: list[Contestant] = []
    notes = [f'cwm: {settings.thaw.num_threads} threads read and decode; peers have one.']
    if {SYNTHETIC, SYNTHETIC_SINGLE} & set(cases):
        note('making synthetic KV')
        contestants += _enter_synthetic(bench.geometry, cases, settings, folder, closing)
    if SYNTHETIC in cases:
        if has_llama():
            note('llama.cpp: prefilling')
            contestants.append(llama_peer(SYNTHETIC, bench.geometry, folder, closing))
        else:
            notes.append('llama.cpp is absent: install the extra "peers" to compare with it.')
    cases_there = case_names(settings)
    for case in cases:
        if case.startswith(REFERENCE):
            note(f'{case}: prefilling')
            length = int(case.removeprefix(REFERENCE))
            contestants += reference_case(case, length, settings)
            if length == GENERATION_TOKENS and f'{REFERENCE}{2 * length}' in cases_there:
                contestants.append(generation_case(case, settings))
    return contestants, notes


def _own_settings(settings: Settings, folder: Path) -> Settings:
    """Return settings with a store in ``folder``, and two threads unless others are asked for."""
    return replace(
        settings,
        storage=replace(settings.storage, root=folder / 'store', quota_mib=STORE_MIB),
        thaw=replace(
            settings.thaw, io_threads=settings.thaw.io_threads or THREADS, strategy='load'
        ),
    )


def _enter_synthetic(
    geometry: Geometry,
    cases: Sequence[str],
    settings: Settings,
    folder: Path,
    closing: ExitStack,
) -> list[Contestant]:
    kernels = KernelLoader(settings.engine.cache_path / 'kernels')
    kernels.start()
    kernels.wait()
    storage = replace(settings.storage, root=folder / 'synthetic')
    opened = Store.open(storage, writable=True, clock=lambda: 0)
    store = closing.enter_context(opened)
    manifest = write_window(store, geometry, settings.codec)
    files = [file for file in storage.root.rglob('*') if file.is_file()]
    chunks = [store.chunk_path(entry.id, entry.codec) for entry in manifest.chunks]
    contestants = []
    for case, dtype in ((SYNTHETIC, np.float16), (SYNTHETIC_SINGLE, np.float32)):
        if case not in cases:
            continue
        engine = ArrayEngine(geometry, dtype)
        run = partial(thaw_window, store, engine, kernels, settings.thaw)
        contestants += [
            Contestant(case=case, path='cwm', run=run, files=files),
            *read_limits(case, chunks, 2 * settings.thaw.num_threads),
            copy_limit(case, engine.cache.nbytes),
        ]
        if case == SYNTHETIC:
            run()  # so that peers store what cwm restores
            contestants += array_peers(case, engine.cache.astype(np.float16, copy=False), folder)
    return contestants


def thaw_targets(report: Report) -> Iterator[Target]:
    """Yield the promises about thawing that the rows can tell about."""
    yield from _usable_targets(report)
    yield from _limit_targets(report)
    for state, limit in ((COLD, 0.85), (WARM, 1.0)):
        ratio = _ratio(
            report.find(SYNTHETIC, 'cwm', state), report.find(SYNTHETIC, 'np.load', state)
        )
        if ratio is not None:
            name = f"{SYNTHETIC}: complete {state}, of np.load's time"
            yield Target(name=name, measured=ratio, limit=limit)
    headers = [row.median_s for row in report.rows if row.stage == 'header']
    if headers:
        yield Target(name='all cases: header [ms]', measured=max(headers) * 1e3, limit=10)
    speedup = _ratio(
        report.find(FASTER_THAN, 'recompute', WARM), report.find(FASTER_THAN, 'cwm', WARM)
    )
    if speedup is not None:
        name = f'{FASTER_THAN}: complete warm, times faster than recompute'
        yield Target(name=name, measured=speedup, limit=20, is_floor=True)


def _usable_targets(report: Report) -> Iterator[Target]:
    for state in (COLD, WARM):
        usable = report.find(SYNTHETIC, 'cwm', state, 'usable')
        for peer, limit in (('llama.cpp', 0.2), ('np.load', 0.25)):
            ratio = _ratio(usable, report.find(SYNTHETIC, peer, state))
            if ratio is not None:
                name = f"{SYNTHETIC}: usable {state}, of {peer}'s full load"
                yield Target(name=name, measured=ratio, limit=limit)
                break


def _limit_targets(report: Report) -> Iterator[Target]:
    cold, warm = (report.find(SYNTHETIC, 'cwm', state) for state in (COLD, WARM))
    if cold and (ratio := _ratio(cold, report.fastest_read(cold))) is not None:
        name = f"{SYNTHETIC}: complete cold, of the fastest plain read's time"
        yield Target(name=name, measured=ratio, limit=1.3)
    if (ratio := _ratio(report.find(SYNTHETIC, 'memcpy', WARM), warm)) is not None:
        name = f'{SYNTHETIC}: complete warm, part of the speed of memcpy'
        yield Target(name=name, measured=ratio, limit=0.6, is_floor=True)
    for row in report.rows:
        if row.stage == TOKEN_THAWING:
            calm = report.find(row.case, row.path, row.state, TOKEN)
            if (ratio := _ratio(calm, row)) is not None:
                name = f'{row.case}: generation while thawing, part of the speed afterwards'
                yield Target(name=name, measured=ratio, limit=0.7, is_floor=True)


def _ratio(row: Row | None, other: Row | None) -> float | None:
    return row.median_s / other.median_s if row and other else None
