# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The table of what the package promises, each figure by the bench that measures it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
import tempfile
from typing import TYPE_CHECKING

from cwm_ros.bench.demo import run_demo
from cwm_ros.bench.energy import find_meter
from cwm_ros.bench.freeze import measure_freeze, SPARE_TOKENS
from cwm_ros.bench.tables import describe_machine
from cwm_ros.bench.targets_memory import measure_peak
from cwm_ros.bench.thaw import bench_thaw, case_names, REFERENCE, SYNTHETIC_SINGLE, ThawBench
from cwm_ros.bench.thaw_contest import COLD
from cwm_ros.bench.thaw_reference import reference_case, write_window
from cwm_ros.bench.thaw_synthetic import Geometry
from cwm_ros.manager import Manager
from cwm_ros.model import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cwm_ros.bench.energy import Meter
    from cwm_ros.bench.tables import Row
    from cwm_ros.config import Settings

THAW_LIMITS_S = {4096: 2.0, 8192: 5.0, 16384: 3.0, 32768: 10.0}
"""16K is the automotive one, and the strictest."""
HEADER_S, USABLE_S, FREEZE_S, COLD_START_S = 0.01, 0.5, 1.0, 2.0
MEMORY_MB = 500
FREEZE_TOKENS, ENERGY_TOKENS = 4096, 8192
NOT_MEASURED = 'not measured'


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRow:
    """
    A promise and what came out.

    Parameters
    ----------
    target, case
        What is promised, and of what it was measured.
    unit
        Of both figures.
    measured
        None if it was not; ``note`` says why.
    limit
        It must be below; None where nothing is promised.
    note
        What is to be known about the figure.

    """

    target: str
    case: str
    unit: str
    measured: float | None
    limit: float | None = None
    note: str = ''

    @property
    def verdict(self) -> str:
        """Whether the promise is kept."""
        if self.measured is None:
            return NOT_MEASURED
        if self.limit is None:
            return 'no limit'
        return 'pass' if self.measured < self.limit else 'FAIL'

    def as_text(self) -> str:
        """Return the line of a table."""
        measured = '' if self.measured is None else f'{self.measured:.3g} {self.unit}'
        limit = '' if self.limit is None else f'< {self.limit:g} {self.unit}'
        line = f'{self.target:<18}{self.case:<34}{measured:>12}{limit:>12}  {self.verdict}'
        return f'{line}  ({self.note})' if self.note else line


