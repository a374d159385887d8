# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The table of what the package promises, each figure by the bench that measures it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
import tempfile
from typing import TYPE_CHECKING

from cwm_ros.bench.demo import run_demo
from cwm_ros.bench.energy import find_meter
from cwm_ros.bench.freeze import measure_freeze
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
        lines = [f'{"target":<18}{"case":<34}{"measured":>12}{"limit":>12}  verdict']
        for row in self.rows:
            measured = '' if row.measured is None else f'{row.measured:.3g} {row.unit}'
            limit = '' if row.limit is None else f'< {row.limit:g} {row.unit}'
            line = f'{row.target:<18}{row.case:<34}{measured:>12}{limit:>12}  {row.verdict}'
            lines.append(f'{line}  ({row.note})' if row.note else line)
        return '\n'.join([*lines, ', '.join(self.machine.values())])


def measure_targets(
    settings: Settings, folder: Path, *, rounds: int, note: Callable[[str], None]
) -> TargetTable:
    """
    Measure all of them.

    Parameters
    ----------
    settings
        Of the model; stores are of the benches.
    folder
        On the drive to be measured.
    rounds
        Runs of each thaw; the figures are their medians.
    note
        Told what is being measured.

    """
    machine = describe_machine(folder)
    thaws = _ThawTimes(settings, folder, rounds, note)
    rows = [*thaws.rows()]
    (frozen,) = measure_freeze(settings, folder, rounds=1, lengths=[FREEZE_TOKENS], note=note)
    rows.append(
        TargetRow(
            target='freeze',
            case=f'{REFERENCE}{FREEZE_TOKENS}, all of it',
            unit='s',
            measured=frozen.whole_s,
            limit=FREEZE_S,
        )
    )
    note('cold start')
    told = run_demo(settings, lambda _: None)
    rows.append(
        TargetRow(
            target='cold start',
            case=f'{settings.engine.model}, {told.tokens} tokens',
            unit='s',
            measured=told.cold_start_s,
            limit=COLD_START_S,
            note='process start to first token',
        )
    )
    note('memory and energy')
    with tempfile.TemporaryDirectory(dir=folder) as root:
        own = replace(settings, storage=replace(settings.storage, root=Path(root)))
        rows.append(_memory_row(own, thaws.longest_real))
        rows += energy_rows(own, find_meter())
    return TargetTable(machine=machine, rows=tuple(rows))


class _ThawTimes:
    """Thaws of all promised lengths: of the model, or with its geometry where it is too short."""

    def __init__(
        self, settings: Settings, folder: Path, rounds: int, note: Callable[[str], None]
    ) -> None:
        known = case_names(settings)
        real = [n for n in THAW_LIMITS_S if f'{REFERENCE}{n}' in known]
        self.longest_real = max(real, default=FREEZE_TOKENS)
        bench = ThawBench(folder=folder, rounds=rounds, settings=settings)
        cases = tuple(f'{REFERENCE}{n}' for n in real)
        found = bench_thaw(replace(bench, cases=cases), note) if real else None
        self.times: dict[int, dict[str, float]] = {}
        for length in THAW_LIMITS_S:
            if found and length in real:
                self.times[length] = stages(found.rows, f'{REFERENCE}{length}')
            else:
                model = Checkpoint.configured(settings.engine)
                geometry = Geometry(
                    spec=replace(model.kv_spec, max_tokens=length), num_tokens=length
                )
                note(f'synthetic, {length} tokens')
                only = replace(bench, cases=(SYNTHETIC_SINGLE,), geometry=geometry)
                self.times[length] = stages(bench_thaw(only, note).rows, SYNTHETIC_SINGLE)
        self._real = real

    def _case(self, length: int) -> str:
        if length in self._real:
            return f'{REFERENCE}{length}'
        return f'synthetic-{length}, model geometry'

    def rows(self) -> Iterator[TargetRow]:
        """Return the worst header and usable, and each length's thaw, all cold."""
        for stage, limit in (('header', HEADER_S), ('usable', USABLE_S)):
            worst = max(self.times, key=lambda n: self.times[n][stage])
            yield TargetRow(
                target=stage,
                case=f'{self._case(worst)}, worst',
                unit='s',
                measured=self.times[worst][stage],
                limit=limit,
                note='cold',
            )
        for length, limit in THAW_LIMITS_S.items():
            yield TargetRow(
                target=f'thaw {length // 1024}K',
                case=self._case(length),
                unit='s',
                measured=self.times[length]['complete'],
                limit=limit,
                note='cold',
            )


def stages(rows: Sequence[Row], case: str) -> dict[str, float]:
    """Return the median time of each stage of our cold thaw [s]."""
    ours = [row for row in rows if (row.case, row.path, row.state) == (case, 'cwm', COLD)]
    return {row.stage: row.median_s for row in ours}


def _memory_row(settings: Settings, tokens: int) -> TargetRow:
    with Manager(settings) as manager:
        write_window(manager, 'memory', tokens)
    peak = measure_peak(settings, 'memory')
    return TargetRow(
        target='peak memory',
        case=f'{REFERENCE}{tokens}, thaw and answer',
        unit='MB',
        measured=peak.above / 1e6,
        limit=MEMORY_MB,
        note=f'{peak.resident / 1e6:.0f} MB resident, less {peak.weights / 1e6:.0f} of weights '
        f'and {peak.cache / 1e6:.0f} of KV cache',
    )


def energy_rows(settings: Settings, meter: Meter | None) -> Iterator[TargetRow]:
    """Return the energy of a thaw and of recomputing, opening the engine included."""
    ways = {'cwm': 'energy, thaw', 'recompute': 'energy, recompute'}
    case = f'{REFERENCE}{ENERGY_TOKENS}'
    if meter is None:
        for target in ways.values():
            yield TargetRow(
                target=target,
                case=case,
                unit='J',
                measured=None,
                note='neither RAPL nor INA3221 can be read here',
            )
        return
    for contestant in reference_case('energy', ENERGY_TOKENS, settings):
        if contestant.path in ways:
            yield TargetRow(
                target=ways[contestant.path],
                case=case,
                unit='J',
                measured=meter.measure(contestant.run),
                note=f'{meter.name}; opening the engine and idling included',
            )
