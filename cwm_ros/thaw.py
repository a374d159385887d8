# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Bring a window back into a session, what matters most first.

Threads read and decode chunks straight into positions of the engine's cache that are still
masked; the engine's own thread makes them resident, one at each `Thaw.advance`, between the
tokens of an answer if it likes. What cannot be loaded is computed from its tokens.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
import logging
from typing import TYPE_CHECKING

from cwm_ros.config import LOSSLESS_CODEC
from cwm_ros.engine import LogitRows
from cwm_ros.errors import (
    FormatError,
    FormatTooNewError,
    IdentityError,
    NotFoundError,
    StorageError,
)
from cwm_ros.plan import prioritize
from cwm_ros.readahead import check_cancelled, ReadAhead
from cwm_ros.relevance import relevance
from cwm_ros.session import REPAIR_SLICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from threading import Event
    from types import TracebackType

    from typing_extensions import Self

    from cwm_ros.errors import CwmError
    from cwm_ros.kv import TokenArray
    from cwm_ros.plan import ThawStep
    from cwm_ros.session import Fidelity, Session
    from cwm_ros.store import ChunkEntry

    LoadChunk = Callable[[ThawStep], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawProgress:
    """
    How far a thaw is.

    Parameters
    ----------
    chunks_done, chunks_total
        Chunks of the window that are resident, of all.
    bytes_loaded
        Bytes read from chunk files.
    reused_tokens, recomputed_tokens
        Tokens whose KV came from chunks, and tokens computed again, so far.
    kept_tokens
        Those of the reused that the engine still held when the thaw began.
    is_usable, is_answerable, is_complete
        See `cwm_ros.plan`; answerable concerns the prompt that waits.
    elapsed_s
        Since the thaw began [s].
    fidelity
        Of an answer given now.

    """

    chunks_done: int
    chunks_total: int
    bytes_loaded: int
    reused_tokens: int
    recomputed_tokens: int
    kept_tokens: int
    is_usable: bool
    is_answerable: bool
    is_complete: bool
    elapsed_s: float
    fidelity: Fidelity


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
        What to do, from `cwm_ros.plan.plan_thaw`.
    load
        Reads, verifies and decodes one chunk into the engine's cache; called from twice
        ``num_threads`` other threads, so that some read while others decode.
    chunk_tokens
        Length of a chunk [tokens].
    clock
        Steady clock [s].
    began
        When the thaw was asked for, on that clock [s].

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
        num_threads: int,
        clock: Callable[[], float],
        began: float,
    ) -> None:
        self.session = session
        self.steps = tuple(steps)
        self.damaged: list[ChunkEntry] = []
        self.num_tokens = max((step.stop for step in steps), default=0)
        self._counts = _Counts()
        self._chunk_tokens = chunk_tokens
        self._clock = clock
        self._began = began
        self._queue = deque(self._find_work())
        self._usable = {step.start for step in steps if step.is_usable_part}
        self._wanted = self._usable
        self._ahead = ReadAhead(load, 2 * num_threads)
        session.engine.reserve(session.num_tokens)
        self._send()

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
    def warnings(self) -> tuple[str, ...]:
        """What could not be loaded and why, for people."""
        return tuple(self._counts.warnings)

    @property
    def is_complete(self) -> bool:
        """Whether every position of the window is resident and none provisional."""
        return not self._queue and self._ahead.is_empty and self._next_unsound() is None

    def progress(self) -> ThawProgress:
        """Return how far the thaw is now."""
        resident = self.session.engine.resident
        done = {s.start for s in self.steps if resident.covers(s.start, s.stop)}
        return ThawProgress(
            chunks_done=len(done),
            chunks_total=len(self.steps),
            bytes_loaded=self._counts.bytes_loaded,
            reused_tokens=self._counts.reused_tokens,
            recomputed_tokens=self._counts.recomputed_tokens,
            kept_tokens=self._counts.kept_tokens,
            is_usable=self._usable <= done,
            is_answerable=self._wanted <= done,
            is_complete=self.is_complete,
            elapsed_s=self._clock() - self._began,
            fidelity=self.session.fidelity,
        )

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

    def prioritize(self, prompt: TokenArray, count: int) -> None:
        """
        Let the ``count`` chunks most relevant to a prompt come right after what is usable.

        Parameters
        ----------
        prompt
            Token ids, int32, shape (P,).
        count
            How many chunks; `ThawProgress.is_answerable` waits for them.

        """
        tokens = self.session.tokens[: self.num_tokens]
        scores = relevance(prompt, tokens, self._chunk_tokens)
        # The best chunks of the whole window count, also those that have arrived meanwhile.
        order, num_wanted = prioritize(
            self.steps, scores, chunk_tokens=self._chunk_tokens, count=count
        )
        self._wanted = {
            step.start for step in order[:num_wanted] if step.entry or step.is_usable_part
        }
        waiting = {step.start for step in self._queue}
        self._queue = deque(step for step in order if step.start in waiting)

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
        self._send()
        if (
            self._queue
            and self._queue[0].entry is None
            and not (self._usable & self._ahead.starts)
        ):
            step = self._queue.popleft()
            self._compute(step.start, step.stop, cancel)
            return True
        if self._ahead.has_arrival or (wait and not self._ahead.is_empty):
            self._queue.extendleft(self._take_one())
            self._send()
            return True
        if not self._queue and self._ahead.is_empty and wait:
            return self._repair_one(cancel)
        return False

    @property
    def is_paused(self) -> bool:
        """Whether it stands still until `resume`."""
        return self._ahead.is_paused

    def pause(self) -> None:
        """
        Leave drive and processor to others, who are more urgent; from any thread.

        No chunk is begun until `resume`; those that are being read come to their end, and what is
        resident stays. Meanwhile `advance` does nothing, or waits if it is to wait.
        """
        self._ahead.pause()

    def resume(self) -> None:
        """Go on after `pause`; from any thread."""
        self._ahead.resume()

    def settle(self) -> None:
        """Wait for the chunks in flight and make them resident; none is sent for meanwhile."""
        postponed = []
        while not self._ahead.is_empty:
            postponed += self._take_one()
        self._queue.extendleft(reversed(postponed))

    def close(self) -> None:
        """End it; what is resident stays, and a later thaw of the same window goes on."""
        self._queue.clear()
        try:
            self.settle()
        finally:
            self._ahead.close()

    def _may_go_on(self, cancel: Event | None, *, wait: bool) -> bool:
        check_cancelled(cancel)
        if self.is_paused and wait:
            self._ahead.wait_for_resume(cancel)
        return not self.is_paused

    def _send(self) -> None:
        while self._queue and self._queue[0].entry and not self._ahead.is_full:
            self._ahead.send(self._queue.popleft())

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
        assert step.entry is not None
        if isinstance(error, FormatError) and not isinstance(error, FormatTooNewError):
            self.damaged.append(step.entry)
        lost = replace(step, entry=None, reason='could not be loaded')
        self.steps = tuple(lost if s.start == step.start else s for s in self.steps)
        if step.is_usable_part:
            self._queue.appendleft(lost)
        else:
            # Computing it before the chunks in front of it are there would not help an answer.
            self._wanted = self._wanted - {step.start}

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
