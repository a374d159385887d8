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
from functools import lru_cache
from itertools import groupby, islice
import struct
import threading
from typing import cast, NamedTuple, TYPE_CHECKING

import numpy as np

from cwm_ros.codec import bound_at, BOUND_MARGIN, codec_named, CodecId, scales_of
from cwm_ros.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from cwm_ros.codec import DequantizedKV
    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.kv import ChunkId, FloatArray, KVSpec, TokenArray
    from cwm_ros.store import ChunkEntry

    BoolArray = npt.NDArray[np.bool_]
    Positions = npt.NDArray[np.int64]
    FirstLayerKV = Callable[[TokenArray, Positions], FloatArray]

PARTS = ('keys', 'values')
MAX_PROOF_TOKENS = 16
FIRST_TOKENS = 2
"""
Of so many of a chunk's tokens, at its two ends, the first layer is recomputed: one alone differs
in hundreds of numbers from what belongs elsewhere, and in large models each costs a large product.
"""
CHUNKS_AT_ONCE = 16
"""First layers of so many chunks are recomputed at a time: few calls, and none that takes long."""
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
    positions: Positions = _sample_each(np.array([start]), stop - start, count)[0]
    return positions


def _sample_each(starts: Positions, length: int, count: int) -> Positions:
    """Return `sample_positions` of chunks of one length, shape (len(starts), N)."""
    count = min(count, length)
    stride = np.uint64(length // count)
    numbers = np.arange(count, dtype=np.uint64)
    firsts = starts[:, np.newaxis].astype(np.uint64)
    turns = (firsts + numbers) * _WEYL % np.uint64(1 << 32)
    offsets = turns * stride >> np.uint64(32)
    positions: Positions = (firsts + numbers * stride + offsets).astype(np.int64)
    return positions


@lru_cache(maxsize=MAX_PROOF_TOKENS)
def _ends_first(count: int) -> Positions:
    """Return indices: the last, the first, and the others in order."""
    return np.roll(np.arange(count), 1)


def mixing_weights(spec: KVSpec) -> FloatArray:
    """Return fixed numbers in [-1, 1), float32, shape (H, 1, D): see docs/format.md."""
    index = np.arange(spec.num_kv_heads * spec.head_dim, dtype=np.uint64)
    turns = (index * _WEYL % np.uint64(1 << 32)).astype(np.float64) / (1 << 31) - 1
    shape = (spec.num_kv_heads, 1, spec.head_dim)
    return turns.astype(np.float32).reshape(shape)


def sample(picked: FloatArray, weights: FloatArray) -> FloatArray:
    """Return samples (L, 2, N) of the KV of N tokens, shape (L, 2, H, N, D)."""
    found: FloatArray = np.einsum('lphnd,hxd->lpn', picked, weights)
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


class _Look(NamedTuple):
    """
    What a chunk's tokens must be in the first layer.

    Parameters
    ----------
    positions
        Of the N tokens that are looked at, ascending.
    order, tokens
        Shape (N,): their indices in that, and their places in the chunk; the M first of both are
        those whose first layer is known.
    expected
        Shape (2, H, M, D).
    room
        What engines may differ by, shape (2, M); infinite when nothing is expected.

    """

    positions: Positions
    order: Positions
    tokens: Positions
    expected: FloatArray
    room: FloatArray


class ChunkProof:
    """Compares chunks with `Evidence`; called from any thread."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._weights = mixing_weights(evidence.spec)
        self._squares = np.square(self._weights)
        self._lock = threading.Lock()
        self._looks: dict[int, _Look] = {}

    def check(
        self,
        entry: ChunkEntry,
        payload: memoryview,
        kv: FloatArray | DequantizedKV,
        source: Path,
        kernels: Kernels | None = None,
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
        kernels
            See at once that an int8 chunk is right; what does not seem so is looked at again.

        Raises
        ------
        FormatError
            It is something else; the message says what, as far as that can be told.

        """
        if not self._evidence.count:
            return
        look, remembered = self._look_at(entry), self._evidence.samples.get(entry.id)
        if kernels is not None and self._seems_right(
            kernels, entry, payload, kv, look, remembered
        ):
            return
        picked, bound = self._pick(entry, payload, kv, look.positions)
        ends = look.order[: look.room.shape[1]]
        finding = self._find_in_first(look, picked[0][:, :, ends], bound[0][:, :, ends])
        if not finding and remembered is not None:
            if remembered.shape[2] != len(look.positions):  # frozen under another setting
                positions = sample_positions(entry.start, entry.stop, remembered.shape[2])
                picked, bound = self._pick(entry, payload, kv, positions)
            finding = self._find_in_samples(picked, bound, remembered)
        if finding:
            raise FormatError(
                source,
                f'tokens {entry.start} to {entry.stop}: {finding}',
                hint='they are computed again; the next freeze sets the file aside',
            )

    def _seems_right(  # noqa: PLR0917 - what `check` has, by name there
        self,
        kernels: Kernels,
        entry: ChunkEntry,
        payload: memoryview,
        kv: FloatArray | DequantizedKV,
        look: _Look,
        remembered: FloatArray | None,
    ) -> bool:
        """Say whether compiled kernels find nothing to look at more closely."""
        codec, spec = codec_named(entry.codec), self._evidence.spec
        if kernels.look is None or codec is not CodecId.INT8 or not isinstance(kv, np.ndarray):
            return False
        if remembered is not None and remembered.shape[2] != len(look.tokens):
            return False
        scales = scales_of(payload, spec, entry.stop - entry.start, codec)
        is_half = kv.dtype == np.float16
        values = cast('FloatArray', kv.view(np.uint16) if is_half else kv)
        sums = np.empty((3, 2 * spec.num_layers, len(look.tokens)), np.float32)
        excess = kernels.look(
            values, scales, look.tokens, self._weights[:, 0], look.expected, look.room, sums
        )
        if remembered is None:
            return excess <= 0
        sums = sums.reshape(3, *remembered.shape)
        return excess <= 0 and not _differ(sums, remembered[:, :, look.order]).any()

    def _pick(
        self,
        entry: ChunkEntry,
        payload: memoryview,
        kv: FloatArray | DequantizedKV,
        positions: Positions,
    ) -> tuple[FloatArray, FloatArray]:
        """Return the values at some positions, (L, 2, H, N, D), and what the codec may err by."""
        tokens = positions - entry.start
        picked = kv[:, :, :, tokens].astype(np.float32, copy=False)
        bound = bound_at(
            payload,
            picked,
            spec=self._evidence.spec,
            num_tokens=entry.stop - entry.start,
            codec=codec_named(entry.codec),
            tokens=tokens,
        )
        return picked, bound

    def _look_at(self, entry: ChunkEntry) -> _Look:
        """Return what a chunk must be; some that will be asked for next are computed with it."""
        with self._lock:
            if entry.start not in self._looks:
                others = (e for e in reversed(self._evidence.entries) if e.start != entry.start)
                left = (e for e in others if e.start not in self._looks)
                self._compute([entry, *islice(left, CHUNKS_AT_ONCE - 1)])
            return self._looks[entry.start]

    def _compute(self, entries: Sequence[ChunkEntry]) -> None:
        evidence = self._evidence
        places: list[Positions] = []
        for length, alike in groupby(entries, lambda e: e.stop - e.start):
            starts = np.array([entry.start for entry in alike])
            places += [*_sample_each(starts, length, evidence.count)]
        orders = [_ends_first(len(place)) for place in places]
        ends = [order[:FIRST_TOKENS] for order in orders]
        positions = np.concatenate([p[e] for p, e in zip(places, ends, strict=True)])
        if evidence.first_layer is None:
            kv = np.zeros(evidence.spec.shape(len(positions))[1:], np.float32)
            room = np.full((2, len(positions)), np.inf, np.float32)
        else:
            kv = evidence.first_layer(evidence.tokens[positions], positions)
            room = _engine_room(kv)
        stop = 0
        for entry, place, order in zip(entries, places, orders, strict=True):
            start, stop = stop, stop + len(order[:FIRST_TOKENS])
            self._looks[entry.start] = _Look(
                place,
                order,
                place[order] - entry.start,
                np.ascontiguousarray(kv[:, :, start:stop]),
                np.ascontiguousarray(room[:, start:stop]),
            )

    def _find_in_first(self, look: _Look, found: FloatArray, bound: FloatArray) -> str:
        """Return what is wrong with the first layer (2, H, M, D) of a chunk's ends, or ''."""
        is_wrong = (np.abs(found - look.expected) > _with_codec(look.room, bound)).any()
        positions = look.positions[look.order[: look.room.shape[1]]]
        return self._name(found, bound, positions) if is_wrong else ''

    def _find_in_samples(
        self, picked: FloatArray, bound: FloatArray, remembered: FloatArray
    ) -> str:
        """Return which layer of a chunk is not what the manifest remembers, or ''."""
        total = sample(picked, self._weights)
        errors, sizes = (sample(np.square(values), self._squares) for values in (bound, picked))
        is_wrong = _differ((total, errors, sizes), remembered)
        if not is_wrong.any():
            return ''
        layer, part = np.argwhere(is_wrong.any(axis=2))[0].tolist()
        what = 'are not those that were frozen' if picked[layer, part].any() else 'are zero'
        return f'{PARTS[part]} of layer {layer} {what}'

    def _name(self, found: FloatArray, bound: FloatArray, positions: Positions) -> str:
        """Say what first-layer KV is that is not what it should be; only after a failure."""
        evidence = self._evidence
        assert evidence.first_layer is not None
        empty = [what for what, part in zip(PARTS, found, strict=True) if not part.any()]
        if empty:
            return f'{" and ".join(empty)} of layer 0 are zero'
        tokens = evidence.tokens
        for shift in (1, -1, 2, -2):
            moved = evidence.first_layer(tokens[positions], np.maximum(positions + shift, 0))
            if _agrees(found, moved, bound):
                return f'positions are off by {shift}'
        all_kv = evidence.first_layer(tokens, np.arange(len(tokens)))
        for shift in range(-int(positions.min()), len(tokens) - int(positions.max())):
            if _agrees(found, all_kv[:, :, positions + shift], bound):
                return f'holds the KV of tokens {shift:+d} away'
        return 'holds the KV of other tokens or of other weights'


def _differ(sums: Sequence[FloatArray] | FloatArray, remembered: FloatArray) -> BoolArray:
    """Say which samples (L, 2, N) are not those of the manifest; the sums as in `Look`."""
    total, errors, sizes = sums
    # An error within the bound is about uniform: its deviation is the bound over root 3.
    room = SAMPLE_SIGMAS * np.sqrt(errors / 3) + SAMPLE_ERROR * np.sqrt(sizes)
    differ: BoolArray = np.abs(total - remembered) > room + np.float32(1e-6)
    return differ


def _engine_room(expected: FloatArray) -> FloatArray:
    """Return what engines may differ by from (2, H, N, D), shape (2, N)."""
    largest: FloatArray = np.abs(expected).max(axis=(1, 3))
    return largest * np.float32(ENGINE_ERROR)


def _with_codec(room: FloatArray, bound: FloatArray) -> FloatArray:
    """Return by how much values (2, H, N, D) may be off, with what the codec may err by."""
    return bound * BOUND_MARGIN + room[:, np.newaxis, :, np.newaxis]


def _agrees(found: FloatArray, expected: FloatArray, bound: FloatArray) -> bool:
    room = _with_codec(_engine_room(expected), bound)
    return bool((np.abs(found - expected) <= room).all())
