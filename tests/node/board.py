# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node without ROS: a desk and its engine's thread, with the window 'trip' thawed."""

from __future__ import annotations

from functools import partial
import time
from typing import TYPE_CHECKING

from cwm_ros.node import jobs
from cwm_ros.node.core import Core
from cwm_ros.node.desk import Desk
from cwm_ros.node.thaw_report import ThawReport
from cwm_ros.node.waiting import Waiting
from cwm_ros.node.wake import Kept
from cwm_ros.node.worker import Urgency

if TYPE_CHECKING:
    from cwm_ros.config import Settings
    from cwm_ros.node.state import Phase

WAIT_S = 20.0


class Board:
    """A desk with a thawed window, on a machine that can sleep."""

    def __init__(self, settings: Settings) -> None:
        self.slept_s = 100.0
        self.desk = Desk(lambda: None, time.monotonic)
        report = ThawReport(lambda: None, time.monotonic)
        self.core = Core(settings, profile='default', on_change=lambda: None, report=report)
        self.core.kept = Kept(lambda: self.slept_s)
        self.core.open(WAIT_S)
        self.desk.core, self.desk.is_active = self.core, True
        self.desk.use(settings)
        self.do(
            'thaw',
            Urgency.THAW,
            partial(
                jobs.thaw,
                window='trip',
                strategy='',
                stop_at_usable=False,
                on_begin=self.core.note_thaw,
            ),
        )

    def do(self, name: str, urgency: Urgency, run: object) -> object:
        waiting = Waiting()
        self.desk.start(name, urgency, run, on_end=waiting.end)
        return waiting.take(WAIT_S, name)

    def in_thread(self, function: object, urgency: Urgency = Urgency.STORE) -> object:
        return self.do('look', urgency, jobs.short(function))

    def wait(self, phase: Phase) -> None:
        until_s = time.monotonic() + WAIT_S
        while self.core.phase is not phase:
            assert time.monotonic() < until_s, self.core.phase
            time.sleep(0.01)
