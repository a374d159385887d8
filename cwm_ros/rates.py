# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How fast this board loads chunks and computes tokens, learned from what it does anyway.

Nothing is measured for its own sake, so nothing waits for it: each thaw and each longer prefill
leaves a sample. The newest samples are kept in a small file for each combination of board, drive,
engine and model; a file that cannot be used is a board that has not been seen yet.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace
import json
import logging
import math
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import CwmError
from cwm_ros.store import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cwm_ros.engine import Engine

VERSION = 1
FILE_LIMIT_BYTES = 1 << 16
MAX_LOADS, MAX_PREFILLS = 8, 48
LOAD_MEMORY, PREFILL_MEMORY = 0.6, 0.93
"""Weight of a sample relative to the next newer one."""
MIN_LOADED_CHUNKS = 3
"""Fewer chunks tell about latency, not about a rate."""
MIN_PREFILL_TOKENS = 96
"""Fewer tokens are bound by reading the weights."""
USUAL_BALANCE = 4096
"""Positions at which attention costs as much as all else, until a board has told [tokens]."""
BALANCE_TRUST = 0.02
"""Weight of that against a sample."""
MAX_SECONDS, MAX_COUNT = 1e5, 1 << 50
LOST_TO_COMPUTE = 0.5
"""What loading loses of its processor time to an engine on the same cores."""

SURPRISES = (RecursionError, OverflowError)
"""For thousands of brackets, and for integers that no float holds."""

log = logging.getLogger(__name__)

Sample = tuple[float, float, float]
SAMPLE_NUMBERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """
    What a planner needs to know of a board; 0 where it is not known.

    Parameters
    ----------
    load_s_per_byte
        Reading, checking and decoding chunks, all threads together [s/byte of chunk file].
    decode_s_per_byte
        Processor time of that, which follows the reading of the last chunk [s/byte].
    token_s, reach_s
        Computing one token [s], and what each position that it attends to adds [s]: a token
        costs ``token_s + reach * reach_s``. Masked positions of the cache count.
    load_loss
        Which part of its speed loading loses while the engine computes, 0 to 1.
    drag
        How many times longer computing takes while chunks are loaded, at least 1.

    """

    load_s_per_byte: float = 0.0
    decode_s_per_byte: float = 0.0
    token_s: float = 0.0
    reach_s: float = 0.0
    load_loss: float = 0.0
    drag: float = 1.0

    @property
    def can_load(self) -> bool:
        """Whether the time of a load can be told."""
        return self.load_s_per_byte > 0

    @property
    def can_compute(self) -> bool:
        """Whether the time of a prefill can be told."""
        return self.token_s > 0 or self.reach_s > 0

    @property
    def is_known(self) -> bool:
        """Whether loading can be weighed against computing."""
        return self.can_load and self.can_compute

    def load_s(self, file_bytes: int) -> float:
        """Return how long so many bytes of chunk files take [s]."""
        return file_bytes * self.load_s_per_byte

    def decode_s(self, file_bytes: int) -> float:
        """Return the processor time of so many bytes of chunk files [s]."""
        return file_bytes * self.decode_s_per_byte

    def compute_s(self, num_tokens: int, reach: int) -> float:
        """Return how long tokens take when each attends to ``reach`` positions [s]."""
        return num_tokens * (self.token_s + reach * self.reach_s)


UNKNOWN = Rates()


