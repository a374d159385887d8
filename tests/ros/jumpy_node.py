# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node with a wall clock that JUMP_FILE puts forward or back by so many seconds."""

from __future__ import annotations

import os
from pathlib import Path
import sys
import time

from cwm_ros.node.main import main

FILE = Path(os.environ['JUMP_FILE'])
now_ns = time.time_ns


def jumped_ns() -> int:
    return max(0, now_ns() + int(FILE.read_text()) * 1_000_000_000)


if __name__ == '__main__':
    time.time_ns = jumped_ns
    time.time = lambda: jumped_ns() / 1e9
    sys.exit(main())
