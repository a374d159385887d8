# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The engine on a GPU: compiled parts of a decoder, one behind another on one stream.

A step of one token is recorded once for each size of the cache and then launched as one. All
parts share scratch memory and two buffers for the residual stream; new rows go into the cache by
a kernel that reads the position from the GPU's memory, so a recorded step can be replayed.
"""

from __future__ import annotations

from ctypes import c_void_p
import logging
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.engine.base import LogitRows
from cwm_ros.engine.gpu_cache import GpuCache, HIDDEN
from cwm_ros.engine.gpu_parts import check_parts, KINDS
from cwm_ros.engine.gpu_transfer import Transfer
from cwm_ros.engine.sliced import SlicedEngine
from cwm_ros.errors import EngineError
from cwm_ros.kv import KVChunk

if TYPE_CHECKING:
    from collections.abc import Sequence
    import threading

    import numpy.typing as npt

    from cwm_ros.engine.cuda import Device, Graph, Kernels
    from cwm_ros.engine.gpu_parts import PlanLike, RunnerLike
    from cwm_ros.kv import FloatArray, KVSpec, ModelIdentity, QuantizedKV, TokenArray

log = logging.getLogger(__name__)

STEP, SLICE = 0, 1
"""Numbers of the profiles."""
MAX_ROWS = 64
"""Most logit rows of a slice; their memory is the widest of all."""
ALIGNMENT = 256
"""Bytes between tensors that a runtime binds."""


class _Buffers:
    """What parts read and write beside the cache, for slices of up to T tokens."""

    def __init__(
        self, device: Device, spec: KVSpec, sizes: tuple[int, int, int], item: int
    ) -> None:
        num_tokens, hidden_size, vocab_size = sizes
        self.num_rows = min(MAX_ROWS, num_tokens)
        self.spec, self.item = spec, item
        self.inputs_host = device.pinned(self.inputs_bytes(num_tokens))
        self.inputs = device.memory(self.inputs_bytes(num_tokens))
        self.new_mask = device.memory(num_tokens * num_tokens * item)
        self.no_mask = device.memory(ALIGNMENT)
        self.hidden = [device.memory(4 * num_tokens * hidden_size) for _ in range(2)]
        self.rows = device.memory(2 * spec.num_layers * self.row_stride(num_tokens))
        self.logits_host = device.pinned(4 * self.num_rows * vocab_size)
        self.logits = device.memory(4 * self.num_rows * vocab_size)
        self.ids_host = self.inputs_host.array.view(np.int32)
        self.logits_view: FloatArray = self.logits_host.array.view(np.float32).reshape(
            self.num_rows, vocab_size
        )

    def row_stride(self, num_tokens: int) -> int:
        """Return the bytes from a layer's new keys to its new values."""
        size = self.spec.num_kv_heads * num_tokens * self.spec.head_dim * self.item
        return -(-size // ALIGNMENT) * ALIGNMENT

    @staticmethod
    def inputs_bytes(num_tokens: int) -> int:
        """Return the size of token ids, positions and logit rows, each aligned."""
        return 3 * _Buffers.input_stride(num_tokens)

    @staticmethod
    def input_stride(num_tokens: int) -> int:
        """Return the bytes from token ids to positions, and to logit rows."""
        return -(-4 * num_tokens // ALIGNMENT) * ALIGNMENT

    def close(self) -> None:
        """Give all memory back."""
        for memory in (self.inputs, self.new_mask, self.no_mask, *self.hidden):
            memory.free()
        for memory in (self.rows, self.logits):
            memory.free()
        self.inputs_host.free()
        self.logits_host.free()


class GpuEngine(SlicedEngine):
    """
    A decoder in parts on a GPU.

    Parameters
    ----------
    device, kernels
        The GPU, and the kernels compiled for its cache's type.
    plans
        The parts in their order, each with the profiles `STEP` and `SLICE`; closed with the
        engine. The same plan may stand for several parts of one structure.
    layers
        For each part its layers, and for each of these the number that its tensors are named by.
    spec, identity, capacity, slice_tokens
        As of `SlicedEngine`.
    is_half
        Whether the cache holds float16.
    is_mapped
        Whether chunks are read where they lie in the processor's memory; the best on a GPU that
        shares it, and possible on others.
    priority
        Of inference among the GPU's streams; -1 goes before imports, 0 is theirs.

    """

    supports_quantized = True
    _cache: GpuCache

    def __init__(
        self,
        device: Device,
        kernels: Kernels,
        plans: Sequence[PlanLike],
        layers: Sequence[dict[int, int]],
        *,
        spec: KVSpec,
        identity: ModelIdentity,
        capacity: int,
        slice_tokens: int,
        is_half: bool = True,
        is_mapped: bool = False,
        priority: int = -1,
    ) -> None:
        self.spec, self.identity, self.capacity = spec, identity, capacity
        self.slice_tokens, self.is_half = slice_tokens, is_half
        self._device, self._kernels = device, kernels
        self._plans, self._part_layers = list(plans), list(layers)
        check_parts(self._plans, self._part_layers, spec)
        self.vocab_size = self._plans[-1].shape('logits')[-1]
        self._is_closed = False
        self._dtype = np.float16 if is_half else np.float32
        with device.all_or_nothing():
            self._stream = device.stream(priority)
            self._cache = GpuCache(device, kernels, self._stream, spec, capacity, is_half=is_half)
            self.resident = self._cache.resident
            self._transfer = Transfer(
                device, kernels, self._stream, self._cache, is_mapped=is_mapped, priority=0
            )
            hidden = self._plans[-1].shape('hidden_in')[-1] if len(self._plans) > 1 else 0
            self._buffers = _Buffers(
                device, spec, (slice_tokens, hidden, self.vocab_size), 2 if is_half else 4
            )
            self._scratch = device.memory(max(plan.scratch_bytes for plan in self._plans))
            self._runners = [self._make_runners(profile) for profile in (STEP, SLICE)]
            self._graph: Graph | None = None
            self._is_warm = False
            self._can_record = True
            self._slice_bound = 0
            self._views: dict[tuple[int, int], FloatArray] = {}
            self._views_lock = Lock()
            self._stream.zero(self._buffers.no_mask.address, ALIGNMENT)
            self._bind_cache()
            self._bind_tokens(STEP, 1)

    def _make_runners(self, profile: int) -> list[RunnerLike]:
        runners = [plan.runner(profile, self._stream.handle) for plan in self._plans]
        for runner in runners:
            runner.give_scratch(self._scratch.address)
        return runners

    # --- binding ------------------------------------------------------------------------------

    def _bind_cache(self) -> None:
        """Bind what belongs to the cache, after it has grown."""
        spec, cache = self.spec, self._cache
        shape = (1, spec.num_kv_heads, cache.slots, spec.head_dim)
        for runners in self._runners:
            for runner, layers in zip(runners, self._part_layers, strict=True):
                for layer, number in layers.items():
                    for kind, name in enumerate(KINDS):
                        runner.bind(f'past_{name}_{number}', cache.part(layer, kind), shape)
                runner.bind('attn_mask', cache.mask.address, (1, 1, 1, cache.slots))
        self._forget_graph()

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self._graph.free()
        self._graph, self._is_warm = None, False

    def _bind_tokens(self, profile: int, num_tokens: int) -> None:
        """Bind what depends on the number of new tokens."""
        buffers, last = self._buffers, len(self._plans) - 1
        stride, row_stride = buffers.input_stride(num_tokens), buffers.row_stride(num_tokens)
        mask = buffers.no_mask if profile == STEP else buffers.new_mask
        for index, runner in enumerate(self._runners[profile]):
            plan = self._plans[index]
            if index == 0:
                runner.bind('input_ids', buffers.inputs.address, (1, num_tokens))
            else:
                size = plan.shape('hidden_in')[-1]
                address = buffers.hidden[(index + 1) % 2].address
                runner.bind('hidden_in', address, (1, num_tokens, size))
            runner.bind('position_ids', buffers.inputs.address + stride, (1, num_tokens))
            runner.bind('new_mask', mask.address, (1, 1, num_tokens, num_tokens))
            if index == last:
                runner.bind('logits', buffers.logits.address)
            else:
                runner.bind('hidden_out', buffers.hidden[index % 2].address)
            for layer, number in self._part_layers[index].items():
                for kind, name in enumerate(KINDS):
                    address = buffers.rows.address + (2 * layer + kind) * row_stride
                    runner.bind(f'present_{name}_{number}', address)
        if profile == STEP:
            address = buffers.inputs.address + 2 * stride
            self._runners[STEP][last].bind('logit_rows', address, (1,))

    # --- computing ----------------------------------------------------------------------------

    def slice_for(self, rows: LogitRows) -> int:
        if rows is LogitRows.ALL:
            return min(self.slice_tokens, self._buffers.num_rows)
        return self.slice_tokens

    def compute_slice(
        self, tokens: TokenArray, start: int, rows: LogitRows, cancel: threading.Event | None
    ) -> FloatArray:
        del cancel
        num_rows = max(1, rows.count(len(tokens)))
        try:
            self._compute(tokens, start, num_rows)
        except EngineError:
            self._cache.forget_shown()
            raise
        return self._buffers.logits_view[:num_rows]

    def _compute(self, tokens: TokenArray, start: int, num_rows: int) -> None:
        self._device.activate()
        self._cache.show_before(start)
        self._set_inputs(tokens, start, num_rows)
        if len(tokens) == 1:
            self._run_step()
        else:
            self._run_slice_of(len(tokens), num_rows)
        self._stream.wait()
        self._cache.has_shown(start, start + len(tokens))

    def _set_inputs(self, tokens: TokenArray, start: int, num_rows: int) -> None:
        num_tokens = len(tokens)
        ids, stride = self._buffers.ids_host, self._buffers.input_stride(num_tokens) // 4
        ids[:num_tokens] = tokens
        ids[stride : stride + num_tokens] = np.arange(start, start + num_tokens)
        first = 2 * stride
        ids[first : first + num_rows] = np.arange(num_tokens - num_rows, num_tokens)

    def _run_step(self) -> None:
        if self._graph is not None:
            self._graph.launch(self._stream)
            return
        if self._is_warm and self._can_record:
            try:
                self._graph = self._device.graph(self._stream, self._ask_step)
            except EngineError as exc:
                log.warning('steps are not recorded and take longer: %s', exc)
                self._can_record = False
            else:
                self._graph.launch(self._stream)
                return
        self._ask_step()
        self._is_warm = True  # what is run first may allocate, and cannot be recorded

    def _ask_step(self) -> None:
        self._ask(STEP, 1, 1)

    def _run_slice_of(self, num_tokens: int, num_rows: int) -> None:
        buffers = self._buffers
        if num_tokens != self._slice_bound:
            mask = np.triu(np.full((num_tokens, num_tokens), HIDDEN, self._dtype), 1)
            self._stream.upload(buffers.new_mask.address, mask)
            self._bind_tokens(SLICE, num_tokens)
            self._slice_bound = num_tokens
            self._stream.wait()  # the mask is pageable and goes with this frame
        address = buffers.inputs.address + 2 * buffers.input_stride(num_tokens)
        self._runners[SLICE][-1].bind('logit_rows', address, (num_rows,))
        self._ask(SLICE, num_tokens, num_rows)

    def _ask(self, profile: int, num_tokens: int, num_rows: int) -> None:
        """Ask the stream for inputs, all parts, the cache's new rows and the logits."""
        buffers, stream, spec = self._buffers, self._stream, self.spec
        size = buffers.inputs_bytes(num_tokens)
        stream.upload(buffers.inputs.address, buffers.inputs_host.array[:size])
        for runner in self._runners[profile]:
            runner.run(stream.handle)
        self._kernels.launch(
            stream,
            'append',
            num_tokens * spec.elements_per_token(),
            *(self._cache.table, c_void_p(buffers.rows.address)),
            c_void_p(self._cache.mask.address),
            c_void_p(buffers.inputs.address + buffers.input_stride(num_tokens)),
            *(spec.num_layers, spec.num_kv_heads, num_tokens, self._cache.slots, spec.head_dim),
            buffers.row_stride(num_tokens) // buffers.item,
        )
        stream.download(buffers.logits_view[:num_rows], buffers.logits.address)

    # --- the cache ----------------------------------------------------------------------------

    def reserve(self, num_tokens: int) -> None:
        if num_tokens <= self._cache.slots:
            return
        lanes = self._transfer.hold()
        try:
            self._cache.reserve(num_tokens)
        finally:
            self._bind_cache()  # where it lies now, also when it could not grow
            self._transfer.let_go(lanes)
        with self._views_lock:
            self._views.clear()

    def reset(self) -> None:
        super().reset()
        with self._views_lock:
            self._views.clear()

    def export_kv(self, start: int, stop: int) -> KVChunk:
        """Return a copy of the KV: the cache is not in memory of the processor."""
        self.check_export(start, stop)
        rows = self._transfer.export_floats(start, stop)
        rows.flags.writeable = False
        return KVChunk(start=start, kv=rows[:])

    def import_view(self, start: int, stop: int) -> FloatArray:
        """Return memory of the processor that `mark_resident` copies; from any thread."""
        self.check_import(start, stop)
        if stop > self._cache.slots:
            self.reserve(stop)
        rows = np.zeros(self.spec.shape(stop - start), np.float32)
        with self._views_lock:
            self._views[start, stop] = rows
        return rows

    def mark_resident(self, start: int, stop: int) -> None:
        with self._views_lock:
            inside = [key for key in self._views if start <= key[0] and key[1] <= stop]
            written = [(key[0], self._views.pop(key)) for key in sorted(inside)]
        if 0 <= start <= stop <= self._cache.slots:
            for first, rows in written:
                self._transfer.import_floats(rows, first, is_half=self.is_half)
        super().mark_resident(start, stop)

    def staging(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        return self._transfer.staging(num_bytes)

    def export_quantized(self, start: int, stop: int) -> QuantizedKV:
        self.check_export(start, stop)
        return self._transfer.export_quantized(start, stop)

    def import_quantized(self, kv: QuantizedKV) -> None:
        self.check_import(kv.start, kv.stop)
        if kv.stop > self._cache.slots:
            raise EngineError(
                f'[{kv.start}, {kv.stop}) lies outside the {self._cache.slots} reserved slots'
            )
        self._transfer.import_quantized(kv)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._forget_graph()
        self._runners = []
        self._transfer.close()
        self._cache.close()
        self._buffers.close()
        self._scratch.free()
        for plan in self._plans:
            plan.close()
        self.resident.remove(0, self._cache.slots)
