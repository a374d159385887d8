# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A process that thaws a synthetic window under a limit on its memory.

Arguments: a folder, tokens, `thaw.staging_mib`, MiB that it may take beyond what it has when cache
and store are open, and 'plain' or 'encrypted'. It fails when a chunk cannot be loaded.
"""

from __future__ import annotations

from pathlib import Path
import resource
import sys
import threading
from typing import cast, TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cwm_ros.bench.thaw_synthetic import ArrayEngine, Geometry, thaw_window
from cwm_ros.codec import KernelLoader
from cwm_ros.config import MIB, StorageSettings, ThawSettings
from cwm_ros.config_privacy import PrivacySettings
from cwm_ros.kv import KVSpec
from cwm_ros.store import Store

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

SPEC = KVSpec(num_layers=32, num_kv_heads=2, head_dim=64, max_tokens=16384)
"""2 MiB of int8 in 256 tokens."""
THREADS = 4
STACK_BYTES = 1 << 18


def data_bytes() -> int:
    """Return the private writable memory of this process, which RLIMIT_DATA counts."""
    for line in Path('/proc/self/status').read_text(encoding='ascii').splitlines():
        if line.startswith('VmData:'):
            return int(line.split()[1]) * 1024
    raise OSError('/proc/self/status has no VmData')


def open_store(folder: Path, kind: str) -> AbstractContextManager[Store]:
    """Open the store in a folder, which its keys lie beside."""
    return Store.open(
        StorageSettings(root=folder / 'store'),
        writable=True,
        clock=lambda: 0,
        privacy=PrivacySettings(encrypt=kind == 'encrypted', key_dir=str(folder / 'keys')),
    )


def main(root: str, num_tokens: int, staging_mib: int, spare_mib: int, kind: str) -> None:
    geometry = Geometry(spec=SPEC, num_tokens=num_tokens)
    engine = ArrayEngine(geometry, np.float32)
    settings = ThawSettings(staging_mib=staging_mib, io_threads=THREADS)
    kernels = cast('KernelLoader', KernelLoader(Path(root)))  # not started: NumPy serves
    threading.stack_size(STACK_BYTES)  # or else the stacks of the threads are what is measured
    with open_store(Path(root), kind) as store:
        assert store.is_encrypted == (kind == 'encrypted')
        limit = data_bytes() + spare_mib * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        reached = thaw_window(store, engine, kernels, settings)
    print(reached[-1].stage)  # noqa: T201


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5])
