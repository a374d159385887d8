# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A foreign chat template in a process that stays.

It begins before anything is rendered, so that its start is hidden behind the loading of the model.
When it ends, hangs or says nonsense, the rendering fails, and the next one starts another.
"""

from __future__ import annotations

from contextlib import suppress
import hashlib
import json
import logging
import os
from pathlib import Path
import socket
import subprocess
import sys
from threading import Lock
import time
from typing import TYPE_CHECKING
import weakref

import jinja2
import markupsafe

import cwm_ros
from cwm_ros.errors import ModelError
from cwm_ros.template.bounded import ChatTemplate
from cwm_ros.template.child import HEADER, MAX_FRAME, pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

KNOWN = frozenset({'05f4cd1a9c827a39d420b73a240ea3eabbbda8f2fec33e3582195c07f6acc9bf'})
"""SHA-256 of the templates that this package ships: the reference model's."""
START_SECONDS = 60.0
"""How long a process may take to start and compile, on a board that does much else."""
RENDER_SECONDS = 5.0
BOOT = 'import sys; sys.path += sys.argv[1:]; from cwm_ros.template.child import main; main()'
LOST_REMEDY = 'try again; if it happens again, use the published template of the family'


class RemoteTemplate:
    """
    A chat template that runs in another process; used as `ChatTemplate` is, from any thread.

    Parameters
    ----------
    source, constants
        As for `ChatTemplate`.

    Raises
    ------
    ModelError
        No process can be started.

    """

    def __init__(self, source: str, constants: Mapping[str, str]) -> None:
        self._first = pack([source, dict(constants)])
        self._lock = Lock()
        self._child: _Child | None = _Child(self._first)

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """
        Return the text of a conversation, markers included.

        Parameters
        ----------
        messages, add_generation_prompt
            As for `ChatTemplate.render`.

        Raises
        ------
        ModelError
            The template fails, refuses the conversation, exceeds its bounds or cannot be
            compiled; or its process ended, took too long or said nonsense, and the next
            rendering starts another.

        """
        request = pack([[dict(message) for message in messages], add_generation_prompt])
        with self._lock:
            if self._child is None or not self._child.is_there():
                self._child = _Child(self._first)
            try:
                reply = self._child.ask(request)
            except BaseException:
                self._close()
                raise
        if 'text' in reply:
            return reply['text']
        raise ModelError(reply['message'], hint=reply['hint'])

    def close(self) -> None:
        """End the process; a later rendering starts another."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def open_template(source: str, constants: Mapping[str, str]) -> ChatTemplate | RemoteTemplate:
    """
    Return a template that runs here if this package ships it, else in a process of its own.

    Raises
    ------
    ModelError
        As for either.

    """
    digest = hashlib.sha256(source.encode('utf-8', 'surrogatepass')).hexdigest()
    return (ChatTemplate if digest in KNOWN else RemoteTemplate)(source, constants)


class _Child:
    """The process, and the line to it: it ends when this object does."""

    def __init__(self, first: bytes) -> None:
        self._is_ready = False
        self._owner = os.getpid()
        self._line, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own arguments
                    [sys.executable, '-I', '-S', '-B', '-c', BOOT, *_import_folders()],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    env={},
                    cwd='/',
                    start_new_session=True,  # the terminal's Ctrl-C is not for it
                )
        except OSError as exc:
            self._line.close()
            raise ModelError(
                f'no process for the chat template can be started: {exc}',
                hint='free memory, or raise the limit of processes (ulimit -u)',
                is_template_lost=True,
            ) from exc
        self.end = weakref.finalize(self, _end, self._process, self._line, self._owner)
        self._line.settimeout(START_SECONDS)
        with suppress(OSError):  # told when it is asked
            self._line.sendall(first)

    def is_there(self) -> bool:
        """Say whether it may be asked; after a fork it is the parent's."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, request: bytes) -> dict[str, str]:
        """
        Return the reply to a request: 'text', or 'message' and 'hint'.

        Raises
        ------
        ModelError
            There is none.

        """
        try:
            if not self._is_ready:
                self._await_start()
            deadline = time.monotonic() + RENDER_SECONDS
            self._line.settimeout(RENDER_SECONDS)
            self._line.sendall(request)
            return _checked(self._receive(deadline))
        except TimeoutError as exc:
            raise _lost('takes too long, and was ended') from exc
        except (OSError, EOFError) as exc:
            raise _lost('has ended') from exc
        except (ValueError, RecursionError) as exc:
            raise _lost('said nonsense, and was ended') from exc

    def _await_start(self) -> None:
        reply = self._receive(time.monotonic() + START_SECONDS)
        if not (isinstance(reply, dict) and isinstance(reply.get('is_filtered'), bool)):
            failure = _checked(reply)
            if 'message' not in failure:
                raise ValueError('a text before any request')
            raise ModelError(failure['message'], hint=failure['hint'], is_template_lost=True)
        if not reply['is_filtered']:
            log.warning(
                'the chat template runs without a filter of system calls, within limits only: '
                'this kernel or processor has none that is known here'
            )
        self._is_ready = True

    def _receive(self, deadline: float) -> object:
        (length,) = HEADER.unpack(self._read(HEADER.size, deadline))
        if length > MAX_FRAME:
            raise ValueError(f'a reply of {length} bytes')
        reply: object = json.loads(self._read(length, deadline))
        return reply

    def _read(self, length: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            self._line.settimeout(max(deadline - time.monotonic(), 1e-3))
            piece = self._line.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


def _checked(reply: object) -> dict[str, str]:
    """Return a reply that is what it must be."""
    if not isinstance(reply, dict) or set(reply) not in ({'text'}, {'message', 'hint'}):
        raise ValueError('neither a text nor a failure')
    if not all(isinstance(value, str) for value in reply.values()):
        raise ValueError('not a text')
    return reply


def _lost(what: str) -> ModelError:
    return ModelError(
        f'the process of the chat template {what}', hint=LOST_REMEDY, is_template_lost=True
    )


def _end(process: subprocess.Popen[bytes], line: socket.socket, owner: int) -> None:
    line.close()
    if os.getpid() == owner:
        process.kill()
        process.wait()


def _import_folders() -> list[str]:
    """Return where the process finds what it imports: it has no site packages."""
    folders = (Path(str(module.__file__)).parents[1] for module in (cwm_ros, jinja2, markupsafe))
    return list(dict.fromkeys(str(folder.resolve()) for folder in folders))
