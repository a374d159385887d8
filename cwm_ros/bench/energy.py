# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The energy that work takes, where the board can tell.

x86 processors count the energy of a package (RAPL, Linux `powercap`); Jetsons measure the power of
their input (INA3221, Linux `hwmon`). Both count all that runs meanwhile, and idling, too.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
import statistics
import threading
import time
from typing import Protocol, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SYS = Path('/sys')
SAMPLE_S = 0.01
INPUT_RAIL = 'VDD_IN'
MICRO = 1e-6


class Meter(Protocol):
    """Tells what some work takes."""

    @property
    def name(self) -> str:
        """What is measured."""
        ...

    def measure(self, work: Callable[[], object]) -> float:
        """Do some work and return the energy meanwhile [J]."""
        ...


@dataclass(frozen=True, slots=True)
class Rapl:
    """The energy counters of all packages of x86 processors."""

    domains: Sequence[Path]

    @property
    def name(self) -> str:
        """What is measured."""
        return f'RAPL, {len(self.domains)} package(s)'

    def measure(self, work: Callable[[], object]) -> float:
        """Do some work and return the energy meanwhile [J]; a counter may wrap once."""
        before = [_number(domain / 'energy_uj') for domain in self.domains]
        work()
        total = 0
        for domain, was in zip(self.domains, before, strict=True):
            used = _number(domain / 'energy_uj') - was
            total += used if used >= 0 else used + _number(domain / 'max_energy_range_uj')
        return total * MICRO


@dataclass(frozen=True, slots=True)
class Ina3221:
    """The power of a Jetson's input, sampled."""

    volts: Path
    amperes: Path

    @property
    def name(self) -> str:
        """What is measured."""
        return f'INA3221, {INPUT_RAIL}'

    def measure(self, work: Callable[[], object]) -> float:
        """Do some work and return its time by the mean power meanwhile [J]."""
        watts = [self._watts()]
        is_over = threading.Event()

        def sample() -> None:
            while not is_over.wait(SAMPLE_S):
                watts.append(self._watts())

        thread = threading.Thread(target=sample)
        began = time.perf_counter()
        thread.start()
        try:
            work()
            seconds = time.perf_counter() - began
        finally:
            is_over.set()
            thread.join()
        return seconds * statistics.fmean(watts)

    def _watts(self) -> float:
        return _number(self.volts) * _number(self.amperes) * MICRO


def find_meter(sys: Path = SYS) -> Meter | None:
    """Return what this board has and this process may read; None if that is nothing."""
    domains = [
        zone.parent
        for zone in sorted((sys / 'class/powercap').glob('*/name'))
        if _text(zone).startswith('package-') and _is_readable(zone.parent / 'energy_uj')
    ]
    if domains:
        return Rapl(domains)
    for chip in sorted((sys / 'class/hwmon').glob('*/name')):
        if _text(chip) != 'ina3221':
            continue
        for label in sorted(chip.parent.glob('in*_label')):
            rail = label.name.removeprefix('in').removesuffix('_label')
            meter = Ina3221(
                label.with_name(f'in{rail}_input'), label.with_name(f'curr{rail}_input')
            )
            if _text(label) == INPUT_RAIL and _is_readable(meter.volts, meter.amperes):
                return meter
    return None


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding='ascii', errors='replace').strip()
    return ''


def _number(path: Path) -> int:
    return int(path.read_text(encoding='ascii'))


def _is_readable(*paths: Path) -> bool:
    with suppress(OSError, ValueError):
        return [_number(path) for path in paths] != []
    return False
