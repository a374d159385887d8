# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Muon for the hidden matrices, AdamW for the embedding and the norms."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
UPDATE_SCALE = 0.2
ADAM_BETAS = (0.9, 0.95)


def orthogonalize(stack: Tensor) -> Tensor:
    """Bring the singular values of matrices (K, rows, columns) near one."""
    a, b, c = NEWTON_SCHULZ
    is_tall = stack.shape[1] > stack.shape[2]
    x = stack.bfloat16()
    x = x.mT if is_tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


class Muon:
    """Momentum with orthogonalised updates, matrices of one shape at a time."""

    def __init__(self, matrices: Iterable[Tensor]) -> None:
        groups: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for matrix in matrices:
            groups[tuple(matrix.shape)].append(matrix)
        self._groups = [(group, torch.zeros_like(torch.stack(group))) for group in groups.values()]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update all matrices and drop their gradients."""
        for group, momentum in self._groups:
            gradient = torch.stack([matrix.grad for matrix in group])
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalize(gradient.lerp_(momentum, MOMENTUM)).float()
            scale = UPDATE_SCALE * max(update.shape[1:]) ** 0.5
            torch._foreach_add_(group, list(update.unbind()), alpha=-rate * scale)
            for matrix in group:
                matrix.grad = None


def make_adam(tensors: list[Tensor], rate: float) -> torch.optim.AdamW:
    """Return AdamW without weight decay."""
    return torch.optim.AdamW(tensors, lr=rate, betas=ADAM_BETAS, weight_decay=0.0)
