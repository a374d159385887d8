# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What an ignition's positions mean, with its dips and bounces taken out; a pure value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, IntEnum


class Ignition(IntEnum):
    """Position of the ignition (COVESA VSS, Vehicle.LowVoltageSystemState)."""

    UNDEFINED = 0
    LOCK = 1
    OFF = 2
    ACC = 3
    ON = 4
    START = 5


class Edge(Enum):
    """What changed."""

    NONE = 'none'
    ON = 'on'
    OFF = 'off'


POWERED = (Ignition.ACC, Ignition.ON)
UNPOWERED = (Ignition.LOCK, Ignition.OFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnitionTracker:
    """
    Whether the vehicle is on, as far as positions have told.

    Parameters
    ----------
    is_on
        None until a position has told.
    off_since_s
        Since when the position is OFF or LOCK without counting yet [s].

    """

    is_on: bool | None = None
    off_since_s: float | None = None

    def after(self, position: Ignition, now_s: float) -> tuple[IgnitionTracker, Edge]:
        """
        Return the tracker after a position was reported, and what that changed.

        ACC and ON count at once. OFF and LOCK count when they have been held; see `tick`. START
        is a dip of the supply, hence ends a wait for OFF but says nothing else. UNDEFINED says
        nothing.
        """
        if position in POWERED:
            edge = Edge.NONE if self.is_on else Edge.ON
            return replace(self, is_on=True, off_since_s=None), edge
        if position is Ignition.START:
            return replace(self, off_since_s=None), Edge.NONE
        if position in UNPOWERED and self.is_on is not False and self.off_since_s is None:
            return replace(self, off_since_s=now_s), Edge.NONE
        return self, Edge.NONE

    def tick(self, now_s: float, debounce_s: float) -> tuple[IgnitionTracker, Edge]:
        """Return the tracker as time passes: OFF counts once it was held ``debounce_s``."""
        if self.off_since_s is None or now_s - self.off_since_s < debounce_s:
            return self, Edge.NONE
        return replace(self, is_on=False, off_since_s=None), Edge.OFF
