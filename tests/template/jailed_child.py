# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What a template could do that has escaped from Jinja's sandbox.

Started as the child is, with a JSON object in place of its arguments: 'folders' to import from,
'attempts' by name, and 'is_filtered', false to do without the filter of system calls.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from pathlib import Path
import resource
import signal
import socket
import subprocess
import sys

PTRACE_ATTACH = 16
TARGET = '/tmp/written-by-a-template'  # noqa: S108 - never written
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
ATTEMPTS = {
    'read a file': lambda: os.open('/etc/passwd', os.O_RDONLY),
    'write a file': lambda: os.open(TARGET, os.O_WRONLY | os.O_CREAT),
    'list a folder': lambda: os.scandir('/'),
    'socket': socket.socket,
    'pipe': os.pipe,
    'duplicate': lambda: os.dup(0),
    'much memory': lambda: mmap.mmap(-1, 1 << 29),
    'long text': lambda: 'x' * (1 << 29),
    'delete a file': lambda: Path(TARGET).unlink(),
    'fork': os.fork,
    'process': lambda: subprocess.run(['/bin/true'], check=True),
    'become another program': lambda: os.execv('/bin/true', ['true']),  # noqa: S606
    'signal the parent': lambda: os.kill(os.getppid(), 0),
    'trace the parent': lambda: trace(os.getppid()),
    'lift a limit': lambda: resource.setrlimit(resource.RLIMIT_NOFILE, NO_LIMIT),
    'ask for the alarm': lambda: signal.setitimer(signal.ITIMER_REAL, 10),
}


def trace(process: int) -> None:
    if ctypes.CDLL(None, use_errno=True).ptrace(PTRACE_ATTACH, process, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), 'not traced')


def outcome(name: str) -> str:
    try:
        ATTEMPTS[name]()
    except (OSError, MemoryError, ValueError) as exc:
        return type(exc).__name__
    return 'done'


def main() -> None:
    given = json.loads(sys.argv[1])
    sys.path += given['folders']
    from cwm_ros.template import jail
    from cwm_ros.template.child import warm_up

    if not given['is_filtered']:
        jail.AUDIT_ARCH.clear()
    warm_up()
    is_filtered = jail.lock_up()
    outcomes = {name: outcome(name) for name in given['attempts']}
    sys.stdout.write(json.dumps({'is_filtered': is_filtered, 'outcomes': outcomes}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == '__main__':
    main()
