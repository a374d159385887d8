# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What engines have in common whose cache is a `Residency` and which compute slice by slice."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.engine.base import Engine, LogitRows
from cwm_ros.errors import ConfigError, EngineError, InterruptedOperation

if TYPE_CHECKING:
    import threading

    from cwm_ros.config import EngineSettings
    from cwm_ros.engine.cache import Residency
    from cwm_ros.kv import FloatArray, KVSpec, ModelIdentity, TokenArray


def capacity_of(spec: KVSpec, identity: ModelIdentity, settings: EngineSettings) -> int:
    """
    Return the most positions of a session.

    Raises
    ------
    ConfigError
        ``settings.context_tokens`` is more than the trained length.

    """
    if settings.context_tokens > spec.max_tokens:
        raise ConfigError(
            f'engine.context_tokens is {settings.context_tokens}',
            hint=f'{identity.name} was trained for {spec.max_tokens}: set at most that, or 0',
        )
    return settings.context_tokens or spec.max_tokens


class SlicedEngine(Engine):
    """
    An engine that computes a slice of tokens at a time into its cache.

    Attributes
    ----------
    slice_tokens
        Most tokens of a slice.

    """

    supports_kv = True
    slice_tokens: int
    _cache: Residency

    @abstractmethod
    def compute_slice(
        self, tokens: TokenArray, start: int, rows: LogitRows, cancel: threading.Event | None
    ) -> FloatArray:
        """
        Compute a slice into the cache; none of its positions is resident, and room is reserved.

        Returns
        -------
        FloatArray
            Logits, shape (R, V), R at least 1; may be valid until the next call only.

        """

    def slice_for(self, rows: LogitRows) -> int:
        """Return the most tokens of a slice of which such logits are wanted."""
        del rows
        return self.slice_tokens

    def run(
        self,
        tokens: TokenArray,
        start: int,
        *,
        rows: LogitRows = LogitRows.LAST,
        cancel: threading.Event | None = None,
    ) -> FloatArray:
        stop = start + len(tokens)
        self._check_tokens(tokens, start)
        self._cache.check_fits(stop)
        kept: list[FloatArray] = []
        step = self.slice_for(rows)
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            wanted = LogitRows.NONE if rows is LogitRows.LAST and end < stop else rows
            if cancel is not None and cancel.is_set():
                raise InterruptedOperation(f'cancelled before position {begin}')
            # Not all room at once: a slice attends to what is there, empty or not.
            self.reserve(end)
            kept.append(
                self._run_slice(tokens[begin - start : end - start], begin, wanted, cancel)
            )
        if len(kept) == 1:
            return kept[0]
        return np.concatenate([np.empty((0, self.vocab_size), np.float32), *kept])

    def _check_tokens(self, tokens: TokenArray, start: int) -> None:
        if tokens.ndim != 1 or tokens.dtype != np.int32 or start < 0:
            raise EngineError(f'tokens {tokens.dtype}{tokens.shape} at {start} are not (T,) int32')
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < self.vocab_size):
            raise EngineError(
                f'a token id is not in [0, {self.vocab_size})',
                hint='tokens and engine are of different models',
            )

    def _run_slice(
        self, tokens: TokenArray, start: int, rows: LogitRows, cancel: threading.Event | None
    ) -> FloatArray:
        stop = start + len(tokens)
        if self._cache.has_any(start, stop):
            self._cache.drop(start, stop)
        try:
            logits = self.compute_slice(tokens, start, rows, cancel)
        except EngineError:
            self._cache.drop(start, stop)
            raise
        if not np.isfinite(logits).all():
            bad = self._cache.scrub()
            self._cache.drop(start, stop)
            raise EngineError(
                f'logits of [{start}, {stop}) are not finite; KV that was not either: {bad}',
                hint='compute the dropped positions again',
            )
        self._cache.add(start, stop)
        return logits[: rows.count(len(tokens))].copy()

    @property
    def reach(self) -> int:
        return self._cache.slots

    def drop(self, start: int, stop: int) -> None:
        self._cache.drop(start, stop)

    def reset(self) -> None:
        self._cache.drop(0, self._cache.slots)

    def mark_resident(self, start: int, stop: int) -> None:
        self._cache.add(start, stop)

    def check_export(self, start: int, stop: int) -> None:
        """Raise EngineError unless all of [start, stop) is resident."""
        if not self.resident.covers(start, stop):
            raise EngineError(f'[{start}, {stop}) is not resident: {self.resident}')

    def check_import(self, start: int, stop: int) -> None:
        """Raise EngineError if any of [start, stop) is resident."""
        if self._cache.has_any(start, stop):
            raise EngineError(f'[{start}, {stop}) is resident: {self.resident}')
