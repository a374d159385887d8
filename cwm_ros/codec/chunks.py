# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A chunk's KV to payload and back.

Any number of threads may encode and decode at once, each with its own `Scratch`; the loops run
without the interpreter lock.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.codec.compress import checksum, compress_lz4, Compression, decompress_lz4
from cwm_ros.codec.kernels import Blocks, numpy_kernels, Rows, rows_of
from cwm_ros.codec.payload import (
    CodecId,
    Entry,
    PayloadLayout,
    read_index,
    scale_bits,
    write_index,
)
from cwm_ros.codec.quantize import (
    FLOAT16_MAX,
    GROUP_TOKENS,
    groups,
    INT4_GROUP_TOKENS,
    INT4_MAX,
    INT8_LARGEST,
    int8_scales,
)
from cwm_ros.errors import ConfigError, EngineError, FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.codec.quantize import BitsArray, ByteArray, HalfArray
    from cwm_ros.kv import FloatArray, KVSpec

LARGEST = {
    CodecId.RAW: np.float32(np.finfo(np.float32).max),
    CodecId.FP16: FLOAT16_MAX,
    CodecId.INT8: INT8_LARGEST,
    CodecId.INT4: FLOAT16_MAX,
}
"""Largest magnitude that each codec can hold."""

HALF_SCALE_LIMIT = np.float16(516)
"""Largest scale that values of a float16 cache can have: the smallest above 65504 / 127."""

FLOAT16_INFINITY, FLOAT32_INFINITY = 0x7C00, 0x7F800000
"""Bits of infinity; those of NaN and of negative numbers are above."""

HALF_MASK = np.array([0x7FFF], dtype=np.int16)
SINGLE_MASK = np.array([0x7FFFFFFF], dtype=np.int32)


STAGING_BYTES = 1 << 20
"""Compressed blocks are decompressed and decoded in runs of about so many bytes."""


class Scratch:
    """
    Buffers that are used again and again by one thread; new ones cost up to ten times more.

    Parameters
    ----------
    kernels
        Asked at each call; a `KernelLoader` gives faster ones once they are ready.
    allocate
        Returns a buffer of so many bytes; an engine's `staging` where it takes them further.

    """

    def __init__(
        self,
        kernels: Callable[[], Kernels] = numpy_kernels,
        allocate: Callable[[int], ByteArray] = lambda size: np.empty(size, np.uint8),
    ) -> None:
        self.kernels = kernels
        self._allocate = allocate
        self._payload = np.empty(0, dtype=np.uint8)
        self._staging = np.empty(0, dtype=np.uint8)

    def payload(self, num_bytes: int) -> ByteArray:
        """Return a buffer for a payload that is being made."""
        if self._payload.nbytes < num_bytes:
            self._payload = np.empty(num_bytes, dtype=np.uint8)
        return self._payload[:num_bytes]

    def staging(self, num_bytes: int) -> ByteArray:
        """Return a buffer for codes before compression or after decompression."""
        if self._staging.nbytes < num_bytes:
            self._staging = self._allocate(num_bytes)
        return self._staging[:num_bytes]


def decode_bytes(spec: KVSpec, num_tokens: int, codec: CodecId) -> int:
    """Return how much memory decoding a payload takes beside it and its target [bytes]."""
    return _staging_bytes(PayloadLayout.of(spec, num_tokens, codec))


def max_payload_bytes(spec: KVSpec, num_tokens: int, codec: CodecId) -> int:
    """Return the size that no payload of ``num_tokens`` tokens exceeds [bytes]."""
    return PayloadLayout.of(spec, num_tokens, codec).max_bytes


def encode_chunk(kv: FloatArray, codec: CodecId, compression: str, scratch: Scratch) -> memoryview:
    """
    Encode KV.

    Parameters
    ----------
    kv
        Shape (L, 2, H, T, D), float32, finite, T >= 1; any view whose last two axes are
        contiguous, such as a range of tokens of a live cache. Only read.
    codec
        Type of the codes.
    compression
        'lz4' (kept where a block shrinks by 3 %) or 'none'.
    scratch
        Buffers of this thread.

    Returns
    -------
    memoryview
        The payload, in a buffer of ``scratch``: valid until it is used again.

    Raises
    ------
    EngineError
        A value is not finite, or too large for the codec (fp16, int4: 65504, int8: 127 * 65504).
    ConfigError
        The array has another shape, type or order, or the compression is unknown.

    """
    if compression not in ('none', 'lz4'):
        raise ConfigError(f'compression {compression!r} is unknown', hint="use 'lz4' or 'none'")
    layout, rows = _layout_of(kv, codec), rows_of(kv)
    payload = scratch.payload(layout.max_bytes)
    is_packed = compression == 'lz4'
    all_codes = payload[layout.blocks_start :]
    if is_packed:
        all_codes = scratch.staging(all_codes.nbytes)
    _write_codes(rows, layout, all_codes, scale_bits(payload, layout), scratch.kernels())
    end, entries = layout.blocks_start, []
    for codes in all_codes.reshape(layout.num_blocks, layout.block_bytes):
        entries.append(store_block(codes, payload[end:], is_packed=is_packed))
        end += entries[-1].stored_bytes
    size = write_index(payload, layout, entries)
    return payload.data[:size]


