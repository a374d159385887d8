# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which windows have been kept long enough, by a clock that may be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cwm_ros.store.state import CLOCK_IS_SET_MS, DAY_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cwm_ros.store.catalog import WindowRecord
    from cwm_ros.store.state import State

MAX_GAP_DAYS = 3650
"""A vehicle that nobody has used for longer has a wrong clock rather."""


def expired_windows(
    records: Mapping[str, WindowRecord], state: State, now_ms: int, retention_days: int
) -> list[str]:
    """
    Return the ids of the windows to be deleted.

    A window of which no day of use is known gets that of its files, or today. Pinned windows
    stay, and so do those that cannot be read, for they may be of a later version.

    Parameters
    ----------
    records, state
        The windows, and when they were used.
    now_ms
        Wall clock [ms since 1970]; one that is not set, or has jumped by ten years, deletes
        nothing.
    retention_days
        How long they stay; 0 for ever.

    """
    if not retention_days or now_ms < CLOCK_IS_SET_MS:
        return []
    for window_id, record in records.items():
        if window_id not in state.used_days:
            times = (record.updated_ms, record.log_stamp[1] // 1_000_000)
            known = [time for time in times if CLOCK_IS_SET_MS <= time <= now_ms]
            state.note_day(window_id, max(known, default=now_ms))
    today = now_ms // DAY_MS
    if today - max(state.used_days.values(), default=today) > MAX_GAP_DAYS:
        return []
    return [
        window_id
        for window_id, record in records.items()
        if today - _last_day(state.used_days[window_id], record, now_ms) > retention_days
        and window_id not in state.pins
        and not record.problem
    ]


def _last_day(used: int, record: WindowRecord, now_ms: int) -> int:
    """Return the day of the last use, which is no earlier than that of the last commit."""
    # The state's day may have a flipped bit; the manifest has a checksum.
    return max(used, record.updated_ms // DAY_MS) if record.updated_ms <= now_ms else used
