# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
KV into and out of a `GpuCache`: quantised by chunk, or as float32.

Each of a few lanes has a stream and memory of its own, so that the copy of one chunk runs beside
the kernel of another, and beside inference, which has a stream that goes first. On a GPU that
shares its memory with the processor nothing is copied: kernels read where the drive wrote.
"""

from __future__ import annotations

import ctypes
from ctypes import c_void_p
from itertools import pairwise
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING
import weakref

import numpy as np

from cwm_ros.errors import EngineError
from cwm_ros.kv import QuantizedKV

if TYPE_CHECKING:
    import numpy.typing as npt

    from cwm_ros.engine.cuda import Device, Kernels, Memory, Pinned, Stream
    from cwm_ros.engine.gpu_cache import GpuCache
    from cwm_ros.kv import FloatArray

    ByteArray = npt.NDArray[np.uint8]
    Addresses = npt.NDArray[np.int64]

NUM_LANES = 4
GROUP_TOKENS = 128
ALIGNMENT = 256
INFINITY_BITS = 0x7F800000
LARGEST_BITS = int(np.float32(127 * 65504).view(np.uint32))
FLOAT16_MAX = 65504


class _Lane:
    """What one import needs at a time."""

    def __init__(self, device: Device, num_layers: int, priority: int) -> None:
        self.stream: Stream = device.stream(priority)
        self.table: Pinned = device.pinned(16 * num_layers)
        self.places: Addresses = self.table.array.view(np.int64)
        self.table_there: Memory = device.memory(16 * num_layers)
        self.memory: Memory | None = None
        self._device = device

    def room(self, num_bytes: int) -> int:
        """Return the address of so many bytes on the GPU."""
        if self.memory is None or self.memory.num_bytes < num_bytes:
            if self.memory is not None:
                self.memory.free()
            self.memory = self._device.memory(num_bytes)
        return self.memory.address

    def close(self) -> None:
        self.table_there.free()
        self.table.free()
        if self.memory is not None:
            self.memory.free()


class Transfer:
    """
    Moves KV between the processor and a cache.

    Parameters
    ----------
    device, kernels, stream
        The GPU; exports and float32 imports are asked of this stream, from its owner's thread.
    cache
        Where KV lives.
    is_mapped
        Whether kernels reach memory of the processor, instead of having it copied.
    priority
        Of the imports' streams; higher than that of inference, so that it goes first.

    """

    def __init__(
        self,
        device: Device,
        kernels: Kernels,
        stream: Stream,
        cache: GpuCache,
        *,
        is_mapped: bool,
        priority: int,
    ) -> None:
        self._device, self._kernels, self._stream, self._cache = device, kernels, stream, cache
        self._is_mapped = is_mapped
        self._spec = cache.spec
        self._all_lanes = [
            _Lane(device, cache.spec.num_layers, priority) for _ in range(NUM_LANES)
        ]
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for lane in self._all_lanes:
            self._lanes.put(lane)
        self._lock = Lock()
        self._is_closed = False
        self._idle: list[Pinned] = []
        self._lent: dict[int, Pinned] = {}
        self._exported = device.memory(0)
        self._export_host = np.empty(0, np.uint8)

    def staging(self, num_bytes: int) -> ByteArray:
        """Return pinned memory; it comes back by itself when no array uses it any more."""
        with self._lock:
            fits = [pinned for pinned in self._idle if pinned.array.nbytes >= num_bytes]
            found = min(fits, key=lambda pinned: pinned.array.nbytes, default=None)
            if found is not None:
                self._idle.remove(found)
        pinned = found or self._device.pinned(max(num_bytes, 1))
        raw = (ctypes.c_uint8 * pinned.array.nbytes).from_address(pinned.host_address)
        array: ByteArray = np.frombuffer(memoryview(raw).cast('B'), np.uint8)
        with self._lock:
            self._lent[pinned.host_address] = pinned
        weakref.finalize(array, self._take_back, pinned)
        return array[:num_bytes]

    def _take_back(self, pinned: Pinned) -> None:
        # No lock: a collector may call this in a thread that holds it; both steps are atomic.
        self._lent.pop(pinned.host_address, None)
        if self._is_closed:
            pinned.free()
        else:
            self._idle.append(pinned)

    def import_quantized(self, kv: QuantizedKV) -> None:
        """Dequantise into the cache and wait for it; from any thread."""
        lane = self._lanes.get()
        try:
            self._import(lane, kv)
        finally:
            self._lanes.put(lane)

    def _import(self, lane: _Lane, kv: QuantizedKV) -> None:
        spec, cache = self._spec, self._cache
        scales = np.ascontiguousarray(kv.scales)
        here = np.array([scales.ctypes.data, *kv.addresses().tolist()], np.int64)
        sizes = np.array([scales.nbytes, *(block.nbytes for block in kv.blocks)], np.int64)
        places = self._mapped(here, sizes) if self._is_mapped else None
        if places is None:
            places = self._copy(lane, here, sizes)
        lane.places[:] = places[1:]
        lane.stream.upload(lane.table_there.address, lane.places)
        is_aligned = spec.head_dim % 4 == 0 and not (places[1:] % 4).any()
        num_elements = kv.num_tokens * spec.elements_per_token()
        self._kernels.launch(
            lane.stream,
            'dequantize4' if is_aligned else 'dequantize',
            -(-num_elements // 4),
            *(cache.table, c_void_p(lane.table_there.address), c_void_p(int(places[0]))),
            *(spec.num_layers, spec.num_kv_heads, kv.num_tokens, cache.slots),
            *(spec.head_dim, kv.start),
        )
        lane.stream.wait()

    def _owners(self, here: Addresses) -> tuple[list[tuple[int, Pinned]], Addresses]:
        """Return what is lent by address, and for each address after how many of these it is."""
        lent = sorted(self._lent.copy().items())
        return lent, np.searchsorted([start for start, _ in lent], here, side='right')

    def _mapped(self, here: Addresses, sizes: Addresses) -> Addresses | None:
        """Return where kernels find memory of the processor; None if they cannot, or not all."""
        lent, owners = self._owners(here)
        if not owners.all() or here[0] % 2:
            return None
        bounds = [(start, pinned.array.nbytes, pinned.address) for start, pinned in lent]
        starts, rooms, there = np.array(bounds, np.int64)[owners - 1].T
        is_inside = here + sizes <= starts + rooms
        return there + here - starts if is_inside.all() else None

    def _copy(self, lane: _Lane, here: Addresses, sizes: Addresses) -> Addresses:
        """Copy parts to the lane's memory, neighbours at once, and return where they are."""
        _, owners = self._owners(here)
        # What touches but was allocated apart cannot be copied at once.
        is_apart = (here[1:] != here[:-1] + sizes[:-1]) | (owners[1:] != owners[:-1])
        gaps = np.flatnonzero(is_apart) + 1
        bounds = [0, *gaps.tolist(), len(here)]
        # The first block of codes, behind the scales, is aligned if its size is.
        offsets, end = np.empty_like(here), int(-sizes[0] % 16)
        for first, last in pairwise(bounds):
            offsets[first:last] = end + here[first:last] - here[first]
            end = -(-(int(offsets[last - 1]) + int(sizes[last - 1])) // ALIGNMENT) * ALIGNMENT
        base = lane.room(end)
        for first, last in pairwise(bounds):
            start = int(here[first])
            num_bytes = int(here[last - 1] + sizes[last - 1]) - start
            lane.stream.upload_from(base + int(offsets[first]), start, num_bytes)
        return offsets + base

    def export_quantized(self, start: int, stop: int) -> QuantizedKV:
        """Quantise on the GPU, and fetch codes and scales."""
        spec, num_tokens = self._spec, stop - start
        num_rows = spec.num_layers * 2 * spec.num_kv_heads
        num_codes = num_tokens * spec.elements_per_token()
        groups = -(-num_tokens // GROUP_TOKENS)
        num_scales = num_rows * groups * spec.head_dim
        codes_at = -(-(16 + 2 * num_scales) // ALIGNMENT) * ALIGNMENT
        base, host = self._export_buffers(codes_at + num_codes)
        self._stream.zero(base, 16)
        self._stream.zero(base + 16 + 2 * num_scales, codes_at - 16 - 2 * num_scales)
        self._kernels.launch(
            self._stream,
            'quantize',
            num_scales,
            *(self._cache.table, c_void_p(base + codes_at), c_void_p(base + 16), c_void_p(base)),
            *(spec.num_layers, spec.num_kv_heads, num_tokens, self._cache.slots),
            *(spec.head_dim, start),
        )
        self._stream.download(host, base)
        self._stream.wait()
        _check_largest(int(host[:4].view(np.uint32)[0]))
        scales = host[16 : 16 + 2 * num_scales].view(np.uint16)
        blocks = host[codes_at:].reshape(2 * spec.num_layers, -1)
        return QuantizedKV(
            start=start,
            num_tokens=num_tokens,
            blocks=tuple(blocks),
            scales=scales.reshape(num_rows, groups, spec.head_dim),
        )

    def _export_buffers(self, num_bytes: int) -> tuple[int, ByteArray]:
        if self._export_host.nbytes < num_bytes:
            self._exported.free()
            self._exported = self._device.memory(num_bytes)
            self._export_host = self.staging(num_bytes)
        return self._exported.address, self._export_host[:num_bytes]

    def export_floats(self, start: int, stop: int) -> FloatArray:
        """Return float32 (L, 2, H, T, D), a new array."""
        rows = np.empty(self._spec.shape(stop - start), np.float32)
        memory = self._device.memory(rows.nbytes)
        try:
            self._move_floats('load', memory, start, stop)
            self._stream.download(rows, memory.address)
            self._stream.wait()
        finally:
            memory.free()
        return rows

    def import_floats(self, rows: FloatArray, start: int, *, is_half: bool) -> None:
        """
        Write float32 (L, 2, H, T, D), contiguous, rounded to what the cache holds.

        Raises
        ------
        EngineError
            A value is not finite or does not fit.

        """
        largest = float(np.abs(rows).max(initial=0))
        if not largest <= (FLOAT16_MAX if is_half else np.finfo(np.float32).max):
            raise EngineError(f'KV at {start} holds {largest:g}: it does not fit this cache')
        memory = self._device.memory(rows.nbytes)
        try:
            self._stream.upload(memory.address, rows)
            self._move_floats('store', memory, start, start + rows.shape[3])
            self._stream.wait()
        finally:
            memory.free()

    def _move_floats(self, name: str, memory: Memory, start: int, stop: int) -> None:
        spec = self._spec
        self._kernels.launch(
            self._stream,
            name,
            (stop - start) * spec.elements_per_token(),
            *(self._cache.table, c_void_p(memory.address)),
            *(spec.num_layers, spec.num_kv_heads, stop - start, self._cache.slots),
            *(spec.head_dim, start),
        )

    def hold(self) -> list[_Lane]:
        """Wait for the imports in flight and keep others waiting, until `let_go`."""
        return [self._lanes.get() for _ in self._all_lanes]

    def let_go(self, lanes: list[_Lane]) -> None:
        """Let imports run again."""
        for lane in lanes:
            self._lanes.put(lane)

    def close(self) -> None:
        """Give the GPU's memory back."""
        self.hold()
        for lane in self._all_lanes:
            lane.close()
        self._exported.free()
        self._is_closed = True
        self._export_host = np.empty(0, np.uint8)
        while self._idle:
            self._idle.pop().free()


def _check_largest(bits: int) -> None:
    if bits >= INFINITY_BITS:
        raise EngineError('KV holds a value that is not finite: it cannot be frozen')
    if bits > LARGEST_BITS:
        raise EngineError(
            'KV holds a value beyond the range of codec int8', hint="set codec.kind to 'raw'"
        )
