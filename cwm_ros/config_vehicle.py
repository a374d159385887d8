# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of what a vehicle adds: ignition, shutdown, battery, and programs beside this one."""

from __future__ import annotations

from dataclasses import dataclass
import re

from cwm_ros.config_checks import check_choice, check_range
from cwm_ros.errors import ConfigError

_CORES = re.compile(r'\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*')
IO_CLASSES = ('none', 'best-effort', 'idle')


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSettings:
    """
    When energy is short, and how much of it work may take then; see `cwm_ros.power`.

    Parameters
    ----------
    balanced_below, conservative_below, critical_below
        State of charge below which a policy begins, 0 to 1, descending.
    hysteresis
        How far the charge must rise above a threshold before the policy is left, 0 to 1.
    conservative_above_c, critical_above_c
        Temperature of the board above which a policy begins [°C], ascending.
    hysteresis_c
        How far it must fall below before the policy is left [°C].
    joules_per_gb_read, joules_per_gb_written, joules_per_token
        Energy of the board's drive [J/GB] and of computing a token [J].
    balanced_joules, conservative_joules
        Most that one background operation may take under a policy [J].
    critical_user_joules
        Most that an operation a driver waits for may take under the critical policy [J].
    retry_s
        How long a deferred operation waits at most before it is asked again [s].

    """

    balanced_below: float = 0.6
    conservative_below: float = 0.3
    critical_below: float = 0.15
    hysteresis: float = 0.05
    conservative_above_c: float = 85.0
    critical_above_c: float = 95.0
    hysteresis_c: float = 5.0
    joules_per_gb_read: float = 1.0
    joules_per_gb_written: float = 3.0
    joules_per_token: float = 0.03
    balanced_joules: float = 100.0
    conservative_joules: float = 5.0
    critical_user_joules: float = 50.0
    retry_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ('balanced_below', 'conservative_below', 'critical_below', 'hysteresis'):
            check_range(f'power.{name}', getattr(self, name), 0.0, 1.0)
        for name in ('conservative_above_c', 'critical_above_c', 'hysteresis_c'):
            check_range(f'power.{name}', getattr(self, name), 0.0, 200.0)
        for name in ('joules_per_gb_read', 'joules_per_gb_written', 'joules_per_token'):
            check_range(f'power.{name}', getattr(self, name), 0.0, 1e6)
        for name in ('balanced_joules', 'conservative_joules', 'critical_user_joules'):
            check_range(f'power.{name}', getattr(self, name), 0.0, 1e9)
        check_range('power.retry_s', self.retry_s, 1.0, 86400.0)
        if not self.critical_below <= self.conservative_below <= self.balanced_below:
            raise ConfigError(
                f'power.critical_below is {self.critical_below}, conservative_below '
                f'{self.conservative_below}, balanced_below {self.balanced_below}',
                hint='let them ascend in this order',
            )
        if self.conservative_above_c > self.critical_above_c:
            raise ConfigError(
                f'power.conservative_above_c is {self.conservative_above_c}, critical_above_c '
                f'{self.critical_above_c}',
                hint='let them ascend in this order',
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnitionSettings:
    """
    How the ignition is read.

    Parameters
    ----------
    debounce
        How long OFF must be held to count [s].

    """

    debounce: float = 0.5

    def __post_init__(self) -> None:
        check_range('ignition.debounce', self.debounce, 0.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownSettings:
    """
    How much time a save may take when power goes.

    Parameters
    ----------
    budget
        From the signal, the transition or the ignition's OFF [s].

    """

    budget: float = 5.0

    def __post_init__(self) -> None:
        check_range('shutdown.budget', self.budget, 0.0, 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """
    What the process may take beside others, as perception; see `cwm_ros.runtime`.

    Parameters
    ----------
    cpu_affinity
        Processor cores to run on, as '0-3,5'; empty means all.
    nice
        0 is normal, 19 gives way to all others; below 0 needs a privilege.
    io_class
        Class of the drive's scheduler: 'none' (as inherited), 'best-effort' or 'idle'.
    oom_score_adj
        Which process the kernel ends first when memory is short, -1000 (never) to 1000.
    min_mem_available_mib
        Below so much available memory a thaw is refused [MiB]; 0 for no limit.

    """

    cpu_affinity: str = ''
    nice: int = 0
    io_class: str = 'none'
    oom_score_adj: int = 0
    min_mem_available_mib: int = 0

    def __post_init__(self) -> None:
        if self.cpu_affinity and not _CORES.fullmatch(self.cpu_affinity):
            raise ConfigError(
                f'runtime.cpu_affinity is {self.cpu_affinity!r}', hint="use the form '0-3,5'"
            )
        for core in self.cores:
            check_range('runtime.cpu_affinity', core, 0, 4095)
        check_range('runtime.nice', self.nice, -20, 19)
        check_choice('runtime.io_class', self.io_class, IO_CLASSES)
        check_range('runtime.oom_score_adj', self.oom_score_adj, -1000, 1000)
        check_range('runtime.min_mem_available_mib', self.min_mem_available_mib, 0, 1 << 20)

    @property
    def cores(self) -> tuple[int, ...]:
        """Return the numbers that ``cpu_affinity`` names."""
        numbers: set[int] = set()
        for part in filter(None, self.cpu_affinity.split(',')):
            first, _, last = part.partition('-')
            numbers.update(range(int(first), int(last or first) + 1))
        return tuple(sorted(numbers))
