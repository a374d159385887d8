# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What settings are checked with when they are made."""

from __future__ import annotations

from cwm_ros.errors import ConfigError


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless ``low <= value <= high``; NaN is refused."""
    if not low <= value <= high:
        raise ConfigError(f'{name} is {value}', hint=f'use a value from {low} to {high}')


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise ConfigError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ConfigError(
            f'{name} is {value!r}', hint='use one of ' + ', '.join(map(str, choices))
        )
