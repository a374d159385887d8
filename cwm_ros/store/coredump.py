# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""No core dumps of a process that has had a key in its memory."""

from __future__ import annotations

import ctypes
import logging
import resource

NO_CORE_BYTES = 1
"""Linux writes no core at this limit, be it to a file (there is no room for its header) or to a
program: fs/coredump.c takes exactly 1 for "none", and 0 for "as the program likes"."""
_PR_SET_DUMPABLE = 4

_log = logging.getLogger(__name__)


def forbid_core_dumps() -> None:
    """
    Let this process leave no core dump, from now to its end.

    It is never allowed again, for memory that was freed still holds what was in it. Where the
    limit cannot be as it should, the process is made undumpable instead, which has side effects
    (its files in /proc are then root's, so what databases cost is missing in the ledger).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == resource.RLIM_INFINITY or hard >= NO_CORE_BYTES:
        resource.setrlimit(resource.RLIMIT_CORE, (NO_CORE_BYTES, hard))
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        is_set = ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    except (OSError, AttributeError):
        is_set = False
    if not is_set:
        _log.warning('a core dump of this process cannot be ruled out')
