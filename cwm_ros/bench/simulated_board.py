# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A board in imagined time: the real thaw on a drive, cores and an engine of any speed.

The physics here knows nothing of the planner's: requests have a latency and share the drive's
bandwidth, decoding threads and an engine on the same cores share the cores, and an engine pays
for each slice and for each position that a token attends to.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.config import ThawSettings
from cwm_ros.engine import Engine, LogitRows
from cwm_ros.engine.cache import slots_for
from cwm_ros.errors import EngineError
from cwm_ros.kv import ChunkId, KVSpec, ModelIdentity, TokenRanges
from cwm_ros.rates import LoadMeter, RateBook
from cwm_ros.readahead import Arrival, ReadAhead
from cwm_ros.schedule import plan_thaw
from cwm_ros.session import Session
from cwm_ros.store import ChunkEntry
from cwm_ros.thaw import Thaw

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    import threading

    from cwm_ros.kv import FloatArray, TokenArray
    from cwm_ros.plan import ThawStep

SPEC = KVSpec(num_layers=1, num_kv_heads=1, head_dim=1, max_tokens=1 << 20)
IDENTITY = ModelIdentity(model=bytes(32), rendering=bytes(32), name='simulated')
CHUNK_TOKENS = 256
TURN_TOKENS = 48
MOMENT_S = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSpeed:
    """
    How fast a board is.

    Parameters
    ----------
    chunk_bytes
        Size of a chunk file.
    drive_bytes_per_s, latency_s
        Of the drive; the latency of a request passes beside others.
    decode_s
        Processor time for a chunk [s].
    slice_s, token_s, position_s
        What the engine takes for each slice of 256, each token, and each position that a token
        attends to, when it has all cores [s].
    cores
        Of the processor.
    is_shared
        Whether the engine computes on those cores.

    """

    chunk_bytes: int = 16 << 20
    drive_bytes_per_s: float = 1e9
    latency_s: float = 1e-4
    decode_s: float = 5e-3
    slice_s: float = 2e-3
    token_s: float = 1e-4
    position_s: float = 5e-9
    cores: int = 4
    is_shared: bool = False


@dataclass(slots=True, eq=False)
class _Load:
    step: ThawStep
    timer: AbstractContextManager[None]
    latency_s: float
    num_bytes: float
    cpu_s: float

    @property
    def is_done(self) -> bool:
        return self.cpu_s <= MOMENT_S and self.num_bytes <= 0.5


@dataclass(slots=True)
class SimulatedBoard:
    """
    Time, and what is going on in it.

    Parameters
    ----------
    speed
        How fast it is.
    num_decoders
        Most threads that decode at once.

    """

    speed: BoardSpeed
    num_decoders: int
    now_s: float = 0.0
    cpu_s: float = 0.0
    loads: deque[_Load] = field(default_factory=deque)

    def clock(self) -> float:
        """Return the time [s]."""
        return self.now_s

    def compute(self, num_tokens: int, reach: int) -> None:
        """Let the engine compute a slice, while loads go on."""
        speed = self.speed
        work_s = speed.slice_s + num_tokens * (speed.token_s + reach * speed.position_s)
        while work_s > MOMENT_S:
            share = self._share(is_computing=True)
            passed_s = self._pass(work_s / share, is_computing=True)
            work_s -= passed_s * share

    def wait_for(self, load: _Load) -> None:
        """Let time pass until a chunk is loaded."""
        while not load.is_done:
            self._pass(float('inf'), is_computing=False)

    def _decoding(self) -> list[_Load]:
        ready = [load for load in self.loads if load.num_bytes <= 0.5 and not load.is_done]
        return ready[: self.num_decoders]

    def _share(self, *, is_computing: bool) -> float:
        """Return which part of a core each thread that wants one has."""
        cores = self.speed.cores
        wanted = len(self._decoding()) + cores * (is_computing and self.speed.is_shared)
        return min(1.0, cores / max(wanted, 1))

    def _pass(self, limit_s: float, *, is_computing: bool) -> float:
        """Let time pass until something ends, at most ``limit_s``; return how much it was."""
        share = self._share(is_computing=is_computing)
        waiting = [load for load in self.loads if load.latency_s > MOMENT_S]
        reading = [x for x in self.loads if x.latency_s <= MOMENT_S and x.num_bytes > 0.5]
        rate = self.speed.drive_bytes_per_s / max(len(reading), 1)
        decoding = self._decoding()
        passed_s = min(
            [
                limit_s,
                *(load.latency_s for load in waiting),
                *(load.num_bytes / rate for load in reading),
                *(load.cpu_s / share for load in decoding),
            ]
        )
        self.now_s += passed_s
        for load in waiting:
            load.latency_s -= passed_s
        for load in reading:
            load.num_bytes -= passed_s * rate
        for load in decoding:
            load.cpu_s -= passed_s * share
            self.cpu_s += passed_s * share
            if load.is_done:
                load.timer.__exit__(None, None, None)
        return passed_s


