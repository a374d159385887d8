# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the configured model needs of memory and disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cwm_ros.model import Checkpoint, find_model, size_model

if TYPE_CHECKING:
    from cwm_ros.config import Settings

GIB = 1 << 30


def describe_model(settings: Settings, memory_gib: float | None) -> dict[str, object]:
    """
    Return a model's needs by name.

    Parameters
    ----------
    settings
        Names the model.
    memory_gib
        Memory of the board [GiB]; None means this machine's.

    Raises
    ------
    ModelError
        The checkpoint cannot run here.

    """
    folder = find_model(settings.engine.model)
    checkpoint = Checkpoint(folder, settings.engine.cache_path)
    sizing = size_model(checkpoint.spec)
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    memory = memory if memory_gib is None else int(memory_gib * GIB)
    window = sizing.max_tokens
    return {
        'name': checkpoint.identity.name,
        'folder': str(folder),
        'identity': checkpoint.identity.model.hex(),
        'parameters': sizing.num_parameters,
        'weights_fp32_bytes': sizing.weight_bytes('fp32'),
        'kv_bytes_per_token_fp16': sizing.kv_bytes(1, 'fp16'),
        'max_tokens': sizing.max_tokens,
        'tokens_that_fit': sizing.tokens_that_fit(memory),
        'full_window_int8_bytes': sizing.kv_bytes(window, 'int8'),
    }
