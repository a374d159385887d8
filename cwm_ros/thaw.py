# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Bring a window back into a session, what matters most first.

Threads read and decode chunks straight into positions of the engine's cache that are still
masked; the engine's own thread makes them resident, one at each `Thaw.advance`, between the
tokens of an answer if it likes. What cannot be loaded is computed from its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import logging
import math
from typing import TYPE_CHECKING

from cwm_ros.balance import Balance
from cwm_ros.config import LOSSLESS_CODEC
from cwm_ros.engine import LogitRows
from cwm_ros.engine.cache import slots_for
from cwm_ros.errors import (
    FormatError,
    FormatTooNewError,
    IdentityError,
    NotFoundError,
    StorageError,
)
from cwm_ros.progress import ThawProgress
from cwm_ros.rates import LoadMeter, RateBook, UNKNOWN
from cwm_ros.readahead import check_cancelled, ReadAhead
from cwm_ros.schedule import AUTO, LOAD, remaining_s
from cwm_ros.session import REPAIR_SLICE
from cwm_ros.verdict import Judge, ThawResult
from cwm_ros.wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from threading import Event
    from types import TracebackType

    from typing_extensions import Self

    from cwm_ros.errors import CwmError
    from cwm_ros.plan import ThawStep
    from cwm_ros.probe import EndProbe
    from cwm_ros.rates import Rates
    from cwm_ros.session import Session
    from cwm_ros.store import ChunkEntry
    from cwm_ros.wanted import Closeness

    LoadChunk = Callable[[ThawStep], None]

TRUSTED_CHUNKS = 4
"""After so many chunks a thaw's own rate of loading counts as much as what was known before."""

