# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The nouns every room shares.

Axis letters, everywhere: L layers, H key/value heads, T tokens, D head dimension. KV arrays have
the shape (L, 2, H, T, D); index 0 of the second axis holds keys (after RoPE), index 1 values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ChunkId = NewType('ChunkId', bytes)
"""Names a chunk: 16 bytes that depend on the model and on all tokens up to the chunk's end."""

FloatArray = npt.NDArray[np.float32]
TokenArray = npt.NDArray[np.int32]


class Role(str, Enum):
    """Who speaks in a turn; the values are those of chat templates."""

    SYSTEM = 'system'
    USER = 'user'
    ASSISTANT = 'assistant'


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """
    One utterance: the truth of a conversation, of which tokens are a rendering.

    Parameters
    ----------
    role
        Who speaks.
    text
        What is said; role markers in it are plain text.
    time_ms
        Wall clock when it was said [ms since 1970]; 0 when unknown (no clock at boot).

    """

    role: Role
    text: str
    time_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KVSpec:
    """
    Geometry of a model's key/value cache; two caches are compatible only if it is equal.

    Parameters
    ----------
    num_layers, num_kv_heads, head_dim
        L, H and D.
    max_tokens
        Trained context length; positions beyond it are never served.

    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_tokens: int

    def shape(self, num_tokens: int) -> tuple[int, int, int, int, int]:
        """Return (L, 2, H, T, D) for ``num_tokens``."""
        return (self.num_layers, 2, self.num_kv_heads, num_tokens, self.head_dim)

    def elements_per_token(self) -> int:
        """Return the number of KV values that one token adds."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """
    What must match before KV is reused.

    Parameters
    ----------
    model
        32 bytes over weights, configuration, RoPE and KV layout; KV of another one is recomputed.
    rendering
        32 bytes over tokenizer and chat template; tokens of another one are rendered anew.
    name
        For people.

    """

    model: bytes
    rendering: bytes
    name: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KVChunk:
    """
    KV of consecutive tokens, all layers.

    Parameters
    ----------
    start
        Position of the first token.
    kv
        Shape (L, 2, H, T, D), float32; may be a view into a live cache.

    """

    start: int
    kv: FloatArray

    @property
    def stop(self) -> int:
        """Position after the last token."""
        return self.start + int(self.kv.shape[3])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedKV:
    """
    KV of consecutive tokens, all layers, as int8 with a scale for 128 tokens of a channel.

    Parameters
    ----------
    start, num_tokens
        Position of the first token; T.
    blocks
        2 L flat arrays of H * T * D codes, uint8 (the bits of int8), each [head, token, channel]:
        K of layer 0, V of layer 0, K of layer 1, and so on.
    scales
        Shape (L * 2 * H, ceil(T / 128), D), float16 bits.
    places
        Address of each block, where its maker knows them: to ask an array for its address takes
        microseconds, and to ask all of a chunk as long as to copy it to a GPU.

    """

    start: int
    num_tokens: int
    blocks: tuple[npt.NDArray[np.uint8], ...]
    scales: npt.NDArray[np.uint16]
    places: npt.NDArray[np.int64] | None = None

    @property
    def stop(self) -> int:
        """Position after the last token."""
        return self.start + self.num_tokens

    def addresses(self) -> npt.NDArray[np.int64]:
        """Return the address of each block."""
        if self.places is not None:
            return self.places
        return np.array([block.ctypes.data for block in self.blocks], np.int64)


class TokenRanges:
    """A set of token positions, kept as sorted, disjoint, half-open ranges."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []
        for start, stop in ranges:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(tuple(self._ranges))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenRanges) and self._ranges == other._ranges

    def __hash__(self) -> int:
        raise TypeError('TokenRanges can change and has no hash')

    def __repr__(self) -> str:
        return f'TokenRanges({self._ranges})'

    def __len__(self) -> int:
        """Return the number of positions."""
        return sum(stop - start for start, stop in self._ranges)

    def add(self, start: int, stop: int) -> None:
        """Add the positions [start, stop)."""
        if start >= stop:
            return
        before = [r for r in self._ranges if r[1] < start]
        after = [r for r in self._ranges if r[0] > stop]
        touching = self._ranges[len(before) : len(self._ranges) - len(after)]
        for other_start, other_stop in touching:
            start, stop = min(start, other_start), max(stop, other_stop)
        self._ranges = [*before, (start, stop), *after]

    def remove(self, start: int, stop: int) -> None:
        """Remove the positions [start, stop)."""
        if start >= stop:
            return
        kept = []
        for other_start, other_stop in self._ranges:
            kept.append((other_start, min(other_stop, start)))
            kept.append((max(other_start, stop), other_stop))
        self._ranges = sorted({(a, b) for a, b in kept if a < b})

    def covers(self, start: int, stop: int) -> bool:
        """Say whether every position of [start, stop) is in the set."""
        return start >= stop or any(a <= start and stop <= b for a, b in self._ranges)

    def overlap(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of [start, stop) that are in the set, in order."""
        for a, b in self._ranges:
            if max(a, start) < min(b, stop):
                yield max(a, start), min(b, stop)

    def missing(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of [start, stop) that are not in the set, in order."""
        for a, b in self.overlap(start, stop):
            if start < a:
                yield start, a
            start = b
        if start < stop:
            yield start, stop
