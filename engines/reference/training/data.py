# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Training sequences: dialogues as token ids with loss weights, made while training.

Some sequences have holes: chunks of a longer dialogue are left out while positions stay, and
what was told only there is then answered with an abstention.
"""

from __future__ import annotations

import multiprocessing
from random import Random
import re
from typing import NamedTuple, TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from cwm_ros.bench.dialogues import training_talk
from cwm_ros.bench.dialogues_talk import ANSWER_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.queues import Queue
    from multiprocessing.sharedctypes import Synchronized

    from cwm_ros.bench.dialogues_talk import Fact, Line, Talk

BATCH_TOKENS = 65536
CHUNK_TOKENS = 256
MAX_POSITION = 16384
HOLED_SHARE = 0.25
BLOCK_SHARE = 0.3
MAX_STRETCH = 2.5
QUEUE_BATCHES = 24
PIECES = re.compile(r' [^ ]*|^[^ ]+')

Ids = npt.NDArray[np.uint16]


class Sequence(NamedTuple):
    """Token ids, their loss weights and positions, each of shape ``(T + 1,)``."""

    ids: list[int]
    weights: list[int]
    positions: list[int]


class Batch(NamedTuple):
    """Arrays of shape ``(B, T + 1)``."""

    ids: Ids
    weights: npt.NDArray[np.uint8]
    positions: Ids


class Encoder:
    """Renders lines to tokens; splits at spaces, as the tokenizer does, to cache the words."""

    def __init__(self, path: str) -> None:
        self._tokenizer = Tokenizer.from_file(path)
        self._tokenizer.encode_special_tokens = True
        self._words: dict[str, list[int]] = {}
        token = self._tokenizer.token_to_id
        self.bos, self.end = token('<|bos|>'), token('<|end|>')
        self._roles = {role: token(f'<|{role}|>') for role in ('system', 'user', 'assistant')}

    def text(self, text: str) -> list[int]:
        """Encode text in which markers are plain text."""
        ids: list[int] = []
        for piece in PIECES.findall(text):
            known = self._words.get(piece)
            if known is None:
                known = self._tokenizer.encode(piece, add_special_tokens=False).ids
                self._words[piece] = known
            ids += known
        return ids

    def role(self, role: str) -> int:
        """Return the token that begins a turn."""
        return self._roles[role]

    def decode(self, ids: list[int]) -> str:
        """Return the text of tokens."""
        return self._tokenizer.decode(ids)

    def line(self, line: Line, sequence: Sequence, *, is_answer_free: bool = False) -> None:
        """Append a rendered line; answers in it count nothing if they must not be learnt."""
        is_void = is_answer_free and line.parts[0].weight == ANSWER_WEIGHT
        ids, weights, _ = sequence
        ids.append(self._roles[line.role.value])
        weights.append(1)
        space, weight = ' ', 1
        for part in line.parts:
            encoded = self.text(space + part.text)
            space, weight = '', 0 if is_void else int(part.weight)
            ids += encoded
            weights += [weight] * len(encoded)
        ids.append(self.end)
        weights.append(weight)


def plain_sequence(encoder: Encoder, seed: int, length: int) -> Sequence:
    """Make a sequence without holes."""
    sequence = Sequence([encoder.bos], [0], list(range(length)))
    done = 0
    for talk in training_talk(seed):
        for line in talk.lines[done:]:
            encoder.line(line, sequence)
        done = len(talk.lines)
        if len(sequence.ids) >= length:
            break
    return Sequence(sequence.ids[:length], sequence.weights[:length], sequence.positions)


class _Holed:
    """A dialogue some chunks of which are lost."""

    def __init__(self, encoder: Encoder, seed: int, length: int) -> None:
        self.encoder, self.length, self.rng = encoder, length, Random(~seed)
        self.block = int(length * BLOCK_SHARE)
        kept = length - self.block
        stretch = self.rng.uniform(1.1, MAX_STRETCH)
        self.total = min(int(kept * stretch), MAX_POSITION - self.block)
        self.sequence = Sequence([encoder.bos], [0], [])
        self.starts: list[int] = []
        self.talk = self._grow(seed)
        middle = range(1, len(self.sequence.ids) // CHUNK_TOKENS - 2)
        num_lost = max(0, min(len(middle), -(-(self.total - kept) // CHUNK_TOKENS)))
        self.lost = frozenset(self.rng.sample(middle, num_lost))

    def _grow(self, seed: int) -> Talk:
        """Talk until the dialogue is long enough, noting where each line starts."""
        for talk in training_talk(seed):
            for line in talk.lines[len(self.starts) :]:
                self.starts.append(len(self.sequence.ids))
                self.encoder.line(line, self.sequence, is_answer_free=True)
            if len(self.sequence.ids) >= self.total:
                return talk
        raise AssertionError

    def _loss(self, fact: Fact) -> bool | None:
        """Say whether a fact is lost, or None when it is so in part."""
        last = self.starts[fact.source + 2 : fact.source + 3]
        stop = last[0] if last else len(self.sequence.ids)
        span = range(self.starts[fact.source] // CHUNK_TOKENS, (stop - 1) // CHUNK_TOKENS + 1)
        lost = sum(chunk in self.lost for chunk in span)
        return None if 0 < lost < len(span) else lost > 0

    def _ask(self) -> None:
        """Ask for lost and kept facts until the sequence is full."""
        facts = [f for f in self.talk.facts.values() if not f.is_asked and not f.stale]
        judged = [(fact, self._loss(fact)) for fact in facts]
        pool = [(fact, loss) for fact, loss in judged if loss is not None]
        self.rng.shuffle(pool)
        done, talk = len(self.talk.lines), self.talk
        limit = len(self.sequence.ids) + self.block + CHUNK_TOKENS
        while len(self.sequence.ids) < limit:
            if pool and self.rng.random() < 0.6:
                fact, loss = pool.pop()
                talk.ask_fact(fact, is_lost=loss)
            else:
                self.rng.choice((talk.chat, talk.tell, talk.ask_unknown, talk.command))()
            for line in talk.lines[done:]:
                self.encoder.line(line, self.sequence)
            done = len(talk.lines)

    def make(self) -> Sequence:
        """Cut the holes out and ask what remains."""
        before = len(self.sequence.ids)
        self._ask()
        kept = [
            index
            for index in range(len(self.sequence.ids))
            if index >= before or index // CHUNK_TOKENS not in self.lost
        ][: self.length]
        ids, weights, _ = self.sequence
        return Sequence([ids[i] for i in kept], [weights[i] for i in kept], kept)


def make_sequence(encoder: Encoder, seed: int, length: int) -> Sequence:
    """Make a training sequence; some have holes if the length leaves room for them."""
    has_holes = Random(seed).random() < HOLED_SHARE
    if has_holes and 4 * CHUNK_TOKENS <= length <= MAX_POSITION // 2 + 1:
        sequence = _Holed(encoder, seed, length).make()
        if len(sequence.ids) == length and sequence.positions[-1] < MAX_POSITION:
            return sequence
    return plain_sequence(encoder, seed, length)


def make_batch(encoder: Encoder, seeds: Iterator[int], length: int, tokens: int) -> Batch:
    """Make a batch of sequences of one length."""
    rows = [make_sequence(encoder, next(seeds), length + 1) for _ in range(tokens // length)]
    return Batch(
        ids=np.array([row.ids for row in rows], dtype=np.uint16),
        weights=np.array([row.weights for row in rows], dtype=np.uint8),
        positions=np.array([row.positions for row in rows], dtype=np.uint16),
    )


def work(
    path: str,
    seeds: tuple[int, int],
    mixes: tuple[tuple[int, ...], ...],
    tokens: int,
    *,
    stage: Synchronized[int],
    queue: Queue[Batch],
) -> None:
    """Make batches for the current stage for ever; ``seeds`` are the first and the step."""
    encoder = Encoder(path)
    counter = iter(range(seeds[0], 1 << 31, seeds[1]))
    rng = Random(seeds[0])
    while True:
        queue.put(make_batch(encoder, counter, rng.choice(mixes[stage.value]), tokens))


class Loader:
    """Batches from worker processes."""

    def __init__(
        self, path: str, mixes: tuple[tuple[int, ...], ...], tokens: int, workers: int, seed: int
    ) -> None:
        context = multiprocessing.get_context('spawn')
        self._stage = context.Value('i', 0)
        self._queue: Queue[Batch] = context.Queue(QUEUE_BATCHES)
        self._workers = [
            context.Process(
                target=work,
                args=(path, (seed + index, workers), mixes, tokens),
                kwargs={'stage': self._stage, 'queue': self._queue},
                daemon=True,
            )
            for index in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def next(self, stage: int) -> Batch:
        """Return a batch and have later ones made for ``stage``."""
        self._stage.value = stage
        return self._queue.get()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.terminate()
