# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX graph to logits, and KV in and out by token range."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cwm_ros.engine.base import Engine, LogitRows
from cwm_ros.engine.sampling import sample, Sampling
from cwm_ros.errors import EngineError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cwm_ros.config import EngineSettings
    from cwm_ros.kv import KVSpec, ModelIdentity

log = logging.getLogger(__name__)

__all__ = ['Engine', 'LogitRows', 'Sampling', 'open_engine', 'sample']


def open_engine(
    find_graph: Callable[[str], Path],
    spec: KVSpec,
    identity: ModelIdentity,
    settings: EngineSettings,
) -> Engine:
    """
    Return the engine that the settings ask for; close it, or use it as a context manager.

    Parameters
    ----------
    find_graph
        Returns the graph file in the named formulation, building it when needed.
    spec, identity
        Geometry of the cache, and what it is made by.
    settings
        Threads, slice, formulation and context length.

    Raises
    ------
    ConfigError
        The settings ask for what the runtime or the model does not have.
    EngineError
        The graph cannot be loaded, or is of another geometry; there is no GPU that is asked for.
    NotFoundError
        No engine was built for the GPU.

    """
    if settings.kind == 'tensorrt':
        from cwm_ros.engine.gpu_open import open_gpu_engine

        try:
            return open_gpu_engine(spec, identity, settings)
        except (EngineError, NotFoundError) as exc:
            if not settings.cpu_fallback:
                raise
            log.warning('TensorRT cannot be used, ONNX Runtime takes over: %s', exc)
    from cwm_ros.engine.ort import choose_formulation, OrtEngine

    return OrtEngine(find_graph(choose_formulation(settings)), spec, identity, settings)