class _Meter(LoadMeter):
    """Takes the processor time from the board: real threads do nothing."""

    def __init__(self, board: SimulatedBoard) -> None:
        super().__init__(board.clock)
        self._board = board

    def report(self, book: RateBook) -> None:
        self._cpu_s = self._board.cpu_s
        super().report(book)


class _ReadAhead(ReadAhead):
    """In imagined time, without threads; nothing is really loaded."""

    def __init__(self, board: SimulatedBoard, meter: LoadMeter, num_threads: int) -> None:
        self._board = board
        self._meter = meter
        self._num_threads = num_threads

    @property
    def is_paused(self) -> bool:
        """Never."""
        return False

    @property
    def starts(self) -> set[int]:
        """First positions of the steps in flight."""
        return {load.step.start for load in self._board.loads}

    @property
    def is_full(self) -> bool:
        """Whether no more may be sent."""
        return len(self._board.loads) >= self._num_threads

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in flight."""
        return not self._board.loads

    @property
    def has_arrival(self) -> bool:
        """Whether `take` would not wait."""
        return not self.is_empty and self._board.loads[0].is_done

    def send(self, step: ThawStep) -> None:
        """Have a step loaded."""
        speed = self._board.speed
        assert step.entry is not None
        timer = self._meter.loading(step.entry.file_bytes)
        timer.__enter__()
        load = _Load(step, timer, speed.latency_s, step.entry.file_bytes, speed.decode_s)
        self._board.loads.append(load)

    def take(self) -> Arrival:
        """Let time pass until what was sent first is there."""
        self._board.wait_for(self._board.loads[0])
        return Arrival(self._board.loads.popleft().step, None, is_postponed=False)

    def close(self) -> None:
        """Do nothing: there are no threads."""


class SimulatedEngine(Engine):
    """An engine that takes its time and computes nothing."""

    supports_kv = True
    spec, identity = SPEC, IDENTITY
    vocab_size = 1
    capacity = SPEC.max_tokens

    def __init__(self, board: SimulatedBoard) -> None:
        self._board = board
        self._slots = slots_for(0)
        self.resident = TokenRanges()

    @property
    def reach(self) -> int:
        return self._slots

    def run(
        self,
        tokens: TokenArray,
        start: int,
        *,
        rows: LogitRows = LogitRows.LAST,
        cancel: threading.Event | None = None,
    ) -> FloatArray:
        del rows, cancel
        for left in range(start, start + len(tokens), CHUNK_TOKENS):
            right = min(left + CHUNK_TOKENS, start + len(tokens))
            self.reserve(right)
            self._board.compute(right - left, self._slots)
        self.resident.add(start, start + len(tokens))
        return np.zeros((0, self.vocab_size), np.float32)

    def reserve(self, num_tokens: int) -> None:
        self._slots = max(self._slots, slots_for(num_tokens))

    def drop(self, start: int, stop: int) -> None:
        self.resident.remove(start, stop)

    def mark_resident(self, start: int, stop: int) -> None:
        self.resident.add(start, stop)

    def reset(self) -> None:
        raise EngineError('a simulated engine is used once')

    def close(self) -> None:
        pass


class _Wordless:
    """Stands for a chat template where nobody speaks."""

    @staticmethod
    def closing() -> TokenArray:
        return np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """
    How a thaw went.

    Parameters
    ----------
    usable_s, complete_s
        When the window was so [s].
    reused_tokens, recomputed_tokens
        As of the thaw.
    cpu_s
        Processor time of loading [s].

    """

    usable_s: float
    complete_s: float
    reused_tokens: int
    recomputed_tokens: int
    cpu_s: float


def make_entries(num_tokens: int, chunk_bytes: int) -> list[ChunkEntry]:
    """Return the chunk table of a window."""
    spans = ((a, min(a + CHUNK_TOKENS, num_tokens)) for a in range(0, num_tokens, CHUNK_TOKENS))
    return [
        ChunkEntry(
            id=ChunkId(start.to_bytes(16, 'little')),
            start=start,
            stop=stop,
            codec='int8',
            payload_bytes=chunk_bytes * (stop - start) // CHUNK_TOKENS,
            file_bytes=chunk_bytes * (stop - start) // CHUNK_TOKENS,
        )
        for start, stop in spans
    ]


def simulate_thaw(
    speed: BoardSpeed, num_tokens: int, strategy: str, book: RateBook | None = None
) -> Simulated:
    """
    Thaw a window on a simulated board.

    Parameters
    ----------
    speed
        Of the board.
    num_tokens
        Length of the window.
    strategy
        'auto', 'load' or 'recompute'.
    book
        What is known of the board; it learns from this thaw. See `new_book`.

    """
    settings = ThawSettings(io_threads=max(1, speed.cores // 2), strategy=strategy)
    board = SimulatedBoard(speed, settings.num_threads)
    meter = _Meter(board)
    book = book or new_book(speed)
    session = _session_on(board, num_tokens, book)
    plan = plan_thaw(
        make_entries(num_tokens, speed.chunk_bytes),
        num_tokens=num_tokens,
        chunk_tokens=CHUNK_TOKENS,
        turn_stops=session.turn_stops,
        settings=settings,
        rates=book.rates,
        reach=slots_for(num_tokens),
    )
    with Thaw(
        session,
        plan.steps,
        lambda step: None,  # noqa: ARG005
        chunk_tokens=CHUNK_TOKENS,
        max_in_flight=2 * settings.num_threads,
        clock=board.clock,
        began=0.0,
        book=book,
        strategy=strategy,
        meter=meter,
        make_ahead=lambda load, count: _ReadAhead(board, meter, count),  # noqa: ARG005
    ) as thaw:
        return _follow(thaw, board)


def _session_on(board: SimulatedBoard, num_tokens: int, book: RateBook) -> Session:
    """Return the session of a window, nothing of it resident, whose prefills the book sees."""
    engine = SimulatedEngine(board)
    session = Session(
        engine,
        _Wordless(),  # type: ignore[arg-type]
        frozenset(),
        tokens=np.zeros(num_tokens, np.int32),
        turn_stops=[*range(TURN_TOKENS, num_tokens, TURN_TOKENS), num_tokens],
    )
    session.timing = lambda count: book.computing(engine, count, board.clock)
    return session


def _follow(thaw: Thaw, board: SimulatedBoard) -> Simulated:
    """Advance a thaw to its end and say how it went."""
    usable_s = 0.0
    while not thaw.progress().is_usable:
        thaw.advance(wait=True)
        usable_s = board.now_s
    while thaw.advance(wait=True):
        pass
    progress = thaw.progress()
    if not progress.is_complete:
        raise EngineError(f'the thaw stopped early: {progress}')
    return Simulated(
        usable_s=usable_s,
        complete_s=board.now_s,
        reused_tokens=progress.reused_tokens,
        recomputed_tokens=progress.recomputed_tokens,
        cpu_s=board.cpu_s,
    )


def new_book(speed: BoardSpeed) -> RateBook:
    """Return a book that knows nothing yet of a board."""
    return RateBook(shared_cores=speed.cores if speed.is_shared else 0)


def learned_book(speed: BoardSpeed, num_tokens: int) -> RateBook:
    """Return what a board has shown when a window has grown, was frozen, and has come back."""
    book, board = new_book(speed), SimulatedBoard(speed, 1)
    engine = SimulatedEngine(board)
    for start in range(0, num_tokens, CHUNK_TOKENS):
        engine.reserve(start + CHUNK_TOKENS)
        with book.computing(engine, CHUNK_TOKENS, board.clock):
            engine.run(np.zeros(CHUNK_TOKENS, np.int32), start)
    simulate_thaw(speed, num_tokens, 'load', book)
    return book
