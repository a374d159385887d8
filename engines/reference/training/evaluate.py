# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Measure the reference model on held-out dialogues, from its published float16 weights.

Every question branches from one prefilled dialogue. A greedy answer equals the expected one
exactly if each expected token is the most likely one after those before it, so that answers
are scored without generating them.

Usage: ``PYTHONPATH=../../.. python evaluate.py FOLDER --output evaluation.json``.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
import json
from pathlib import Path
from typing import NamedTuple

from data import Encoder
from safetensors.torch import load_file
import torch
from torch import Tensor
from torch.nn import functional

from cwm_ros.bench.dialogues import Dialogue, Kind, make_dialogue, Question
from cwm_ros.bench.phrases_state import UNKNOWN
from cwm_ros.kv import Role, Turn
from model import (
    after_attention,
    before_attention,
    EMBEDDING,
    FINAL_NORM,
    layer_of,
    norm,
    rope_table,
    Shape,
)  # fmt: skip

ROOM = 96
"""Tokens left for a question and its answer."""

FIRST, LAST = 256, 512
ROWS = 16
MAX_EXAMPLES = 40
ANSWER_TOKENS = 40
DISTANCES = (256, 1024, 2048, 4096, 6144, 8192, 12288, 16384)


class Branch(NamedTuple):
    """What follows the dialogue, and where the answer begins in it."""

    ids: list[int]
    start: int


class Model:
    """Float32 inference with a prefilled cache."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device, self.shape = device, Shape()
        loaded = load_file(folder / 'model.safetensors')
        self.weights = {key: value.float().to(device) for key, value in loaded.items()}
        self.layers = [layer_of(self.weights, index) for index in range(self.shape.layers)]
        self.rope = rope_table(self.shape, 16384, device)

    def _heads(self, x: Tensor, rows: int) -> Tensor:
        """Return (B, heads, T, D) with key/value heads repeated for the query heads."""
        x = x.unflatten(0, (rows, -1)).transpose(1, 2)
        return x.repeat_interleave(self.shape.heads // x.shape[1], 1)

    def run(
        self,
        ids: Tensor,
        first: int,
        cache: list[tuple[Tensor, Tensor]] | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return logits (B, T, V) and the new keys and values."""
        rows, length = ids.shape
        rope = self.rope[:, first : first + length].repeat(1, rows, 1)
        x = self.weights[EMBEDDING][ids.reshape(-1)]
        new = []
        for index, layer in enumerate(self.layers):
            q, k, v = before_attention(x, layer, rope, self.shape.head_dim, torch.float32)
            q, k, v = (self._heads(y, rows) for y in (q, k, v))
            new.append((k, v))
            if cache is not None:
                k = torch.cat((cache[index][0].expand(rows, -1, -1, -1), k), 2)
                v = torch.cat((cache[index][1].expand(rows, -1, -1, -1), v), 2)
            attended = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None
            )
            attended = attended.transpose(1, 2).reshape(rows * length, -1)
            x = after_attention(x, attended, layer, torch.float32)
        x = norm(x, self.weights[FINAL_NORM])
        return x.unflatten(0, (rows, -1)), new

    def logits(self, x: Tensor) -> Tensor:
        """Return logits of normalised states."""
        return x @ self.weights[EMBEDDING].T


class Asker:
    """Asks branches of one dialogue."""

    def __init__(self, model: Model, encoder: Encoder, dialogue: Dialogue) -> None:
        self.model, self.encoder = model, encoder
        self.ids, self.starts = [encoder.bos], []
        for turn in dialogue.turns:
            self.starts.append(len(self.ids))
            self.ids += rendered(encoder, turn)
        tokens = torch.tensor([self.ids], device=model.device)
        with torch.inference_mode():
            _, self.cache = model.run(tokens, 0, None, None)

    def branch(self, question: Question, answer: str) -> Branch:
        """Render a question and an answer."""
        asked = rendered(self.encoder, Turn(role=Role.USER, text=question.text))
        answered = rendered(self.encoder, Turn(role=Role.ASSISTANT, text=answer))
        return Branch(asked + answered, len(asked) + 1)

    @torch.inference_mode()
    def predict(self, branches: list[Branch], resident: Tensor | None) -> list[list[int]]:
        """Return the most likely next token after each token of each branch."""
        longest = max(len(branch.ids) for branch in branches)
        padded = [branch.ids + [0] * (longest - len(branch.ids)) for branch in branches]
        tokens = torch.tensor(padded, device=self.model.device)
        size = len(self.ids)
        mask = torch.ones(longest, size + longest, dtype=torch.bool, device=tokens.device)
        mask = mask.tril(size)
        if resident is not None:
            mask[:, :size] &= resident
        x, _ = self.model.run(tokens, size, self.cache, mask[None, None])
        return self.model.logits(x).argmax(-1).tolist()

    def says(self, branches: list[Branch], resident: Tensor | None = None) -> list[bool]:
        """Say for each branch whether its answer is the greedy one."""
        result = []
        for at in range(0, len(branches), ROWS):
            part = branches[at : at + ROWS]
            for branch, best in zip(part, self.predict(part, resident), strict=True):
                expected = branch.ids[branch.start :]
                result.append(best[branch.start - 1 : len(branch.ids) - 1] == expected)
        return result

    def answer(self, question: Question, resident: Tensor | None = None) -> str:
        """Generate an answer greedily."""
        ids = self.branch(question, '').ids[:-1]
        ids = ids[: len(ids) - len(self.encoder.text(' '))]
        start = len(ids)
        while len(ids) < start + ANSWER_TOKENS:
            token = self.predict([Branch(ids, start)], resident)[0][-1]
            if token == self.encoder.end:
                break
            ids = [*ids, token]
        return self.encoder.decode(ids[start:]).strip()


