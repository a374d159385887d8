# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The action servers: goals to work for the engine's thread, its values to feedback and results.

A goal that is malformed is rejected; one that cannot run is accepted and aborted at once with a
code. Each goal waits in a thread of the executor's pool for its work to end.
"""

from __future__ import annotations

from functools import partial
import logging
import math
from threading import BoundedSemaphore, Event
import time
from typing import TYPE_CHECKING, TypeVar
import uuid

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup

from cwm_interfaces.action import (
    FreezeWindow,
    Generate,
    OptimizeStorage,
    PrepareShutdown,
    ThawWindow,
    VerifyWindows,
)
from cwm_interfaces.msg import Fidelity
from cwm_ros.answer import Answer, Request, When
from cwm_ros.errors import (
    BusyError,
    ConfigError,
    CwmError,
    DeadlineError,
    DeferredPowerError,
    ErrorCode,
    InterruptedOperation,
    RestoreNotEffectiveError,
)
from cwm_ros.freeze import DEADLINE, FreezeProgress, NOTHING_FROZEN
from cwm_ros.node import convert, jobs
from cwm_ros.node.worker import Urgency
from cwm_ros.optimize import OptimizeProgress
from cwm_ros.progress import ThawProgress
from cwm_ros.store import layout, VerifyReport
from cwm_ros.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from rclpy.action.server import ServerGoalHandle
    from rclpy.node import Node

    from cwm_ros import session
    from cwm_ros.manager import Manager
    from cwm_ros.node.assistant import Assistant
    from cwm_ros.node.worker import Job

log = logging.getLogger(__name__)

R = TypeVar('R')

WHEN = {Generate.Goal.NOW: When.NOW, Generate.Goal.WHEN_USABLE: When.USABLE}
WHEN[Generate.Goal.WHEN_COMPLETE] = When.COMPLETE
STRATEGIES = {
    ThawWindow.Goal.AUTO: 'auto',
    ThawWindow.Goal.LOAD: 'load',
    ThawWindow.Goal.RECOMPUTE: 'recompute',
}
MAX_TEXT = 1 << 20
FEEDBACK_S = 0.05
MAX_GOALS = 8
"""Each waits in a thread of the executor."""


class Actions:
    """
    All action servers of the node.

    Parameters
    ----------
    node
        Where they are.
    assistant
        Who does the work.

    """

    def __init__(self, node: Node, assistant: Assistant) -> None:
        self._assistant = assistant
        self._group = ReentrantCallbackGroup()
        self._room = BoundedSemaphore(MAX_GOALS)
        self._servers = [
            self._serve(node, kind, name, run, check)
            for kind, name, run, check in (
                (Generate, '~/generate', self._generate, _is_prompt),
                (ThawWindow, '~/thaw_window', self._thaw, _is_thaw),
                (FreezeWindow, '~/freeze_window', self._freeze, _has_name),
                (PrepareShutdown, '~/prepare_shutdown', self._prepare, lambda _goal: True),
                (VerifyWindows, '~/verify_windows', self._verify, _has_name),
                (OptimizeStorage, '~/optimize_storage', self._optimize, lambda _goal: True),
            )
        ]

    def _serve(
        self,
        node: Node,
        kind: type,
        name: str,
        run: Callable[[ServerGoalHandle], object],
        check: Callable[[object], bool],
    ) -> ActionServer:
        def judge(goal: object) -> GoalResponse:
            return GoalResponse.ACCEPT if check(goal) else GoalResponse.REJECT

        return ActionServer(
            node,
            kind,
            name,
            execute_callback=partial(self._run, kind, run),
            goal_callback=judge,
            cancel_callback=lambda _handle: CancelResponse.ACCEPT,
            callback_group=self._group,
        )

    def _run(
        self, kind: type, run: Callable[[ServerGoalHandle], object], handle: ServerGoalHandle
    ) -> object:
        """Let a goal end with a code whatever happens, and leave threads for the others."""
        result = kind.Result()  # type: ignore[attr-defined]
        if not self._room.acquire(blocking=False):
            error = BusyError(f'{MAX_GOALS} goals wait already', hint='wait, or cancel some')
            return _abort(handle, result, error)
        try:
            return run(handle)
        except Exception as exc:
            log.exception('a goal failed')
            return _finish(handle, result, exc) if handle.is_active else result
        finally:
            self._room.release()

    def close(self) -> None:
        """Destroy the servers."""
        for server in self._servers:
            server.destroy()

    # --- each action --------------------------------------------------------------------------

    def _generate(self, handle: ServerGoalHandle) -> Generate.Result:
        goal, began = handle.request, time.monotonic()
        sequence = iter(range(1 << 32))
        first_s: list[float] = []
        fidelity: list[session.Fidelity | None] = []

        def tell(text: str) -> None:
            if not first_s:
                first_s.append(time.monotonic() - began)
                fidelity.append(self._assistant.fidelity)
            _feed(handle, Generate.Feedback(sequence=next(sequence), delta=text))

        waiting = _Waiting()
        try:
            request = Request(
                text=goal.text,
                when=WHEN[goal.when],
                max_tokens=goal.max_tokens,
                temperature=goal.temperature,
                seed=goal.seed,
                stop=tuple(goal.stop),
            )
            job = self._assistant.ask(
                goal.request_id or uuid.uuid4().hex,
                request,
                timeout_s=convert.to_seconds(goal.timeout),
                on_delta=tell,
                on_answer=waiting.end,
            )
        except CwmError as exc:
            return _abort(handle, Generate.Result(), exc)
        answer, error = waiting.wait(handle, job)
        result = Generate.Result(time_to_first_token=convert.to_duration(sum(first_s)))
        if not isinstance(answer, Answer):
            return _finish(handle, result, error)
        _fill_answer(result, answer)
        result.fidelity = convert.to_fidelity(fidelity[0] if fidelity else None)
        is_cut = answer.finish_reason == 'cancelled'
        return _finish(handle, result, InterruptedOperation('cut off') if is_cut else error)

    def _thaw(self, handle: ServerGoalHandle) -> ThawWindow.Result:
        goal, began = handle.request, time.monotonic()
        feed, was = _Feeder(handle), (False, False)

        def tell(progress: object) -> None:
            nonlocal was
            if not isinstance(progress, ThawProgress):
                return
            before, was = was, (progress.is_usable, progress.is_complete)
            message = ThawWindow.Feedback(progress=self._assistant.progress(progress))
            feed(message, is_edge=was != before)

        waiting = _Waiting()
        try:
            job = self._assistant.thaw(
                goal.window,
                strategy=STRATEGIES[goal.strategy],
                stop_at_usable=goal.stop_at_usable,
                on_value=tell,
                on_end=waiting.end,
            )
        except CwmError as exc:
            return _abort(handle, ThawWindow.Result(), exc)
        done, error = waiting.wait(handle, job)
        result = ThawWindow.Result(total_time=convert.to_duration(time.monotonic() - began))
        if isinstance(done, jobs.Thawed):
            result.time_to_usable = convert.to_duration(done.time_to_usable_s)
            result.reused_tokens = done.progress.reused_tokens
            result.recomputed_tokens = done.progress.recomputed_tokens
            result.fidelity = convert.to_fidelity(done.progress.fidelity)
            result.verified = done.restored.verdict is Verdict.PROVEN
            result.warnings = list(done.warnings)
            error = _fidelity_problem(result.fidelity, goal.accept_fidelity)
        return _finish(handle, result, error)

    def _freeze(self, handle: ServerGoalHandle) -> FreezeWindow.Result:
        goal, began = handle.request, time.monotonic()
        waiting, last, feed = _Waiting(), NOTHING_FROZEN, _Feeder(handle)

        def tell(progress: object) -> None:
            nonlocal last
            if isinstance(progress, FreezeProgress):
                was_committed, last = last.is_committed, progress
                is_edge = progress.is_committed and not was_committed
                feed(_to_feedback(progress, time.monotonic() - began), is_edge=is_edge)

        try:
            job = self._assistant.freeze(
                goal.window,
                tags=tuple(goal.tags),
                codec=goal.codec,
                deadline_s=convert.to_seconds(goal.deadline),
                overwrite=goal.overwrite,
                on_value=tell,
                on_end=waiting.end,
            )
        except CwmError as exc:
            return _abort(handle, FreezeWindow.Result(), exc)
        _, error = waiting.wait(handle, job)
        result = FreezeWindow.Result(
            complete=last.is_committed and last.chunks_done == last.chunks_total,
            bytes_written=last.bytes_written,
            chunks_reused=last.chunks_reused,
            duration=convert.to_duration(time.monotonic() - began),
        )
        result.info = self._assistant.describe(goal.window or self._assistant.open_window)
        error = error or _shortcoming(last, is_complete=result.complete)
        return _finish(handle, result, error)

    def _prepare(self, handle: ServerGoalHandle) -> PrepareShutdown.Result:
        goal = handle.request
        if goal.reason > PrepareShutdown.Goal.OFF:
            error = ConfigError(f'reason is {goal.reason}', hint='use one of the constants')
            return _abort(handle, PrepareShutdown.Result(), error)
        began, feed = time.monotonic(), _Feeder(handle)

        def tell(progress: object) -> None:
            if isinstance(progress, FreezeProgress):
                feed(
                    PrepareShutdown.Feedback(
                        chunks_flushed=progress.chunks_done,
                        chunks_total=progress.chunks_total,
                        slack=convert.to_duration(budget_s - (time.monotonic() - began)),
                    ),
                    is_edge=progress.is_committed,
                )

        try:
            asked_s = convert.to_seconds(goal.budget)
            budget_s = self._assistant.settings.shutdown.budget if asked_s is None else asked_s
            saved = self._assistant.prepare_shutdown(
                budget_s,
                is_ram_kept=goal.reason == PrepareShutdown.Goal.SUSPEND_RAM,
                on_value=tell,
            )
        except CwmError as exc:
            return _abort(handle, PrepareShutdown.Result(), exc)
        result = PrepareShutdown.Result(
            saved=list(saved.saved),
            partial=list(saved.partial),
            skipped=list(saved.skipped),
            gpu_idle=self._assistant.is_engine_idle,
        )
        return _finish(handle, result, None)

    def _verify(self, handle: ServerGoalHandle) -> VerifyWindows.Result:
        waiting = _Waiting()

        def tell(value: object) -> None:
            if isinstance(value, jobs.Counted):
                _feed(
                    handle,
                    VerifyWindows.Feedback(windows_done=value.done, windows_total=value.total),
                )

        run = partial(jobs.verify, window=handle.request.window)
        try:
            job = self._assistant.start(
                'verify windows', Urgency.UPKEEP, run, on_value=tell, on_end=waiting.end
            )
        except CwmError as exc:
            return _abort(handle, VerifyWindows.Result(), exc)
        report, error = waiting.wait(handle, job)
        result = VerifyWindows.Result()
        if isinstance(report, VerifyReport):
            result.windows, result.chunks = report.windows, report.chunks
            result.problems = list(report.problems)
            if report.problems:
                result.error_code = int(ErrorCode.CORRUPT)
                result.error_msg = f'{len(report.problems)} things are wrong'
                handle.abort()
                return result
        return _finish(handle, result, error)

    def _optimize(self, handle: ServerGoalHandle) -> OptimizeStorage.Result:
        waiting, last = _Waiting(), list[OptimizeProgress]()

        def tell(value: object) -> None:
            if isinstance(value, OptimizeProgress):
                last[:] = [value]
                _feed(
                    handle,
                    OptimizeStorage.Feedback(
                        chunks_done=value.chunks_done, chunks_total=value.chunks_total
                    ),
                )

        try:
            job = self._assistant.optimize(handle.request.rate, on_value=tell, on_end=waiting.end)
        except CwmError as exc:
            return _abort(handle, OptimizeStorage.Result(), exc)
        _, error = waiting.wait(handle, job)
        result = OptimizeStorage.Result()
        for progress in last:
            result.bytes_freed = progress.garbage_bytes
            result.chunks_checked = progress.chunks_done
            result.problems = list(progress.problems)
        return _finish(handle, result, error)


class _Waiting:
    """Waits in a goal's thread for work in the engine's thread to end."""

    def __init__(self) -> None:
        self._ended = Event()
        self._result: object = None
        self._error: BaseException | None = None

    def end(self, result: object, error: BaseException | None) -> None:
        """Take the end; called in the engine's thread."""
        self._result, self._error = result, error
        self._ended.set()

    def wait(
        self, handle: ServerGoalHandle, job: Job[Manager]
    ) -> tuple[object, BaseException | None]:
        """Return the end, and pass a cancel on."""
        while not self._ended.wait(FEEDBACK_S):
            if handle.is_cancel_requested:
                job.cancel.set()
            if not handle.is_active:
                break
        return self._result, self._error