SLOW_LOAD_S = 0.015
"""From here on a drive is not kept busier than with what is waited for [s]."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counts:
    bytes_loaded: int = 0
    reused_tokens: int = 0
    recomputed_tokens: int = 0
    kept_tokens: int = 0
    warnings: list[str] = field(default_factory=list)


class Thaw:
    """
    A window on its way into a session; a context manager that ends what is in flight.

    Parameters
    ----------
    session
        Holds the window's tokens; `advance` is called from its thread.
    steps
        What to do, from `cwm_ros.schedule.plan_thaw`.
    load
        Reads, verifies and decodes one chunk into the engine's cache; called from as many other
        threads as chunks may be in flight.
    max_in_flight
        Most chunks that are read and decoded at once; more than decode, so that the drive is busy.
    chunk_tokens
        Length of a chunk [tokens].
    clock
        Steady clock [s].
    began
        When the thaw was asked for, on that clock [s].
    book
        What is known of the board; it is told what this thaw shows.
    strategy
        'auto' also computes chunks that could be loaded, where that is sooner.
    probe
        Tells at the end whether the restore had its effect.
    unfit
        Why none of the window's chunks fit, for people; empty if some do, or it has none.
    meter, make_ahead
        Time the loads, and do them, when the time is not the clock on the wall.

    Attributes
    ----------
    damaged
        Chunks whose files must not be used again.

    """

    def __init__(
        self,
        session: Session,
        steps: Sequence[ThawStep],
        load: LoadChunk,
        *,
        chunk_tokens: int,
        max_in_flight: int,
        clock: Callable[[], float],
        began: float,
        book: RateBook | None = None,
        strategy: str = LOAD,
        probe: EndProbe | None = None,
        unfit: str = '',
        meter: LoadMeter | None = None,
        make_ahead: Callable[[LoadChunk, int], ReadAhead] = ReadAhead,
    ) -> None:
        self.session = session
        self.damaged: list[ChunkEntry] = []
        self.num_tokens = max((step.stop for step in steps), default=0)
        self._counts = _Counts()
        self._chunk_tokens = chunk_tokens
        self._clock = clock
        self._began = began
        codecs = (step.entry.codec for step in steps if step.entry)
        self._judge = Judge(probe, codecs, unfit)
        self._wanted = Wanted(steps, chunk_tokens)
        self._load = load
        self._book = book or RateBook()
        sizes = (step.entry.file_bytes for step in steps if step.entry)
        self._trust_bytes = TRUSTED_CHUNKS * max(sizes, default=0)
        self._is_mixed = strategy == AUTO
        self._meter = meter or LoadMeter(clock)
        self._work = Balance(
            self._find_work(),
            self._rates,
            reach=slots_for(session.num_tokens),
            ahead=max_in_flight,
        )
        self._ahead = make_ahead(self._load_timed, max_in_flight)
        try:
            self._send(is_engine_free=True)
        except BaseException:
            self.close()  # no thread may write where others compute by then
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def steps(self) -> tuple[ThawStep, ...]:
        """What there is to do, in the order of the plan; lost chunks are to be computed."""
        return self._wanted.steps

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could not be loaded and why, for people."""
        return tuple(self._counts.warnings)

    @property
    def is_complete(self) -> bool:
        """Whether every position is resident, none provisional, and what was loaded proven."""
        is_judged = not (self._judge.is_pending and self._judge.loaded)
        return is_judged and self._is_all_there()

    def _is_all_there(self) -> bool:
        return not self._work and self._ahead.is_empty and self._next_unsound() is None

    def result(self) -> ThawResult:
        """Return what the restore has come to; `Verdict.PENDING` until it is complete."""
        present = self.session.engine.resident.overlap(0, self.num_tokens)
        return ThawResult(
            verdict=self._judge.verdict,
            reason=self._judge.reason,
            reused_tokens=self._counts.reused_tokens,
            recomputed_tokens=self._counts.recomputed_tokens,
            masked_tokens=self.num_tokens - sum(stop - start for start, stop in present),
            rejected_chunks=self._judge.rejected,
            divergence=self._judge.divergence,
            limit=self._judge.limit,
        )

    def progress(self) -> ThawProgress:
        """Return how far the thaw is now."""
        resident = self.session.engine.resident
        absent = [s for s in self.steps if not resident.covers(s.start, s.stop)]
        waiting = {s.start for s in absent}
        is_complete, bytes_loaded = self.is_complete, self._counts.bytes_loaded
        return ThawProgress(
            chunks_done=len(self.steps) - len(absent),
            chunks_total=len(self.steps),
            bytes_loaded=bytes_loaded,
            bytes_total=bytes_loaded + sum(s.entry.file_bytes for s in absent if s.entry),
            reused_tokens=self._counts.reused_tokens,
            recomputed_tokens=self._counts.recomputed_tokens,
            kept_tokens=self._counts.kept_tokens,
            is_usable=not self._wanted.usable & waiting,
            is_answerable=not self._wanted.starts & waiting,
            is_complete=is_complete,
            elapsed_s=self._clock() - self._began,
            remaining_s=0.0 if is_complete else self._remaining_s(absent),
            fidelity=self.session.fidelity,
        )

    def _remaining_s(self, absent: Sequence[ThawStep]) -> float | None:
        unsound = self.session.unsound().overlap(0, self.num_tokens)
        num_unsound = sum(stop - start for start, stop in unsound)
        reach = slots_for(self.session.num_tokens)
        return remaining_s(absent, num_unsound, self._live_rates(), reach)

    def _find_work(self) -> Iterator[ThawStep]:
        """Yield the steps that are not done; what is there of a chunk to be loaded is dropped."""
        session = self.session
        for step in self.steps:
            if session.is_sound(step.start, step.stop):
                self._counts.reused_tokens += step.stop - step.start
                self._counts.kept_tokens += step.stop - step.start
            elif step.entry:
                session.drop(step.start, step.stop)
                yield step
            elif step.is_usable_part:
                yield step

    def prioritize(self, prompt: str, count: int) -> None:
        """
        Let the ``count`` chunks most relevant to a prompt come right after what is usable.

        Parameters
        ----------
        prompt
            What the user says.
        count
            How many chunks; `ThawProgress.is_answerable` waits for them.

        """
        self._work.reorder(self._wanted.ask(prompt, self.session, count))

    def want_more(self, count: int, closeness: Closeness | None = None) -> bool:
        """
        Let a prompt wait for ``count`` more absent chunks, too; say if there are any.

        Parameters
        ----------
        count
            How many.
        closeness
            To the prompt: the closest ones, and not the next.

        """
        order = self._wanted.ask_more(self.session.engine.resident, count, closeness)
        if order:
            self._work.reorder(order)
        return bool(order)

    def advance(self, *, wait: bool, cancel: Event | None = None) -> bool:
        """
        Make one chunk resident, or compute one; say whether anything was done.

        Parameters
        ----------
        wait
            Wait for a chunk when none is ready; without it only what is ready is taken.
        cancel
            Ends a computation early; what is resident stays valid.

        """
        if not self._may_go_on(cancel, wait=wait):
            return False
        was_pending = self._judge.is_pending
        is_done = self._advance(wait=wait, cancel=cancel)
        if wait and was_pending and self._is_all_there():
            self._prove()
            is_done = is_done or bool(self._judge.loaded)  # the edge to complete is a step
        return is_done

    def _advance(self, *, wait: bool, cancel: Event | None) -> bool:
        self._send(is_engine_free=wait)
        if self._ahead.has_arrival:
            self._take_arrival(is_engine_free=wait)
            return True
        step = self._next_to_compute(is_idle=wait)
        if step is not None:
            self._compute(step.start, step.stop, cancel)
            return True
        if not wait:
            return False
        if self._ahead.is_empty and (step := self._work.force_load()):
            self._send_one(step)
        if not self._ahead.is_empty:
            self._take_arrival(is_engine_free=True)
            return True
        return self._repair_one(cancel)

    def _next_to_compute(self, *, is_idle: bool) -> ThawStep | None:
        """
        Return what the engine should compute now rather than wait for chunks.

        A usable part that is not to be loaded; or, when nobody waits for what is being loaded,
        the chunk at which all before it is sound, if it is not stored or will sooner be computed.
        """
        step = self._work.take_urgent(self._wanted.usable & self._ahead.starts)
        if step is not None or not is_idle:
            return step
        if not self._ahead.is_empty and not self._has_wanted():
            return None
        unsound = self._next_unsound()
        step = self._wanted.get(unsound[0]) if unsound else None
        if step is None or step.entry is None:
            return step
        return self._work.take_compute(step.start, self._loading_s())

    def _has_wanted(self) -> bool:
        return self._wanted.has_arrived(self.session.engine.resident)

    def _rates(self) -> Rates:
        """Return what is known of the board by now; nothing when it is not to decide."""
        return self._live_rates() if self._is_mixed else UNKNOWN

    def _live_rates(self) -> Rates:
        """Return what is known of the board by now."""
        return self._meter.live(self._book.rates, trust_bytes=self._trust_bytes)

    def _loading_s(self) -> float:
        """Return how long loading is busy with what is in flight [s]."""
        return self._rates().load_s(self._wanted.file_bytes(self._ahead.starts))

    @property
    def is_paused(self) -> bool:
        """Whether it stands still until `resume`."""
        return self._ahead.is_paused

    def pause(self, who: str = '') -> None:
        """
        Leave drive and processor to others, who are more urgent; from any thread.

        No chunk is begun until ``who`` resumes, and everybody else who has paused; those that are
        being read come to their end, and what is resident stays. Meanwhile `advance` does
        nothing, or waits if it is to wait.
        """
        self._ahead.pause(who)

    def resume(self, who: str = '') -> None:
        """Go on after `pause`; from any thread."""
        self._ahead.resume(who)

    def settle(self) -> None:
        """Wait for the chunks in flight and make them resident; none is sent for meanwhile."""
        postponed = []
        while not self._ahead.is_empty:
            postponed += self._take_one()
        for step in reversed(postponed):
            self._work.put_back(step)

    def close(self) -> None:
        """End it; what is resident stays, and a later thaw of the same window goes on."""
        self._work.clear()
        try:
            self.settle()
        finally:
            self._ahead.close()
            self._meter.report(self._book)

    def _may_go_on(self, cancel: Event | None, *, wait: bool) -> bool:
        check_cancelled(cancel)
        while self.is_paused:
            if not wait:
                return False
            self._ahead.wait_for_resume(cancel)
        return True

    def _send(self, *, is_engine_free: bool) -> None:
        """
        Keep the threads busy with what will not sooner be computed.

        Beside an answer one chunk at a time is loaded: it takes less from each token than the
        driver notices, and a token takes longer than a chunk.
        """
        engine_s = 0.0 if is_engine_free else math.inf
        while not self._ahead.is_full and (is_engine_free or self._ahead.is_empty):
            if self._must_let_pass(self._work.next_load):
                return
            step = self._work.take_load(self._loading_s(), engine_s)
            if step is None:
                return
            self._send_one(step)

    def _send_one(self, step: ThawStep) -> None:
        # The cache must not grow while threads write into it, and turns may have come meanwhile.
        engine, num_tokens = self.session.engine, self.session.num_tokens
        if engine.reach < num_tokens:
            self.settle()
            engine.reserve(num_tokens)
        self._ahead.send(step)

    def _must_let_pass(self, step: ThawStep | None) -> bool:
        """Say whether a step would take bandwidth or cores from what is waited for."""
        if step is None or step.start in self._wanted.starts:
            return False
        is_slow = self._loading_s() > SLOW_LOAD_S
        return self._work.has_urgent or (
            is_slow and bool(self._wanted.starts & self._ahead.starts)
        )

    def _load_timed(self, step: ThawStep) -> None:
        assert step.entry is not None
        with self._meter.loading(step.entry.file_bytes):
            self._load(step)

    def _take_arrival(self, *, is_engine_free: bool) -> None:
        for step in self._take_one():
            self._work.put_back(step)
        self._send(is_engine_free=is_engine_free)

    def _take_one(self) -> list[ThawStep]:
        """
        Wait for the chunk that was asked for first, and make it resident.

        An interrupt may come at any line here and in `_send`. A chunk that is lost so is neither
        waiting nor in flight, hence computed at the end.

        Returns
        -------
        list of ThawStep
            The chunk, if a pause came before it was begun.

        """
        step, error, is_postponed = self._ahead.take()
        if is_postponed:
            return [step]
        if error is not None:
            self._give_up(step, error)
            return []
        assert step.entry is not None
        if step.entry.codec != LOSSLESS_CODEC:
            self.session.lossy_codec = step.entry.codec
        if step.stop - step.start < self._chunk_tokens:
            self.session.bridged.add(step.start, step.stop)
        self._judge.loaded.append(step.entry)
        self.session.engine.mark_resident(step.start, step.stop)
        self._counts.bytes_loaded += step.entry.file_bytes
        self._counts.reused_tokens += step.stop - step.start
        return []

    def _give_up(self, step: ThawStep, error: CwmError) -> None:
        """Have a chunk computed that cannot be loaded: at once if answering waits for it."""
        if not isinstance(error, FormatError | IdentityError | NotFoundError | StorageError):
            raise error
        log.warning('chunk of tokens %d to %d is recomputed: %s', step.start, step.stop, error)
        self._counts.warnings.append(str(error))
        self._judge.rejected += 1
        self._judge.absent += isinstance(error, NotFoundError)
        assert step.entry is not None
        if isinstance(error, FormatError) and not isinstance(error, FormatTooNewError):
            self.damaged.append(step.entry)
        lost = self._wanted.lose(step)
        if step.is_usable_part:
            self._work.must_compute(lost)

    def _prove(self) -> None:
        """Judge the restore, all of which is there; what may not stay is computed next."""
        self._meter.report(self._book)
        judge, counts = self._judge, self._counts
        if not judge.judge(self.session, self.num_tokens, counts.reused_tokens):
            counts.reused_tokens = 0
            counts.warnings.append(judge.reason)
            self.damaged += judge.loaded

    def _next_unsound(self) -> tuple[int, int] | None:
        ranges = self.session.unsound()
        return next(ranges.overlap(0, self.num_tokens), None)

    def _repair_one(self, cancel: Event | None) -> bool:
        unsound = self._next_unsound()
        if unsound is None:
            return False
        start, stop = unsound
        self._compute(start, min(stop, start + REPAIR_SLICE), cancel)
        return True

    def _compute(self, start: int, stop: int, cancel: Event | None) -> None:
        self.session.compute(start, stop, LogitRows.NONE, cancel)
        self._counts.recomputed_tokens += stop - start
