# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The freeze when the ignition goes off after a drive, by the length of the conversation.

During the drive `Manager.idle` writes chunks as they become full. Each round then says a little
more and freezes for good; a window that nothing was written of before is the other extreme.
Meanwhile another thread commits turns, which is what must not wait.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
import statistics
import tempfile
import threading
import time
from typing import TYPE_CHECKING

from cwm_ros.bench.dialogues import make_dialogue
from cwm_ros.bench.lengths import turn_counter
from cwm_ros.bench.thaw_reference import reference_lengths
from cwm_ros.kv import Role, Turn
from cwm_ros.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.config import Settings

SEED = 11
SPARE_TOKENS = 1024
"""Of the context, for what the rounds say."""
TURNS_AT_ONCE = 8
COMMIT_PAUSE_S = 0.002
TARGET_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeRow:
    """
    One length of conversation.

    Parameters
    ----------
    tokens
        Of the conversation.
    final_s, final_max_s, final_bytes
        The freeze after a drive whose full chunks were written behind: median and longest of the
        rounds [s], and the median of the bytes that the store wrote.
    final_cpu_s
        Median of the processor time in it, of all threads [s]: what it would take at least if
        nothing else ran, but for the drive.
    whole_s, whole_bytes
        The same of a window of which nothing is on disk.
    commit_s, commit_max_s, commits
        How long another thread took to commit a turn while that was written: median and longest
        [s], and how many it did.
    rounds
        How many.

    """

    tokens: int
    final_s: float
    final_max_s: float
    final_cpu_s: float
    final_bytes: int
    whole_s: float
    whole_bytes: int
    commit_s: float
    commit_max_s: float
    commits: int
    rounds: int


def measure_freeze(
    settings: Settings,
    folder: Path,
    *,
    rounds: int,
    lengths: Sequence[int] = (),
    note: Callable[[str], None] = lambda _: None,
) -> list[FreezeRow]:
    """
    Drive, freeze and measure.

    Parameters
    ----------
    settings
        Of model and codec; the store is one of this bench.
    folder
        On the drive to be measured.
    rounds
        How many final freezes at each length.
    lengths
        Of the conversations [tokens]; empty for 1K, 2K, 4K ... to the trained length.
    note
        Told what is being done.

    """
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as root:
        storage = replace(settings.storage, root=Path(root), quota_mib=4096)
        with Manager(replace(settings, storage=storage)) as manager:
            manager.warm_up()
            manager.kernels.wait()
            known = reference_lengths(manager.checkpoint.kv_spec.max_tokens)
            for length in lengths or known:
                note(f'driving for {length} tokens')
                rows.append(_measure(manager, length, rounds))
    return rows


def _measure(manager: Manager, length: int, rounds: int) -> FreezeRow:
    name = f'drive-{length}'
    count = turn_counter(manager.checkpoint)
    turns = make_dialogue(SEED, length - SPARE_TOKENS // 2, count).turns
    manager.create(name, turns[0].text)
    _drive(manager, turns[1:])
    durations, loads, sizes = [], [], []
    for number in range(rounds):
        _drive(manager, [Turn(role=Role.USER, text=f'We passed the bridge number {number}.')])
        began_cpu = time.process_time()
        seconds, num_bytes = _freeze(manager)
        durations.append(seconds)
        loads.append(time.process_time() - began_cpu)
        sizes.append(num_bytes)
    tokens = manager.session.num_tokens
    whole_s, whole_bytes, commits = _freeze_whole(manager, turns, f'whole-{length}')
    manager.leave()
    for window in (name, f'whole-{length}', 'beside'):
        manager.store.delete_window(window)
    return FreezeRow(
        tokens=tokens,
        final_s=statistics.median(durations),
        final_max_s=max(durations),
        final_cpu_s=statistics.median(loads),
        final_bytes=int(statistics.median(sizes)),
        whole_s=whole_s,
        whole_bytes=whole_bytes,
        commit_s=statistics.median(commits),
        commit_max_s=max(commits),
        commits=len(commits),
        rounds=rounds,
    )


def _drive(manager: Manager, turns: Sequence[Turn]) -> None:
    """Say turns with idle time between them."""
    for index in range(0, len(turns), TURNS_AT_ONCE):
        manager.add_turns(turns[index : index + TURNS_AT_ONCE])
        for _ in manager.idle():
            pass


def _freeze(manager: Manager) -> tuple[float, int]:
    """Return how long a final freeze takes [s] and what the store writes in it."""
    before = manager.store.storage().lifetime_bytes
    began = time.perf_counter()
    *_, last = manager.freeze()
    seconds = time.perf_counter() - began
    assert last.tokens_safe == last.tokens_total
    return seconds, manager.store.storage().lifetime_bytes - before


def _freeze_whole(
    manager: Manager, turns: Sequence[Turn], name: str
) -> tuple[float, int, list[float]]:
    """Freeze all at once, while another thread commits turns to a window of its own."""
    # Another first turn makes other tokens, so that no chunk is on the disk.
    manager.create(name, f'{turns[0].text} Be brief.')
    manager.add_turns(turns[1:])
    for _ in manager.catch_up():
        pass
    commits: list[float] = []
    is_over = threading.Event()

    def commit() -> None:
        while not is_over.is_set() or not commits:
            began = time.perf_counter()
            manager.store.commit_turns('beside', [Turn(role=Role.USER, text='Hello')])
            commits.append(time.perf_counter() - began)
            time.sleep(COMMIT_PAUSE_S)

    other = threading.Thread(target=commit)
    other.start()
    try:
        seconds, num_bytes = _freeze(manager)
    finally:
        is_over.set()
        other.join()
    return seconds, num_bytes, commits


def format_freeze(rows: Sequence[FreezeRow]) -> str:
    """Return the rows for a person."""
    names = (
        'tokens',
        'final ms',
        'longest',
        'CPU ms',
        'KiB',
        'all ms',
        'KiB',
        'commit ms',
        'longest',
    )
    widths = (7, 10, 9, 8, 7, 9, 8, 11, 9)
    lines = [''.join(f'{name:>{width}}' for name, width in zip(names, widths, strict=True))]
    lines += [
        f'{row.tokens:>7}{row.final_s * 1e3:>10.1f}{row.final_max_s * 1e3:>9.1f}'
        f'{row.final_cpu_s * 1e3:>8.1f}'
        f'{row.final_bytes / 1024:>7.0f}{row.whole_s * 1e3:>9.1f}{row.whole_bytes / 1024:>8.0f}'
        f'{row.commit_s * 1e3:>11.1f}{row.commit_max_s * 1e3:>9.1f}'
        for row in rows
    ]
    slowest = max(row.final_s for row in rows)
    verdict = 'met' if slowest < TARGET_S else 'missed'
    return '\n'.join(
        [*lines, f'target: final freeze < {TARGET_S * 1e3:.0f} ms at every length: {verdict}']
    )


def as_json(rows: Sequence[FreezeRow]) -> dict[str, object]:
    """Return the rows for ``--json``."""
    return {'rows': [asdict(row) for row in rows], 'target_s': TARGET_S}