class _Feeder:
    """Publishes feedback at most so often, and every edge."""

    def __init__(self, handle: ServerGoalHandle) -> None:
        self._handle = handle
        self._last_s = -FEEDBACK_S

    def __call__(self, feedback: object, *, is_edge: bool) -> None:
        now_s = time.monotonic()
        if is_edge or now_s - self._last_s >= FEEDBACK_S:
            self._last_s = now_s
            _feed(self._handle, feedback)


def _feed(handle: ServerGoalHandle, feedback: object) -> None:
    """Publish feedback, unless the goal has ended meanwhile."""
    if handle.is_active:
        handle.publish_feedback(feedback)


def _shortcoming(last: FreezeProgress, *, is_complete: bool) -> CwmError | None:
    """Return why a freeze that ended is not all that was asked for; turns are safe anyway."""
    left_out = f'{last.chunks_total - last.chunks_done} chunks were left out; turns are safe'
    if last.deferred and last.deferred != DEADLINE:
        return DeferredPowerError(f'{left_out}: {last.deferred}')
    if last.deferred:
        return DeadlineError(left_out)
    if not is_complete:
        return BusyError(f'{left_out}: the window is not all there yet', hint='freeze it later')
    return None


def _abort(handle: ServerGoalHandle, result: R, error: CwmError) -> R:
    """End a goal that cannot run."""
    return _finish(handle, result, error)


