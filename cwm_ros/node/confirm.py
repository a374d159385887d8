# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Who may open a profile, and the second step of what cannot be undone; knows nothing of ROS."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
import secrets
from typing import cast, TYPE_CHECKING

from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    Verifier = Callable[[str, str], bool]

ENTRY_POINTS = 'cwm_ros.profile_verifiers'
CONFIRM_S = 60.0


def open_verifier(name: str) -> Verifier:
    """
    Return what says whether a token opens a profile: a callable of both.

    Parameters
    ----------
    name
        Of the entry point in group `cwm_ros.profile_verifiers` that an installed package offers;
        empty for one that accepts every token, for vehicles whose bus is trusted.

    Raises
    ------
    ConfigError
        There is no such verifier here, or it cannot be loaded.

    """
    if not name:
        return lambda _profile, _token: True
    offered = [entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == name]
    if not offered:
        raise ConfigError(
            f'privacy.verifier {name!r} is not available here',
            hint=f'install the package that offers it (entry points {ENTRY_POINTS})',
        )
    try:
        return cast('Verifier', offered[0].load())
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f'privacy.verifier {name!r} cannot be loaded: {exc}') from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """
    What erasing a profile destroys, or destroyed.

    Parameters
    ----------
    confirm_token
        Confirms it; empty once it is done.
    erased, remains
        What goes, and what else exists and stays, for people.

    """

    confirm_token: str
    erased: tuple[str, ...]
    remains: tuple[str, ...]


class Confirmations:
    """Tokens of first steps; each confirms one profile, once, within `CONFIRM_S`."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[str, float]] = {}

    def give(self, profile: str, now_s: float) -> str:
        """Return a new token for a profile; the one before is not valid any more."""
        token = secrets.token_hex(16)
        self._given[profile] = token, now_s + CONFIRM_S
        return token

    def take(self, profile: str, token: str, now_s: float) -> bool:
        """Say whether a token confirms a profile; it does so once."""
        given, until_s = self._given.pop(profile, ('', 0.0))
        return bool(given) and secrets.compare_digest(given, token) and now_s < until_s
