# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Contestants take turns, cold and warm, so that a slow moment of the machine meets all."""

from __future__ import annotations

from dataclasses import dataclass
import gc
import time
from typing import NamedTuple, TYPE_CHECKING

from cwm_ros.bench.chunk_files import drop_cache
from cwm_ros.bench.tables import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

COLD, WARM = 'cold', 'warm'


class Reached(NamedTuple):
    """A stage, when it was reached [s], and how many bytes had been read or copied."""

    stage: str
    seconds: float
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """
    One way to do what a case asks.

    Parameters
    ----------
    case, path
        As in `cwm_ros.bench.tables.Row`.
    run
        Does it once and says what was reached when.
    files
        What it reads: their pages are dropped before a cold run.
    states
        In which it can run.
    max_runs
        Most runs in a state, for what takes long.

    """

    case: str
    path: str
    run: Callable[[], Sequence[Reached]]
    files: Sequence[Path] = ()
    states: tuple[str, ...] = (COLD, WARM)
    max_runs: int = 1_000_000


def complete_after(work: Callable[[], object], num_bytes: int) -> Callable[[], list[Reached]]:
    """Return a contestant's run for work that has no stages."""

    def run() -> list[Reached]:
        began = time.perf_counter()
        kept = work()
        seconds = time.perf_counter() - began
        del kept
        return [Reached('complete', seconds, num_bytes)]

    return run


def hold_contest(
    contestants: Sequence[Contestant], rounds: int, note: Callable[[str], None]
) -> list[Row]:
    """Let each contestant run once a round in each of its states; return the rows."""
    durations: dict[tuple[str, str, str, str], list[float]] = {}
    num_bytes: dict[tuple[str, str, str, str], int] = {}
    for number in range(rounds):
        note(f'round {number + 1} of {rounds}')
        for state in (COLD, WARM):
            for contestant in contestants:
                if state not in contestant.states or number >= contestant.max_runs:
                    continue
                for reached in _run(contestant, state):
                    key = (contestant.case, contestant.path, state, reached.stage)
                    durations.setdefault(key, []).append(reached.seconds)
                    num_bytes[key] = reached.num_bytes
    keys = sorted(durations, key=lambda key: [c.case for c in contestants].index(key[0]))
    return [Row.of(key, durations[key], num_bytes[key]) for key in keys]


def _run(contestant: Contestant, state: str) -> Sequence[Reached]:
    # The collector would run within somebody's time, and it is not the subject.
    gc.collect()
    if state == COLD:
        drop_cache([(file, 0) for file in contestant.files])
    gc.disable()
    try:
        return contestant.run()
    finally:
        gc.enable()
