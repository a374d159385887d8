# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The node with an engine that is slow, or gets stuck in a call of C when a file appears.

Each step of the engine takes SLOW_S longer, so that there is a middle. STUCK_FILE says how it gets
stuck: 'release' leaves the interpreter to the other threads, as an inference runtime does; 'hold'
keeps its lock, as a broken driver's binding may. It does so once; the file is removed before.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING

from cwm_ros import loaded
from cwm_ros.node.main import main

if TYPE_CHECKING:
    from cwm_ros.engine import Engine

FOREVER_S = 3600
FILE = Path(os.environ.get('STUCK_FILE', '/nonexistent'))
SLOW_S = float(os.environ.get('SLOW_S', '0'))
open_engine = loaded.open_engine


def get_stuck() -> None:
    if FILE.exists():
        how = FILE.read_text()
        FILE.unlink()
        libc = (ctypes.PyDLL if how == 'hold' else ctypes.CDLL)(None)
        while True:
            libc.sleep(FOREVER_S)


def open_sticky(*args: object) -> Engine:
    engine = open_engine(*args)
    run = engine.run

    def run_or_hang(*given: object, **named: object) -> object:
        get_stuck()
        time.sleep(SLOW_S)
        return run(*given, **named)

    engine.run = run_or_hang
    return engine


if __name__ == '__main__':
    loaded.open_engine = open_sticky
    sys.exit(main())