def _finish(handle: ServerGoalHandle, result: R, error: BaseException | None) -> R:
    """End a goal as what it came to says."""
    result.error_code, result.error_msg = convert.to_error(error)  # type: ignore[attr-defined]
    if error is None:
        handle.succeed()
    elif isinstance(error, InterruptedOperation) and handle.is_cancel_requested:
        handle.canceled()
    else:
        handle.abort()
    return result


def _to_feedback(progress: FreezeProgress, elapsed_s: float) -> FreezeWindow.Feedback:
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


def _fill_answer(result: Generate.Result, answer: Answer) -> None:
    result.text = answer.text
    result.finish_reason = answer.finish_reason
    result.prompt_tokens = answer.prompt_tokens
    result.new_tokens = answer.new_tokens
    result.provisional = answer.is_provisional


def _is_prompt(goal: Generate.Goal) -> bool:
    """Say whether a goal is well formed; what cannot run now is aborted later."""
    return (
        goal.when in WHEN
        and len(goal.text) <= MAX_TEXT
        and math.isfinite(goal.temperature)
        and goal.temperature >= 0
    )


def _is_thaw(goal: ThawWindow.Goal) -> bool:
    return (
        goal.strategy in STRATEGIES
        and goal.accept_fidelity <= Fidelity.PARTIAL
        and _is_name(goal.window)
    )


def _fidelity_problem(reached: Fidelity, least: int) -> CwmError | None:
    """Return why a thaw does not count as a success; a lower level is more faithful."""
    if least == Fidelity.UNKNOWN or reached.level <= least:
        return None
    names = {Fidelity.EXACT: 'exact', Fidelity.LOSSY: 'lossy', Fidelity.PARTIAL: 'partial'}
    return RestoreNotEffectiveError(
        f'the window is there, its fidelity is {names[reached.level]}, not {names[least]}',
        hint='thaw all of it, or with strategy RECOMPUTE, or accept less',
    )


def _has_name(goal: FreezeWindow.Goal | VerifyWindows.Goal) -> bool:
    return not goal.window or _is_name(goal.window)


def _is_name(name: str) -> bool:
    try:
        layout.check_name('window', name)
    except CwmError:
        return False
    return True
