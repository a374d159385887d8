# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How often the engine hung lately, in a file that outlives the process; knows nothing of ROS.

A node whose engine hangs is started again. When that has not helped `MAX_FAILURES` times within
`WITHIN_S` of one boot, the next one does without the engine, so that the windows can be listed.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

log = logging.getLogger(__name__)

MAX_FAILURES = 3
WITHIN_S = 600.0
MAX_BYTES = 1 << 16
TOO_MANY = 'the engine hung {} times in 10 minutes; configure again later, and it is loaded'
BOOT_ID = Path('/proc/sys/kernel/random/boot_id')


def read_boot_id() -> str:
    """Return the kernel's name of this boot; empty where it has none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ''


class Failures:
    """
    The record of one store; what cannot be read or written is logged, and counts as nothing.

    Parameters
    ----------
    root
        Folder of the store.

    """

    def __init__(self, root: Path) -> None:
        self._path = root / 'engine-failures'
        self._trace_path = root / 'engine-trace'
        self._boot = read_boot_id() or '-'

    def note(self) -> None:
        """Record that the engine hung."""
        line = f'{self._boot} {int(time.clock_gettime(time.CLOCK_BOOTTIME))}\n'
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open('a', encoding='ascii') as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            log.error('the failure of the engine is not recorded: %s', exc)  # noqa: TRY400

    def problem(self) -> str:
        """Return why no engine should be loaded; empty when there is no reason."""
        number = self.recent()
        return TOO_MANY.format(number) if number >= MAX_FAILURES else ''

    def recent(self) -> int:
        """Return how many there were lately; those of before are forgotten."""
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        kept = [line for line in self._read() if self._is_recent(line, now_s)]
        try:
            if kept:
                self._path.write_text('\n'.join(kept) + '\n', encoding='ascii')
            else:
                self._path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning('%s: cannot be written: %s', self._path, exc)
        return len(kept)

    def take_trace(self) -> None:
        """Count a process that the interpreter's timer ended, and log where it hung."""
        try:
            text = self._trace_path.read_text(encoding='utf-8', errors='replace')[:MAX_BYTES]
        except OSError:
            return
        if text:
            log.error('the process before hung, and held the interpreter:\n%s', text)
            self.note()
        self._trace_path.unlink(missing_ok=True)

    def open_trace(self) -> TextIO | None:
        """Return the file that the interpreter's timer writes to; None when there can be none."""
        try:
            return self._trace_path.open('w', encoding='utf-8')
        except OSError as exc:
            log.warning('%s: cannot be written: %s', self._trace_path, exc)
            return None

    def _read(self) -> list[str]:
        try:
            with self._path.open(encoding='ascii', errors='replace') as file:
                return file.read(MAX_BYTES).splitlines()
        except OSError:
            return []

    def _is_recent(self, line: str, now_s: float) -> bool:
        boot, _, at = line.partition(' ')
        return boot == self._boot and at.isdigit() and 0 <= now_s - int(at) < WITHIN_S
