# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The node with transitions that fail as the file FAIL_FILE says, while it is there.

It holds words: configure, activate or fail raise what nobody expects; refuse-activate raises an
error of ours; close never comes back.
"""

from __future__ import annotations

import os
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING

from cwm_ros.errors import EngineError
from cwm_ros.manager import Manager
from cwm_ros.node.assistant import Assistant
from cwm_ros.node.main import main

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = Path(os.environ['FAIL_FILE'])
FOREVER_S = 3600.0


def is_told(word: str) -> bool:
    return FILE.exists() and word in FILE.read_text(encoding='ascii').split()


def break_method(kind: type, name: str) -> None:
    """Let a method fail when the file says so, after it has done half of its work."""
    method: Callable[..., object] = getattr(kind, name)

    def run(self: object, *given: object, **named: object) -> object:
        if name == 'close' and is_told('close'):
            time.sleep(FOREVER_S)
        result = None if name == 'fail' and is_told('fail') else method(self, *given, **named)
        if is_told(f'refuse-{name}'):
            raise EngineError('it was told to refuse')
        if is_told(name):
            raise RuntimeError(f'{name} was told to fail')
        return result

    setattr(kind, name, run)


if __name__ == '__main__':
    for kind, name in (
        (Assistant, 'configure'),
        (Assistant, 'activate'),
        (Assistant, 'fail'),
        (Manager, 'close'),
    ):
        break_method(kind, name)
    sys.exit(main())
