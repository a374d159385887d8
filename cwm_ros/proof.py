# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Proof that a chunk holds the KV of its tokens, before it becomes resident.

A few tokens of each chunk are looked at. Their first layer is recomputed from the model's weights:
it depends on nothing but token and position. All their layers are compared with *samples*, one
number for each layer's keys and values, that the window's manifest remembers from its freeze.
"""

from __future__ import annotations

from dataclasses import dataclass
import struct
import threading
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.codec import bound_at, codec_named
from cwm_ros.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from cwm_ros.codec import DequantizedKV
    from cwm_ros.kv import ChunkId, FloatArray, KVSpec, TokenArray
    from cwm_ros.store import ChunkEntry

    Positions = npt.NDArray[np.int64]
    FirstLayerKV = Callable[[TokenArray, Positions], FloatArray]

MAX_PROOF_TOKENS = 16
ENGINE_ERROR = 2.0**-8
"""How far, of the largest value, engines in float16 may be from NumPy."""
SAMPLE_SIGMAS = 8.0
SAMPLE_ERROR = 2.0**-9
_ROW = struct.Struct('<16sI')
_WEYL = np.uint64(0x9E3779B1)


def sample_positions(start: int, stop: int, count: int) -> Positions:
    """
    Return which tokens of a chunk are looked at: one in each of ``count`` equal parts.

    Which one depends on the chunk's place alone, so that over many chunks all places are seen,
    and a window's samples hold wherever it is brought.

    Returns
    -------
    NDArray
        int64, shape (min(count, stop - start),), ascending.

    """
    count = min(count, stop - start)
    stride = (stop - start) // count
    numbers = np.arange(count, dtype=np.uint64)
    turns = (np.uint64(start) + numbers) * _WEYL % np.uint64(1 << 32)
    offsets = turns * np.uint64(stride) >> np.uint64(32)
    return start + (numbers * np.uint64(stride) + offsets).astype(np.int64)


def mixing_weights(spec: KVSpec) -> FloatArray:
    """Return fixed numbers in [-1, 1), float32, shape (H, 1, D): see docs/format.md."""
    index = np.arange(spec.num_kv_heads * spec.head_dim, dtype=np.uint64)
    turns = (index * _WEYL % np.uint64(1 << 32)).astype(np.float64) / (1 << 31) - 1
    shape = (spec.num_kv_heads, 1, spec.head_dim)
    return turns.astype(np.float32).reshape(shape)


def sample(picked: FloatArray, weights: FloatArray) -> FloatArray:
    """Return samples (L, 2, N) of the KV of N tokens, shape (L, 2, H, N, D)."""
    found: FloatArray = (picked * weights).sum(axis=(2, 4))
    return found


def pack_samples(samples: Mapping[ChunkId, FloatArray]) -> bytes:
    """Return the manifest's section SAMP."""
    rows = (
        _ROW.pack(chunk_id, row.shape[2]) + row.astype('<f4').tobytes()
        for chunk_id, row in samples.items()
    )
    return b''.join(rows)


