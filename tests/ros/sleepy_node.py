# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The node on a machine that sleeps when a file appears.

SLEEP_FILE says how: 'kept' keeps the memory as it was; 'lost' turns the signs of all KV before the
window is checked. While the file is there, the machine has slept for an hour more.
"""

from __future__ import annotations

import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from cwm_ros import manager as manager_module
from cwm_ros.node import wake
from cwm_ros.node.main import main

if TYPE_CHECKING:
    from cwm_ros.live import LiveWindow
    from cwm_ros.loaded import LoadedModel

FILE = Path(os.environ['SLEEP_FILE'])
HOUR_S = 3600.0
asleep_s = wake.asleep_s
recheck = manager_module.recheck


def sleep_s() -> float:
    return asleep_s() + HOUR_S * FILE.exists()


def lose_and_recheck(live: LiveWindow, model: LoadedModel) -> str:
    if FILE.exists() and FILE.read_text() == 'lost':
        engine, stop = model.engine, live.session.num_tokens
        for start, end in list(engine.resident.overlap(0, stop)):
            kv = engine.export_kv(start, end).kv.copy()
            engine.drop(start, end)
            engine.import_view(start, end)[...] = -kv
            engine.mark_resident(start, end)
    return recheck(live, model)


if __name__ == '__main__':
    wake.asleep_s = sleep_s
    manager_module.recheck = lose_and_recheck
    sys.exit(main())
