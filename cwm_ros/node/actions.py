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
from threading import BoundedSemaphore
import time
from typing import TYPE_CHECKING
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
from cwm_ros.answer import Answer, Request
from cwm_ros.errors import BusyError, ConfigError, CwmError, ErrorCode, InterruptedOperation
from cwm_ros.freeze import FreezeProgress, NOTHING_FROZEN
from cwm_ros.node import convert, jobs
from cwm_ros.node.goals import (
    abort,
    Feeder,
    finish,
    has_name,
    is_prompt,
    is_thaw,
    send_feedback,
    STRATEGIES,
    wait,
    WHEN,
)
from cwm_ros.node.results import fidelity_problem, fill_answer, shortcoming, to_feedback
from cwm_ros.node.waiting import Waiting
from cwm_ros.node.worker import Urgency
from cwm_ros.optimize import OptimizeProgress
from cwm_ros.progress import ThawProgress
from cwm_ros.store import VerifyReport
from cwm_ros.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from rclpy.action.server import ServerGoalHandle
    from rclpy.node import Node

    from cwm_ros import session
    from cwm_ros.node.assistant import Assistant

log = logging.getLogger(__name__)

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
                (Generate, '~/generate', self._generate, is_prompt),
                (ThawWindow, '~/thaw_window', self._thaw, is_thaw),
                (FreezeWindow, '~/freeze_window', self._freeze, has_name),
                (PrepareShutdown, '~/prepare_shutdown', self._prepare, lambda _goal: True),
                (VerifyWindows, '~/verify_windows', self._verify, has_name),
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
            return abort(handle, result, error)
        try:
            return run(handle)
        except Exception as exc:
            log.exception('a goal failed')
            return finish(handle, result, exc) if handle.is_active else result
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

        def tell(text: str, begun_with: session.Fidelity | None) -> None:
            if not first_s:
                first_s.append(time.monotonic() - began)
                fidelity.append(begun_with)
            send_feedback(handle, Generate.Feedback(sequence=next(sequence), delta=text))

        waiting = Waiting()
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
            return abort(handle, Generate.Result(), exc)
        answer, error = wait(waiting, handle, job)
        result = Generate.Result(time_to_first_token=convert.to_duration(sum(first_s)))
        if not isinstance(answer, Answer):
            return finish(handle, result, error)
        fill_answer(result, answer)
        result.fidelity = convert.to_fidelity(fidelity[0] if fidelity else None)
        is_cut = answer.finish_reason == 'cancelled'
        return finish(handle, result, InterruptedOperation('cut off') if is_cut else error)

    def _thaw(self, handle: ServerGoalHandle) -> ThawWindow.Result:
        goal, began = handle.request, time.monotonic()
        feed, was = Feeder(handle), (False, False)

        def tell(progress: object) -> None:
            nonlocal was
            if not isinstance(progress, ThawProgress):
                return
            before, was = was, (progress.is_usable, progress.is_complete)
            message = ThawWindow.Feedback(progress=self._assistant.progress(progress))
            feed(message, is_edge=was != before)

        waiting = Waiting()
        try:
            job = self._assistant.requests.thaw(
                goal.window,
                strategy=STRATEGIES[goal.strategy],
                stop_at_usable=goal.stop_at_usable,
                on_value=tell,
                on_end=waiting.end,
            )
        except CwmError as exc:
            return abort(handle, ThawWindow.Result(), exc)
        done, error = wait(waiting, handle, job, self._assistant.requests.rest)
        result = ThawWindow.Result(total_time=convert.to_duration(time.monotonic() - began))
        if isinstance(done, jobs.Thawed):
            result.time_to_usable = convert.to_duration(done.time_to_usable_s)
            result.reused_tokens = done.progress.reused_tokens
            result.recomputed_tokens = done.progress.recomputed_tokens
            result.fidelity = convert.to_fidelity(done.progress.fidelity)
            result.verified = done.restored.verdict is Verdict.PROVEN
            result.warnings = list(done.warnings)
            error = fidelity_problem(result.fidelity, goal.accept_fidelity)
        return finish(handle, result, error)

    def _freeze(self, handle: ServerGoalHandle) -> FreezeWindow.Result:
        goal, began = handle.request, time.monotonic()
        waiting, last, feed = Waiting(), NOTHING_FROZEN, Feeder(handle)

        def tell(progress: object) -> None:
            nonlocal last
            if isinstance(progress, FreezeProgress):
                was_committed, last = last.is_committed, progress
                is_edge = progress.is_committed and not was_committed
                feed(to_feedback(progress, time.monotonic() - began), is_edge=is_edge)

        try:
            job = self._assistant.requests.freeze(
                goal.window,
                tags=tuple(goal.tags),
                codec=goal.codec,
                deadline_s=convert.to_seconds(goal.deadline),
                overwrite=goal.overwrite,
                on_value=tell,
                on_end=waiting.end,
            )
        except CwmError as exc:
            return abort(handle, FreezeWindow.Result(), exc)
        _, error = wait(waiting, handle, job)
        result = FreezeWindow.Result(
            complete=last.is_committed and last.chunks_done == last.chunks_total,
            bytes_written=last.bytes_written,
            chunks_reused=last.chunks_reused,
            duration=convert.to_duration(time.monotonic() - began),
        )
        result.info = self._assistant.describe(goal.window or self._assistant.desk.open_window)
        error = error or shortcoming(last, is_complete=result.complete)
        return finish(handle, result, error)

    def _prepare(self, handle: ServerGoalHandle) -> PrepareShutdown.Result:
        goal = handle.request
        if goal.reason > PrepareShutdown.Goal.OFF:
            error = ConfigError(f'reason is {goal.reason}', hint='use one of the constants')
            return abort(handle, PrepareShutdown.Result(), error)
        began, feed = time.monotonic(), Feeder(handle)

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
            saved = self._assistant.requests.prepare_shutdown(
                budget_s,
                is_ram_kept=goal.reason == PrepareShutdown.Goal.SUSPEND_RAM,
                on_value=tell,
            )
        except CwmError as exc:
            return abort(handle, PrepareShutdown.Result(), exc)
        result = PrepareShutdown.Result(
            saved=list(saved.saved),
            partial=list(saved.partial),
            skipped=list(saved.skipped),
            gpu_idle=self._assistant.desk.is_engine_idle,
        )
        return finish(handle, result, None)

    def _verify(self, handle: ServerGoalHandle) -> VerifyWindows.Result:
        waiting = Waiting()

        def tell(value: object) -> None:
            if isinstance(value, jobs.Counted):
                send_feedback(
                    handle,
                    VerifyWindows.Feedback(windows_done=value.done, windows_total=value.total),
                )

        run = partial(jobs.verify, window=handle.request.window)
        try:
            job = self._assistant.desk.start(
                'verify windows', Urgency.UPKEEP, run, on_value=tell, on_end=waiting.end
            )
        except CwmError as exc:
            return abort(handle, VerifyWindows.Result(), exc)
        report, error = wait(waiting, handle, job)
        result = VerifyWindows.Result()
        if isinstance(report, VerifyReport):
            result.windows, result.chunks = report.windows, report.chunks
            result.problems = list(report.problems)
            if report.problems:
                result.error_code = int(ErrorCode.CORRUPT)
                result.error_msg = f'{len(report.problems)} things are wrong'
                handle.abort()
                return result
        return finish(handle, result, error)

    def _optimize(self, handle: ServerGoalHandle) -> OptimizeStorage.Result:
        waiting, last = Waiting(), list[OptimizeProgress]()

        def tell(value: object) -> None:
            if isinstance(value, OptimizeProgress):
                last[:] = [value]
                send_feedback(
                    handle,
                    OptimizeStorage.Feedback(
                        chunks_done=value.chunks_done, chunks_total=value.chunks_total
                    ),
                )

        try:
            job = self._assistant.requests.optimize(
                handle.request.rate, on_value=tell, on_end=waiting.end
            )
        except CwmError as exc:
            return abort(handle, OptimizeStorage.Result(), exc)
        _, error = wait(waiting, handle, job)
        result = OptimizeStorage.Result()
        for progress in last:
            result.bytes_freed = progress.garbage_bytes
            result.chunks_checked = progress.chunks_done
            result.problems = list(progress.problems)
        return finish(handle, result, error)
