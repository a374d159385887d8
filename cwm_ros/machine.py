# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which board, drive, engine and model figures belong to: what names the file that keeps them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cwm_ros.config import Settings

CPUINFO_LETTERS = 4096


def rate_file(settings: Settings, model: bytes) -> Path:
    """
    Return the file that keeps the rates of this board, drive, engine and model.

    Parameters
    ----------
    settings
        Where the store is, and what changes an engine's speed.
    model
        `ModelIdentity.model`.

    """
    engine = settings.engine
    runtime = f'{engine.kind} {engine.formulation} {engine.threads} {engine.prefill_slice}'
    drive = describe_drive(settings.storage.root)
    parts = [describe_board(), drive, runtime, str(settings.thaw.num_threads), model.hex()]
    digest = hashlib.blake2b('\n'.join(parts).encode('utf-8', 'replace'), digest_size=12)
    return engine.cache_path / 'rates' / f'{digest.hexdigest()}.json'


def describe_board() -> str:
    """Return words that change when the board does."""
    tree = _first_line(Path('/proc/device-tree/model'))
    return f'{tree} {platform.machine()} {_processor()} {os.cpu_count()}'


def _processor() -> str:
    try:
        with Path('/proc/cpuinfo').open(encoding='utf-8', errors='replace') as file:
            lines = file.read(CPUINFO_LETTERS).splitlines()
    except OSError:
        return ''
    return next((line for line in lines if line.startswith('model name')), '')


def describe_drive(folder: Path) -> str:
    """Return words that change when a folder comes to lie on another drive."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    number = folder.stat().st_dev
    device = Path(f'/sys/dev/block/{os.major(number)}:{os.minor(number)}').resolve()
    facts = [_first_line(device / name) for name in ('size', 'device/model', '../device/model')]
    return ' '.join([device.name, *facts])


def _first_line(path: Path) -> str:
    try:
        return path.read_bytes()[:200].decode('utf-8', 'replace').strip('\0\n ')
    except OSError:
        return ''
