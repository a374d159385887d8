# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From logits to the next token; pure, with the randomness passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from cwm_ros.kv import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """
    How the next token is chosen.

    Parameters
    ----------
    temperature
        0 takes the likeliest token; 1 draws from the model's own distribution.

    """

    temperature: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:  # noqa: PLR2004 - beyond it draws are uniform
            raise ConfigError(
                f'temperature is {self.temperature}', hint='use a value from 0 to 10'
            )


def sample(logits: FloatArray, sampling: Sampling, rng: np.random.Generator) -> int:
    """
    Return the next token id.

    Parameters
    ----------
    logits
        Shape (V,), float32, finite.
    sampling
        Rule; ties of the greedy rule go to the lowest id.
    rng
        Drawn from once when the temperature is not 0, so a seed repeats an answer.

    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side='right'))
