# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A client in a network namespace of its own; prints a line for each thing that came about.

answered TEXT · lost · alive · answered TEXT, each after the one before.
"""

from __future__ import annotations

import sys
from threading import Event
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks

from cwm_interfaces.msg import Usability
from tests.ros.test_node_truth import GUARDED
from tests.ros.vehicle import Client, WAIT_S

FACT = 'My gate code is 4821.'
QUESTION = "What's the code for the gate?"


def tell(*words: str) -> None:
    print(*words, flush=True)  # noqa: T201 - read by the test


def main() -> None:
    lost, alive = Event(), Event()

    def see(event: Any) -> None:
        (alive if event.alive_count else lost).set()

    with Client() as client:
        client.node.create_subscription(
            Usability,
            client.name('usability'),
            lambda _message: None,
            GUARDED,
            event_callbacks=SubscriptionEventCallbacks(liveliness=see),
        )
        client.meet()
        client.bring_up()
        client.wait_state(Usability.NO_WINDOW)
        client.ask(FACT)
        assert alive.wait(WAIT_S)
        lost.clear()
        alive.clear()
        tell('answered', client.ask(QUESTION).text)
        assert lost.wait(WAIT_S), 'liveliness was not lost'
        tell('lost')
        assert alive.wait(WAIT_S), 'liveliness did not come back'
        tell('alive')
        client.forget('usability')
        client.wait_usable()
        tell('answered', client.ask(QUESTION).text)


if __name__ == '__main__':
    sys.exit(main())
