# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Values to messages and back; functions of their arguments alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from builtin_interfaces.msg import Duration, Time

from cwm_interfaces.msg import DeferredOperation, Fidelity, PowerStatus, StorageStatus, WindowInfo
from cwm_interfaces.msg import ThawProgress as ThawProgressMsg
from cwm_ros.errors import CwmError, ErrorCode
from cwm_ros.ignition import Ignition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sensor_msgs.msg import BatteryState

    from cwm_interfaces.msg import IgnitionState
    from cwm_ros import progress as progress_module
    from cwm_ros import session, store
    from cwm_ros.node.state import Deferred, Shelf
    from cwm_ros.node.thaw_report import Report
    from cwm_ros.power import PolicyChoice

NS = 1_000_000_000
MAX_DURATION_S = float((1 << 31) - 1)
CHARGING, FULL = 1, 4  # sensor_msgs/BatteryState.POWER_SUPPLY_STATUS_*


def to_duration(seconds: float) -> Duration:
    """Return a duration; what is not a number or negative becomes zero."""
    if math.isnan(seconds) or seconds <= 0:
        return Duration()
    whole = min(seconds, MAX_DURATION_S)
    return Duration(sec=int(whole), nanosec=min(int((whole - int(whole)) * NS), NS - 1))


def to_seconds(duration: Duration) -> float | None:
    """Return a duration's seconds; None for zero, which means that there is none [s]."""
    return (duration.sec + duration.nanosec / NS) or None


def to_time(time_ms: int) -> Time:
    """Return a time of the wall clock; zero when it is not known or does not fit."""
    if not 0 < time_ms < (1 << 31) * 1000:
        return Time()
    return Time(sec=time_ms // 1000, nanosec=time_ms % 1000 * 1_000_000)


def to_error(error: BaseException | None) -> tuple[int, str]:
    """Return an error's code and text."""
    if error is None:
        return int(ErrorCode.NONE), ''
    if isinstance(error, CwmError):
        return int(error.code), str(error)
    return int(ErrorCode.ENGINE), f'{type(error).__name__}: {error}'


def to_fidelity(fidelity: session.Fidelity | None) -> Fidelity:
    """Return a message of how faithful an answer can be."""
    if fidelity is None:
        return Fidelity(level=Fidelity.UNKNOWN)
    if fidelity.resident < fidelity.total:
        level = Fidelity.PARTIAL
    else:
        level = Fidelity.LOSSY if fidelity.codec else Fidelity.EXACT
    return Fidelity(
        level=level,
        codec=fidelity.codec,
        tokens_resident=fidelity.resident,
        tokens_total=fidelity.total,
    )


def to_progress(
    progress: progress_module.ThawProgress, *, window: str, generation: int, state: int
) -> ThawProgressMsg:
    """Return a message of how far a thaw is, without its header."""
    return ThawProgressMsg(
        window=window,
        generation=generation,
        state=int(state),
        chunks_loaded=progress.chunks_done,
        chunks_total=progress.chunks_total,
        tokens_loaded=progress.fidelity.resident,
        tokens_total=progress.fidelity.total,
        bytes_loaded=progress.bytes_loaded,
        bytes_total=progress.bytes_total,
        tokens_recomputed=progress.recomputed_tokens,
        is_usable=progress.is_usable,
        fidelity=to_fidelity(progress.fidelity),
        elapsed=to_duration(progress.elapsed_s),
        time_remaining=to_duration(progress.remaining_s or 0.0),
    )


def to_thaw(report: Report) -> ThawProgressMsg:
    """Return a message of what is to be told of a thaw, without its header."""
    window, generation, state = report.window, report.generation, int(report.state)
    if report.progress is None:
        return ThawProgressMsg(window=window, generation=generation, state=state)
    return to_progress(report.progress, window=window, generation=generation, state=state)


def to_window(info: store.WindowInfo, shelf: Shelf, *, open_window: str) -> WindowInfo:
    """Return a message of a window on a shelf."""
    details = shelf.details_of(info)
    return WindowInfo(
        name=info.name,
        tags=details.tags,
        codec=details.codec,
        provisional_tokens=details.provisional_tokens,
        created=to_time(details.created_ms),
        turns=info.turns,
        tokens=info.tokens,
        chunks=info.chunks,
        chunks_missing=info.chunks - info.chunks_present,
        bytes=info.bytes,
        model=info.model,
        pinned=info.is_pinned,
        is_open=info.name == open_window,
        updated=to_time(info.updated_ms),
        revision=info.revision,
    )


def to_storage(report: store.StorageReport, *, is_read_only: bool) -> StorageStatus:
    """Return a message of room and wear, without its header."""
    return StorageStatus(
        used=report.used_bytes,
        quota=report.quota_bytes,
        device_free=report.device_free_bytes,
        written_today=report.written_today_bytes,
        daily_budget=report.daily_budget_bytes,
        lifetime=report.lifetime_bytes,
        evictions=report.evictions,
        can_store=report.can_store and not is_read_only,
        read_only=is_read_only,
    )


def to_power(
    choice: PolicyChoice, *, override_left_s: float, deferred: Iterable[Deferred]
) -> PowerStatus:
    """Return a message of the policy in force, without its header."""
    return PowerStatus(
        policy=int(choice.policy),
        is_override=override_left_s > 0,
        override_left=to_duration(override_left_s),
        reason=choice.reason,
        deferred=[
            DeferredOperation(
                operation=item.operation,
                window=item.window,
                bytes=item.num_bytes,
                reason=item.reason,
                retry_in=to_duration(item.retry_s),
            )
            for item in deferred
        ],
    )


def to_ignition(message: IgnitionState) -> Ignition:
    """Return the position; a number that has no meaning is UNDEFINED."""
    known = message.state in {int(position) for position in Ignition}
    return Ignition(message.state) if known else Ignition.UNDEFINED


def to_battery(message: BatteryState) -> tuple[float, bool | None]:
    """Return the state of charge, NaN when unknown, and whether it is charged."""
    status = message.power_supply_status
    return message.percentage, None if status == 0 else status in (CHARGING, FULL)
