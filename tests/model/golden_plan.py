# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is computed for a family's golden logits, by whoever computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Tokens = npt.NDArray[np.int32]
    Allowed = npt.NDArray[np.bool_]
    Logits = npt.NDArray[np.float32]
    Compute = Callable[[Tokens, int, Allowed], Logits]
    """Takes tokens, the position of the first, and which may attend to which."""

NUM_TOKENS = 96
LATE = 4000
HOLE = (24, 56)
FIRST_SEEING_HOLE = 64
ROWS, COLUMNS = slice(-12, None), slice(0, None, 16)
"""What is kept: the last rows, and each sixteenth logit."""


def golden_tokens() -> Tokens:
    return (np.arange(NUM_TOKENS) * 89 % 256 + 6).astype(np.int32)


def golden_logits(compute: Callable[[Tokens, int, Allowed], Logits]) -> dict[str, Logits]:
    """Return what a golden file holds: with all, with a hole, and at late positions."""
    tokens = golden_tokens()
    causal = np.tri(NUM_TOKENS, dtype=np.bool_)
    holes = causal.copy()
    holes[FIRST_SEEING_HOLE:, slice(*HOLE)] = False
    whole = {
        'whole': compute(tokens, 0, causal),
        'holes': compute(tokens, 0, holes),
        'late': compute(tokens, LATE, causal),
    }
    return {name: logits[ROWS, COLUMNS] for name, logits in whole.items()}
