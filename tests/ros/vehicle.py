# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The two ends of a test: the node's process, and a client on the same bus."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
from threading import Condition, Thread
import time
from typing import Any, TYPE_CHECKING

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, String

from cwm_interfaces.action import ThawWindow
from cwm_interfaces.msg import IgnitionState, ResponseEvent, ThawProgress, Usability

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
"""Long enough for a slow machine; nothing is measured by it."""
MEET_S = 2.0
SETTLE_S = 0.4
"""What a server takes to discover a client, which the client cannot see."""
CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP
SHUTDOWN = Transition.TRANSITION_ACTIVE_SHUTDOWN

LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
STREAM = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)


class NodeProcess:
    """
    The node in a process of its own; a context manager that ends it.

    Parameters
    ----------
    folder
        Where its store is.
    cache
        Where graphs are kept.
    log
        File of its output.
    params
        Parameters by their full names, beside those that make tests quick.
    remap
        Remapping rules, as ``__ns:=/left``.
    args
        Options of the program itself.
    module
        What to run instead of the node.
    prefix
        A command that runs it elsewhere, as in another network namespace.
    env
        Beside this process's environment.

    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        *,
        log: Path,
        params: dict[str, object] | None = None,
        remap: tuple[str, ...] = (),
        args: tuple[str, ...] = (),
        module: str = 'cwm_ros.node.main',
        prefix: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.log = log
        values = {
            'storage.root': str(folder / 'store'),
            'storage.free_floor_mib': 0,
            'engine.threads': 1,
            'engine.cache_dir': str(cache),
            'engine.kind': os.environ.get('CWM_NODE_ENGINE', 'onnxruntime'),
            **(params or {}),
        }
        given = [part for item in values.items() for part in ('-p', _to_rule(*item))]
        rules = [part for rule in remap for part in ('-r', rule)]
        with log.open('wb') as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, '-m', module, *args, '--ros-args', *given, *rules],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment(), **(env or {})},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self, timeout_s: float = WAIT_S) -> int:
        return self.process.wait(timeout_s)

    @property
    def output(self) -> str:
        return self.log.read_text(encoding='utf-8', errors='replace')


def environment() -> dict[str, str]:
    return {**os.environ, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'}


def _to_rule(name: str, value: object) -> str:
    return f'{name}:={json.dumps(value)}'


class Client:
    """
    A node that talks to the assistant; a context manager.

    Every message of a watched topic is kept with the time of its arrival.

    Parameters
    ----------
    target
        Full name of the assistant's node.

    """

    _numbers = count()

    def __init__(self, target: str = '/cwm') -> None:
        self.target = target
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        name = f'client{os.getpid()}_{next(self._numbers)}'
        self.node = rclpy.create_node(name, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._changed = Condition()
        self._seen: dict[str, list[tuple[float, Any]]] = {}
        self._clients: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}
        self.watch(Usability, 'usability', LATCHED)
        self.watch(ThawProgress, 'thaw_progress', STREAM)
        self.watch(ResponseEvent, 'response_events', STREAM)
        self.watch(Bool, 'is_usable', LATCHED)
        self._thread = Thread(target=self._spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(1.0)
        self._thread.join(WAIT_S)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    # --- topics -------------------------------------------------------------------------------

    def watch(self, kind: type, topic: str, qos: QoSProfile, **given: Any) -> None:
        seen = self._seen.setdefault(topic, [])

        def take(message: object) -> None:
            with self._changed:
                seen.append((time.monotonic(), message))
                self._changed.notify_all()

        self.node.create_subscription(kind, self.name(topic), take, qos, **given)

    def name(self, topic: str) -> str:
        return topic if topic.startswith('/') else f'{self.target}/{topic}'

    def seen(self, topic: str) -> list[Any]:
        with self._changed:
            return [message for _, message in self._seen[topic]]

    def seen_at(self, topic: str) -> list[tuple[float, Any]]:
        with self._changed:
            return list(self._seen[topic])

    def forget(self, topic: str) -> None:
        with self._changed:
            self._seen[topic].clear()

    def wait_for(self, topic: str, check: Callable[[Any], bool], timeout_s: float = WAIT_S) -> Any:
        """Return the first message kept that passes; fail when none comes."""

        def first() -> Any:
            return next((m for _, m in self._seen[topic] if check(m)), None)

        with self._changed:
            found = self._changed.wait_for(lambda: first() is not None, timeout_s)
            last = self._seen[topic][-1:]
            assert found, f'{topic}: nothing within {timeout_s} s; last {last}'
            return first()

    def wait_usable(self) -> Usability:
        return self.wait_for('usability', lambda m: m.is_usable)

    def wait_state(self, state: int) -> Usability:
        return self.wait_for('usability', lambda m: m.state == state)

    def publish(self, kind: type, topic: str, message: object) -> None:
        """Publish, once somebody listens."""
        is_new = topic not in self._publishers
        if is_new:
            self._publishers[topic] = self.node.create_publisher(kind, self.name(topic), 10)
        publisher = self._publishers[topic]
        until_s = time.monotonic() + WAIT_S
        while not publisher.get_subscription_count():
            assert time.monotonic() < until_s, f'nobody listens to {topic}'
            time.sleep(0.02)
        if is_new:
            time.sleep(SETTLE_S)
        publisher.publish(message)

    def publish_bytes(self, topic: str, data: bytes) -> None:
        """Publish what no well-behaved node would: a message in its serialised form."""
        self._publishers[topic].publish(data)

    def prompt(self, text: str) -> None:
        self.publish(String, 'prompt', String(data=text))

    def ignition(self, state: int) -> None:
        self.publish(IgnitionState, 'ignition', IgnitionState(state=state))

    def ask(self, text: str) -> ResponseEvent:
        """Prompt through the topic, and return the event that ends the answer."""
        before = len(self.seen('response_events'))
        self.prompt(text)
        ends = (ResponseEvent.END, ResponseEvent.CANCELLED, ResponseEvent.ERROR)

        def end() -> Any:
            return next((m for m in self.seen('response_events')[before:] if m.kind in ends), None)

        self.wait_for('response_events', lambda _m: end() is not None)
        return end()

    # --- services, parameters, lifecycle ------------------------------------------------------

    def call(self, kind: type, name: str, timeout_s: float = WAIT_S, **fields: object) -> Any:
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, self.name(name))
            assert self._clients[name].wait_for_service(timeout_s), f'no service {name}'
            time.sleep(SETTLE_S)
        client = self._clients[name]
        assert client.wait_for_service(timeout_s), f'no service {name}'
        return self.result(client.call_async(kind.Request(**fields)), timeout_s)

    def result(self, future: Any, timeout_s: float = WAIT_S) -> Any:
        with self._changed:
            future.add_done_callback(self._note)
            assert self._changed.wait_for(future.done, timeout_s), f'no result in {timeout_s} s'
        return future.result()

    def _note(self, _future: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def change(self, transition: int) -> bool:
        """Run a transition; say whether it succeeded."""
        request = Transition(id=transition)
        return bool(self.call(ChangeState, 'change_state', transition=request).success)

    def meet(self) -> None:
        """
        Wait until the node answers.

        A request that overtakes discovery is lost, as ever in ROS 2: so ask again, and anew.
        """
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            asking = self.node.create_client(GetState, self.name('get_state'))
            asking.wait_for_service(MEET_S)
            future = asking.call_async(GetState.Request())
            with self._changed:
                future.add_done_callback(self._note)
                is_met = self._changed.wait_for(future.done, MEET_S)
            self.node.destroy_client(asking)
            if is_met:
                time.sleep(SETTLE_S)
                return
        raise AssertionError(f'{self.target} does not answer')

    def state(self) -> str:
        return str(self.call(GetState, 'get_state').current_state.label)

    def bring_up(self) -> None:
        assert self.change(CONFIGURE)
        assert self.change(ACTIVATE)

    def set_parameters(self, **values: object) -> Any:
        given = [
            Parameter(name.replace('__', '.'), value=value).to_parameter_msg()
            for name, value in values.items()
        ]
        name = 'set_parameters_atomically'
        return self.call(SetParametersAtomically, name, parameters=given).result

    def parameter(self, name: str) -> Any:
        return self.call(GetParameters, 'get_parameters', names=[name]).values[0]

    # --- actions ------------------------------------------------------------------------------

    def send(
        self, kind: type, name: str, on_feedback: Callable[[Any], None] | None = None, **goal: Any
    ) -> Any:
        """Send a goal and return its handle."""
        key = f'action {name}'
        if key not in self._clients:
            self._clients[key] = ActionClient(self.node, kind, self.name(name))
            assert self._clients[key].wait_for_server(WAIT_S), f'no action {name}'
            time.sleep(SETTLE_S)
        client = self._clients[key]
        assert client.wait_for_server(WAIT_S), f'no action {name}'
        message = kind.Goal(**goal)
        return self.result(self._in_loop(lambda: client.send_goal_async(message, on_feedback)))

    def _in_loop(self, call: Callable[[], Any]) -> Any:
        """
        Call in the executor's thread, and return the future that it returned.

        An action client is not safe with threads: a response that overtakes the bookkeeping of
        its request is dropped ('Ignoring unexpected goal response').
        """
        return self.result(self._executor.create_task(call))

    def end(self, handle: Any, timeout_s: float = WAIT_S) -> Any:
        """Return a goal's status and result, as one message with both."""
        assert handle.accepted
        return self.result(self._in_loop(handle.get_result_async), timeout_s)

    def run(self, kind: type, name: str, **goal: Any) -> Any:
        return self.end(self.send(kind, name, **goal))

    def thaw(self, window: str = 'assistant', **goal: Any) -> Any:
        return self.run(ThawWindow, 'thaw_window', window=window, **goal)
