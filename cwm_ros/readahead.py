# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Threads that bring chunks ahead of the one who takes them, and the memory they may use for it.

`ReadAhead` belongs to the thread that owns the engine, except for `pause` and `resume`, which
any thread may call. `StagingRing` belongs to the threads that load.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
import threading
from typing import NamedTuple, TYPE_CHECKING

import numpy as np

from cwm_ros.codec import Scratch
from cwm_ros.errors import CwmError, InterruptedOperation, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.codec.quantize import ByteArray
    from cwm_ros.plan import ThawStep

PAUSE_POLL_S = 0.02
"""How often one who waits for the end of a pause looks whether it was cancelled [s]."""


def check_cancelled(cancel: threading.Event | None) -> None:
    """Raise InterruptedOperation when ``cancel`` is set."""
    if cancel is not None and cancel.is_set():
        raise InterruptedOperation('cancelled by the caller')


class Slot(NamedTuple):
    """
    What one chunk needs on its way.

    Parameters
    ----------
    payload
        Shape (N,), uint8: room for the largest payload.
    scratch
        The codec's buffers.

    """

    payload: ByteArray
    scratch: Scratch


class StagingRing:
    """
    Buffers for chunks on their way; never more than a limit, whatever the window's size.

    They are made when they are first needed, and used again and again: fresh memory costs more
    than what is done in it.

    Parameters
    ----------
    limit_bytes
        Most memory in all. One chunk is always let through, also a larger one.
    payload_bytes, scratch_bytes
        Largest payload, and most that decoding it takes beside.
    max_slots
        As many as there are threads.
    kernels
        Gives the codec's fastest kernels.
    allocate
        Returns a buffer of so many bytes.

    """

    def __init__(
        self,
        limit_bytes: int,
        *,
        payload_bytes: int,
        scratch_bytes: int,
        max_slots: int,
        kernels: Callable[[], Kernels],
        allocate: Callable[[int], ByteArray] = lambda size: np.empty(size, np.uint8),
    ) -> None:
        fitting = limit_bytes // max(1, payload_bytes + scratch_bytes)
        self.num_slots = min(max(1, fitting), max_slots)
        self._payload_bytes = payload_bytes
        self._kernels = kernels
        self._allocate = allocate
        self._free: deque[Slot] = deque()
        self._room = threading.Semaphore(self.num_slots)

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """Wait for a slot and lend it: the one that was given back last is still in the cache."""
        with self._room:
            try:
                slot = self._free.pop()
            except IndexError:
                payload = self._allocate(self._payload_bytes)
                slot = Slot(payload, Scratch(self._kernels, self._allocate))
            try:
                yield slot
            finally:
                self._free.append(slot)


class Arrival(NamedTuple):
    """
    What became of a step: loaded, when there is neither an error nor a pause.

    Parameters
    ----------
    step
        As it was sent for.
    error
        Why it could not be loaded.
    is_postponed
        Whether a pause came before it was begun.

    """

    step: ThawStep
    error: CwmError | None
    is_postponed: bool


class ReadAhead:
    """
    Loads in other threads, and hands over in the order in which it was sent.

    Threads wait for each other in no order, and chunks behind must not pass those that an answer
    waits for.

    Parameters
    ----------
    load
        Loads one step; called from ``num_threads`` threads.
    num_threads
        Most steps in flight.

    """

    def __init__(self, load: Callable[[ThawStep], None], num_threads: int) -> None:
        self._load = load
        self._num_threads = num_threads
        self._in_flight: dict[int, Future[Arrival]] = {}
        self._may_begin = threading.Event()
        self._may_begin.set()
        self._pausing: set[str] = set()
        self._mutex = threading.Lock()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix='cwm-thaw')

    @property
    def starts(self) -> set[int]:
        """First positions of the steps in flight."""
        return set(self._in_flight)

    @property
    def is_full(self) -> bool:
        """Whether no more may be sent."""
        return len(self._in_flight) >= self._num_threads

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in flight."""
        return not self._in_flight

    @property
    def has_arrival(self) -> bool:
        """Whether `take` would not wait."""
        return not self.is_empty and next(iter(self._in_flight.values())).done()

    def send(self, step: ThawStep) -> None:
        """Have a step loaded."""
        self._in_flight[step.start] = self._pool.submit(self._run, step)

    def take(self) -> Arrival:
        """
        Wait for what was sent first.

        An interrupt that falls in here may lose a step: it is then neither in flight nor taken.
        """
        start, future = next(iter(self._in_flight.items()))
        arrival = future.result()
        del self._in_flight[start]
        return arrival

    @property
    def is_paused(self) -> bool:
        """Whether nothing is begun now."""
        return not self._may_begin.is_set()

    def pause(self, who: str = '') -> None:
        """Begin nothing more: what a thread reads now is its last until ``who`` resumes."""
        with self._mutex:
            self._pausing.add(who)
            self._may_begin.clear()

    def resume(self, who: str = '') -> None:
        """Go on after a pause, once nobody else pauses."""
        with self._mutex:
            self._pausing.discard(who)
            if not self._pausing:
                self._may_begin.set()

    def wait_for_resume(self, cancel: threading.Event | None) -> None:
        """
        Wait until a pause is over.

        Raises
        ------
        InterruptedOperation
            ``cancel`` was set meanwhile.

        """
        while not self._may_begin.wait(PAUSE_POLL_S):
            check_cancelled(cancel)

    def close(self) -> None:
        """End the threads, after what they do now."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, step: ThawStep) -> Arrival:
        if self.is_paused:
            return Arrival(step, None, is_postponed=True)
        try:
            self._load(step)
        except CwmError as exc:
            return Arrival(step, exc, is_postponed=False)
        except BaseException as exc:  # noqa: BLE001 - a thread's surprise must reach the owner
            surprise = StorageError(f'tokens {step.start} to {step.stop}: {exc!r}')
            return Arrival(step, surprise, is_postponed=False)
        return Arrival(step, None, is_postponed=False)
