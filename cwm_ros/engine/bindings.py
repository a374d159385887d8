# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How the two graph formulations meet the cache: by pointer, so that a step copies nothing.

The graphs are described in `cwm_ros.model.graph_decoder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from cwm_ros.engine.base import LogitRows
    from cwm_ros.engine.cache import KVCache
    from cwm_ros.kv import FloatArray, TokenArray

    Buffer = npt.NDArray[np.float32 | np.int32 | np.int64 | np.bool_]
    Bind = Callable[[str, str, int, type, Sequence[int], int], None]
    """Takes name, device, device number, dtype, shape and pointer."""

HIDDEN = np.float32(-30000)
"""Added to a score it gives a share of exactly zero, in float16 too."""


class IOBinding(Protocol):
    """The part of onnxruntime.IOBinding that is used."""

    @property
    def bind_input(self) -> Bind:
        """Bind host memory as a graph input."""

    @property
    def bind_output(self) -> Bind:
        """Bind host memory as a graph output."""


class Session(Protocol):
    """The part of onnxruntime.InferenceSession that is used."""

    def io_binding(self) -> IOBinding:
        """Return a new, empty binding."""

    def run_with_iobinding(self, binding: IOBinding, options: object) -> None:
        """Infer from bound inputs into bound outputs."""


class Bindings(ABC):
    """
    Buffers of one engine and their bindings.

    There are two bindings, for one token and for a slice; both keep the cache bound, and one
    token keeps everything bound, because there a microsecond counts.

    Parameters
    ----------
    session
        Session of a graph in the formulation of the class.
    cache
        Its array is bound, and bound again by `bind_cache` after it grew.
    vocab_size
        V.

    """

    def __init__(self, session: Session, cache: KVCache, vocab_size: int) -> None:
        self._session: Session | None = session
        self._cache = cache
        self._vocab_size = vocab_size
        self._step = session.io_binding()
        self._slice = session.io_binding()
        self._ids = np.zeros((1, 1), np.int32)
        self._rows = np.zeros(1, np.int32)
        self._logits = np.zeros((1, 1, vocab_size), np.float32)
        self._inputs(self._step, input_ids=self._ids, logit_rows=self._rows)
        self._output(self._step, 'logits', self._logits)
        self.prepare_step()
        self.bind_cache()

    @abstractmethod
    def prepare_step(self) -> None:
        """Bind what one token needs and the cache does not change."""

    @abstractmethod
    def bind_cache(self) -> None:
        """Bind what belongs to the cache's array, after it was replaced."""

    @abstractmethod
    def run_step(self, start: int, options: object) -> None:
        """Compute the token in ``_ids`` at ``start`` into ``_logits`` and the cache."""

    @abstractmethod
    def run_slice(self, num_tokens: int, start: int, options: object) -> None:
        """Compute the bound tokens into the bound logits and the cache."""

    def run(self, tokens: TokenArray, start: int, rows: LogitRows, options: object) -> FloatArray:
        """Return logits (R, V), R at least 1; valid until the next run."""
        if len(tokens) == 1:
            self._ids[0, 0] = tokens[0]
            self.run_step(start, options)
            return self._logits.reshape(1, -1)
        num_tokens = len(tokens)
        num_rows = max(1, rows.count(num_tokens))
        ids = np.ascontiguousarray(tokens).reshape(1, -1)
        last = np.arange(num_tokens - num_rows, num_tokens, dtype=np.int32)
        logits = np.empty((num_rows, self._vocab_size), np.float32)
        self._inputs(self._slice, input_ids=ids, logit_rows=last)
        self._output(self._slice, 'logits', logits[np.newaxis])
        self.run_slice(num_tokens, start, options)
        return logits

    def close(self) -> None:
        """Let go of the session and its buffers."""
        if self._session is not None:
            self._session = None
            del self._step, self._slice

    def _infer(self, binding: IOBinding, options: object) -> None:
        assert self._session is not None
        self._session.run_with_iobinding(binding, options)

    @staticmethod
    def _inputs(binding: IOBinding, **arrays: Buffer) -> None:
        for name, array in arrays.items():
            binding.bind_input(name, 'cpu', 0, array.dtype.type, array.shape, array.ctypes.data)

    @staticmethod
    def _output(binding: IOBinding, name: str, array: Buffer) -> None:
        binding.bind_output(name, 'cpu', 0, array.dtype.type, array.shape, array.ctypes.data)

    def _layers(self, array: FloatArray) -> list[tuple[str, FloatArray]]:
        """Return the parts (1, H, T, D) of (L, 2, H, T, D) and the ends of their names."""
        return [
            (f'{kind}_{layer}', array[layer, index][np.newaxis])
            for layer in range(len(array))
            for index, kind in enumerate(('key', 'value'))
        ]


class ScatterBindings(Bindings):
    """Past and present are one buffer: the cache itself."""

    def prepare_step(self) -> None:
        self._start = np.zeros((1, 1), np.int64)
        self._inputs(self._step, position_ids=self._start, write_indices=self._start[0])

    def bind_cache(self) -> None:
        cache = self._cache
        for binding in (self._step, self._slice):
            for name, part in self._layers(cache.array):
                self._inputs(binding, **{f'past_{name}': part})
                self._output(binding, f'present_{name}', part)
        self._inputs(self._step, attn_mask=cache.is_visible.reshape(1, 1, 1, -1))

    def run_step(self, start: int, options: object) -> None:
        self._start[0, 0] = start
        is_visible = self._cache.is_visible
        later = is_visible[start + 1 :].copy() if self._has_later(start) else None
        is_visible[start] = True
        if later is not None:
            is_visible[start + 1 :] = False
        try:
            self._infer(self._step, options)
        finally:
            if later is not None:
                is_visible[start + 1 :] = later

    def _has_later(self, start: int) -> bool:
        return any(True for _ in self._cache.resident.overlap(start + 1, self._cache.slots))

    def run_slice(self, num_tokens: int, start: int, options: object) -> None:
        stop = start + num_tokens
        mask = np.zeros((1, 1, num_tokens, self._cache.slots), np.bool_)
        for first, last in self._cache.resident.overlap(0, start):
            mask[..., first:last] = True
        mask[0, 0, :, start:stop] = np.tri(num_tokens, dtype=np.bool_)
        positions = np.arange(start, stop, dtype=np.int64).reshape(1, -1)
        self._inputs(
            self._slice,
            attn_mask=mask,
            position_ids=positions,
            write_indices=positions[0, :1],
        )
        self._infer(self._slice, options)


class DeltaBindings(Bindings):
    """The cache is input only; new rows come out and are copied into it."""

    def prepare_step(self) -> None:
        self._start = np.zeros((1, 1), np.int32)
        self._nothing = np.zeros((1, 1, 1, 1), np.float32)
        self._new = np.zeros(self._cache.spec.shape(1), np.float32)
        self._inputs(self._step, position_ids=self._start, new_mask=self._nothing)
        for name, part in self._layers(self._new):
            self._output(self._step, f'present_{name}', part)

    def bind_cache(self) -> None:
        self._mask = np.full((1, 1, 1, self._cache.slots), HIDDEN)
        for binding in (self._step, self._slice):
            for name, part in self._layers(self._cache.array):
                self._inputs(binding, **{f'past_{name}': part})
            self._inputs(binding, attn_mask=self._mask)

    def _show_before(self, start: int) -> None:
        self._mask[:] = HIDDEN
        for first, last in self._cache.resident.overlap(0, start):
            self._mask[..., first:last] = 0

    def run_step(self, start: int, options: object) -> None:
        self._start[0, 0] = start
        self._show_before(start)
        self._infer(self._step, options)
        self._cache.view(start, start + 1)[:] = self._new

    def run_slice(self, num_tokens: int, start: int, options: object) -> None:
        stop = start + num_tokens
        self._show_before(start)
        new_mask = np.triu(np.full((1, 1, num_tokens, num_tokens), HIDDEN), 1)
        new = np.empty(self._cache.spec.shape(num_tokens), np.float32)
        positions = np.arange(start, stop, dtype=np.int32).reshape(1, -1)
        self._inputs(self._slice, new_mask=new_mask, position_ids=positions)
        for name, part in self._layers(new):
            self._output(self._slice, f'present_{name}', part)
        self._infer(self._slice, options)
        self._cache.view(start, stop)[:] = new


BINDINGS: dict[str, type[ScatterBindings | DeltaBindings]] = {
    'scatter': ScatterBindings,
    'delta': DeltaBindings,
}
