# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cuts scenarios at every operation, and starts the program again."""

from __future__ import annotations

from dataclasses import dataclass, field
import hashlib
import os
from pathlib import Path
import random
import shutil
import signal
import tempfile
import time
from typing import TYPE_CHECKING

from tests.powercut.disk import cuts_at, tree_after
from tests.powercut.door import Door
from tests.powercut.operations import Operation, read_tree, Trace, write_tree
from tests.powercut.promises import Note, Promises

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.powercut.scenarios import Scenario

TORN = 0.5


@dataclass(slots=True)
class Report:
    """
    What was cut, and what was not as promised afterwards.

    Parameters
    ----------
    scenario
        Its name.
    operations
        Changes of the drive that the scenario makes.
    states
        Different states of the drive in which the program was started again.
    kills
        Processes that were killed: before an operation, in the middle of a write, or at random.
    broken
        Sentences about promises that were not kept.

    """

    scenario: str
    operations: int = 0
    states: int = 0
    kills: int = 0
    broken: list[str] = field(default_factory=list)


class Harness:
    """
    Runs one scenario.

    Parameters
    ----------
    scenario
        What is cut.
    folder
        Where stores are made; on the drive that is examined.

    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self._scenario = scenario
        self._folder = folder
        self._said_before: list[Note] = []
        self._root = folder / 'store'
        shutil.rmtree(self._root, ignore_errors=True)
        scenario.prepare(self._root, self._said_before.append)
        self._before = read_tree(self._root)
        self.report = Report(scenario.name)

    def record(self) -> Trace:
        """Run the scenario to its end and return what it did."""
        self._reset(self._before)
        steps: list[Operation | Note] = []
        with Door(self._root, after=steps.append).watched():
            self._scenario.work(self._root, steps.append)
        self.report.operations = sum(isinstance(step, Operation) for step in steps)
        return Trace(self._before, steps)

    def simulate(
        self, trace: Trace, *, every: int = 1, seed: int = 0, is_enough: bool = False
    ) -> None:
        """
        Start the program in the states that a drive may have at each (n-th) cut.

        It ends at the first broken promise when that `is_enough`.
        """
        chance = random.Random(seed)
        seen: set[tuple[str, bytes]] = set()
        positions = [i for i, step in enumerate(trace.steps) if isinstance(step, Operation)]
        for position in ([*positions, len(trace.steps)])[::-every]:
            notes = [step for step in trace.steps[:position] if isinstance(step, Note)]
            promises = Promises.of(self._said_before + notes)
            for cut in cuts_at(trace, position, chance):
                tree = tree_after(trace, cut)
                digest = (repr(promises), _digest(tree))
                if digest not in seen:
                    seen.add(digest)
                    self._reset(tree)
                    self._judge(promises, f'{cut}')
                if is_enough and self.report.broken:
                    return
        self.report.states += len(seen)

    def kill_everywhere(self, trace: Trace, *, every: int = 1) -> None:
        """Kill a process before each (n-th) operation, and in the middle of each write."""
        operations = [step for step in trace.steps if isinstance(step, Operation)]
        for number in range(0, len(operations), every):
            parts = (0.0, TORN) if operations[number].kind == 'write' else (0.0,)
            for part in parts:
                self._kill(lambda done, n=number, p=part: p if done == n else None)  # type: ignore[misc]

    def kill_at_random(self, count: int, *, longest_s: float, seed: int = 0) -> None:
        """Kill processes from outside, at any moment."""
        chance = random.Random(seed)
        for _ in range(count):
            self._kill(lambda _done: None, after_s=chance.uniform(0.0, longest_s))

    def _kill(self, stop: Callable[[int], float | None], *, after_s: float | None = None) -> None:
        self._reset(self._before)
        pid, pipe = self._start(stop)
        if after_s is not None:
            time.sleep(after_s)
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(pipe, encoding='ascii') as lines:
            notes = [Note.of(line) for line in lines if line.endswith('\n')]
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            self.report.broken.append(f'{self._scenario.name}: the program failed by itself')
        self.report.kills += 1
        self._judge(Promises.of(self._said_before + notes), f'killed after {len(notes)} notes')

    def _start(self, stop: Callable[[int], float | None]) -> tuple[int, int]:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writer)
            return pid, reader
        status = 1
        try:
            os.close(reader)
            done = iter(range(1 << 30))
            door = Door(self._root, before=lambda _operation: stop(next(done)))
            with door.watched():
                self._scenario.work(
                    self._root, lambda note: os.write(writer, note.line().encode())
                )
            status = 0
        finally:
            os._exit(status)

    def _reset(self, tree: dict[str, bytes | None]) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        write_tree(self._root, tree)

    def _judge(self, promises: Promises, where: str) -> None:
        try:
            found = self._scenario.judge(self._root, promises)
        except Exception as exc:  # noqa: BLE001 - it is what the harness looks for
            found = [f'{type(exc).__name__}: {exc}']
        self.report.broken += [f'{self._scenario.name}, {where}: {text}' for text in found]


def _digest(tree: dict[str, bytes | None]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, data in tree.items():
        digest.update(f'{name}\0{-1 if data is None else len(data)}\0'.encode())
        digest.update(data or b'')
    return digest.digest()


def cut_scenario(
    scenario: Scenario,
    folder: Path | None,
    *,
    state_every: int = 1,
    kill_every: int = 1,
    random_kills: int = 0,
) -> Report:
    """
    Cut a scenario at every operation, in the simulated drive and by killing processes.

    Parameters
    ----------
    scenario
        What is cut.
    folder
        Where; None for a folder in memory, where there is one.
    state_every, kill_every
        Look at the states at each n-th operation only; kill at each n-th only; 0 for never.
    random_kills
        Processes killed at any moment on top.

    """
    with _folder(folder) as name:
        harness = Harness(scenario, Path(name))
        began = time.monotonic()
        trace = harness.record()
        took_s = time.monotonic() - began
        if state_every:
            harness.simulate(trace, every=state_every)
        if kill_every:
            harness.kill_everywhere(trace, every=kill_every)
        harness.kill_at_random(random_kills, longest_s=1.5 * took_s)
        return harness.report


def _folder(folder: Path | None) -> tempfile.TemporaryDirectory[str]:
    shared = Path('/dev/shm')  # noqa: S108 - the folder made in it is our own
    if folder is None and shared.is_dir():
        folder = shared
    return tempfile.TemporaryDirectory(prefix='powercut-', dir=folder)
