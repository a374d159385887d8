# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the ROS node costs: its start, its memory, its idling, and what it adds to an answer.

Node and client are processes of their own, as in a vehicle. The library, with which answers are
compared, is in the bench's process, holds the same conversation and takes turns with the node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
import statistics
import tempfile
import time
from typing import TYPE_CHECKING
import uuid

from cwm_ros.answer import Answer, Delta, Request
from cwm_ros.bench.node_process import check_ros, ClientProcess, NodeProcess
from cwm_ros.bench.tables import describe_machine, Target
from cwm_ros.bench.thaw_reference import write_window
from cwm_ros.manager import Manager
from cwm_ros.sentences import SentenceCutter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.config import Settings

MIB = 1 << 20
FLOAT_BYTES = 4
STAGES = ('answers', 'configured', 'active', 'loaded', 'usable', 'complete', 'ended')
DOORS = {'topic, first sentence': 'prompt', 'action, first token': 'generate'}
IDLE_S = 10.0
SETTLE_S = 2.0
"""Compiled kernels are loaded by then, and idle work is done."""
PAUSE_S = 0.3
"""Between two answers, so that neither side's idle work is in the other's way."""
PROMPTS = ('Hello.', 'Thank you.', "What's the code for the gate?", 'How are you?')
SAME_STORES = 2
ABOVE_MIB, ALL_MIB, IDLE_PERCENT, OVERHEAD_MS = 250, 500, 1.0, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """
    What was measured.

    Parameters
    ----------
    machine
        Where.
    tokens
        Of the window.
    starts_s
        For each of `STAGES` the times of all starts, from the start of the process [s]; 'ended'
        from SIGTERM to its end.
    resident
        Memory at each stage, the last start's [bytes].
    weights, cache
        What of it is the model's, and the KV cache's [bytes].
    idle
        Part of one core while nothing is asked.
    answers_s
        By door and side ('node' or 'library'), the time from the prompt to what the door's name
        says [s].

    """

    machine: dict[str, str]
    tokens: int
    starts_s: dict[str, list[float]]
    resident: dict[str, int]
    weights: int
    cache: int
    idle: float
    answers_s: dict[str, dict[str, list[float]]]

    @property
    def above(self) -> int:
        """Memory that is neither model nor cache, at the most [bytes]."""
        return max(self.resident.values()) - self.weights - self.cache

    def overhead_s(self, door: str) -> float:
        """Return how much later the median answer comes through a door than in the library [s]."""
        sides = self.answers_s[door]
        return statistics.median(sides['node']) - statistics.median(sides['library'])

    @property
    def targets(self) -> tuple[Target, ...]:
        """What was promised."""
        most = max(self.resident.values())
        costs = (
            ('memory above model and cache [MiB]', self.above / MIB, ABOVE_MIB),
            ('memory in all [MiB]', most / MIB, ALL_MIB),
            ('idle [% of a core]', 100 * self.idle, IDLE_PERCENT),
            *(
                (f'{door}: later than the library [ms]', 1e3 * self.overhead_s(door), OVERHEAD_MS)
                for door in self.answers_s
            ),
        )
        return tuple(Target(name=name, measured=value, limit=top) for name, value, top in costs)

    def as_json(self) -> dict[str, object]:
        """Return all of it for ``--json``."""
        rows = [
            {'case': f'{door}, {side}', **_summary(times)}
            for door, sides in self.answers_s.items()
            for side, times in sides.items()
        ]
        rows += [{'case': stage, **_summary(times)} for stage, times in self.starts_s.items()]
        return {
            'machine': self.machine,
            'tokens': self.tokens,
            'rows': rows,
            'resident_bytes': self.resident,
            'weights_bytes': self.weights,
            'cache_bytes': self.cache,
            'idle': self.idle,
            'targets': [
                {
                    'name': target.name,
                    'measured': target.measured,
                    'limit': target.limit,
                    'is_met': target.is_met,
                }
                for target in self.targets
            ],
        }

    def as_text(self) -> str:
        """Return tables for a person."""
        lines = [', '.join(self.machine.values()), f'a window of {self.tokens} tokens', '']
        lines += [
            '| from the start of the process [ms] | median | min | max |',
            '|---|---|---|---|',
        ]
        lines += [_line(stage, times) for stage, times in self.starts_s.items()]
        lines += ['', '| resident [MiB] | |', '|---|---|']
        lines += [f'| {stage} | {size / MIB:.0f} |' for stage, size in self.resident.items()]
        lines += [f'| of that, weights | {self.weights / MIB:.0f} |']
        lines += [f'| of that, KV cache | {self.cache / MIB:.0f} |']
        lines += ['', '| from the prompt [ms] | median | min | max |', '|---|---|---|---|']
        lines += [
            _line(f'{door}, {side}', times)
            for door, sides in self.answers_s.items()
            for side, times in sides.items()
        ]
        return '\n'.join([*lines, '', *map(str, self.targets)])


def _summary(times: Sequence[float]) -> dict[str, float]:
    return {
        'median_s': statistics.median(times),
        'min_s': min(times),
        'max_s': max(times),
        'runs': len(times),
    }


def _line(name: str, times: Sequence[float]) -> str:
    figures = (statistics.median(times), min(times), max(times))
    return f'| {name} | ' + ' | '.join(f'{1e3 * value:.1f}' for value in figures) + ' |'


