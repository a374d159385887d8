# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a program does to a drive, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.powercut.promises import Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    One change of the drive.

    Parameters
    ----------
    kind
        'create', 'write', 'truncate', 'sync', 'sync_folder', 'rename', 'unlink', 'mkdir' or
        'rmdir'.
    path
        What is changed, below the store's folder.
    file
        Number of the file, which stays when it gets another name; 0 for folders.
    offset, data
        Of a write; ``offset`` is the new size of a truncate.
    target
        New name of a rename.

    """

    kind: str
    path: str
    file: int = 0
    offset: int = 0
    data: bytes = b''
    target: str = ''


@dataclass(frozen=True, slots=True)
class Trace:
    """
    What a program did, in order, and on what.

    Parameters
    ----------
    before
        Content by path below the store's folder, durable when the program began; None for a
        folder.
    steps
        Operations, and between them what the program said about them.

    """

    before: dict[str, bytes | None]
    steps: list[Operation | Note]


def read_tree(root: Path) -> dict[str, bytes | None]:
    """Return what is below a folder: bytes of files, None for folders."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob('*'))
    }


def write_tree(root: Path, tree: dict[str, bytes | None]) -> None:
    """Make what `read_tree` returned."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in sorted(tree.items()):
        if data is None:
            (root / name).mkdir(mode=0o700, exist_ok=True)
        elif (root / name).parent.is_dir():
            (root / name).write_bytes(data)
            (root / name).chmod(0o600)  # a key that others may read is not used
