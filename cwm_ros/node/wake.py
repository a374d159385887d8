# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the machine slept, so that what memory kept is to be checked; knows nothing of ROS."""

from __future__ import annotations

from threading import Lock
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SLEPT_S = 0.5
"""Shorter sleeps are not told from the time between two looks at the clocks."""
STAYED_AWAKE_S = 10.0
"""A sleep that was announced and did not come by then is not waited for; a later one is seen."""


def asleep_s() -> float:
    """Return how long the machine has slept since it started [s]."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class Kept:
    """
    What memory kept, and whether it may be relied on; called from any thread.

    It may not from a save for suspend on, and when the machine slept without one, until it was
    checked.

    Parameters
    ----------
    asleep_s
        How long the machine has slept [s]; never falls.

    """

    def __init__(self, asleep_s: Callable[[], float]) -> None:
        self._asleep_s = asleep_s
        self._lock = Lock()
        self._seen_s = asleep_s()
        self._is_doubted = False
        self._has_slept = False
        self._doubted_s = 0.0

    def doubt(self) -> None:
        """Rely on it no more: power of the memory is about to be reduced."""
        with self._lock:
            self._is_doubted = True
            self._doubted_s = time.monotonic()

    def trust(self) -> None:
        """Rely on it again: it was checked, or there is nothing to check."""
        with self._lock:
            self._is_doubted = self._has_slept = False

    @property
    def is_doubted(self) -> bool:
        """Whether it has to be checked before it is used."""
        with self._lock:
            now_s = self._asleep_s()
            if now_s > self._seen_s + SLEPT_S:
                self._seen_s = now_s
                self._is_doubted = self._has_slept = True
            return self._is_doubted

    @property
    def is_awake(self) -> bool:
        """Whether it is to be checked now: the machine slept and runs again, or stayed awake."""
        if not self.is_doubted:
            return False
        return self._has_slept or time.monotonic() > self._doubted_s + STAYED_AWAKE_S