def bench_node(
    settings: Settings,
    folder: Path,
    *,
    tokens: int,
    starts: int,
    rounds: int,
    note: Callable[[str], None] = lambda _: None,
) -> NodeReport:
    """
    Start the node some times; measure its memory, its idling and its answers in the last start.

    Parameters
    ----------
    settings
        Of model, codec and all; the stores are those of this bench.
    folder
        On the drive to be measured.
    tokens
        Most tokens of the window.
    starts, rounds
        How often it is started, and how many answers of each kind.
    note
        Told what is being done.

    Raises
    ------
    ConfigError
        ROS 2 or the messages are not there.
    EngineError
        A process failed.

    """
    check_ros()
    machine = describe_machine(folder)
    with tempfile.TemporaryDirectory(dir=folder) as root:
        window = settings.assistant.window
        stores = [_with_store(settings, Path(root) / f'store{n}') for n in range(SAME_STORES)]
        for store in stores:
            note('writing the window')
            _write(store, window, tokens)
        mine, library = stores
        note('opening the library')
        with Manager(library) as manager:
            _open(manager, window)
            num_tokens = manager.session.num_tokens
            bench = _Bench(mine, Path(root), manager)
            for number in range(starts - 1):
                note(f'start {number + 1} of {starts}')
                bench.start()
            note(f'start {starts} of {starts}, memory, idling and {rounds} rounds of answers')
            bench.start(rounds)
            weights = manager.checkpoint.folder.glob('*.safetensors')
            elements = manager.engine.reach * manager.engine.spec.elements_per_token()
            return NodeReport(
                machine=machine,
                tokens=num_tokens,
                starts_s=bench.starts_s,
                resident=bench.resident,
                weights=sum(file.stat().st_size for file in weights),
                cache=elements * FLOAT_BYTES,
                idle=bench.idle,
                answers_s=bench.answers_s,
            )


def _with_store(settings: Settings, root: Path) -> Settings:
    storage = replace(settings.storage, root=root, quota_mib=4096)
    assistant = replace(settings.assistant, auto_thaw=True)
    return replace(settings, storage=storage, assistant=assistant)


def _write(settings: Settings, window: str, tokens: int) -> None:
    with Manager(settings) as manager:
        manager.warm_up()
        manager.kernels.wait()  # and leaves them in the cache, for the node
        write_window(manager, window, tokens)


def _open(manager: Manager, window: str) -> None:
    manager.warm_up()
    manager.kernels.wait()
    thaw = manager.open_window(window)
    while thaw.advance(wait=True):
        pass
    _settle(manager)


def _settle(manager: Manager) -> None:
    """Do what the node does between two prompts."""
    for _ in manager.idle():
        pass


class _Bench:
    """The node's side and the library's, and what was measured of both."""

    def __init__(self, settings: Settings, folder: Path, manager: Manager) -> None:
        self._settings = settings
        self._log = folder / 'node.log'
        self._manager = manager
        self.starts_s: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.resident: dict[str, int] = {}
        self.idle = 0.0
        self.answers_s: dict[str, dict[str, list[float]]] = {
            door: {'node': [], 'library': []} for door in DOORS
        }

    def start(self, rounds: int = 0) -> None:
        """Start the node until its window is complete; with rounds, measure everything else."""
        name = f'cwm_bench_{uuid.uuid4().hex[:8]}'
        with (
            ClientProcess(f'/{name}') as client,
            NodeProcess(self._settings, name, self._log) as node,
        ):
            reached = {'answers': client.do('meet')['at_s']}
            self.resident['unconfigured'] = node.resident_bytes
            reached['configured'] = client.do('change', transition='configure')['at_s']
            reached['active'] = client.do('change', transition='activate')['at_s']
            seen = client.do('bring_back')
            for stage in ('loaded', 'usable', 'complete'):
                reached[stage] = seen[f'{stage}_s']
            for stage, at_s in reached.items():
                self.starts_s[stage].append(at_s - node.began_s)
            client.do('rest', seconds=SETTLE_S)
            self.resident['window complete'] = node.resident_bytes
            if rounds:
                self.idle = self._measure_idle(node, client)
                self._measure_answers(client, rounds)
                self.resident['after the answers'] = node.resident_bytes
            self.starts_s['ended'].append(node.end())

    def _measure_idle(self, node: NodeProcess, client: ClientProcess) -> float:
        before_s, began_s = node.cpu_s, time.monotonic()
        client.do('rest', seconds=IDLE_S)
        return (node.cpu_s - before_s) / (time.monotonic() - began_s)

    def _measure_answers(self, client: ClientProcess, rounds: int) -> None:
        for number in range(-1, rounds):  # the first one finds everything new
            text = PROMPTS[number % len(PROMPTS)]
            for door, command in DOORS.items():
                seen = client.do(command, text=text)
                client.do('rest', seconds=PAUSE_S)
                first_s, first_sentence_s = self._say(text)
                time.sleep(PAUSE_S)
                if number < 0:
                    continue
                what = 'first_sentence_s' if command == 'prompt' else 'first_token_s'
                sides = self.answers_s[door]
                sides['node'].append(seen[what] - seen['began_s'])
                sides['library'].append(first_sentence_s if command == 'prompt' else first_s)

    def _say(self, text: str) -> tuple[float, float]:
        """Answer in the library; return when its first piece and first sentence came [s]."""
        cutter, first_s, sentence_s = SentenceCutter(), 0.0, 0.0
        began_s = time.monotonic()
        for event in self._manager.say(Request(text=text)):
            now_s = time.monotonic() - began_s
            if isinstance(event, Delta):
                first_s = first_s or now_s
                if cutter.push(event.text):
                    sentence_s = sentence_s or now_s
            elif isinstance(event, Answer):
                sentence_s = sentence_s or now_s  # what is left is the last sentence
        _settle(self._manager)
        return first_s, sentence_s
