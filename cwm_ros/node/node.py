# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: what each transition does, and what belongs together."""

from __future__ import annotations

from functools import wraps
from threading import Event, Thread
from typing import TYPE_CHECKING

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin
from rclpy.node import Node

from cwm_ros.errors import CwmError
from cwm_ros.node import params
from cwm_ros.node.actions import Actions
from cwm_ros.node.assistant import Assistant
from cwm_ros.node.inputs import Inputs
from cwm_ros.node.logs import RosHandler
from cwm_ros.node.publishers import Publishers
from cwm_ros.node.services import Services
from cwm_ros.runtime import apply_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifecycle_msgs.srv import ChangeState
    from rcl_interfaces.msg import SetParametersResult
    from rclpy.lifecycle import LifecycleState
    from rclpy.parameter import Parameter

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
TICK_S = 0.1
HAS_POST_SET = hasattr(Node, 'add_post_set_parameters_callback')
"""Humble has none: there changes are used when they are accepted, just before they are set."""


def _told(
    transition: Callable[[CwmNode, LifecycleState], TransitionCallbackReturn],
) -> Callable[[CwmNode, LifecycleState], TransitionCallbackReturn]:
    """Log what a transition raises, since rclpy swallows it, and let it fail."""

    @wraps(transition)
    def run(self: CwmNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except CwmError as exc:
            self.get_logger().error(f'{transition.__name__}: {exc}')
            return FAILURE
        except Exception as exc:  # noqa: BLE001 - rclpy would swallow it
            self.get_logger().fatal(f'{transition.__name__}: {type(exc).__name__}: {exc}')
            return TransitionCallbackReturn.ERROR

    return run


class CwmNode(LifecycleNodeMixin, Node):  # type: ignore[misc]
    """
    The assistant's memory on the bus; one live session.

    Its interfaces exist from the beginning, so that consumers find them and a goal that comes too
    early is told so. Transitions have a callback group of their own: a save that takes its
    budget holds nobody else up.

    Parameters
    ----------
    name
        Unless it is remapped.
    why_no_engine
        Load no model, and say so; empty: load it.

    Raises
    ------
    ConfigError
        It was given parameters that do not exist, or of a wrong type.

    """

    def __init__(self, name: str = 'cwm', *, why_no_engine: str = '') -> None:
        Node.__init__(self, name)
        LifecycleNodeMixin.__init__(self, callback_group=MutuallyExclusiveCallbackGroup())
        self._guard_transitions()
        self._log = RosHandler(self.get_logger())
        self._log.start()
        params.declare(self)
        self._is_configured = False
        self.assistant = Assistant(self._wake, self._speak, why_no_engine=why_no_engine)
        self.board = Publishers(self, self.assistant.snapshot, self.assistant.thaws.take)
        self.add_on_set_parameters_callback(self._check_parameters)
        if HAS_POST_SET:
            self.add_post_set_parameters_callback(self._use_parameters)
        self._goals = Actions(self, self.assistant)
        self._answers = Services(self, self.assistant)
        self._inputs = Inputs(self, self.assistant)
        self._ended = Event()
        self.board.start()
        Thread(target=self._let_time_pass, name='cwm-ticks', daemon=True).start()

    def _guard_transitions(self) -> None:
        """Refuse a transition that the state does not have: rclpy would end the executor."""
        service = self._service_change_state
        change = service.callback

        def change_or_refuse(request: object, response: ChangeState.Response) -> object:
            try:
                return change(request, response)
            except RuntimeError as exc:  # rclpy's RCLError, which has no public name
                self.get_logger().warning(f'a transition is refused: {exc}')
                response.success = False
                return response

        service.callback = change_or_refuse

    def _wake(self) -> None:
        self.board.wake()

    def _speak(self, event: object) -> None:
        self.board.speak(event)

    def destroy_node(self) -> None:
        """Take no more of the library's log, and no more ticks; then as of every node."""
        self._ended.set()
        self._log.stop()
        super().destroy_node()

    def start(self) -> None:
        """Configure and activate, as far as that goes; what fails is logged."""
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    # --- transitions --------------------------------------------------------------------------

    @_told
    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Open the store, begin to load the model."""
        settings = params.read(self)
        for problem in apply_runtime(settings.runtime):
            self.get_logger().warning(problem)
        try:
            self.assistant.configure(settings)
        except BaseException:
            self.assistant.cleanup()  # nothing stays open, whatever it was
            raise
        self._is_configured = True
        return SUCCESS

    @_told
    def on_activate(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Serve goals."""
        try:
            self.assistant.activate()
        except BaseException:
            self.assistant.desk.is_active = False
            raise
        return SUCCESS

    @_told
    def on_deactivate(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Save within the budget, and serve goals no more."""
        self._log_save(self.assistant.deactivate(self.assistant.settings.shutdown.budget))
        return SUCCESS

    @_told
    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Close store and engine."""
        self._is_configured = False
        if not self.assistant.cleanup():
            self.get_logger().error('the engine did not end in time')
            return TransitionCallbackReturn.ERROR
        return SUCCESS

    @_told
    def on_shutdown(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Save within the budget, and close."""
        self.save_and_close()
        return SUCCESS

    @_told
    def on_error(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Close what is open, and list the windows still; the node can be configured again."""
        self._is_configured = False
        self.assistant.fail()
        return SUCCESS

    def save_and_close(self) -> None:
        """Save within the budget if a window is open, and close; what fails is logged."""
        if self.assistant.desk.core is None:
            return
        try:
            self._log_save(self.assistant.deactivate(self.assistant.settings.shutdown.budget))
        except CwmError as exc:
            self.get_logger().error(f'the save did not end: {exc}')
        finally:
            self.assistant.cleanup()
            self._is_configured = False

    def _log_save(self, saved: object) -> None:
        self.get_logger().info(f'saved for shutdown: {saved}')

    # --- parameters and time ------------------------------------------------------------------

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        result = params.check_change(self, changed, is_configured=self._is_configured)
        if result.successful and self._is_configured and not HAS_POST_SET:
            self.assistant.desk.use(params.read(self, changed))
        return result

    def _use_parameters(self, _changed: list[Parameter]) -> None:
        if self._is_configured:
            self.assistant.desk.use(params.read(self))

    def _let_time_pass(self) -> None:
        """
        Tick by a clock that neither stands still nor jumps, as a simulated one may.

        Not by a timer of the executor: each time that wakes, it asks after all entities of the
        node, which took 1.2 ms, or 1.2 % of a core.
        """
        while not self._ended.wait(TICK_S):
            self._tick()

    def _tick(self) -> None:
        try:
            self.assistant.tick()
        except Exception as exc:  # noqa: BLE001 - the next tick must come
            self.get_logger().error(f'a tick failed: {type(exc).__name__}: {exc}')
