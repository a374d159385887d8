# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What a drive may hold after the power went.

The model: ``sync`` makes a file's bytes durable, ``sync_folder`` the names in a folder. Of what
was done since, each write and each name may be there or not, in any combination; a write may be
there in part, by sectors, and where its rest is not, a file that has grown holds zeros. A rename
is there or not as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
import os
import random
from typing import TYPE_CHECKING

from tests.powercut.operations import Operation, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECTOR_BYTES = 512
ALONE = 3
"""How many of the last pending operations are lost alone, and kept alone."""
DRAWN = 2
"""Combinations drawn at random for each cut."""

Tree = dict[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Cut:
    """
    A state in which a drive may be found.

    Parameters
    ----------
    position
        Number of the trace's steps before the cut.
    fates
        Of operations that were not durable, by position: the part that is there, from 0 to 1.
        Those not named are there.

    """

    position: int
    fates: Mapping[int, float]


def pending(trace: Trace, position: int) -> list[int]:
    """Return the operations before ``position`` that are not durable."""
    needed: dict[int, set[int | str]] = {}
    for index, step in enumerate(trace.steps[:position]):
        if isinstance(step, Operation):
            if step.kind in ('sync', 'sync_folder'):
                synced = step.file if step.kind == 'sync' else step.path
                for needs in needed.values():
                    needs.discard(synced)
            else:
                needed[index] = _needs(step)
    return [index for index, needs in needed.items() if needs]


def _needs(step: Operation) -> set[int | str]:
    """Return what must be synced: the file, or all folders whose names change."""
    if step.kind in ('write', 'truncate'):
        return {step.file}
    return {os.path.dirname(path) for path in (step.path, step.target) if path}  # noqa: PTH120


def cuts_at(trace: Trace, position: int, chance: random.Random) -> Iterator[Cut]:
    """Return states in which the drive may be found when the power goes before a step."""
    open_ones = pending(trace, position)
    yield Cut(position, {})
    yield Cut(position, dict.fromkeys(open_ones, 0.0))
    for index in open_ones[-ALONE:]:
        yield Cut(position, {index: 0.0})
        yield Cut(position, {other: 0.0 for other in open_ones if other != index})
        step = trace.steps[index]
        if isinstance(step, Operation) and step.kind == 'write':
            yield Cut(position, {index: chance.choice((0.1, 0.3))})
            yield Cut(position, {index: chance.choice((0.5, 0.9))})
    for _ in range(DRAWN if len(open_ones) > 1 else 0):
        yield Cut(position, {i: chance.choice((0.0, 0.0, 0.5, 1.0)) for i in open_ones})


def tree_after(trace: Trace, cut: Cut) -> Tree:
    """Return what is on the drive after a cut."""
    names: dict[str, int | None] = {}
    content: dict[int, bytearray] = {}
    for number, (path, data) in enumerate(trace.before.items(), start=1):
        names[path] = None if data is None else number
        content[number] = bytearray(data or b'')
    for index, step in enumerate(trace.steps[: cut.position]):
        if isinstance(step, Operation):
            part = cut.fates.get(index, 1.0)
            if step.kind in ('write', 'truncate'):
                _change_data(content.setdefault(step.file, bytearray()), step, part, index)
            elif part > 0:
                _change_name(names, step)
    tree: Tree = {}
    for path, file in sorted(names.items()):
        parent = os.path.dirname(path)  # noqa: PTH120
        if not parent or parent in tree:
            tree[path] = None if file is None else bytes(content.get(file, b''))
    return tree


def _change_data(content: bytearray, step: Operation, part: float, seed: int) -> None:
    if step.kind == 'truncate':
        if part > 0:
            del content[step.offset :]
            content.extend(bytes(step.offset - len(content)))
        return
    size = len(step.data)
    if part <= 0:
        return
    end = step.offset + size
    if part < 0.4:  # the beginning alone, to the byte
        size = int(size * part)
        end = step.offset + size
    content.extend(bytes(max(0, end - len(content))))
    chance = random.Random(seed)
    for start in range(0, size, SECTOR_BYTES):
        stop = min(start + SECTOR_BYTES, size)
        if part < 0.4 or part == 1.0 or chance.random() < part:
            content[step.offset + start : step.offset + stop] = step.data[start:stop]


def _change_name(names: dict[str, int | None], step: Operation) -> None:
    if step.kind == 'create':
        names[step.path] = step.file
    elif step.kind == 'mkdir':
        names.setdefault(step.path, None)
    elif step.kind in ('unlink', 'rmdir'):
        names.pop(step.path, None)
    elif step.kind == 'rename':
        names.pop(step.path, None)
        names[step.target] = step.file
