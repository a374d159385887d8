# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What every engine promises.

One thread owns an engine. The only things another thread may do are to ask for a view with
`Engine.import_view` and write into it, and to call `Engine.import_quantized` and
`Engine.staging`, also while `Engine.run` works: rows that are not resident are masked, and the
engine only asks of them that they are finite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import EngineError

if TYPE_CHECKING:
    import threading
    from types import TracebackType

    import numpy.typing as npt
    from typing_extensions import Self

    from cwm_ros.kv import (
        FloatArray,
        KVChunk,
        KVSpec,
        ModelIdentity,
        QuantizedKV,
        TokenArray,
        TokenRanges,
    )


class LogitRows(Enum):
    """For which of the computed tokens logits are wanted."""

    NONE = 'none'
    LAST = 'last'
    ALL = 'all'

    def count(self, num_tokens: int) -> int:
        """Return R, the number of rows for ``num_tokens``."""
        if self is LogitRows.ALL:
            return num_tokens
        return min(num_tokens, 1) if self is LogitRows.LAST else 0


class Engine(ABC):
    """
    A decoder with a key/value cache whose positions come and go by range.

    Positions never move. A position is *resident* when its KV is in the cache; what is not
    resident is masked.

    Attributes
    ----------
    spec, identity
        Geometry of the cache, and what made its content.
    vocab_size
        V, the width of the logits.
    capacity
        Most positions: the trained length, or less when the settings say so.
    resident
        The resident positions; read it, and change it only through the methods.
    supports_kv
        Whether `export_kv`, `import_view` and `mark_resident` work.
    supports_quantized
        Whether `export_quantized` and `import_quantized` work: the engine quantises where its
        cache is, and a quarter or half of the bytes move.
    is_half
        Whether its cache holds float16.

    """

    spec: KVSpec
    identity: ModelIdentity
    vocab_size: int
    capacity: int
    resident: TokenRanges
    supports_kv: bool = False
    supports_quantized: bool = False
    is_half: bool = False

    @abstractmethod
    def run(
        self,
        tokens: TokenArray,
        start: int,
        *,
        rows: LogitRows = LogitRows.LAST,
        cancel: threading.Event | None = None,
    ) -> FloatArray:
        """
        Compute the tokens at [start, start + T) and make them resident.

        They attend to the resident positions before ``start`` and causally to each other, never
        to later positions, so a chunk in the middle can be computed while later ones are resident.

        Parameters
        ----------
        tokens
            Shape (T,), int32, each in [0, V).
        start
            Position of the first token.
        rows
            Which logits to return.
        cancel
            Checked between slices; setting it from another thread also stops a running slice
            where the runtime can.

        Returns
        -------
        FloatArray
            Shape (R, V), float32, the caller's own copy.

        Raises
        ------
        ContextFullError
            ``start + T`` is beyond `capacity`; nothing was computed.
        EngineError
            A token id is out of range, or logits are not finite.
        InterruptedOperation
            Cancelled; only the slices that were finished are resident.

        """

    @abstractmethod
    def reserve(self, num_tokens: int) -> None:
        """
        Make room for positions [0, num_tokens), so that no growth happens before that.

        Growth ends the validity of all views.
        """

    @property
    def reach(self) -> int:
        """
        How many positions each computed token attends to; what is masked costs as much.

        It is what was reserved, as the engine rounds it, and decides what a token costs.
        """
        return self.capacity

    @abstractmethod
    def drop(self, start: int, stop: int) -> None:
        """Forget the positions [start, stop): they are masked from now on."""

    @abstractmethod
    def reset(self) -> None:
        """Forget every position; views end."""

    @abstractmethod
    def close(self) -> None:
        """Free what the engine holds; a second call does nothing."""

    def export_kv(self, start: int, stop: int) -> KVChunk:
        """
        Return the KV of resident positions, as a read-only view of the live cache.

        The view is (L, 2, H, T, D) float32, not contiguous, and valid until the next growth,
        reset or close.

        Raises
        ------
        EngineError
            A position is not resident, or the engine has no `supports_kv`.

        """
        raise EngineError(f'{type(self).__name__} cannot export KV of [{start}, {stop})')

    def import_view(self, start: int, stop: int) -> FloatArray:
        """
        Return a writable view (L, 2, H, T, D) of positions that are not resident.

        Write finite values, then call `mark_resident`. Valid as long as `export_kv`'s.

        Raises
        ------
        ContextFullError
            ``stop`` is beyond `capacity`.
        EngineError
            A position is resident, or the engine has no `supports_kv`.

        """
        raise EngineError(f'{type(self).__name__} cannot import KV of [{start}, {stop})')

    def mark_resident(self, start: int, stop: int) -> None:
        """
        Declare that the KV of [start, stop) was written into an import view.

        Raises
        ------
        EngineError
            The positions lie outside the reserved room, or the engine has no `supports_kv`.

        """
        raise EngineError(f'{type(self).__name__} cannot import KV of [{start}, {stop})')

    def staging(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Return a buffer that `import_quantized` takes bytes from fastest; for any thread."""
        return np.empty(num_bytes, np.uint8)

    def export_quantized(self, start: int, stop: int) -> QuantizedKV:
        """
        Return the KV of resident positions as codec int8 defines it, valid until the next call.

        Raises
        ------
        EngineError
            A position is not resident, a value is not finite or beyond the codec, or the engine
            has no `supports_quantized`.

        """
        raise EngineError(f'{type(self).__name__} cannot quantise KV of [{start}, {stop})')

    def import_quantized(self, kv: QuantizedKV) -> None:
        """
        Write code times scale to positions that are not resident; `mark_resident` is next.

        On return the buffers of ``kv`` are no longer needed. Room must be reserved before.

        Raises
        ------
        EngineError
            A position is resident or beyond the reserved room, or the engine has no
            `supports_quantized`.

        """
        raise EngineError(f'{type(self).__name__} cannot import quantised KV at {kv.start}')

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
