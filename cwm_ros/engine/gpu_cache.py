# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The key/value cache on the GPU: a buffer for each layer, and the mask that says what counts."""

from __future__ import annotations

from ctypes import c_void_p
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.engine.cache import Residency, slots_for
from cwm_ros.errors import OutOfMemoryError
from cwm_ros.kv import TokenRanges

if TYPE_CHECKING:
    from cwm_ros.engine.cuda import Device, Kernels, Memory, Stream
    from cwm_ros.kv import KVSpec

HIDDEN = -30000.0
"""Added to a score it gives a share of exactly zero, in float16 too."""
ROOM_BYTES = 64 << 20
"""Memory of the GPU that growth leaves free [bytes]."""


class GpuCache(Residency):
    """
    KV in memory of the GPU, (2, H, S, D) for each layer, and an additive mask of S numbers.

    It begins as zeros and never holds anything that is not finite, as its counterpart in host
    memory. It grows layer by layer, so that only one layer is there twice.

    Parameters
    ----------
    device, kernels, stream
        The GPU; all work is asked of this stream.
    spec, capacity
        Geometry, and most positions.
    is_half
        Whether elements are float16, else float32.

    """

    def __init__(
        self,
        device: Device,
        kernels: Kernels,
        stream: Stream,
        spec: KVSpec,
        capacity: int,
        *,
        is_half: bool,
    ) -> None:
        super().__init__(spec, capacity)
        self._device, self._kernels, self._stream = device, kernels, stream
        self._dtype = np.dtype(np.float16 if is_half else np.float32)
        self._slots = slots_for(0)
        self._layers: list[Memory] = []
        self._table = device.memory(8 * spec.num_layers)
        most = slots_for(capacity)
        self.mask = device.memory(most * self._dtype.itemsize)
        self._pinned_mask = device.pinned(most * self._dtype.itemsize)
        self._host_mask = self._pinned_mask.array.view(self._dtype)
        self._shown: tuple[tuple[int, int], ...] | None = None
        self._inspected = device.memory(4 * most)
        for _ in range(spec.num_layers):
            self._layers.append(self._zeros(self._slots))
        self._write_table()

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def table(self) -> c_void_p:
        """Where the layers' addresses lie, for kernels."""
        return c_void_p(self._table.address)

    def part(self, layer: int, kind: int) -> int:
        """Return the address of a layer's keys (0) or values (1), (H, S, D)."""
        return self._layers[layer].address + kind * self._layer_bytes(self._slots) // 2

    def _layer_bytes(self, slots: int) -> int:
        return 2 * self.spec.num_kv_heads * slots * self.spec.head_dim * self._dtype.itemsize

    def _zeros(self, slots: int) -> Memory:
        memory = self._device.memory(self._layer_bytes(slots))
        self._stream.zero(memory.address, memory.num_bytes)
        return memory

    def _write_table(self) -> None:
        addresses = np.array([layer.address for layer in self._layers], np.uint64)
        self._stream.upload(self._table.address, addresses)
        self._stream.wait()

    def reserve(self, num_tokens: int) -> bool:
        self.check_fits(num_tokens)
        if num_tokens <= self._slots:
            return False
        slots = slots_for(num_tokens)
        self._check_room(slots)
        try:
            for index, old in enumerate(self._layers):
                self._layers[index] = self._moved(old, slots)
                old.free()
        except OutOfMemoryError:  # someone else took it meanwhile
            self._start_over()
            raise
        finally:
            self._write_table()
            self._shown = None
        self._slots = slots
        return True

    def _check_room(self, slots: int) -> None:
        new, old = self._layer_bytes(slots), self._layer_bytes(self._slots)
        wanted = len(self._layers) * (new - old) + old + ROOM_BYTES
        free = self._device.free_bytes()
        if wanted > free:
            raise OutOfMemoryError(
                f'{wanted >> 20} MiB of GPU memory for {slots} positions are not available: '
                f'{free >> 20} MiB are free',
                hint='set engine.context_tokens lower, or free memory of the GPU',
            )

    def _moved(self, old: Memory, slots: int) -> Memory:
        spec = self.spec
        new = self._zeros(slots)
        kept = max((stop for _, stop in self.resident), default=0)
        rows = 2 * spec.num_kv_heads
        if kept:
            self._kernels.launch(
                self._stream,
                'relocate',
                rows * kept * spec.head_dim,
                *(c_void_p(old.address), c_void_p(new.address)),
                *(rows, self._slots, slots, kept, spec.head_dim),
            )
        self._stream.wait()
        return new

    def _start_over(self) -> None:
        """Go back to the smallest cache, empty: layers of different sizes cannot be used."""
        self.drop(0, self._slots)
        for layer in self._layers:
            layer.free()
        self._slots = slots_for(0)
        self._layers = [self._zeros(self._slots) for _ in range(self.spec.num_layers)]

    def show_before(self, start: int) -> None:
        """Have the mask show the resident positions below ``start``; it is copied if it must."""
        wanted = tuple(self.resident.overlap(0, start))
        if wanted == self._shown:
            return
        mask = self._host_mask[: self._slots]
        mask[:] = HIDDEN
        for first, last in wanted:
            mask[first:last] = 0
        self._stream.upload(self.mask.address, mask)
        self._shown = wanted

    def has_shown(self, start: int, stop: int) -> None:
        """Take note that the append kernel has shown [start, stop)."""
        shown = TokenRanges(self._shown or ())
        shown.add(start, stop)
        self._shown = tuple(shown)

    def forget_shown(self) -> None:
        """Have the mask copied before the next use: nobody knows what it shows."""
        self._shown = None

    def scrub(self) -> TokenRanges:
        bad = np.zeros(self._slots, np.uint32)
        self._stream.zero(self._inspected.address, bad.nbytes)
        spec = self.spec
        rows = 2 * spec.num_kv_heads
        for layer in self._layers:
            self._kernels.launch(
                self._stream,
                'inspect',
                rows * self._slots * spec.head_dim,
                *(c_void_p(layer.address), c_void_p(self._inspected.address)),
                *(rows, self._slots, spec.head_dim),
            )
        self._stream.download(bad, self._inspected.address)
        self._stream.wait()
        ranges = TokenRanges((int(p), int(p) + 1) for p in np.flatnonzero(bad))
        for start, stop in ranges:
            self._zero(start, stop)
            self.drop(start, stop)
        return ranges

    def _zero(self, start: int, stop: int) -> None:
        spec, item = self.spec, self._dtype.itemsize
        row_bytes = self._slots * spec.head_dim * item
        for layer in self._layers:
            for row in range(2 * spec.num_kv_heads):
                address = layer.address + row * row_bytes + start * spec.head_dim * item
                self._stream.zero(address, (stop - start) * spec.head_dim * item)

    def close(self) -> None:
        """Give the memory back."""
        for memory in (*self._layers, self._table, self.mask, self._inspected):
            memory.free()
        self._pinned_mask.free()
