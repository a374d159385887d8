# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every family in transformers; run as a program, writes the golden logits."""

from __future__ import annotations

from pathlib import Path
import tempfile
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tests.families import FAMILIES, family_folder, GOLDEN
from tests.model.golden_plan import golden_logits

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]


class FamilyModel:
    """
    A model in transformers that takes any mask, sliding windows on top.

    Parameters
    ----------
    folder
        Checkpoint; all of its tensors must be taken, and none be missing.

    """

    def __init__(self, folder: Path) -> None:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation='eager',
            output_loading_info=True,
        )
        assert not any(info[kind] for kind in ('missing_keys', 'unexpected_keys'))
        assert not info.get('mismatched_keys')
        self.model = model.eval()
        config = model.config
        kinds = getattr(config, 'layer_types', None) or ['all'] * config.num_hidden_layers
        self.kinds = set(kinds)
        self.window = getattr(config, 'sliding_window', None)
        self._keep_long_factors()

    def _keep_long_factors(self) -> None:
        """Take the long factors at every length, if they are ever taken."""
        group = self.model.config.rope_parameters
        original = group.get('original_max_position_embeddings', 0)
        if (
            group['rope_type'] == 'longrope'
            and original < self.model.config.max_position_embeddings
        ):
            rotary = self.model.model.rotary_emb
            factors = torch.tensor(group['long_factor'])
            waves = group['rope_theta'] ** (torch.arange(len(factors)) / len(factors))
            rotary.original_inv_freq.copy_(1.0 / (factors * waves))
            rotary.inv_freq.copy_(1.0 / (factors * waves))

    def logits(
        self,
        tokens: npt.NDArray[np.int32],
        *,
        start: int = 0,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> Floats:
        """Return logits (T, V); without ``allowed`` the mask is what transformers makes."""
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        positions = torch.arange(start, start + len(tokens))[None]
        mask = None if allowed is None else self._masks(allowed)
        with torch.no_grad():
            output = self.model(
                input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
            )
        return np.asarray(output.logits[0].numpy(), np.float32)

    def _masks(self, allowed: npt.NDArray[np.bool_]) -> object:
        distance = np.arange(len(allowed))[:, None] - np.arange(len(allowed))[None]
        near = allowed & (distance < self.window) if self.window else allowed
        if self.kinds == {'all'}:
            return _added(near)
        return {'full_attention': _added(allowed), 'sliding_attention': _added(near)}

    def golden(self) -> dict[str, Floats]:
        """Return what the golden file holds."""
        return golden_logits(
            lambda tokens, start, allowed: self.logits(tokens, start=start, allowed=allowed)
        )


def _added(allowed: npt.NDArray[np.bool_]) -> torch.Tensor:
    mask = torch.zeros(1, 1, *allowed.shape)
    return mask.masked_fill_(~torch.from_numpy(allowed), torch.finfo(torch.float32).min)


def write_golden() -> None:
    """Write the golden logits of families that have none; files are added, never changed."""
    folder = GOLDEN / 'families'
    folder.mkdir(exist_ok=True)
    for family in FAMILIES:
        path = folder / f'{family}.npz'
        if not path.exists():
            with tempfile.TemporaryDirectory() as parent:
                logits = FamilyModel(family_folder(family, Path(parent))).golden()
            np.savez_compressed(path, **logits)


if __name__ == '__main__':
    write_golden()