def decode_chunk(
    payload: memoryview,
    *,
    spec: KVSpec,
    num_tokens: int,
    codec: CodecId,
    out: FloatArray | HalfArray,
    scratch: Scratch,
    source: Path,
) -> None:
    """
    Decode a payload into a live cache.

    Parameters
    ----------
    payload
        Contiguous bytes; nothing about them is believed.
    spec, num_tokens, codec
        What the payload must hold.
    out
        Shape (L, 2, H, T, D), float32 or float16; any view whose last two axes are contiguous.
        When an error is raised it is untouched, or some of its values have become others that
        are finite.
    scratch
        Buffers of this thread.
    source
        File named in errors.

    Raises
    ------
    FormatError
        The payload is damaged, lies, or holds something else.
    EngineError
        A value does not fit a float16 cache.
    ConfigError
        ``out`` has another shape, type or order.

    """
    layout = PayloadLayout.of(spec, num_tokens, codec)
    if out.shape != layout.shape or out.dtype not in (np.float32, np.float16):
        raise ConfigError(f'KV array is {out.dtype} {out.shape}, the payload {layout.shape}')
    if not out.flags.writeable:
        raise ConfigError('KV array is read-only')
    rows = rows_of(out)
    data = np.frombuffer(payload, dtype=np.uint8)
    entries = read_index(data, layout, source)
    stored = check_sums(data, layout, entries, source)
    scales = scale_bits(data, layout)
    if codec is CodecId.INT8:
        check_scales(scales, source, is_half=rows.is_half)
    elif codec is CodecId.INT4:
        _check_pairs(scales, source)
    staging = scratch.staging(_staging_bytes(layout)).reshape(-1, layout.block_bytes)
    for first, last in _runs(entries, layout.block_bytes):
        blocks = unpack_blocks(data, stored, (first, last), staging, source)
        part = slice(first * layout.num_kv_heads, last * layout.num_kv_heads)
        part_rows = Rows(rows.flat, rows.starts[part])
        _decode_rows(blocks, layout, scales[part], part_rows, scratch.kernels(), source=source)


