# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The services: short questions and changes, each answered with a code."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup

from cwm_interfaces.msg import PlannedStep
from cwm_interfaces.srv import (
    CloneWindow,
    DeleteWindow,
    EraseProfile,
    GetWindow,
    ListWindows,
    PinWindow,
    PlanThaw,
    SetPowerPolicy,
    SetProfile,
)
from cwm_ros.errors import BusyError, ConfigError, CwmError, NotFoundError
from cwm_ros.node import convert
from cwm_ros.node.goals import MAX_TEXT
from cwm_ros.plan import Way
from cwm_ros.power import Policy
from cwm_ros.store import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from rclpy.node import Node

    from cwm_ros.node.assistant import Assistant

log = logging.getLogger(__name__)

DEFAULT_OVERRIDE_S = 3600.0
STRATEGIES = ('auto', 'load', 'recompute')


class Services:
    """
    All services of the node.

    Parameters
    ----------
    node
        Where they are.
    assistant
        Who answers.

    """

    def __init__(self, node: Node, assistant: Assistant) -> None:
        self._assistant = assistant
        # Those that wait for the engine do so one at a time, and hold no quick one up.
        quick, slow = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        self._services = [
            node.create_service(kind, name, _guarded(answer), callback_group=group)
            for kind, name, answer, group in (
                (ListWindows, '~/list_windows', self._list, quick),
                (GetWindow, '~/get_window', self._get, quick),
                (SetPowerPolicy, '~/set_power_policy', self._set_power, quick),
                (CloneWindow, '~/clone_window', self._clone, slow),
                (DeleteWindow, '~/delete_window', self._delete, slow),
                (PinWindow, '~/pin_window', self._pin, slow),
                (PlanThaw, '~/plan_thaw', self._plan, slow),
                (SetProfile, '~/set_profile', self._set_profile, slow),
                (EraseProfile, '~/erase_profile', self._erase_profile, slow),
            )
        ]

    def _list(self, _request: ListWindows.Request, response: ListWindows.Response) -> None:
        name, shelf = self._assistant.desk.open_window, self._assistant.desk.shelf
        response.windows = [
            convert.to_window(info, shelf, open_window=name) for info in shelf.windows
        ]

    def _get(self, request: GetWindow.Request, response: GetWindow.Response) -> None:
        if self._assistant.desk.shelf.find(layout.check_name('window', request.window)) is None:
            raise NotFoundError(f'there is no window {request.window!r}')
        response.info = self._assistant.describe(request.window)

    def _clone(self, request: CloneWindow.Request, response: CloneWindow.Response) -> None:
        name, new = request.window, request.new_name
        self._assistant.desk.call('clone', lambda m: m.store.clone_window(name, new))
        response.info = self._assistant.describe(new)

    def _delete(self, request: DeleteWindow.Request, _response: DeleteWindow.Response) -> None:
        if request.window and request.window == self._assistant.desk.open_window:
            raise BusyError(
                f'window {request.window!r} is open', hint='thaw another one, or deactivate'
            )
        self._assistant.desk.call('delete', lambda m: m.store.delete_window(request.window))

    def _pin(self, request: PinWindow.Request, _response: PinWindow.Response) -> None:
        self._assistant.desk.call(
            'pin', lambda m: m.store.set_pinned(request.window, is_pinned=request.pinned)
        )

    def _plan(self, request: PlanThaw.Request, response: PlanThaw.Response) -> None:
        if request.strategy >= len(STRATEGIES):
            raise ConfigError(f'strategy is {request.strategy}', hint='see ThawWindow')
        if len(request.prompt) > MAX_TEXT:
            problem = f'prompt has {len(request.prompt)} characters'
            raise ConfigError(problem, hint=f'at most {MAX_TEXT}')
        plan = self._assistant.requests.plan(
            request.window, prompt=request.prompt, strategy=STRATEGIES[request.strategy]
        )
        response.steps = [
            PlannedStep(
                action=PlannedStep.LOAD if step.way is Way.LOAD else PlannedStep.RECOMPUTE,
                token_start=step.start,
                token_stop=step.stop,
                bytes=step.entry.file_bytes if step.entry else 0,
                is_usable_part=step.is_usable_part,
                duration=convert.to_duration(step.cost_s or 0.0),
                done_at=convert.to_duration(step.done_s or 0.0),
                reason=step.reason,
            )
            for step in plan.steps
        ]
        response.time_to_usable = convert.to_duration(plan.usable_s or 0.0)
        response.time_to_complete = convert.to_duration(plan.complete_s or 0.0)

    def _set_profile(self, request: SetProfile.Request, _response: SetProfile.Response) -> None:
        self._assistant.set_profile(request.profile, request.token)

    def _erase_profile(
        self, request: EraseProfile.Request, response: EraseProfile.Response
    ) -> None:
        told = self._assistant.erase_profile(request.profile, request.token)
        response.confirm_token = told.confirm_token
        response.erased, response.remains = list(told.erased), list(told.remains)

    def _set_power(
        self, request: SetPowerPolicy.Request, response: SetPowerPolicy.Response
    ) -> None:
        if not request.clear and request.policy not in {int(policy) for policy in Policy}:
            raise ConfigError(f'policy is {request.policy}', hint='see PowerStatus')
        if request.duration.sec < 0:
            raise ConfigError(f'duration is {request.duration.sec} s', hint='0 for one hour')
        duration_s = convert.to_seconds(request.duration) or DEFAULT_OVERRIDE_S
        policy = None if request.clear else Policy(request.policy)
        self._assistant.power.override(policy, duration_s)
        now = self._assistant.snapshot()
        response.status = convert.to_power(
            now.power, override_left_s=now.override_left_s, deferred=now.deferred
        )


def _guarded(
    answer: Callable[[object, object], None],
) -> Callable[[object, object], object]:
    """Let a service answer with a code whatever happens."""

    def respond(request: object, response: object) -> object:
        try:
            answer(request, response)
        except CwmError as exc:
            response.error_code, response.error_msg = convert.to_error(exc)  # type: ignore[attr-defined]
        except Exception as exc:
            log.exception('a service failed')
            response.error_code, response.error_msg = convert.to_error(exc)  # type: ignore[attr-defined]
        return response

    return respond
