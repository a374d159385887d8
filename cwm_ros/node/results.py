# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What work came to, as results and feedback of the actions; functions of their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cwm_interfaces.action import FreezeWindow
from cwm_interfaces.msg import Fidelity
from cwm_ros.errors import (
    BusyError,
    DeadlineError,
    DeferredPowerError,
    RestoreNotEffectiveError,
)
from cwm_ros.freeze import DEADLINE
from cwm_ros.node import convert

if TYPE_CHECKING:
    from cwm_interfaces.action import Generate
    from cwm_ros.answer import Answer
    from cwm_ros.errors import CwmError
    from cwm_ros.freeze import FreezeProgress


def shortcoming(last: FreezeProgress, *, is_complete: bool) -> CwmError | None:
    """Return why a freeze that ended is not all that was asked for; turns are safe anyway."""
    left_out = f'{last.chunks_total - last.chunks_done} chunks were left out; turns are safe'
    if last.deferred and last.deferred != DEADLINE:
        return DeferredPowerError(f'{left_out}: {last.deferred}')
    if last.deferred:
        return DeadlineError(left_out)
    if not is_complete:
        return BusyError(f'{left_out}: the window is not all there yet', hint='freeze it later')
    return None


def to_feedback(progress: FreezeProgress, elapsed_s: float) -> FreezeWindow.Feedback:
    """Return how far a freeze is, with estimates from the chunks that were written."""
    done, total = progress.chunks_done, progress.chunks_total
    written = done - progress.chunks_reused
    each = progress.bytes_written / written if written > 0 else 0.0
    left_s = elapsed_s / written * (total - done) if written > 0 else 0.0
    return FreezeWindow.Feedback(
        chunks_done=done,
        chunks_total=total,
        bytes_done=progress.bytes_written,
        bytes_total=progress.bytes_written + int(each * (total - done)),
        time_remaining=convert.to_duration(left_s),
    )


def fill_answer(result: Generate.Result, answer: Answer) -> None:
    """Put an answer into a result."""
    result.text = answer.text
    result.finish_reason = answer.finish_reason
    result.prompt_tokens = answer.prompt_tokens
    result.new_tokens = answer.new_tokens
    result.provisional = answer.is_provisional


def fidelity_problem(reached: Fidelity, least: int) -> CwmError | None:
    """Return why a thaw does not count as a success; a lower level is more faithful."""
    if least == Fidelity.UNKNOWN or reached.level <= least:
        return None
    names = {Fidelity.EXACT: 'exact', Fidelity.LOSSY: 'lossy', Fidelity.PARTIAL: 'partial'}
    return RestoreNotEffectiveError(
        f'the window is there, its fidelity is {names[reached.level]}, not {names[least]}',
        hint='thaw all of it, or with strategy RECOMPUTE, or accept less',
    )
