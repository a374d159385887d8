# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Takes from this process what a chat template does not need: files, sockets, processes, memory.

What is open stays open. There is no way back, not for root either: where the kernel filters
system calls, a call that is not listed fails with EPERM.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import signal
import struct

ADDRESS_SPACE = 256 << 20
"""Most memory that may be mapped [bytes], the interpreter's own 40 MiB included."""
LIMITS = {
    resource.RLIMIT_AS: ADDRESS_SPACE,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 0,
    resource.RLIMIT_NPROC: 0,
}
# linux/prctl.h, linux/seccomp.h, linux/audit.h
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050001
AUDIT_ARCH = {'x86_64': 0xC000003E, 'aarch64': 0xC00000B7}
# asm/unistd_64.h of x86, asm-generic/unistd.h
SYSTEM_CALLS = {
    'read': {'x86_64': 0, 'aarch64': 63},
    'write': {'x86_64': 1, 'aarch64': 64},
    'mmap': {'x86_64': 9, 'aarch64': 222},
    'munmap': {'x86_64': 11, 'aarch64': 215},
    'mremap': {'x86_64': 25, 'aarch64': 216},
    'brk': {'x86_64': 12, 'aarch64': 214},
    'madvise': {'x86_64': 28, 'aarch64': 233},
    'futex': {'x86_64': 202, 'aarch64': 98},
    'setitimer': {'x86_64': 38, 'aarch64': 103},
    'rt_sigreturn': {'x86_64': 15, 'aarch64': 139},
    'clock_gettime': {'x86_64': 228, 'aarch64': 113},
    'getrandom': {'x86_64': 318, 'aarch64': 278},
    'exit': {'x86_64': 60, 'aarch64': 93},
    'exit_group': {'x86_64': 231, 'aarch64': 94},
}
"""What an interpreter that computes, reads and writes asks of the kernel."""
# Classic BPF: load a word of seccomp_data, jump if equal, return.
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER_AT, ARCH_AT = 0, 4


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (('length', ctypes.c_ushort), ('filter', ctypes.c_void_p))


def lock_up() -> bool:
    """
    Give up everything but computing, and reading and writing what is open.

    Returns
    -------
    bool
        Whether system calls are filtered. If not, as on other processors than x86-64 and ARM64,
        the limits hold, which root could lift.

    Raises
    ------
    OSError
        A limit cannot be set.

    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the clock of the child ends it
    for limit, wanted in LIMITS.items():
        _, most = resource.getrlimit(limit)
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(limit, (value, value))
    return _filter_system_calls(platform.machine())


def _filter_system_calls(machine: str) -> bool:
    if machine not in AUDIT_ARCH:
        return False
    code = _filter_code(machine)
    held = ctypes.create_string_buffer(code)
    program = _Program(len(code) // 8, ctypes.addressof(held))
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    refused: int = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    return refused == 0


def _filter_code(machine: str) -> bytes:
    """Return ``struct sock_filter``s that allow the listed calls of one architecture."""
    steps = [
        (LOAD, 0, 0, ARCH_AT),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (RETURN, 0, 0, REFUSE),
        (LOAD, 0, 0, NUMBER_AT),
    ]
    for numbers in SYSTEM_CALLS.values():
        steps += [(JUMP_EQUAL, 0, 1, numbers[machine]), (RETURN, 0, 0, ALLOW)]
    steps.append((RETURN, 0, 0, REFUSE))
    return b''.join(struct.pack('=HBBI', *step) for step in steps)
