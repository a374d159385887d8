# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The other end of `cwm bench node`: a client that does as told and says when what was seen.

Each line of standard input is a JSON object with ``do`` and its arguments, each line of standard
output the JSON object of what came of it. Times are of the clock that all processes of a machine
share, CLOCK_MONOTONIC [s]. One thread does all of it, so that no time is lost between two.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from cwm_interfaces.action import Generate
from cwm_interfaces.msg import ResponseEvent, Usability

if TYPE_CHECKING:
    from collections.abc import Callable


TIMEOUT_S = 60.0
ASK_AGAIN_S = 0.1
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
TRANSITIONS = {
    'configure': Transition.TRANSITION_CONFIGURE,
    'activate': Transition.TRANSITION_ACTIVATE,
}
NOT_LOADED = (Usability.LOADING_ENGINE, Usability.INACTIVE, Usability.STORE_ONLY)
Seen = list[tuple[float, object]]


class BenchClient:
    """
    A client of one node.

    Parameters
    ----------
    target
        Full name of the assistant's node.

    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._node = rclpy.create_node(f'{target.strip("/")}_client')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._states: Seen = []
        self._events: Seen = []
        self._listen(Usability, 'usability', self._states, LATCHED)
        self._listen(ResponseEvent, 'response_events', self._events, RELIABLE)
        self._prompts = self._node.create_publisher(String, f'{target}/prompt', RELIABLE)
        self._changes = self._node.create_client(ChangeState, f'{target}/change_state')
        self._generate = ActionClient(self._node, Generate, f'{target}/generate')

    def _listen(self, kind: type, name: str, seen: Seen, qos: QoSProfile) -> None:
        def take(message: object) -> None:
            seen.append((time.monotonic(), message))

        self._node.create_subscription(kind, f'{self._target}/{name}', take, qos)

    # --- what it is told to do ----------------------------------------------------------------

    def meet(self) -> dict[str, float]:
        """Wait until the node answers a request; ask anew, for one before discovery is lost."""
        began_s = time.monotonic()
        while time.monotonic() < began_s + TIMEOUT_S:
            asking = self._node.create_client(GetState, f'{self._target}/get_state')
            future = asking.call_async(GetState.Request())
            self._executor.spin_until_future_complete(future, ASK_AGAIN_S)
            self._node.destroy_client(asking)
            if future.done():
                return {'at_s': time.monotonic()}
        raise TimeoutError(f'{self._target} does not answer')

    def change(self, transition: str) -> dict[str, float]:
        """Run a transition of the lifecycle."""
        self._until(self._changes.service_is_ready)
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[transition]))
        began_s = time.monotonic()
        future = self._changes.call_async(request)
        self._until(future.done)
        if not future.result().success:
            raise RuntimeError(f'{transition} failed')
        return {'began_s': began_s, 'at_s': time.monotonic()}

    def bring_back(self) -> dict[str, float]:
        """Wait until the window is complete; say when each state was first seen."""
        seen = {}
        for name, check in (
            ('loaded', lambda state: state.state not in NOT_LOADED),
            ('usable', lambda state: state.is_usable),
            ('complete', lambda state: state.is_complete),
        ):
            seen[f'{name}_s'] = self._first(self._states, check)
        return seen

    def prompt(self, text: str) -> dict[str, object]:
        """Prompt through the topic; say when its first sentence and its end came."""
        self._until(lambda: self._prompts.get_subscription_count() > 0)
        self._events.clear()
        began_s = time.monotonic()
        self._prompts.publish(String(data=text))
        end_s = self._first(self._events, lambda event: event.kind != ResponseEvent.SENTENCE)
        sentence_s = self._first(self._events, lambda event: event.kind == ResponseEvent.SENTENCE)
        return {
            'began_s': began_s,
            'first_sentence_s': sentence_s,
            'end_s': end_s,
            'text': getattr(self._events[-1][1], 'text', ''),
        }

    def generate(self, text: str) -> dict[str, object]:
        """Prompt through the action; say when its first piece of text and its result came."""
        self._until(self._generate.server_is_ready)
        pieces: Seen = []
        goal = Generate.Goal(text=text, when=Generate.Goal.WHEN_USABLE)
        began_s = time.monotonic()
        sent = self._generate.send_goal_async(
            goal, lambda feedback: pieces.append((time.monotonic(), feedback))
        )
        self._until(sent.done)
        ended = sent.result().get_result_async()
        self._until(ended.done)
        result = ended.result().result
        if result.error_code:
            raise RuntimeError(f'the goal was aborted: {result.error_msg}')
        return {
            'began_s': began_s,
            'first_token_s': self._first(pieces, lambda _piece: True),
            'end_s': time.monotonic(),
            'text': result.text,
        }

    def rest(self, seconds: float) -> dict[str, float]:
        """Do nothing but listen."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self._executor.spin_once(until_s - time.monotonic())
        return {}

    # --- waiting ------------------------------------------------------------------------------

    def _first(self, seen: Seen, check: Callable[[Usability | ResponseEvent], bool]) -> float:
        """Return when the first message came that passes; waits for it."""
        found: list[float] = []

        def is_there() -> bool:
            found[:] = [at_s for at_s, message in seen if check(message)][:1]
            return bool(found)

        self._until(is_there)
        return found[0]

    def _until(self, is_there: Callable[[], bool]) -> None:
        until_s = time.monotonic() + TIMEOUT_S
        while not is_there():
            if time.monotonic() > until_s:
                raise TimeoutError(f'{self._target}: nothing came within {TIMEOUT_S:.0f} s')
            self._executor.spin_once(ASK_AGAIN_S)


def main(target: str) -> None:
    """Serve commands until standard input ends."""
    rclpy.init()
    client = BenchClient(target)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            told = getattr(client, command.pop('do'))(**command)
        except Exception as exc:  # noqa: BLE001 - the bench tells the person
            told = {'error': f'{type(exc).__name__}: {exc}'}
        sys.stdout.write(json.dumps(told) + '\n')
        sys.stdout.flush()
    rclpy.try_shutdown()  # a signal may have come first


if __name__ == '__main__':
    main(sys.argv[1])
