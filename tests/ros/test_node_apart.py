# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The node on one host and its client on another: two network namespaces, joined by a cable.

Without shared memory, without the loopback interface, and with a cable that is pulled.
"""

from __future__ import annotations

from contextlib import ExitStack
import subprocess
import sys
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from tests.ros.vehicle import environment, ROOT, WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ros.conftest import StartNode

pytestmark = pytest.mark.ros

CODE = '4821'
NETWORK = {
    'CYCLONEDDS_URI': '',  # of its own accord each finds the one interface that it has
    'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET',
    'ROS_LOCALHOST_ONLY': '0',
}


class Host:
    """A network namespace; a context manager that ends it."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [*command, 'sh', '-c', 'echo ready; exec sleep infinity'],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != 'ready':
            assert self._process.stderr is not None
            why = self._process.stderr.read().strip()
            self.close()
            raise PermissionError(why)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> str:
        return str(self._process.pid)

    @property
    def prefix(self) -> tuple[str, ...]:
        return ('nsenter', '-t', self.pid, '-U', '-n', '--preserve-credentials')

    def run(self, *command: str) -> None:
        subprocess.run([*self.prefix, *command], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Return two hosts with a cable between them, its ends named `cable`."""
    with ExitStack() as ending:
        try:
            here = Host('unshare', '--user', '--map-root-user', '--net')
            ending.callback(here.close)
            there = Host(*here.prefix, 'unshare', '--net')
            ending.callback(there.close)
            here.run('ip', 'link', 'add', 'cable', 'type', 'veth', 'peer', 'name', 'cable',
                     'netns', there.pid)  # fmt: skip
        except FileNotFoundError as exc:
            pytest.skip(f'network namespaces need unshare, nsenter and ip: {exc}')
        except PermissionError as exc:
            pytest.skip(f'network namespaces are not permitted here: {exc}')
        except subprocess.CalledProcessError as exc:
            pytest.skip(f'network namespaces are not permitted here: {exc.stderr.strip()}')
        for number, host in enumerate((here, there), 1):
            host.run('ip', 'address', 'add', f'10.77.0.{number}/24', 'dev', 'cable')
            for link in ('lo', 'cable'):
                host.run('ip', 'link', 'set', link, 'up')
        yield here, there


def test_a_pulled_cable_is_missed_and_mended(
    start_node: StartNode, hosts: tuple[Host, Host]
) -> None:
    here, there = hosts
    start_node(prefix=there.prefix, env=NETWORK)
    client = subprocess.Popen(
        [*here.prefix, sys.executable, '-m', 'tests.ros.far_client'],
        cwd=ROOT,
        env={**environment(), **NETWORK},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with client:
        assert client.stdout is not None
        assert client.stderr is not None
        output = client.stdout
        trouble: list[str] = []
        Thread(target=trouble.extend, args=(client.stderr,), daemon=True).start()

        def next_line() -> str:
            line = output.readline().strip()
            assert line, ''.join(trouble)
            return line

        try:
            assert CODE in next_line()
            here.run('ip', 'link', 'set', 'cable', 'down')
            assert next_line() == 'lost'
            here.run('ip', 'link', 'set', 'cable', 'up')
            assert next_line() == 'alive'
            assert CODE in next_line()
            assert client.wait(WAIT_S) == 0
        finally:
            client.kill()