FREEZE = TargetRow(
    target='freeze', case=f'{FREEZE_TOKENS} tokens', unit='s', measured=None, limit=FREEZE_S
)
START = TargetRow(
    target='cold start',
    case='the demo',
    unit='s',
    measured=None,
    limit=COLD_START_S,
    note='process start to first token',
)
MEMORY = TargetRow(
    target='peak memory', case='thaw and answer', unit='MB', measured=None, limit=MEMORY_MB
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTable:
    """All promises, and the machine on which they were measured."""

    machine: dict[str, str]
    rows: tuple[TargetRow, ...]

    def as_json(self) -> dict[str, object]:
        """Return the table for ``--json``."""
        rows = [{**asdict(row), 'verdict': row.verdict} for row in self.rows]
        return {'machine': self.machine, 'rows': rows}

    def as_text(self) -> str:
        """Return the table for a person."""
        heading = f'{"target":<18}{"case":<34}{"measured":>12}{"limit":>12}  verdict'
        lines = [row.as_text() for row in self.rows]
        return '\n'.join([heading, *lines, ', '.join(self.machine.values())])


def measure_targets(
    settings: Settings, folder: Path, *, rounds: int, note: Callable[[str], None]
) -> TargetTable:
    """
    Measure all of them; what a bench that fails should have told is not measured.

    Parameters
    ----------
    settings
        Of the model; stores are of the benches.
    folder
        On the drive to be measured.
    rounds
        Runs of each thaw; the figures are their medians.
    note
        Told what is being measured, and each figure as soon as it is there.

    """
    machine = describe_machine(folder)
    thaws = _Thaws(settings, folder, rounds, note)
    rows = [
        *thaws.rows(),
        _attempt(FREEZE, lambda row: _freeze_row(row, settings, folder, note), note),
        _attempt(START, lambda row: _start_row(row, settings), note),
    ]
    with tempfile.TemporaryDirectory(dir=folder) as root:
        own = replace(settings, storage=replace(settings.storage, root=Path(root)))
        memory = replace(MEMORY, case=f'{REFERENCE}{thaws.longest}, thaw and answer')
        rows.append(_attempt(memory, lambda row: _memory_row(row, own, thaws.longest), note))
        rows += energy_rows(own, find_meter(), note)
    return TargetTable(machine=machine, rows=tuple(rows))


def _attempt(
    row: TargetRow, measure: Callable[[TargetRow], TargetRow], note: Callable[[str], None]
) -> TargetRow:
    """Return a row as measured, or with the reason why it is not, and tell it."""
    note(f'measuring {row.target}')
    try:
        row = measure(row)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other figures are wanted
        row = replace(row, measured=None, note=f'failed: {type(error).__name__}: {error}')
    note(row.as_text())
    return row


def _freeze_row(
    row: TargetRow, settings: Settings, folder: Path, note: Callable[[str], None]
) -> TargetRow:
    lengths = [FREEZE_TOKENS + SPARE_TOKENS]
    (frozen,) = measure_freeze(settings, folder, rounds=1, lengths=lengths, note=note)
    return replace(row, case=f'{frozen.tokens} tokens, all of it', measured=frozen.whole_s)


def _start_row(row: TargetRow, settings: Settings) -> TargetRow:
    told = run_demo(settings, lambda _: None)
    case = f'{settings.engine.model}, {told.tokens} tokens'
    return replace(row, case=case, measured=told.cold_start_s)


def _memory_row(row: TargetRow, settings: Settings, tokens: int) -> TargetRow:
    with Manager(settings) as manager:
        write_window(manager, 'memory', tokens)
    peak = measure_peak(settings, 'memory')
    told = f'{peak.resident / 1e6:.0f} MB resident, less {peak.weights / 1e6:.0f} of weights '
    told += f'and {peak.cache / 1e6:.0f} of KV cache'
    return replace(row, measured=peak.above / 1e6, note=told)


class _Thaws:
    """Thaws of all promised lengths: of the model, or with its geometry where it is too short."""

    def __init__(
        self, settings: Settings, folder: Path, rounds: int, note: Callable[[str], None]
    ) -> None:
        known = case_names(settings)
        self._real = [n for n in THAW_LIMITS_S if f'{REFERENCE}{n}' in known]
        self.longest = max(self._real, default=FREEZE_TOKENS)
        self._bench = ThawBench(folder=folder, rounds=rounds, settings=settings)
        self._note = note
        self._times: dict[int, dict[str, float]] = {}

    def rows(self) -> list[TargetRow]:
        """Return the worst header and usable, and each length's thaw, all cold."""
        thaws = [self._row(length, limit) for length, limit in THAW_LIMITS_S.items()]
        return [self._worst('header', HEADER_S), self._worst('usable', USABLE_S), *thaws]

    def _row(self, length: int, limit: float) -> TargetRow:
        row = TargetRow(
            target=f'thaw {length // 1024}K',
            case=self._case(length),
            unit='s',
            measured=None,
            limit=limit,
            note='cold',
        )

        def measure(row: TargetRow) -> TargetRow:
            self._times[length] = self._measure(length)
            return replace(row, measured=self._times[length]['complete'])

        return _attempt(row, measure, self._note)

    def _measure(self, length: int) -> dict[str, float]:
        if length in self._real:
            case, bench = f'{REFERENCE}{length}', self._bench
        else:
            model = Checkpoint.configured(self._bench.settings.engine)
            spec = replace(model.kv_spec, max_tokens=length)
            case = SYNTHETIC_SINGLE
            bench = replace(self._bench, geometry=Geometry(spec=spec, num_tokens=length))
        return stages(bench_thaw(replace(bench, cases=(case,)), self._note).rows, case)

    def _case(self, length: int) -> str:
        if length in self._real:
            return f'{REFERENCE}{length}'
        return f'synthetic-{length}, model geometry'

    def _worst(self, stage: str, limit: float) -> TargetRow:
        missing = [n for n in THAW_LIMITS_S if n not in self._times]
        row = TargetRow(
            target=stage,
            case='every length',
            unit='s',
            measured=None,
            limit=limit,
            note=f'without {missing}' if missing else 'cold',
        )
        if not self._times:
            return row
        worst = max(self._times, key=lambda n: self._times[n][stage])
        case, measured = f'{self._case(worst)}, worst', self._times[worst][stage]
        return replace(row, case=case, measured=measured)


def stages(rows: Sequence[Row], case: str) -> dict[str, float]:
    """Return the median time of each stage of our cold thaw [s]."""
    ours = [row for row in rows if (row.case, row.path, row.state) == (case, 'cwm', COLD)]
    return {row.stage: row.median_s for row in ours}


def energy_rows(
    settings: Settings, meter: Meter | None, note: Callable[[str], None]
) -> Iterator[TargetRow]:
    """Yield the energy of a thaw and of recomputing, opening the engine included."""
    ways = {'cwm': 'energy, thaw', 'recompute': 'energy, recompute'}
    rows = {
        path: TargetRow(
            target=target,
            case=f'{REFERENCE}{ENERGY_TOKENS}',
            unit='J',
            measured=None,
            note='neither RAPL nor INA3221 can be read here',
        )
        for path, target in ways.items()
    }
    if meter is None:
        yield from rows.values()
        return
    runs: dict[str, Callable[[], object]] = {}

    def measure(row: TargetRow, path: str) -> TargetRow:
        if not runs:
            found = reference_case('energy', ENERGY_TOKENS, settings)
            runs.update({one.path: one.run for one in found})
        told = f'{meter.name}; opening the engine and idling included'
        return replace(row, measured=meter.measure(runs[path]), note=told)

    for path, row in rows.items():
        yield _attempt(row, partial(measure, path=path), note)
