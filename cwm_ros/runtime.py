# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A process beside others: its processor cores, priorities and memory, and the board's state.

Everything here is optional: what a kernel or a container does not allow is returned as a warning,
since an assistant that runs with the wrong priority is better than none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from cwm_ros.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.config_vehicle import RuntimeSettings

MIB = 1 << 20
IO_CLASSES = {'best-effort': 2, 'idle': 3}
OOM_SCORE = Path('/proc/self/oom_score_adj')
THERMAL = Path('/sys/class/thermal')
NVPMODEL = Path('/var/lib/nvpmodel/status')


def apply_runtime(settings: RuntimeSettings) -> list[str]:
    """
    Give this process the cores and priorities that the settings name.

    Threads inherit them, hence call it before an engine is opened.

    Returns
    -------
    list of str
        What could not be applied and why, for people.

    """
    process = psutil.Process()
    problems = []

    def try_to(name: str, value: object, apply: Callable[[], object]) -> None:
        if not value:
            return
        try:
            apply()
        except (OSError, ValueError, psutil.Error) as exc:
            problems.append(f'runtime.{name} {value} cannot be applied: {exc}')

    cores, score = settings.cores, settings.oom_score_adj
    io_class = IO_CLASSES.get(settings.io_class)
    try_to('cpu_affinity', settings.cpu_affinity, lambda: process.cpu_affinity(list(cores)))
    try_to('nice', settings.nice, lambda: process.nice(settings.nice))
    try_to('io_class', io_class, lambda: process.ionice(io_class))
    try_to('oom_score_adj', score, lambda: OOM_SCORE.write_text(f'{score}\n'))
    return problems


def check_memory(settings: RuntimeSettings, *, wanted_bytes: int = 0) -> None:
    """
    Refuse what needs memory when too little is available.

    Parameters
    ----------
    settings
        How much must stay available.
    wanted_bytes
        What is about to be taken.

    Raises
    ------
    OutOfMemoryError
        Less than ``runtime.min_mem_available_mib`` would be left.

    """
    floor = settings.min_mem_available_mib * MIB
    available = psutil.virtual_memory().available
    if floor and available - wanted_bytes < floor:
        raise OutOfMemoryError(
            f'{available // MIB} MiB of memory are available and {wanted_bytes // MIB} MiB are '
            f'needed; runtime.min_mem_available_mib is {settings.min_mem_available_mib}',
            hint='end other programs, or lower it',
        )


def hottest_zone_c(folder: Path = THERMAL) -> float | None:
    """Return the temperature of the board's hottest thermal zone [°C]; None without any."""
    zones = (_read_zone_c(path) for path in folder.glob('thermal_zone*/temp'))
    return max((zone for zone in zones if zone is not None), default=None)


def _read_zone_c(path: Path) -> float | None:
    try:
        return int(path.read_text()) / 1000
    except (OSError, ValueError):
        return None  # a zone of a device that sleeps


def power_mode(path: Path = NVPMODEL) -> str:
    """Return a Jetson's power mode as nvpmodel keeps it; empty on other boards."""
    try:
        return path.read_text().strip()[:64]
    except (OSError, UnicodeDecodeError):
        return ''
