# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a simulated vehicle does in one ignition cycle, as steps read from a file; knows no ROS."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_type_hints, TYPE_CHECKING

import yaml

from cwm_ros.config import LOADER_SURPRISES
from cwm_ros.errors import ConfigError
from cwm_ros.ignition import Ignition

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    One step; what is empty or None stays as it was.

    Parameters
    ----------
    ignition
        Position of the ignition, by its name.
    cut_s
        How long power stays at OFF [s]; 0 when that is unknown.
    charge
        State of charge of the battery, 0 to 1.
    charging
        Whether it is being charged.
    say
        A prompt.
    expect
        What the answer must contain; the step ends when it does.
    usable
        Whether the assistant must become usable; the step ends when it is.
    seconds
        How long the step takes; with `expect` or `usable`, at most [s].

    """

    ignition: str = ''
    cut_s: float | None = None
    charge: float | None = None
    charging: bool | None = None
    say: str = ''
    expect: str = ''
    usable: bool = False
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.ignition and self.ignition not in Ignition.__members__:
            known = ', '.join(Ignition.__members__)
            raise ConfigError(f'ignition is {self.ignition!r}', hint=f'use one of {known}')
        if self.charge is not None and not 0 <= self.charge <= 1:
            raise ConfigError(f'charge is {self.charge}', hint='use 0 to 1')
        for name, value in (('seconds', self.seconds), ('cut_s', self.cut_s or 0.0)):
            if not 0 <= value <= 1 << 20:
                raise ConfigError(f'{name} is {value}', hint='use 0 or more')

    @property
    def is_waiting(self) -> bool:
        """Whether the step ends with something that must happen."""
        return self.usable or bool(self.expect)


def read_drive(path: Path) -> tuple[Step, ...]:
    """
    Read the steps of a cycle.

    Raises
    ------
    ConfigError
        The file is not a list of steps; the message names the step and what is wrong with it.

    """
    hint = 'see launch/hil_cycles.yaml'
    try:
        steps = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, yaml.YAMLError, *LOADER_SURPRISES) as exc:
        raise ConfigError(f'{path}: cannot be read: {exc}', hint=hint) from exc
    if not isinstance(steps, list) or not steps:
        raise ConfigError(f'{path}: is not a list of steps', hint=hint)
    return tuple(_read_step(f'{path}: step {n}', step) for n, step in enumerate(steps, 1))


def _read_step(place: str, step: object) -> Step:
    known = {field.name for field in fields(Step)}
    types = get_type_hints(Step)
    if not isinstance(step, dict):
        raise ConfigError(f'{place} is not a mapping', hint='see launch/hil_cycles.yaml')
    for name, value in step.items():
        if name not in known:
            raise ConfigError(f'{place}: {name!r} is unknown', hint=', '.join(sorted(known)))
        given = float(value) if type(value) is int else value
        if not isinstance(given, types[name]):
            raise ConfigError(f'{place}: {name} is {value!r}', hint=f'use {types[name]}')
    try:
        return Step(**step)
    except ConfigError as exc:
        raise ConfigError(f'{place}: {exc.message}', hint=exc.hint) from exc
