# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What was measured on a GPU: as JSON, as a table with its targets, and as a picture."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field
import os
import subprocess
from typing import TYPE_CHECKING

from cwm_ros.bench.tables import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cwm_ros.engine.cuda import Device
    from cwm_ros.engine.trt import Dialect

RECOMPUTE, LINK_SHARE, READ_SHARE = (
    'recompute',
    'import, of the link',
    'from disk, of the raw read',
)
SLOWDOWN = 'decode beside a thaw, slower by'
USABLE, COMPLETE = 'from RAM: usable', 'from RAM: complete'
RATIO = ', recompute is longer'
PROMISED_TOKENS = 16384
TARGETS = (
    # figure, limit, whether it is a floor, whether it is promised from 16K tokens on only
    (LINK_SHARE, 0.8, True, False),
    (READ_SHARE, 0.9, True, False),
    (SLOWDOWN, 0.2, False, False),
    (USABLE, 0.1, False, False),
    (f'{USABLE}{RATIO}', 15.0, True, True),
    (f'{COMPLETE}{RATIO}', 5.0, True, True),
)
DRAWN = {
    RECOMPUTE: '#c0392b',
    'freeze to disk': '#8a8a8a',
    'freeze to RAM': '#c4c4c4',
    'from disk: complete': '#0b3c5d',
    COMPLETE: '#1f78b4',
    'from disk: usable': '#5aa6d8',
    USABLE: '#9fd0ef',
}
FONT_SIZE = 8
SMI_FIELDS = 'driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu'


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    One figure.

    Parameters
    ----------
    case, tokens
        What was measured, and for how many tokens; 0 where that does not matter.
    value, unit
        The figure.

    """

    case: str
    tokens: int
    value: float
    unit: str


@dataclass(kw_only=True)
class GpuReport:
    """
    What was measured.

    Parameters
    ----------
    facts
        Versions, clocks, geometry.
    rows
        The figures.
    note
        Told each figure as soon as it is there.

    """

    facts: dict[str, object] = field(default_factory=dict)
    rows: list[Figure] = field(default_factory=list)
    note: Callable[[str], None] = lambda _: None

    def add(self, case: str, value: float, unit: str, tokens: int = 0) -> float:
        """Take a figure down, and return it."""
        self.rows.append(Figure(case=case, tokens=tokens, value=value, unit=unit))
        where = f' ({tokens} tokens)' if tokens else ''
        self.note(f'{case}{where}: {value:.4g} {unit}')
        return value

    def find(self, case: str, tokens: int) -> float | None:
        """Return a figure, None if it was not measured."""
        found = [row.value for row in self.rows if (row.case, row.tokens) == (case, tokens)]
        return found[-1] if found else None

    @property
    def lengths(self) -> list[int]:
        """For which numbers of tokens there are figures."""
        return sorted({row.tokens for row in self.rows if row.tokens})

    def targets(self) -> Iterator[Target]:
        """Yield what was promised of what was measured."""
        for tokens in self.lengths:
            for case, limit, is_floor, is_long in TARGETS:
                value = self.find(case, tokens)
                if value is not None and (tokens >= PROMISED_TOKENS or not is_long):
                    name = f'{case}, {tokens} tokens'
                    yield Target(name=name, measured=value, limit=limit, is_floor=is_floor)

    def as_json(self) -> dict[str, object]:
        """Return all of it."""
        targets = [{**asdict(target), 'is_met': target.is_met} for target in self.targets()]
        return {
            'machine': self.facts,
            'rows': [asdict(row) for row in self.rows],
            'targets': targets,
        }

    def as_text(self) -> str:
        """Return Markdown: what it ran on, a table with a column for each length, and targets."""
        facts = [f'- {name}: {value}' for name, value in self.facts.items()]
        single = [
            f'- {row.case}: {row.value:.4g} {row.unit}' for row in self.rows if not row.tokens
        ]
        lengths = self.lengths
        table = [
            ' | '.join(['| tokens', *map(str, lengths)]) + ' |',
            '|---' * (len(lengths) + 1) + '|',
        ]
        units = {row.case: row.unit for row in self.rows if row.tokens}
        for case, unit in units.items():
            values = [self.find(case, tokens) for tokens in lengths]
            cells = ['' if value is None else f'{value:.4g}' for value in values]
            name = f'{case} [{unit}]' if unit else case
            table.append(' | '.join([f'| {name}', *cells]) + ' |')
        targets = [f'- {target}' for target in self.targets()]
        return '\n'.join([*facts, *single, '', *table, '', *targets])


def machine_facts(device: Device, dialect: Dialect) -> dict[str, object]:
    """Return versions, and what the GPU's clocks are now."""
    return {
        'gpu': device.info.name,
        'capability': '.'.join(map(str, device.info.capability)),
        'memory_gib': round(device.info.memory_bytes / 2**30, 1),
        'cuda_driver': device.info.driver,
        'tensorrt': str(dialect.trt.__version__),
        'cpus': os.cpu_count(),
        **smi_facts(),
    }


def smi_facts() -> dict[str, object]:
    """Return what ``nvidia-smi`` says now; nothing where there is none, as on a Jetson."""
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(  # noqa: S603 - our own arguments
            ['nvidia-smi', f'--query-gpu={SMI_FIELDS}', '--format=csv,noheader'],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        values = said.stdout.strip().splitlines()[0].split(', ')
        return dict(zip(SMI_FIELDS.split(','), values, strict=False))
    return {}


def draw(report: GpuReport, file: Path) -> None:
    """Draw recomputing, freezing and thawing over the number of tokens into a file."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    lengths = report.lengths
    with plt.rc_context({'font.size': FONT_SIZE, 'axes.spines.top': False}):
        figure, axis = plt.subplots(figsize=(6.4, 3.6), layout='constrained')
        axis.spines['right'].set_visible(False)
        for case, color in DRAWN.items():
            points = [(tokens, report.find(case, tokens)) for tokens in lengths]
            known = [(tokens, value * 1e3) for tokens, value in points if value is not None]
            if known:
                axis.plot(*zip(*known, strict=True), marker='o', markersize=3, color=color)
                axis.annotate(case, known[-1], xytext=(5, -3), textcoords='offset points')
        axis.set_xscale('log', base=2)
        axis.set_yscale('log')
        axis.set_xticks(lengths, [f'{tokens / 1024:g}K' for tokens in lengths])
        axis.set_xlim(lengths[0] * 0.9, lengths[-1] * 2.2)
        axis.set_xlabel(f'tokens, on {report.facts.get("gpu", "a GPU")}')
        axis.set_ylabel('time [ms]')
        axis.grid(visible=True, alpha=0.3)
        figure.savefig(file, dpi=100)
        plt.close(figure)
