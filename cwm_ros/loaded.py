# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A model that is ready to run: its checkpoint, its engine, and what this board showed with it."""

from __future__ import annotations

from contextlib import ExitStack
import os
from typing import TYPE_CHECKING

from cwm_ros.codec import KernelLoader
from cwm_ros.engine import open_engine
from cwm_ros.errors import ModelError
from cwm_ros.footprint import check_footprint
from cwm_ros.machine import rate_file
from cwm_ros.model import build_graph, Checkpoint, find_model, FirstLayer, read_spec
from cwm_ros.rates import RateBook

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.config import Settings


def check_room(settings: Settings) -> None:
    """
    Check quota and daily budget against the model's config.json, long before it is loaded.

    What is wrong with the model itself is told when it is loaded.

    Raises
    ------
    ConfigError
        A full window of it fits neither the quota nor the daily budget.

    """
    try:
        spec = read_spec(find_model(settings.engine.model))
    except ModelError:
        return
    check_footprint(settings, spec.kv_spec)


class LoadedModel:
    """
    Opens what the settings name.

    Parameters
    ----------
    settings
        Name the model and the engine.
    on_conversion
        Called with the part that is done, 0 to 1, where the model is converted first.

    Attributes
    ----------
    checkpoint, engine, first_layer
        The model's files, what runs it, and its first layer for proofs.
    kernels
        Gives the codec's fastest kernels.
    rates
        How fast this board loads and computes with it.

    Raises
    ------
    ModelError, EngineError
        It cannot be loaded; nothing stays open.
    ConfigError
        A full window of it fits neither the quota nor the daily budget.

    """

    def __init__(
        self, settings: Settings, on_conversion: Callable[[float], None] = lambda _: None
    ) -> None:
        cache = settings.engine.cache_path
        self.kernels = KernelLoader(cache / 'kernels')
        name, weights = settings.engine.model, settings.engine.weights
        self.checkpoint = Checkpoint(find_model(name), cache, weights)
        check_footprint(settings, self.checkpoint.kv_spec)
        kept = rate_file(settings, self.checkpoint.identity.model)
        self.rates = RateBook(kept, shared_cores=os.cpu_count() or 1)
        with ExitStack() as opening:
            opening.callback(self.checkpoint.chat.close)
            self.engine = opening.enter_context(
                open_engine(
                    lambda form: build_graph(self.checkpoint, form, cache, on_conversion),
                    self.checkpoint.kv_spec,
                    self.checkpoint.identity,
                    settings.engine,
                )
            )
            self.first_layer = opening.enter_context(
                FirstLayer(
                    self.checkpoint.folder,
                    self.checkpoint.spec,
                    is_coded=self.checkpoint.is_embedding_coded,
                )
            )
            self._open = opening.pop_all()

    def close(self) -> None:
        """Release the engine and its memory, and end the chat template's process."""
        self._open.close()
