# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The engine on ONNX Runtime; the only place that imports it."""

from __future__ import annotations

from contextlib import contextmanager
import os
import threading
from typing import TYPE_CHECKING

# Read when the library is loaded, from then on it keeps and sends events. A vehicle does not.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from cwm_ros.engine.bindings import BINDINGS
from cwm_ros.engine.cache import KVCache
from cwm_ros.engine.sliced import capacity_of, SlicedEngine
from cwm_ros.errors import ConfigError, EngineError, InterruptedOperation, OutOfMemoryError
from cwm_ros.kv import KVChunk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cwm_ros.config import EngineSettings
    from cwm_ros.engine.base import LogitRows
    from cwm_ros.kv import FloatArray, KVSpec, ModelIdentity, TokenArray

SCATTER_SINCE = (1, 25)
"""First ONNX Runtime whose CPU provider has TensorScatter."""
WATCH_SECONDS = 0.02
"""How often a running slice looks at the cancel event [s]."""
ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    ort_errors.EPFail,
    RuntimeError,
)


def choose_formulation(settings: EngineSettings) -> str:
    """
    Return the graph formulation that this runtime runs best, 'scatter' or 'delta'.

    Raises
    ------
    ConfigError
        The settings ask for one that this runtime does not have.

    """
    version = tuple(int(part) for part in onnxruntime.__version__.split('.')[:2])
    has_scatter = version >= SCATTER_SINCE
    if settings.formulation == 'auto':
        return 'scatter' if has_scatter else 'delta'
    if settings.formulation == 'scatter' and not has_scatter:
        raise ConfigError(
            f'engine.formulation is scatter, ONNX Runtime {onnxruntime.__version__} lacks it',
            hint='use auto or delta, or ONNX Runtime {}.{}'.format(*SCATTER_SINCE),
        )
    return settings.formulation


class OrtEngine(SlicedEngine):
    """
    A decoder graph on the CPU.

    Parameters
    ----------
    path
        Graph of the formulation that `choose_formulation` named.
    spec, identity
        Geometry of the cache, and what it is made by.
    settings
        Threads, slice and context length.

    Raises
    ------
    ConfigError
        ``settings.context_tokens`` is more than the trained length.
    EngineError
        The graph cannot be loaded, or is of another geometry.

    """

    _cache: KVCache

    def __init__(
        self, path: Path, spec: KVSpec, identity: ModelIdentity, settings: EngineSettings
    ) -> None:
        self.capacity = capacity_of(spec, identity, settings)
        self.spec = spec
        self.identity = identity
        self.slice_tokens = settings.prefill_slice
        with _translated(f'{path}: cannot be loaded'):
            self._session = onnxruntime.InferenceSession(
                path, _session_options(settings), providers=['CPUExecutionProvider']
            )
        self.vocab_size = self._check_geometry(path)
        self._cache = KVCache(spec, self.capacity)
        self.resident = self._cache.resident
        formulation = self._session.get_modelmeta().custom_metadata_map['formulation']
        self._bindings = BINDINGS[formulation](self._session, self._cache, self.vocab_size)

    def _check_geometry(self, path: Path) -> int:
        shapes = {value.name: value.shape for value in self._session.get_inputs()}
        expected = [1, self.spec.num_kv_heads, 'S', self.spec.head_dim]
        layers = [name for name in shapes if name.startswith('past_key_')]
        if len(layers) != self.spec.num_layers or shapes[layers[0]] != expected:
            raise EngineError(f'{path}: the graph has not the geometry {self.spec}')
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        return int(outputs['logits'][2])

    def compute_slice(
        self, tokens: TokenArray, start: int, rows: LogitRows, cancel: threading.Event | None
    ) -> FloatArray:
        options = onnxruntime.RunOptions()
        if cancel is None or len(tokens) == 1:
            with _translated(f'the graph failed at {start}'):
                return self._bindings.run(tokens, start, rows, options)
        try:
            with _translated(f'the graph failed at {start}'), _watching(cancel, options):
                return self._bindings.run(tokens, start, rows, options)
        except EngineError:
            if not cancel.is_set():
                raise
            self._cache.drop(start, start + len(tokens))
            raise InterruptedOperation(f'cancelled at position {start}') from None

    def reserve(self, num_tokens: int) -> None:
        if self._cache.reserve(num_tokens):
            self._bindings.bind_cache()

    def close(self) -> None:
        self._bindings.close()
        self._session = None
        self._cache = KVCache(self.spec, 0)
        self.resident = self._cache.resident

    def export_kv(self, start: int, stop: int) -> KVChunk:
        self.check_export(start, stop)
        view = self._cache.view(start, stop)
        view.flags.writeable = False
        return KVChunk(start=start, kv=view)

    def import_view(self, start: int, stop: int) -> FloatArray:
        self.check_import(start, stop)
        self.reserve(stop)
        return self._cache.view(start, stop)


def _session_options(settings: EngineSettings) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes vary, and a pattern is kept for each
    options.log_severity_level = 3
    # Threads spin within an inference but not after it. Two threads on two cores, steps at 1K
    # positions: 815/s alone (900 with endless spinning, 570 without any), 600/s beside a busy
    # neighbor (370, 480), and a quarter of the processor time when steps are paced.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    # Products with coded weights take activations in 8 bits, a scale for 32 of them, as llama.cpp
    # does. One row of 896 by 896 x 9728 in int8: 0.19 ms, in float32 products 36 ms, and with
    # float32 weights 0.56 ms. The results differ by 0.5 % of the largest.
    options.add_session_config_entry('session.qdq_matmulnbits_accuracy_level', '4')
    return options


@contextmanager
def _translated(problem: str) -> Iterator[None]:
    """Raise what the runtime raises as our own errors, beginning with ``problem``."""
    try:
        yield
    except MemoryError as exc:
        raise OutOfMemoryError(f'{problem}: out of memory') from exc
    except ORT_ERRORS as exc:
        raise EngineError(f'{problem}: {exc}') from exc


@contextmanager
def _watching(cancel: threading.Event, options: onnxruntime.RunOptions) -> Iterator[None]:
    """Stop the inference that runs in the block soon after ``cancel`` is set."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            if cancel.wait(WATCH_SECONDS):
                options.terminate = True
                return

    watcher = threading.Thread(target=watch, name='cwm-cancel', daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
