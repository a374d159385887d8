# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How a thread waits for work in the engine's thread to end; knows nothing of ROS."""

from __future__ import annotations

from threading import Event

from cwm_ros.errors import BusyError


class Waiting:
    """
    The end of a job; pass `end` as its ``on_end``.

    Attributes
    ----------
    result, error
        What it came to; both None until it has ended.

    """

    def __init__(self) -> None:
        self._ended = Event()
        self.result: object = None
        self.error: BaseException | None = None

    def end(self, result: object, error: BaseException | None) -> None:
        """Take the end; called in the engine's thread."""
        self.result, self.error = result, error
        self._ended.set()

    def has_ended(self, within_s: float) -> bool:
        """Wait for the end for a time [s], and say whether it came."""
        return self._ended.wait(within_s)

    def take(self, timeout_s: float, name: str) -> object:
        """
        Return the result of a short job, once it has ended.

        Raises
        ------
        BusyError
            It has not ended within ``timeout_s``.
        CwmError
            As the job raised.

        """
        if not self._ended.wait(timeout_s):
            raise BusyError(f'cannot {name} now: the engine is busy', hint='try again')
        if self.error is not None:
            raise self.error
        return self.result
