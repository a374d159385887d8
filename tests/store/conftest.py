# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ram_path(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder in memory where there is one: syncs cost nothing there."""
    shared = Path('/dev/shm')  # noqa: S108 - the folder made in it is our own
    if not shared.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)
