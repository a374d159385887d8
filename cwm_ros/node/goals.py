# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the actions have in common: which goals are well formed, feedback, and how a goal ends."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, TypeVar

from cwm_interfaces.action import FreezeWindow, Generate, ThawWindow, VerifyWindows
from cwm_interfaces.msg import Fidelity
from cwm_ros.answer import When
from cwm_ros.errors import CwmError, InterruptedOperation
from cwm_ros.node import convert
from cwm_ros.store import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from rclpy.action.server import ServerGoalHandle

    from cwm_ros.manager import Manager
    from cwm_ros.node.waiting import Waiting
    from cwm_ros.node.worker import Job

R = TypeVar('R')

WHEN = {Generate.Goal.NOW: When.NOW, Generate.Goal.WHEN_USABLE: When.USABLE}
WHEN[Generate.Goal.WHEN_COMPLETE] = When.COMPLETE
STRATEGIES = {
    ThawWindow.Goal.AUTO: 'auto',
    ThawWindow.Goal.LOAD: 'load',
    ThawWindow.Goal.RECOMPUTE: 'recompute',
}
MAX_TEXT = 1 << 16
"""Characters; rendering more would keep the engine's thread from all else for seconds."""
FEEDBACK_S = 0.05


def is_prompt(goal: Generate.Goal) -> bool:
    """Say whether a goal is well formed; what cannot run now is aborted later."""
    return (
        goal.when in WHEN
        and len(goal.text) <= MAX_TEXT
        and sum(map(len, goal.stop)) <= MAX_TEXT
        and math.isfinite(goal.temperature)
        and goal.temperature >= 0
    )


def is_thaw(goal: ThawWindow.Goal) -> bool:
    """As `is_prompt`."""
    return (
        goal.strategy in STRATEGIES
        and goal.accept_fidelity <= Fidelity.PARTIAL
        and _is_name(goal.window)
    )


def has_name(goal: FreezeWindow.Goal | VerifyWindows.Goal) -> bool:
    """Say whether a goal's window has a name that keeps the rules, or is not named."""
    return not goal.window or _is_name(goal.window)


def _is_name(name: str) -> bool:
    try:
        layout.check_name('window', name)
    except CwmError:
        return False
    return True


class Feeder:
    """Publishes feedback at most so often, and every edge."""

    def __init__(self, handle: ServerGoalHandle) -> None:
        self._handle = handle
        self._last_s = -FEEDBACK_S

    def __call__(self, feedback: object, *, is_edge: bool) -> None:
        now_s = time.monotonic()
        if is_edge or now_s - self._last_s >= FEEDBACK_S:
            self._last_s = now_s
            send_feedback(self._handle, feedback)


def send_feedback(handle: ServerGoalHandle, feedback: object) -> None:
    """Publish feedback, unless the goal has ended meanwhile."""
    if handle.is_active:
        handle.publish_feedback(feedback)


def wait(
    waiting: Waiting,
    handle: ServerGoalHandle,
    job: Job[Manager],
    on_cancel: Callable[[], None] = lambda: None,
) -> tuple[object, BaseException | None]:
    """Return what a goal's work came to, once it has ended, and pass a cancel on."""
    while not waiting.has_ended(FEEDBACK_S):
        if handle.is_cancel_requested:
            on_cancel()
            job.cancel.set()
        if not handle.is_active:
            break
    return waiting.result, waiting.error


def abort(handle: ServerGoalHandle, result: R, error: CwmError) -> R:
    """End a goal that cannot run."""
    return finish(handle, result, error)


def finish(handle: ServerGoalHandle, result: R, error: BaseException | None) -> R:
    """End a goal as what it came to says."""
    result.error_code, result.error_msg = convert.to_error(error)  # type: ignore[attr-defined]
    if error is None:
        handle.succeed()
    elif isinstance(error, InterruptedOperation) and handle.is_cancel_requested:
        handle.canceled()
    else:
        handle.abort()
    return result
