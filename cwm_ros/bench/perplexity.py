# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How well a model foretells held-out dialogues, for what a change of its weights costs."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.dialogues import make_dialogue
from cwm_ros.bench.lengths import turn_counter
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.errors import ConfigError
from cwm_ros.model import build_graph, Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.config import Settings
    from cwm_ros.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """
    What was found.

    Parameters
    ----------
    context, dialogues, tokens
        Length of each dialogue [tokens], how many, and how many tokens were foretold in all.
    nll
        Mean negative logarithm of a token's probability [nats].

    """

    context: int
    dialogues: int
    tokens: int
    nll: float

    @property
    def perplexity(self) -> float:
        """Return the exponential of `nll`."""
        return math.exp(self.nll)

    def as_text(self) -> str:
        """Return it for a person."""
        return f'perplexity {self.perplexity:.4f}, {self.tokens} tokens'


def measure_perplexity(
    settings: Settings,
    *,
    context: int,
    dialogues: int,
    seed: int,
    on_dialogue: Callable[[int], None] = lambda _: None,
) -> Perplexity:
    """
    Let the configured model foretell dialogues that nobody trained it on.

    Raises
    ------
    ConfigError
        The context does not fit the model.

    """
    cache = settings.engine.cache_path
    checkpoint = Checkpoint.configured(settings.engine)
    if context > checkpoint.kv_spec.max_tokens:
        raise ConfigError(
            f'context {context} is too long',
            hint=f'the model was trained for {checkpoint.kv_spec.max_tokens} tokens',
        )
    tokens, total, count = 0, 0.0, turn_counter(checkpoint)
    with open_engine(
        lambda formulation: build_graph(checkpoint, formulation, cache),
        checkpoint.kv_spec,
        checkpoint.identity,
        settings.engine,
    ) as engine:
        for number in range(dialogues):
            dialogue = make_dialogue(seed + number, context, count)
            ids = checkpoint.chat.render(dialogue.turns, add_generation_prompt=False)[:context]
            total += _nll(engine, ids)
            tokens += len(ids) - 1
            on_dialogue(number + 1)
    return Perplexity(context=context, dialogues=dialogues, tokens=tokens, nll=total / tokens)


def _nll(engine: Engine, ids: np.ndarray[tuple[int], np.dtype[np.int32]]) -> float:
    """Return the sum of negative logarithms of the probabilities of ids[1:]."""
    engine.reset()
    logits = engine.run(ids[:-1], 0, rows=LogitRows.ALL)
    peak = logits.max(axis=1, keepdims=True)
    norm = np.log(np.exp(logits - peak).sum(axis=1, dtype=np.float64)) + peak[:, 0]
    return float((norm - logits[np.arange(len(logits)), ids[1:]]).sum())
