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
MANY = 1000


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
        Most runs in a state, for what takes long and so is not run before a warm run either.

    """

    case: str
    path: str
    run: Callable[[], Sequence[Reached]]
    files: Sequence[Path] = ()
    states: tuple[str, ...] = (COLD, WARM)
    max_runs: int = MANY + 1


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
    """
    Let each contestant of a case run once a round in each of its states; return the rows.

    A warm run comes right after another of the same contestant, so that not only its files but
    also its memory is at hand, as far as the system keeps it.
    """
    durations: dict[tuple[str, str, str, str], list[float]] = {}
    num_bytes: dict[tuple[str, str, str, str], int] = {}
    for case in dict.fromkeys(contestant.case for contestant in contestants):
        note(f'{case}: {rounds} rounds')
        turns = [
            (contestant, state)
            for number in range(rounds)
            for state in (COLD, WARM)
            for contestant in contestants
            if contestant.case == case
            and state in contestant.states
            and number < contestant.max_runs
        ]
        for contestant, state in turns:
            for reached in _run(contestant, state):
                key = (case, contestant.path, state, reached.stage)
                durations.setdefault(key, []).append(reached.seconds)
                num_bytes[key] = reached.num_bytes
    return [Row.of(key, durations[key], num_bytes[key]) for key in durations]


def _run(contestant: Contestant, state: str) -> Sequence[Reached]:
    # The collector would run within somebody's time, and it is not the subject.
    gc.collect()
    if state == COLD:
        drop_cache([(file, 0) for file in contestant.files])
    elif contestant.max_runs > MANY:
        contestant.run()
    gc.disable()
    try:
        return contestant.run()
    finally:
        gc.enable()
