# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Train the reference model.

Usage: ``PYTHONPATH=../../.. python train.py FOLDER --seconds 400``, FOLDER holding the tokenizer's
files; the weights and the configuration are written there.
"""

from __future__ import annotations

import argparse
from functools import partial
import json
from pathlib import Path
import time
from typing import NamedTuple

from data import Batch, BATCH_TOKENS, Loader
from optimizer import make_adam, Muon
from safetensors.torch import load_file, save_file
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import sdpa_kernel, SDPBackend

from model import (
    after_attention,
    before_attention,
    EMBEDDING,
    FINAL_NORM,
    initialize,
    Layer,
    layer_of,
    rope_table,
    Shape,
    weighted_loss,
    Weights,
    write_config,
)

RATE = 2e-3
WARM_UP_STEPS = 100
FINAL_RATE = 0.04
LOG_STEPS = 100
# A stage is a mixture of lengths and its share of the time.
STAGES = (
    ((512,), 0.09),
    ((1024,), 0.11),
    ((2048, 2048, 1024), 0.13),
    ((4096, 4096, 2048), 0.17),
    ((8192, 8192, 4096), 0.20),
    ((16384, 16384, 8192, 4096), 0.30),
)
CONTINUED_STAGES = (
    ((2048, 1024), 0.10),
    ((4096, 2048), 0.18),
    ((8192, 4096), 0.24),
    ((16384, 16384, 8192, 4096), 0.48),
)
TOY_STAGES = (((1024,), 0.5), ((2048,), 0.5))
BACKENDS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


class Kernels(NamedTuple):
    """The compiled pieces of a step."""

    before: object
    after: object
    loss: object


class Trainer:
    """Weights, optimisers and one training step."""

    def __init__(self, weights: Weights, shape: Shape, *, device: str) -> None:
        self.weights, self.shape, self.device = weights, shape, device
        build = partial(torch.compile, dynamic=False) if device == 'cuda' else lambda f: f
        self.before, self.after = build(before_attention), build(after_attention)
        self.loss = build(weighted_loss)
        self.rope = rope_table(shape, 16384, device)
        hidden = [w for key, w in weights.items() if w.ndim == 2 and key != EMBEDDING]
        other = [w for key, w in weights.items() if w.ndim == 1 or key == EMBEDDING]
        self.muon, self.adam = Muon(hidden), make_adam(other, RATE)

    def _attend(self, x: Tensor, layer: Layer, rope: Tensor, length: int) -> Tensor:
        """Run one layer on flattened tokens."""
        q, k, v = self.before(x, layer, rope, self.shape.head_dim, torch.bfloat16)
        groups = self.shape.heads // self.shape.kv_heads
        q, k, v = (
            y.unflatten(0, (-1, length)).transpose(1, 2)
            for y in (q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1))
        )
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        attended = attended.transpose(1, 2).reshape(x.shape[0], -1)
        return self.after(x, attended, layer, torch.bfloat16)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return loss and accuracy of a batch."""
        ids, weight, positions = (
            torch.from_numpy(array.astype('int64')).to(self.device, non_blocking=True)
            for array in batch
        )
        length = ids.shape[1] - 1
        rope = self.rope[:, positions[:, :-1].reshape(-1)]
        x = functional.embedding(ids[:, :-1].reshape(-1), self.weights[EMBEDDING])
        for index in range(self.shape.layers):
            x = self._attend(x, layer_of(self.weights, index), rope, length)
        target, weight = ids[:, 1:].reshape(-1), weight[:, 1:].reshape(-1).float()
        final, embedding = self.weights[FINAL_NORM], self.weights[EMBEDDING]
        return self.loss(x, final, embedding, target, weight)

    def step(self, batch: Batch, rate: float) -> tuple[Tensor, Tensor]:
        """Train on a batch."""
        loss, accuracy = self.losses(batch)
        loss.backward()
        self.muon.step(rate)
        self.adam.param_groups[0]['lr'] = rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return loss.detach(), accuracy.detach()


def rate_at(step: int, share: float, peak: float) -> float:
    """Return the learning rate: warm-up by steps, then by the share of time gone."""
    decay = 1 - (1 - FINAL_RATE) * max(0.0, 2 * share - 1)
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * max(decay, FINAL_RATE)


def stage_at(share: float, shares: tuple[float, ...]) -> int:
    """Return the stage that the share of time gone falls into."""
    for index in range(len(shares)):
        if share < sum(shares[: index + 1]):
            return index
    return len(shares) - 1


def save(weights: Weights, folder: Path) -> None:
    """Write float16 weights."""
    halves = {key: value.detach().half().cpu().contiguous() for key, value in weights.items()}
    save_file(halves, folder / 'model.safetensors', metadata={'format': 'pt'})


def train(trainer: Trainer, loader: Loader, stages: tuple, options: argparse.Namespace) -> dict:
    """Train for a time; the clock starts after the first steps have compiled."""
    shares = tuple(share for _, share in stages)
    for _ in range(3):
        trainer.losses(loader.next(0))[0].backward()
    trainer.adam.zero_grad(set_to_none=True)
    for value in trainer.weights.values():
        value.grad = None
    start, step, tokens, waited, share, log = time.monotonic(), 0, 0, 0.0, 0.0, []
    while share < 1:
        stage = stage_at(share, shares)
        asked = time.monotonic()
        batch = loader.next(stage)
        waited += time.monotonic() - asked
        rate = rate_at(step, share, options.rate)
        loss, accuracy = trainer.step(batch, rate)
        step, tokens = step + 1, tokens + batch.weights.size
        if step % LOG_STEPS == 0:
            log.append(
                (
                    step,
                    stage,
                    round(time.monotonic() - start, 1),
                    batch.ids.shape[1] - 1,
                    round(loss.item(), 4),
                    round(accuracy.item(), 4),
                )
            )
            print(*log[-1], f'rate {rate:.2e} wait {waited:.1f}', flush=True)
        share = (time.monotonic() - start) / options.seconds
    return {'steps': step, 'tokens': tokens, 'seconds': round(time.monotonic() - start, 1),
            'waited_seconds': round(waited, 1), 'log': log}  # fmt: skip


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path)
    parser.add_argument('--seconds', type=float, default=400)
    parser.add_argument('--rate', type=float, default=RATE)
    parser.add_argument('--workers', type=int, default=15)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--toy', action='store_true', help='a few small steps, to try the code')
    parser.add_argument('--start', type=Path, help='weights to go on from')
    parser.add_argument('--output', type=Path, help='where to write; FOLDER when not given')
    return parser.parse_args()


def main() -> None:
    """Train and write the model."""
    options = parse()
    output = options.output or options.folder
    shape = Shape()
    stages = CONTINUED_STAGES if options.start else STAGES
    stages, tokens = (TOY_STAGES, 4096) if options.toy else (stages, BATCH_TOKENS)
    mixes = tuple(mix for mix, _ in stages)
    path = str(options.folder / 'tokenizer.json')
    loader = Loader(path, mixes, tokens, options.workers, options.seed)
    weights = initialize(shape, options.device, options.seed)
    if options.start:
        for key, value in load_file(options.start).items():
            weights[key].data.copy_(value)
    trainer = Trainer(weights, shape, device=options.device)
    with sdpa_kernel(list(BACKENDS), set_priority=True):
        report = train(trainer, loader, stages, options)
    loader.close()
    save(weights, output)
    write_config(shape, max(max(mix) for mix in mixes), output)
    (output / 'training.json').write_text(json.dumps(report) + '\n')
    print({key: value for key, value in report.items() if key != 'log'}, flush=True)


if __name__ == '__main__':
    main()
