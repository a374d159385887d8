# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a compiled part of a decoder is to an engine on a GPU, and whether parts are a model."""

from __future__ import annotations

from typing import Protocol, TYPE_CHECKING

from cwm_ros.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cwm_ros.kv import KVSpec

KINDS = ('key', 'value')
LAST_NAMES = {'logits', 'logit_rows'}
REBUILD_HINT = 'build it again: cwm engine build'


class RunnerLike(Protocol):
    """What `cwm_ros.engine.trt.Runner` is."""

    def give_scratch(self, address: int) -> None:
        """Give it memory to work in."""

    def bind(self, name: str, address: int, shape: tuple[int, ...] | None = None) -> None:
        """Say where a tensor lies, and of an input how large it is."""

    def run(self, stream: int) -> None:
        """Ask for one inference."""


class PlanLike(Protocol):
    """What `cwm_ros.engine.trt.Plan` is."""

    names: list[str]
    scratch_bytes: int

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, -1 where it varies."""

    def runner(self, profile: int, stream: int) -> RunnerLike:
        """Return a way to run it in a profile."""

    def close(self) -> None:
        """Let go of it."""


def check_parts(
    plans: Sequence[PlanLike], part_layers: Sequence[Mapping[int, int]], spec: KVSpec
) -> None:
    """
    Check that parts in their order are one model of a geometry.

    Parameters
    ----------
    plans, part_layers
        The parts; for each its layers, and for each of these the number in its tensors' names.
    spec
        Geometry.

    Raises
    ------
    EngineError
        A part lacks an input or output, is of another geometry, or one is missing.

    """
    expected = (1, spec.num_kv_heads, -1, spec.head_dim)
    found = sorted(layer for layers in part_layers for layer in layers)
    for index, (plan, layers) in enumerate(zip(plans, part_layers, strict=True)):
        is_last = index == len(plans) - 1
        missing = _tensor_names(index, layers.values(), is_last=is_last).difference(plan.names)
        if missing - LAST_NAMES:
            raise EngineError(
                f'engine file {index} has not the tensors {", ".join(sorted(missing))}',
                hint=REBUILD_HINT,
            )
        pasts = [f'past_{kind}_{number}' for kind in KINDS for number in layers.values()]
        if any(tuple(plan.shape(name)) != expected for name in pasts):
            raise EngineError(
                f'engine file {index} has not the geometry {spec}', hint=REBUILD_HINT
            )
        if missing or found != list(range(spec.num_layers)):
            raise EngineError('engine files are not the whole model', hint=REBUILD_HINT)


def _tensor_names(index: int, numbers: Iterable[int], *, is_last: bool) -> set[str]:
    """Return what a part must have as inputs and outputs."""
    names = {'position_ids', 'attn_mask', 'new_mask', 'hidden_in' if index else 'input_ids'}
    names |= LAST_NAMES if is_last else {'hidden_out'}
    for number in numbers:
        names |= {f'{side}_{kind}_{number}' for side in ('past', 'present') for kind in KINDS}
    return names