def _staging_bytes(layout: PayloadLayout) -> int:
    """Return what decoding takes beside payload and target [bytes]."""
    return layout.block_bytes * max(1, min(STAGING_BYTES // layout.block_bytes, layout.num_blocks))


def _decode_rows(
    blocks: Blocks,
    layout: PayloadLayout,
    scales: BitsArray,
    rows: Rows,
    kernels: Kernels,
    *,
    source: Path,
) -> None:
    if layout.codec is CodecId.INT8:
        kernels.dequantize(*blocks, scales, *rows, layout.num_tokens)
    elif layout.codec is CodecId.INT4:
        kernels.dequantize_int4(*blocks, scales, *rows, layout.num_tokens)
    else:
        _load_floats(blocks, layout, rows, kernels, source)


def error_bound(kv: FloatArray, codec: CodecId) -> FloatArray:
    """
    Return how far encoding and decoding may move a value.

    It holds for the values before encoding and for those decoded to float32. For int8 both give
    the same, within float32 rounding: decoded values have the same scales, down to scales of
    2^-14, below which the bound is a constant. For int4 it allows for a minimum that was rounded.

    Parameters
    ----------
    kv
        Shape (L, 2, H, T, D), float32, finite.
    codec
        Type of the codes.

    Returns
    -------
    FloatArray
        Shape (L, 2, H, G, D): one bound for every 128 tokens of a channel. Decoding to float16
        adds that type's rounding, 2^-11 of a value.

    """
    tokens = groups(kv.shape[3])
    peaks = np.stack([np.abs(kv[:, :, :, a:b]).max(axis=3) for a, b in tokens], axis=3)
    if codec is CodecId.RAW:
        return np.zeros_like(peaks)
    if codec is CodecId.FP16:
        return np.maximum(peaks * np.float32(2**-11), np.float32(2**-25))
    if codec is CodecId.INT4:
        return _int4_bound(kv, peaks)
    # A quotient of up to 127 carries two float32 roundings, which may take it past the middle.
    scales = np.maximum(int8_scales(peaks), np.float32(2**-14), dtype=np.float32)
    return np.multiply(scales, 0.5 + 127 * 2**-23, dtype=np.float32)


def _int4_bound(kv: FloatArray, peaks: FloatArray) -> FloatArray:
    """Bound half a scale for the widest half of each group of 128 tokens."""
    halves: FloatArray = np.zeros_like(peaks)
    for first, last in groups(kv.shape[3], INT4_GROUP_TOKENS):
        part = kv[:, :, :, first:last]
        lows, highs = part.min(axis=3), part.max(axis=3)
        # The minimum is up to a float16 step lower, and decoded values may lack twice that.
        steps = np.maximum(np.abs(lows) * np.float32(2**-10), np.float32(2**-24))
        scales = np.maximum((highs - lows + 2 * steps) / INT4_MAX, np.float32(2**-14))
        group = halves[:, :, :, first // GROUP_TOKENS]
        # A scale is rounded up by at most 2^-10.
        np.maximum(group, scales * np.float32(0.5 + 2**-10), out=group)
    rounding: FloatArray = peaks * np.float32(2**-22)  # four float32 roundings
    return halves + rounding


def scales_of(payload: memoryview, spec: KVSpec, num_tokens: int, codec: CodecId) -> BitsArray:
    """Return the scales of a payload that was decoded without an error, float16 bits, a view."""
    layout = PayloadLayout.of(spec, num_tokens, codec)
    return scale_bits(np.frombuffer(payload, np.uint8), layout)


def bound_at(
    payload: memoryview,
    picked: FloatArray,
    *,
    spec: KVSpec,
    num_tokens: int,
    codec: CodecId,
    tokens: npt.NDArray[np.int64],
) -> FloatArray:
    """
    Return how far a payload's decoded values may be from those that were encoded.

    As `error_bound`, but for a few tokens.

    Parameters
    ----------
    payload
        A payload that was decoded without an error.
    picked
        What some of its tokens were decoded to, shape (L, 2, H, N, D).
    spec, num_tokens, codec
        What the payload holds.
    tokens
        Which of its tokens they are, shape (N,).

    Returns
    -------
    FloatArray
        Shape (L, 2, H, N, D).

    """
    if codec is CodecId.RAW:
        return np.zeros_like(picked)
    if codec is CodecId.FP16:
        return np.maximum(np.abs(picked) * np.float32(2**-11), np.float32(2**-25))
    bits = scales_of(payload, spec, num_tokens, codec)
    scales = bits.view(np.float16).reshape(*picked.shape[:3], *bits.shape[1:])
    groups = tokens // codec.group_tokens
    if codec is CodecId.INT4:  # scales and minima
        at: FloatArray = scales[:, :, :, groups, 0].astype(np.float32)
        at = np.add(at, (at + np.abs(picked)) * 2**-9, dtype=np.float32)
    else:
        at = scales.astype(np.float32)[:, :, :, groups]
    half = np.float32(0.5 + 127 * 2**-23)
    return np.multiply(np.maximum(at, np.float32(2**-14)), half, dtype=np.float32)


def _layout_of(kv: FloatArray, codec: CodecId) -> PayloadLayout:
    if kv.shape[1:2] != (2,) or kv.ndim != len('L2HTD') or kv.dtype != np.float32:
        raise ConfigError(f'KV array is {kv.dtype} {kv.shape}, not float32 (L, 2, H, T, D)')
    layers, _, heads, num_tokens, head_dim = kv.shape
    return PayloadLayout(
        num_layers=layers,
        num_kv_heads=heads,
        num_tokens=num_tokens,
        head_dim=head_dim,
        codec=codec,
    )


def _write_codes(
    rows: Rows, layout: PayloadLayout, codes: ByteArray, scales: BitsArray, kernels: Kernels
) -> None:
    """Fill the codes of all blocks, and the scales."""
    shape = (layout.num_rows, layout.num_tokens, layout.head_dim)
    if layout.codec is CodecId.INT4:
        pairs = codes.reshape(*shape[:2], layout.codec.token_bytes(layout.head_dim))
        bits = kernels.quantize_int4(*rows, pairs, scales)
    elif layout.codec is CodecId.INT8:
        bits = kernels.quantize(*rows, codes.view(np.int8).reshape(shape), scales)
    elif layout.codec is CodecId.FP16:
        bits = kernels.store_floats(*rows, codes.view(np.uint16).reshape(shape))
    else:
        bits = kernels.store_floats(*rows, codes.view(np.float32).reshape(shape))
    if bits >= FLOAT32_INFINITY:
        raise EngineError('KV holds a value that is not finite: it cannot be frozen')
    largest, limit = np.uint32(bits).view(np.float32), LARGEST[layout.codec]
    if largest > limit:
        raise EngineError(
            f'KV holds {largest:g}, more than the {limit:g} of codec {layout.codec.name.lower()}',
            hint="set codec.kind to 'raw'",
        )


def store_block(codes: ByteArray, target: ByteArray, *, is_packed: bool) -> Entry:
    """Compress or copy one block; without packing the codes are in their place already."""
    size = compress_lz4(codes, target) if is_packed else None
    if size is not None:
        return Entry(Compression.LZ4, size, checksum(target[:size]))
    if is_packed:
        target[: codes.nbytes] = codes
    return Entry(Compression.NONE, codes.nbytes, checksum(codes))


def check_sums(
    data: ByteArray, layout: PayloadLayout, entries: Sequence[Entry], source: Path
) -> list[tuple[Entry, int]]:
    """Compare all blocks with their checksums; return their entries and where they end."""
    sizes = (entry.stored_bytes for entry in entries)
    stops = list(accumulate(sizes, initial=layout.blocks_start))[1:]
    stored = list(zip(entries, stops, strict=True))
    view = data.data
    for block, (entry, stop) in enumerate(stored):
        if checksum(view[stop - entry.stored_bytes : stop]) != entry.checksum:
            raise FormatError(source, f'block {block} fails its checksum')
    return stored


def _runs(entries: Sequence[Entry], block_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of blocks whose decompressed ones fit into the staging area together."""
    room, first, num_packed = max(1, STAGING_BYTES // block_bytes), 0, 0
    for block, entry in enumerate(entries):
        if entry.compression == Compression.LZ4:
            if num_packed == room:
                yield first, block
                first, num_packed = block, 0
            num_packed += 1
    yield first, len(entries)


def unpack_blocks(
    data: ByteArray,
    stored: Sequence[tuple[Entry, int]],
    run: tuple[int, int],
    staging: ByteArray,
    source: Path,
) -> Blocks:
    """Decompress the blocks of a run that are compressed; ``staging`` has a row for each."""
    first, last = run
    places = np.zeros((last - first, 2), dtype=np.int64)
    num_staged = 0
    for block in range(first, last):
        entry, stop = stored[block]
        start = stop - entry.stored_bytes
        if entry.compression == Compression.LZ4:
            if not decompress_lz4(data[start:stop], staging[num_staged]):
                raise FormatError(source, f'block {block}: LZ4 does not give its size')
            places[block - first] = 1, num_staged * staging.shape[1]
            num_staged += 1
        else:
            places[block - first, 1] = start
    return Blocks(payload=data, staging=staging.reshape(-1), places=places)


def check_scales(scales: BitsArray, source: Path, *, is_half: bool) -> None:
    """Raise unless all scales can be used, for a float16 cache if ``is_half``."""
    largest = scales.max()
    if largest >= FLOAT16_INFINITY:
        raise FormatError(source, 'scales: one is negative or not finite')
    if is_half and largest > HALF_SCALE_LIMIT.view(np.uint16):
        raise EngineError(f'{source}: a value does not fit a float16 cache')


def _check_pairs(scales: BitsArray, source: Path) -> None:
    """Check scales and minima; those that are finite fit any cache."""
    if scales[:, :, 0].max() >= FLOAT16_INFINITY:
        raise FormatError(source, 'scales: one is negative or not finite')
    if (scales[:, :, 1] & np.uint16(HALF_MASK[0])).max() >= FLOAT16_INFINITY:
        raise FormatError(source, 'scales: a minimum is not finite')


def _load_floats(
    blocks: Blocks, layout: PayloadLayout, rows: Rows, kernels: Kernels, source: Path
) -> None:
    row_elements = layout.num_tokens * layout.head_dim
    count = layout.num_kv_heads * row_elements
    if layout.codec is CodecId.FP16:
        if kernels.largest_bits(*blocks, HALF_MASK, count) >= FLOAT16_INFINITY:
            raise FormatError(source, 'blocks: a value is not finite')
        kernels.load_floats(*blocks, np.empty(0, np.uint16), *rows, row_elements)
        return
    largest = kernels.largest_bits(*blocks, SINGLE_MASK, count)
    if largest >= FLOAT32_INFINITY:
        raise FormatError(source, 'blocks: a value is not finite')
    if rows.is_half and largest > FLOAT16_MAX.view(np.int32):
        raise EngineError(f'{source}: a value does not fit a float16 cache')
    kernels.load_floats(*blocks, np.empty(0, np.float32), *rows, row_elements)
