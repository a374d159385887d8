# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Ears and mouths that speak actions, against servers of such actions.

The messages of whisper_ros and audio_common need not be here: Generate has the fields that are
used, a text in the goal and a text in the result.
"""

from __future__ import annotations

from contextlib import contextmanager
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from rclpy.action import ActionServer
from std_msgs.msg import String

from cwm_interfaces.action import Generate
from tests.ros.vehicle import ROOT, STREAM, WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rclpy.action.server import ServerGoalHandle

    from tests.ros.vehicle import Client

pytestmark = pytest.mark.ros

KIND = ('-p', 'package:=cwm_interfaces', '-p', 'action:=Generate')
LOOK_S = 0.05


@contextmanager
def adapter(name: str) -> Iterator[None]:
    code = f'from cwm_ros.examples.{name} import main; main()'
    process = subprocess.Popen(
        [sys.executable, '-c', code, '--ros-args', *KIND],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'},
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(WAIT_S)


def test_what_was_heard_is_a_prompt(client: Client) -> None:
    heard = iter(['', '  My gate code is 4821. ', *(f'and {n}' for n in range(1000))])

    def listen(handle: ServerGoalHandle) -> Generate.Result:
        time.sleep(LOOK_S)
        handle.succeed()
        return Generate.Result(text=next(heard))

    client.watch(String, '/prompt', STREAM)
    ActionServer(client.node, Generate, '/whisper/listen', listen)
    with adapter('stt_microphone'):
        client.wait_for('/prompt', lambda m: m.data == 'and 3')

    said = [message.data for message in client.seen('/prompt')]
    assert '' not in said
    assert said == sorted(said, key=lambda text: (text.startswith('and'), text))


def test_sentences_are_spoken_in_order(client: Client) -> None:
    spoken: list[str] = []

    def speak(handle: ServerGoalHandle) -> Generate.Result:
        spoken.append(handle.request.text)
        handle.succeed()
        return Generate.Result()

    ActionServer(client.node, Generate, '/say', speak)
    with adapter('tts_speaker'):
        for sentence in ('One.', 'Two.', 'Three.'):
            client.publish(String, '/response', String(data=sentence))
        until_s = time.monotonic() + WAIT_S
        while len(spoken) < 3 and time.monotonic() < until_s:
            time.sleep(LOOK_S)

    assert spoken == ['One.', 'Two.', 'Three.']
