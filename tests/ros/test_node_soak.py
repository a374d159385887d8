# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The node for SOAK_MINUTES (3 unless it is set): it talks, saves and thaws, and its memory is flat.

What is filled once is no leak: the compiled kernels, the KV cache up to the longest context, the
arenas of the allocator, one for each thread, and the results of goals, which rclpy keeps for
fifteen minutes. So a first life of the node fills the caches on disk, the context is full early,
and only the second half of the time is judged.
"""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING

from action_msgs.msg import GoalStatus
import numpy as np
import pytest

from cwm_interfaces.action import FreezeWindow
from cwm_interfaces.msg import ResponseEvent, Usability
from tests.ros.vehicle import WAIT_S

if TYPE_CHECKING:
    from tests.ros.conftest import StartNode
    from tests.ros.vehicle import Client, NodeProcess

pytestmark = [pytest.mark.ros, pytest.mark.slow]

SOAK_MINUTES = float(os.environ.get('SOAK_MINUTES', '3'))
REST_S = 0.2
MOST_RISE = 8 << 20
"""By the line through the second half [bytes]; what was said stays in memory."""
MOST_BYTES = 500 << 20
SUCCEEDED = GoalStatus.STATUS_SUCCEEDED


def resident_bytes(node: NodeProcess) -> int:
    status = Path(f'/proc/{node.process.pid}/statm').read_text(encoding='ascii')
    return int(status.split()[1]) * os.sysconf('SC_PAGE_SIZE')


def fill_caches(start_node: StartNode, client: Client, cache: Path) -> None:
    node = start_node()
    client.meet()
    client.bring_up()
    assert client.ask('Hello.').kind == ResponseEvent.END
    until_s = time.monotonic() + 3 * WAIT_S
    while not list((cache / 'kernels').glob('*.compiled')):
        assert time.monotonic() < until_s, 'the kernels were not compiled'
        time.sleep(0.5)
    node.kill()
    client.forget('usability')


def live_once(client: Client) -> None:
    assert client.ask('Hello.').kind == ResponseEvent.END
    for done in (client.run(FreezeWindow, 'freeze_window'), client.thaw()):
        assert done.status == SUCCEEDED, done.result.error_msg


def test_memory_stays_flat(start_node: StartNode, client: Client, engine_cache: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # it is meant to take long
    fill_caches(start_node, client, engine_cache)
    node = start_node(params={'engine.context_tokens': 512})
    client.meet()
    client.bring_up()
    client.wait_state(Usability.NO_WINDOW)
    began_s = time.monotonic()
    seen: list[tuple[float, int]] = []
    while time.monotonic() < began_s + 60 * SOAK_MINUTES:
        live_once(client)
        seen.append((time.monotonic() - began_s, resident_bytes(node)))
        time.sleep(REST_S)

    times, sizes = np.array(seen[len(seen) // 2 :]).T
    slope = float(np.polyfit(times, sizes, 1)[0])
    rise = slope * (times[-1] - times[0])
    mib = [round(size / (1 << 20), 1) for _, size in seen[:: max(1, len(seen) // 20)]]
    told = f'{len(seen)} cycles, the second half rises by {rise / 1024:.0f} KiB; MiB: {mib}'
    sys.stdout.write(f'{told}\n')
    assert rise < MOST_RISE, told
    assert sizes.max() < MOST_BYTES, told