def unpack_samples(data: bytes, spec: KVSpec) -> dict[ChunkId, FloatArray]:
    """Return samples by chunk; what cannot be read is left out, as in older windows."""
    samples: dict[ChunkId, FloatArray] = {}
    position = 0
    while len(data) - position > _ROW.size:
        chunk_id, count = _ROW.unpack_from(data, position)
        position += _ROW.size
        size = 4 * 2 * spec.num_layers * count
        if not 1 <= count <= MAX_PROOF_TOKENS or len(data) - position < size:
            break
        row = np.frombuffer(data, '<f4', size // 4, position)
        if np.isfinite(row).all():
            samples[chunk_id] = row.reshape(spec.num_layers, 2, count)
        position += size
    return samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """
    What a window's tokens and chunks are to be compared with.

    Parameters
    ----------
    spec, tokens
        Geometry of the KV, and all tokens, int32, shape (T,).
    entries
        The chunks.
    samples
        What the manifest remembers, by chunk id.
    first_layer
        Recomputes layer 0; None leaves it out.
    count
        How many tokens of each chunk are looked at; 0 for no proof.

    """

    spec: KVSpec
    tokens: TokenArray
    entries: Sequence[ChunkEntry]
    samples: Mapping[ChunkId, FloatArray]
    first_layer: FirstLayerKV | None
    count: int


class ChunkProof:
    """Compares chunks with `Evidence`; called from any thread."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._weights = mixing_weights(evidence.spec)
        self._lock = threading.Lock()
        self._first: dict[int, tuple[Positions, FloatArray]] | None = None

    def check(
        self,
        entry: ChunkEntry,
        payload: memoryview,
        kv: FloatArray | DequantizedKV,
        source: Path,
    ) -> None:
        """
        Compare a decoded chunk with what it must be.

        Parameters
        ----------
        entry
            The chunk.
        payload, kv
            What was read, and what it was decoded to, shape (L, 2, H, T, D).
        source
            File named in errors.

        Raises
        ------
        FormatError
            It is something else; the message says what, as far as that can be told.

        """
        count = self._evidence.count
        if not count:
            return
        codec = codec_named(entry.codec)
        local = sample_positions(entry.start, entry.stop, count) - entry.start
        picked = kv[:, :, :, local].astype(np.float32)
        bound = bound_at(payload, kv, codec=codec, tokens=local)
        finding = self._find_in_first(entry.start, picked[0], bound[0])
        remembered = self._evidence.samples.get(entry.id)
        if not finding and remembered is not None:
            if remembered.shape[2] != len(local):  # frozen under another setting
                count = remembered.shape[2]
                local = sample_positions(entry.start, entry.stop, count) - entry.start
                picked = kv[:, :, :, local].astype(np.float32)
                bound = bound_at(payload, kv, codec=codec, tokens=local)
            finding = self._find_in_samples(picked, bound, remembered)
        if finding:
            raise FormatError(
                source,
                f'tokens {entry.start} to {entry.stop}: {finding}',
                hint='they are computed again; the next freeze sets the file aside',
            )

    def _find_in_first(self, start: int, found: FloatArray, bound: FloatArray) -> str:
        """Return what is wrong with the first layer (2, H, N, D) of a chunk's tokens, or ''."""
        if self._evidence.first_layer is None:
            return ''
        positions, expected = self._expected(start)
        is_wrong = self._differs(found, expected, bound).any()
        return self._name(found, bound, positions) if is_wrong else ''

    @staticmethod
    def _differs(
        found: FloatArray, expected: FloatArray, bound: FloatArray
    ) -> npt.NDArray[np.bool_]:
        """Say for each token whether its keys, and its values, differ: shape (2, N)."""
        largest = np.abs(expected).max(axis=(1, 3), keepdims=True)
        room = bound * np.float32(1.01) + largest * np.float32(ENGINE_ERROR)
        differs: npt.NDArray[np.bool_] = (np.abs(found - expected) > room).any(axis=(1, 3))
        return differs

    def _expected(self, start: int) -> tuple[Positions, FloatArray]:
        """Return the first layer of a chunk's tokens; all chunks are computed in one go."""
        with self._lock:
            if self._first is None:
                self._first = self._compute_first()
            return self._first[start]

    def _compute_first(self) -> dict[int, tuple[Positions, FloatArray]]:
        evidence = self._evidence
        assert evidence.first_layer is not None
        places = [
            sample_positions(entry.start, entry.stop, evidence.count) for entry in evidence.entries
        ]
        positions = np.concatenate(places)
        kv = evidence.first_layer(evidence.tokens[positions], positions)
        cuts = np.cumsum([len(place) for place in places])[:-1]
        parts = np.split(kv, cuts, axis=2)
        return {
            entry.start: (place, part)
            for entry, place, part in zip(evidence.entries, places, parts, strict=True)
        }

    def _find_in_samples(
        self, picked: FloatArray, bound: FloatArray, remembered: FloatArray
    ) -> str:
        """Return which layer of a chunk is not what the manifest remembers, or ''."""
        # An error within the bound is about uniform: its deviation is the bound over root 3.
        noise = np.sqrt(np.square(bound * self._weights).sum(axis=(2, 4)) / 3)
        size = np.sqrt(np.square(picked * self._weights).sum(axis=(2, 4)))
        room = SAMPLE_SIGMAS * noise + SAMPLE_ERROR * size + np.float32(1e-6)
        wrong = (np.abs(sample(picked, self._weights) - remembered) > room).any(axis=2)
        if not wrong.any():
            return ''
        layer, part = np.argwhere(wrong)[0].tolist()
        what = 'are not those that were frozen' if picked[layer, part].any() else 'are zero'
        return f'{("keys", "values")[part]} of layer {layer} {what}'

    def _name(self, found: FloatArray, bound: FloatArray, positions: Positions) -> str:
        """Say what first-layer KV is that is not what it should be; only after a failure."""
        evidence = self._evidence
        assert evidence.first_layer is not None
        if not found.any():
            return 'layer 0 is zero'
        tokens = evidence.tokens
        for shift in (1, -1, 2, -2):
            moved = evidence.first_layer(tokens[positions], np.maximum(positions + shift, 0))
            if not self._differs(found, moved, bound).any():
                return f'positions are off by {shift}'
        all_kv = evidence.first_layer(tokens, np.arange(len(tokens)))
        for shift in range(-int(positions[0]), len(tokens) - int(positions[-1])):
            if not self._differs(found, all_kv[:, :, positions + shift], bound).any():
                return f'holds the KV of tokens {shift:+d} away'
        return 'holds the KV of other tokens or of other weights'
