# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Results of measurements as rows: as JSON, and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
import os
from pathlib import Path
import platform
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

READS = ('raw-read', 'raw-read-parallel')
LIMITS = (*READS, 'memcpy')
"""Paths that nothing can be faster than: reading the same bytes, copying the decoded ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One figure.

    Parameters
    ----------
    case
        What was measured, such as 'synthetic-268MB'.
    path
        What did it: 'cwm', a peer, or a limit.
    state
        Whether the files were in the page cache: 'warm', or 'cold' when they were not.
    stage
        'header', 'usable' or 'complete'; peers only have the last. Or 'token' and
        'token-thawing', one generated token.
    median_s, min_s
        Of the runs [s].
    bytes
        Read from files until then; copied, for 'memcpy'; none, for 'recompute'.
    runs
        How many.

    """

    case: str
    path: str
    state: str
    stage: str
    median_s: float
    min_s: float
    bytes: int
    runs: int

    @classmethod
    def of(
        cls,
        key: tuple[str, str, str, str],
        durations: Sequence[float],
        num_bytes: int,
    ) -> Row:
        """Return the row of (case, path, state, stage) from durations [s]."""
        case, path, state, stage = key
        return cls(
            case=case,
            path=path,
            state=state,
            stage=stage,
            median_s=statistics.median(durations),
            min_s=min(durations),
            bytes=num_bytes,
            runs=len(durations),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    What was promised and what came out, both as the same ratio or time.

    Parameters
    ----------
    name
        Says what must not exceed ``limit``, or reach it if ``is_floor``.
    measured, limit
        The values.
    is_floor
        Whether ``limit`` is the least that is good.

    """

    name: str
    measured: float
    limit: float
    is_floor: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the promise is kept."""
        return self.measured >= self.limit if self.is_floor else self.measured <= self.limit

    def __str__(self) -> str:
        verdict = 'met' if self.is_met else 'MISSED'
        sign = '≥' if self.is_floor else '≤'
        return f'{verdict:6}  {self.name}: {self.measured:.3g} (target {sign} {self.limit:g})'


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """
    Rows, and what is to be said about them.

    Parameters
    ----------
    machine
        Where they were measured, see `describe_machine`.
    rows
        The figures.
    targets
        Those that these rows can tell about.
    notes
        What is absent or unusual, in sentences.

    """

    machine: dict[str, str]
    rows: tuple[Row, ...]
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()

    def find(self, case: str, path: str, state: str, stage: str = 'complete') -> Row | None:
        """Return the row of these keys, None when it was not measured."""
        wanted = (case, path, state, stage)
        for row in self.rows:
            if (row.case, row.path, row.state, row.stage) == wanted:
                return row
        return None

    def limit_ratio(self, row: Row) -> float | None:
        """Return which part of the time of ``row`` its limits alone would take, None for them."""
        if row.path != 'cwm' or row.stage != 'complete':
            return None
        copy = self.find(row.case, 'memcpy', row.state)
        limits = [limit.median_s for limit in (self.fastest_read(row), copy) if limit]
        return max(limits) / row.median_s if limits else None

    def fastest_read(self, row: Row) -> Row | None:
        """Return the fastest way to read what ``row`` reads, and only that."""
        reads = [self.find(row.case, path, row.state) for path in READS]
        return min((read for read in reads if read), key=lambda r: r.median_s, default=None)

    def as_json(self) -> dict[str, object]:
        """Return all of it for ``--json``."""
        targets = [{**asdict(target), 'is_met': target.is_met} for target in self.targets]
        return {
            'machine': self.machine,
            'rows': [
                {**asdict(row), 'limit_fraction': self.limit_ratio(row)} for row in self.rows
            ],
            'targets': targets,
            'notes': list(self.notes),
        }

    def as_text(self) -> str:
        """Return a Markdown table, the targets and the notes, for people."""
        headings = ('case', 'path', 'state', 'stage', 'median', 'min', 'MB', 'limit / median')
        cells = [headings, tuple('-' * len(heading) for heading in headings)]
        for row in self.rows:
            ratio = self.limit_ratio(row)
            times = (f'{seconds * 1e3:.2f} ms' for seconds in (row.median_s, row.min_s))
            share = f'{ratio:.0%}' if ratio else ''
            names = (row.case, row.path, row.state, row.stage)
            cells.append((*names, *times, f'{row.bytes / 1e6:.2f}', share))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(line, widths) for line in cells]
        machine = ', '.join(self.machine.values())
        return '\n'.join([machine, '', *lines, '', *map(str, self.targets), *self.notes])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f'| {" | ".join(padded)} |'


def describe_machine(folder: Path) -> dict[str, str]:
    """Say on what was measured, without naming anybody: ``folder`` is on the drive in question."""
    memory_bytes = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return {
        'cpu': _cpu_model(),
        'cores': f'{os.cpu_count()} cores',
        'memory': f'{memory_bytes / 2**30:.0f} GiB',
        'drive': _drive_kind(folder),
        'system': f'{platform.system()} {platform.release().split("-")[0]} {platform.machine()}',
        'python': f'Python {platform.python_version()}',
        'load': f'load {os.getloadavg()[0]:.1f} at the start',
    }


def _cpu_model() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def _drive_kind(folder: Path) -> str:
    number = folder.stat().st_dev
    device = Path(f'/sys/dev/block/{os.major(number)}:{os.minor(number)}')
    if not device.exists():
        return 'no block device'
    queue = device / 'queue'
    if not queue.exists():  # a partition; its drive is the folder above
        queue = device.resolve().parent / 'queue'
    name = device.resolve().name
    kinds = {'vd': 'virtio disk', 'nv': 'NVMe', 'mm': 'eMMC or SD card', 'sd': 'SCSI or SATA'}
    kind = kinds.get(name[:2], 'drive')
    ahead = queue / 'read_ahead_kb'
    return f'{kind}, read-ahead {ahead.read_text().strip()} KiB' if ahead.exists() else kind