class RateBook:
    """
    Samples of one board, and the file that keeps them; used by one thread.

    Parameters
    ----------
    path
        The file; None keeps nothing. It is read now and written by `save`.
    shared_cores
        Cores that engine and loading threads have in common; 0 when the engine has its own
        processor.

    Attributes
    ----------
    has_new_load
        Whether a thaw left a sample that is not in the file, which is worth a sync.

    """

    def __init__(self, path: Path | None = None, *, shared_cores: int = 0) -> None:
        self._path = path
        self._cores = shared_cores
        self._loads: deque[Sample] = deque(maxlen=MAX_LOADS)
        self._prefills: deque[Sample] = deque(maxlen=MAX_PREFILLS)
        self._rates: Rates | None = None
        self._is_dirty = False
        self.has_new_load = False
        if path is not None:
            loads, prefills = _read(path)
            self._loads.extend(loads)
            self._prefills.extend(prefills)

    @property
    def rates(self) -> Rates:
        """What the samples say."""
        if self._rates is None:
            token_s, reach_s = fit_prefill(self._prefills)
            load_s_per_byte, busy_cores = fit_load(self._loads)
            loss = LOST_TO_COMPUTE * min(1.0, busy_cores) if self._cores else 0.0
            share = min(0.5, busy_cores / self._cores) if self._cores else 0.0
            self._rates = Rates(
                load_s_per_byte=load_s_per_byte,
                decode_s_per_byte=load_s_per_byte * busy_cores,
                token_s=token_s,
                reach_s=reach_s,
                load_loss=loss,
                drag=1 / (1 - share),
            )
        return self._rates

    def add_load(self, num_chunks: int, num_bytes: int, busy_s: float, cpu_s: float) -> None:
        """
        Note what a thaw has loaded.

        Parameters
        ----------
        num_chunks, num_bytes
            Chunks, and bytes of their files.
        busy_s, cpu_s
            How long at least one chunk was on its way, and processor time of all threads [s].

        """
        if num_chunks >= MIN_LOADED_CHUNKS and num_bytes > 0 and busy_s > 0:
            self._loads.append((float(num_bytes), busy_s, max(cpu_s, 0.0)))
            self._note_change()
            self.has_new_load = True

    def add_prefill(self, num_tokens: int, reach: int, seconds: float) -> None:
        """Note how long the engine took for tokens that attend to ``reach`` positions [s]."""
        if num_tokens >= MIN_PREFILL_TOKENS and seconds > 0:
            self._prefills.append((float(num_tokens), float(reach), seconds))
            self._note_change()

    def _note_change(self) -> None:
        self._rates, self._is_dirty = None, True

    @contextmanager
    def computing(
        self, engine: Engine, num_tokens: int, clock: Callable[[], float] = time.perf_counter
    ) -> Iterator[None]:
        """Time a prefill; one that fails, or makes the cache grow, is not counted."""
        reach, began = engine.reach, clock()
        yield
        if engine.reach == reach:
            self.add_prefill(num_tokens, reach, clock() - began)

    def save(self) -> None:
        """Write the samples if there are new ones; a disk that refuses only costs the learning."""
        if self._path is None or not self._is_dirty:
            return
        values = {
            'version': VERSION,
            'loads': list(self._loads),
            'prefills': list(self._prefills),
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.write_file(self._path, [json.dumps(values).encode()], sync_parent=False)
        except (CwmError, OSError) as exc:
            log.info('rates are not kept: %s', exc)
        self._is_dirty = self.has_new_load = False


def fit_load(samples: Sequence[Sample]) -> tuple[float, float]:
    """Return seconds for each byte, and how many cores are busy meanwhile; newer count more."""
    if not samples:
        return 0.0, 0.0
    num_bytes, busy_s, cpu_s = np.array(samples).T
    weights = LOAD_MEMORY ** np.arange(len(samples))[::-1]
    weights = weights / weights.sum()
    return float(weights @ (busy_s / num_bytes)), float(weights @ (cpu_s / busy_s))


def fit_prefill(samples: Sequence[Sample]) -> tuple[float, float]:
    """
    Return seconds for each token, and for each position that it attends to.

    Least squares of relative errors, newer samples counting more. While all samples have about
    the same reach they cannot tell the two apart; then `USUAL_BALANCE` does.
    """
    if not samples:
        return 0.0, 0.0
    num_tokens, reach, seconds = np.array(samples).T
    weights = PREFILL_MEMORY ** np.arange(len(samples))[::-1]
    each_s = float(weights @ (seconds / num_tokens / (1 + reach / USUAL_BALANCE)) / weights.sum())
    guess = np.array([each_s, each_s / USUAL_BALANCE])
    features = np.stack([num_tokens, num_tokens * reach], axis=1) / seconds[:, None] * guess
    weighted = features * weights[:, None]
    left = weighted.T @ features + BALANCE_TRUST * np.eye(2)
    factors = np.linalg.solve(left, weighted.sum(axis=0) + BALANCE_TRUST)
    token_s, reach_s = np.maximum(factors, 0.02) * guess
    return float(token_s), float(reach_s)


def _read(path: Path) -> tuple[list[Sample], list[Sample]]:
    """Return the samples of a file; none when any of it is not as it should be."""
    try:
        values = json.loads(files.read_file(path, limit_bytes=FILE_LIMIT_BYTES))
        if values['version'] != VERSION:
            return [], []
        loads = [_sample(entry) for entry in values['loads'][:MAX_LOADS]]
        return loads, [_sample(entry) for entry in values['prefills'][:MAX_PREFILLS]]
    except FileNotFoundError:
        return [], []
    except (CwmError, OSError, ValueError, LookupError, TypeError, *SURPRISES) as exc:
        log.info('rates are learned anew: %s: %s', path, exc)
        return [], []


def _sample(entry: object) -> Sample:
    """
    Return a checked sample: a count above 0, and two numbers.

    The second number of a prefill is a count, the third of a load may be 0.
    """
    if not isinstance(entry, list) or len(entry) != SAMPLE_NUMBERS:
        raise ValueError(f'{str(entry)[:80]} is not a sample')
    if not all(type(value) in (int, float) and math.isfinite(value) for value in entry):
        raise ValueError(f'{str(entry)[:80]} is not a sample')
    first, second, third = map(float, entry)
    if not (0 < first <= MAX_COUNT and 0 < second <= MAX_COUNT and 0 <= third <= MAX_SECONDS):
        raise ValueError(f'{str(entry)[:80]} is not a sample')
    return first, second, max(third, 1e-9)


class LoadMeter:
    """
    Times what loading threads do; called by them, asked by any thread.

    Parameters
    ----------
    clock
        Steady clock [s].

    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._num_active = 0
        self._since = 0.0
        self._busy_s = 0.0
        self._cpu_s = 0.0
        self._num_bytes = 0
        self._num_chunks = 0
        self._active_bytes = 0
        self._seen = 0.0, 0.0

    @contextmanager
    def loading(self, num_bytes: int) -> Iterator[None]:
        """Count one chunk; one that fails counts its time, not its bytes."""
        with self._mutex:
            if not self._num_active:
                self._since = self._clock()
            self._num_active += 1
            self._active_bytes += num_bytes
        cpu_began = time.thread_time()
        loaded = 0
        try:
            yield
            loaded = 1
        finally:
            cpu_s = time.thread_time() - cpu_began
            with self._mutex:
                self._num_active -= 1
                self._active_bytes -= num_bytes
                self._num_chunks += loaded
                self._num_bytes += loaded * num_bytes
                self._cpu_s += cpu_s
                now = self._clock()
                # What is on its way has come half of it, on the average.
                on_its_way = self._active_bytes / 2
                self._seen = self._busy_s + now - self._since, self._num_bytes + on_its_way
                if not self._num_active:
                    self._busy_s += now - self._since

    def live(self, rates: Rates, *, trust_bytes: int) -> Rates:
        """
        Return the rates with what this thaw has shown of loading.

        Parameters
        ----------
        rates
            What was known before.
        trust_bytes
            After so many bytes the two count alike.

        """
        busy_s, num_bytes = self._seen
        if not rates.can_load or not trust_bytes + num_bytes:
            return rates
        known_s = trust_bytes * rates.load_s_per_byte
        return replace(rates, load_s_per_byte=(known_s + busy_s) / (trust_bytes + num_bytes))

    def report(self, book: RateBook) -> None:
        """Give the book what was loaded, and begin anew."""
        with self._mutex:
            loaded = self._num_chunks, self._num_bytes, self._busy_s, self._cpu_s
            self._num_chunks = self._num_bytes = 0
            self._busy_s = self._cpu_s = 0.0
        book.add_load(*loaded)