def rendered(encoder: Encoder, turn: Turn) -> list[int]:
    """Render one turn."""
    return [encoder.role(turn.role.value), *encoder.text(f' {turn.text}'), encoder.end]


class Scores:
    """Counts by kind and by distance."""

    def __init__(self) -> None:
        self.kinds: dict[str, Counter[str]] = defaultdict(Counter)
        self.distances: dict[str, Counter[str]] = defaultdict(Counter)
        self.partial: Counter[str] = Counter()
        self.examples: list[dict[str, str]] = []

    def add(self, asker: Asker, dialogue: Dialogue) -> None:
        """Ask all questions of a dialogue."""
        questions = dialogue.questions
        exact = asker.says([asker.branch(q, q.answer) for q in questions])
        abstained = asker.says([asker.branch(q, UNKNOWN) for q in questions])
        stale = asker.says([asker.branch(q, q.stale or '!') for q in questions])
        for question, *outcome in zip(questions, exact, abstained, stale, strict=True):
            is_exact, is_abstained, is_stale = outcome
            counts = Counter(n=1, exact=int(is_exact), abstained=int(is_abstained))
            counts.update(stale=int(is_stale), with_stale=int(bool(question.stale)))
            self.kinds[question.kind.value].update(counts)
            if question.kind in {Kind.FACT, Kind.CORRECTED, Kind.RE_ENTRY_FACT}:
                distance = len(asker.ids) - asker.starts[question.sources[0]]
                upper = next(limit for limit in DISTANCES if distance <= limit)
                self.distances[f'<={upper}'].update(counts)
            if not is_exact and len(self.examples) < MAX_EXAMPLES:
                self.examples.append(
                    {
                        'kind': question.kind.value,
                        'told': ' / '.join(
                            dialogue.turns[index].text for index in question.sources
                        ),
                        'asked': question.text,
                        'expected': question.answer,
                        'answered': asker.answer(question),
                    }
                )

    def add_partial(self, asker: Asker, dialogue: Dialogue) -> None:
        """Ask for facts while only the first and the last tokens are resident."""
        size = len(asker.ids)
        resident = torch.arange(size, device=asker.model.device)
        resident = (resident < FIRST) | (resident >= size - LAST)
        absent = [
            question
            for question in dialogue.questions
            if question.kind in {Kind.FACT, Kind.RE_ENTRY_FACT, Kind.PARAPHRASE}
            and asker.starts[question.sources[0]] >= FIRST
            and asker.starts[question.sources[0]] < size - LAST - 64
        ]
        if absent:
            said = asker.says([asker.branch(q, UNKNOWN) for q in absent], resident)
            right = asker.says([asker.branch(q, q.answer) for q in absent], resident)
            self.partial.update(n=len(absent), abstained=sum(said), exact=sum(right))

    def report(self) -> dict[str, object]:
        """Return all counts."""
        return {'kinds': self.kinds, 'distances': self.distances,
                'absent_when_only_first_and_last_resident': self.partial,
                'wrong_examples': self.examples}  # fmt: skip


def evaluate(model: Model, encoder: Encoder, context: int, num_questions: int) -> dict:
    """Measure one context length."""
    scores, asked, seed = Scores(), 0, 1_000_000 + context * 10
    while asked < num_questions:
        seed += 1
        count = lambda turn: len(rendered(encoder, turn))  # noqa: E731
        dialogue = make_dialogue(seed, context - ROOM, count)
        asker = Asker(model, encoder, dialogue)
        scores.add(asker, dialogue)
        scores.add_partial(asker, dialogue)
        asked += len(dialogue.questions)
    return {'context': context, 'seeds': [1_000_001 + context * 10, seed], **scores.report()}


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path)
    parser.add_argument('--contexts', type=int, nargs='+', default=[4096, 8192, 16384])
    parser.add_argument('--questions', type=int, default=1200)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    encoder = Encoder(str(options.folder / 'tokenizer.json'))
    model = Model(options.folder, options.device)
    results = []
    for context in options.contexts:
        results.append(evaluate(model, encoder, context, options.questions))
        shown = {key: value for key, value in results[-1].items() if key != 'wrong_examples'}
        print(json.dumps(shown), flush=True)
        for example in results[-1]['wrong_examples'][:25]:
            print('  ', example, flush=True)
        if options.output:
            options.output.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
    main()
