# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The process that a foreign chat template runs in.

Both sides send a length and JSON. The first request is the template and its constants, each
further one the arguments of a rendering. The process ends with its standard input.
"""

from __future__ import annotations

from contextlib import suppress
import json
import os
import signal
import struct
import sys
from typing import TYPE_CHECKING

from cwm_ros.errors import ModelError
from cwm_ros.template.bounded import ChatTemplate
from cwm_ros.template.jail import lock_up

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = struct.Struct('<I')
MAX_FRAME = 1 << 24
"""Longest request and reply [bytes]."""
ALARM_SECONDS = 15.0
"""When a rendering ends that nobody waits for: whoever asked has a shorter limit, and kills."""
WARM_UP = (r'{{ "\n\N{BULLET}" | upper }}{{ messages[0].role.x.y }}', '{% if %}', '{{ 1 / 0 }}')


def pack(value: object) -> bytes:
    """
    Return ``value`` as a frame.

    Raises
    ------
    ModelError
        It is too long.

    """
    body = json.dumps(value).encode('ascii')
    if len(body) > MAX_FRAME:
        raise ModelError(
            f'the chat template gets or makes more than {MAX_FRAME} bytes',
            hint='shorten the conversation, or take out what the template adds to it',
        )
    return HEADER.pack(len(body)) + body


def main() -> None:
    """Serve standard input until it ends."""
    warm_up()
    is_filtered = lock_up()
    with suppress(EOFError, BrokenPipeError):
        _serve(is_filtered=is_filtered)
    os._exit(0)


def warm_up() -> None:
    """Import what is imported only when it is needed: later there are no files."""
    for source in WARM_UP:
        with suppress(ModelError):
            ChatTemplate(source, {}).render(
                [{'role': 'user', 'content': 'x'}], add_generation_prompt=False
            )


def _serve(*, is_filtered: bool) -> None:
    source, constants = json.loads(_receive())
    signal.setitimer(signal.ITIMER_REAL, ALARM_SECONDS)
    try:
        template = ChatTemplate(source, constants)
    except ModelError as exc:
        _send(_failure(exc))
        return
    _send({'is_filtered': is_filtered})
    while True:
        signal.setitimer(signal.ITIMER_REAL, 0)
        messages, add_generation_prompt = json.loads(_receive())
        signal.setitimer(signal.ITIMER_REAL, ALARM_SECONDS)
        try:
            text = template.render(messages, add_generation_prompt=add_generation_prompt)
            _send({'text': text})
        except ModelError as exc:
            _send(_failure(exc))


def _failure(exc: ModelError) -> Mapping[str, str]:
    return {'message': exc.message, 'hint': exc.hint}


def _receive() -> bytes:
    (length,) = HEADER.unpack(_read(HEADER.size))
    return _read(length)


def _read(length: int) -> bytes:
    data = sys.stdin.buffer.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _send(reply: object) -> None:
    sys.stdout.buffer.write(pack(reply))
    sys.stdout.buffer.flush()
