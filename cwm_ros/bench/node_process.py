# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The node and a client of it as processes, for benches; imports no ROS.

The client is `cwm_ros.examples.bench_client`; commands and answers are lines of JSON.
"""

from __future__ import annotations

from dataclasses import fields
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING

import psutil

from cwm_ros.config import Settings
from cwm_ros.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from typing_extensions import Self

END_S = 30.0
NEEDED = ('rclpy', 'lifecycle_msgs.msg', 'cwm_interfaces.msg')


def check_ros() -> None:
    """
    Make sure that nodes can run with this interpreter.

    Raises
    ------
    ConfigError
        rclpy or the messages cannot be imported.

    """
    command = [sys.executable, '-c', f'import {", ".join(NEEDED)}']
    ended = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, env=_environment()
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ['the interpreter ended']
        raise ConfigError(
            f'this bench needs ROS 2 and the package cwm_interfaces, and {sys.executable} cannot '
            f'import them: {lines[-1]}',
            hint='source the workspace that both were built in, with the Python it was built for',
        )


class NodeProcess:
    """
    The node in a process of its own; a context manager that ends it.

    Parameters
    ----------
    settings
        Given as parameters, as far as they differ from the defaults.
    name
        Of the node.
    log
        File of its output.

    Attributes
    ----------
    began_s
        When it was started, by the steady clock of all processes [s].

    """

    def __init__(self, settings: Settings, name: str, log: Path) -> None:
        self._log = log
        rules = [part for rule in _parameters(settings) for part in ('-p', rule)]
        command = [sys.executable, '-m', 'cwm_ros.node.main', '--ros-args', '-r']
        with log.open('wb') as output:
            self.began_s = time.monotonic()
            self._process = subprocess.Popen(  # noqa: S603
                [*command, f'__node:={name}', *rules],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
            )
        self._seen = psutil.Process(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def end(self) -> float:
        """
        End it by SIGTERM, as a launch does; return how long it took [s].

        Raises
        ------
        EngineError
            It ended otherwise than it should.

        """
        began_s = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(END_S)
        if status:
            raise EngineError(f'the node ended with status {status}: {self.last_output}')
        return time.monotonic() - began_s

    @property
    def resident_bytes(self) -> int:
        """Memory that is resident now, shared libraries included [bytes]."""
        return int(self._seen.memory_info().rss)

    @property
    def cpu_s(self) -> float:
        """Processor time until now, of all threads [s]."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    @property
    def last_output(self) -> str:
        """The last lines it wrote."""
        return '\n'.join(self._log.read_text(errors='replace').splitlines()[-5:])


class ClientProcess:
    """
    The client in a process of its own; a context manager that ends it.

    Parameters
    ----------
    target
        Full name of the node.

    """

    def __init__(self, target: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, '-m', 'cwm_ros.examples.bench_client', target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    @property
    def _commands(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _answers(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def do(self, command: str, **given: object) -> dict[str, float]:
        """
        Have it do something, and return what it saw.

        Raises
        ------
        EngineError
            It failed.

        """
        self._commands.write(json.dumps({'do': command, **given}) + '\n')
        self._commands.flush()
        line = self._answers.readline()
        told = json.loads(line) if line else {'error': 'the client ended'}
        if 'error' in told:
            raise EngineError(f'{command}: {told["error"]}')
        return dict(told)


def _parameters(settings: Settings) -> list[str]:
    """Return the settings that are not the defaults as rules for ``--ros-args -p``."""
    default = Settings()
    rules = []
    for group in fields(Settings):
        given, usual = getattr(settings, group.name), getattr(default, group.name)
        for item in fields(given):
            value = getattr(given, item.name)
            if value != getattr(usual, item.name):
                plain = str(value) if isinstance(value, Path) else value
                rules.append(f'{group.name}.{item.name}:={json.dumps(plain)}')
    return rules


def _environment() -> dict[str, str]:
    """Let a child find the packages that this process finds, wherever it was started."""
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(path for path in sys.path if path)}
