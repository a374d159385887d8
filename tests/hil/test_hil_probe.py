# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How far engines of different precision end up apart, and how far the end probe lets them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.dialogues import make_dialogue
from cwm_ros.engine import LogitRows
from cwm_ros.model import Checkpoint, find_model
from cwm_ros.probe import compute_last, engine_kl, HALF_ROUNDOFF, take_probe
from tests.hil.test_hil_engine import open_as

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cwm_ros.config import EngineSettings
    from cwm_ros.engine import Engine
    from cwm_ros.kv import TokenArray

DIALOGUES, CONTEXT = 16, 2048


def fill(engine: Engine, tokens: TokenArray) -> None:
    engine.reset()
    engine.run(tokens, 0, rows=LogitRows.NONE)


def moved(source: Engine, target: Engine, num_tokens: int) -> None:
    """Give an engine the KV of another one, without a codec."""
    kv = source.export_kv(0, num_tokens).kv
    target.reset()
    target.import_view(0, num_tokens)[...] = kv
    target.mark_resident(0, num_tokens)


def test_engines_differ_by_less_than_the_probe_allows(
    built: Callable[..., EngineSettings], reference_fp16: EngineSettings, hil_cache: Path
) -> None:
    """A window from each engine to each other one; the bound is derived, this measures."""
    checkpoint = Checkpoint(find_model('reference'), hil_cache)
    wide = built(
        replace(reference_fp16, precision='fp32', context_tokens=4096), group_layers=2, level=1
    )
    given = {
        'fp16': reference_fp16,
        'fp32': wide,
        'cpu': replace(reference_fp16, kind='onnxruntime'),
    }
    worst: dict[str, float] = {}
    shares, bounds = [], []
    with ExitStack() as closing:
        engines = {
            name: closing.enter_context(open_as(settings, hil_cache))
            for name, settings in given.items()
        }
        for number in range(DIALOGUES):
            text = ' '.join(turn.text for turn in make_dialogue(500 + number, CONTEXT).turns)
            tokens = np.array(checkpoint.tokenizer.encode(text)[:CONTEXT], np.int32)
            for first, source in engines.items():
                fill(source, tokens)
                probe = take_probe(source, tokens, len(tokens))
                rows = compute_last(source, tokens, len(tokens))
                for second, target in engines.items():
                    if first == second:
                        continue
                    moved(source, target, len(tokens))
                    found = compute_last(target, tokens, len(tokens))
                    bound = engine_kl(found, checkpoint.spec.num_layers)
                    divergence = probe.divergence(found)
                    name = f'{first} to {second}'
                    worst[name] = max(worst.get(name, 0.0), divergence)
                    bounds.append(bound)
                    shares.append(float(np.abs(found - rows).max() / np.abs(found).max()))
                    assert divergence <= bound, (name, number)
    for name, divergence in worst.items():
        print(f'{name}: at most {divergence:.1e} nats apart')
    print(f'the probe allows {min(bounds):.1e} to {max(bounds):.1e} nats for it')
    allowed = HALF_ROUNDOFF * (2 * checkpoint.spec.num_layers + 1) ** 0.5
    print(f'worst logit: {max(shares):.1e} of the largest; {allowed:.1e} is assumed')
