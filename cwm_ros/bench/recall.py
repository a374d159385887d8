# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Exact-answer recall: questions about held-out dialogues, each asked at the end of the same context.

An answer counts only if it is right to the letter. Questions whose words do not occur in what was
told (paraphrases) are reported apart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.dialogues import Kind, make_dialogue
from cwm_ros.bench.lengths import turn_counter
from cwm_ros.bench.phrases_state import UNKNOWN
from cwm_ros.codec import codec_named, decode_chunk, encode_chunk, Scratch
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.errors import ConfigError
from cwm_ros.kv import Role, Turn
from cwm_ros.model import build_graph, Checkpoint
from cwm_ros.plan import order_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.bench.dialogues import Dialogue, Question
    from cwm_ros.config import Settings
    from cwm_ros.engine import Engine

DIALOGUES_PER_SEED = 10_000
MAX_ANSWER_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallTask:
    """
    What to ask.

    Parameters
    ----------
    context
        Length of each dialogue [tokens].
    questions
        How many questions, over as many dialogues as it takes.
    seed
        Selects the dialogues; none of them was trained on.
    codec
        Codec that the KV passes through first; empty for none.
    resident
        Part of the chunks that is left, in the order of a thaw; the rest is masked.

    """

    context: int
    questions: int
    seed: int = 0
    codec: str = ''
    resident: float = 1.0


class Outcome(Enum):
    """How an answer was."""

    EXACT = 'exact'
    ABSTAINED = 'abstained'
    STALE = 'stale'
    WRONG = 'wrong'


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallReport:
    """
    Outcomes by kind of question.

    Parameters
    ----------
    task
        What was asked.
    counts
        Number of questions by kind and outcome; abstaining from an unanswerable one is EXACT.

    """

    task: RecallTask
    counts: Counter[tuple[Kind, Outcome]]

    def fraction(self, outcomes: set[Outcome], kinds: set[Kind]) -> float | None:
        """Return the share of some outcomes among questions of some kinds; None without any."""
        total = self.number(kinds)
        hits = sum(self.counts[kind, outcome] for kind in kinds for outcome in outcomes)
        return hits / total if total else None

    def number(self, kinds: set[Kind]) -> int:
        """Return how many questions of some kinds there were."""
        return sum(self.counts[kind, outcome] for kind in kinds for outcome in Outcome)

    def as_json(self) -> dict[str, object]:
        """Return the figures for ``--json``."""
        answerable = set(Kind) - {Kind.UNANSWERABLE, Kind.PARAPHRASE}
        return {
            'context': self.task.context,
            'questions': self.number(set(Kind)),
            'seed': self.task.seed,
            'codec': self.task.codec,
            'resident': self.task.resident,
            'exact': self.fraction({Outcome.EXACT}, answerable),
            'abstained_rightly': self.fraction({Outcome.EXACT}, {Kind.UNANSWERABLE}),
            'wrong': self.fraction({Outcome.WRONG, Outcome.STALE}, answerable),
            'stale_after_re_entry': self.fraction({Outcome.STALE}, {Kind.RE_ENTRY_STATE}),
            'paraphrase_exact': self.fraction({Outcome.EXACT}, {Kind.PARAPHRASE}),
            'by_kind': {
                kind.value: {
                    'questions': self.number({kind}),
                    **{o.value: self.counts[kind, o] for o in Outcome},
                }
                for kind in Kind
            },
        }

    def as_text(self) -> str:
        """Return the figures for a person."""
        lines = [f'{"kind":<16}{"asked":>7}{"exact":>8}{"abstained":>11}{"stale":>7}{"wrong":>7}']
        for kind in Kind:
            row = ''.join(
                f'{self.counts[kind, outcome]:>{width}}'
                for outcome, width in zip(Outcome, (8, 11, 7, 7), strict=True)
            )
            lines.append(f'{kind.value:<16}{self.number({kind}):>7}{row}')
        answerable = set(Kind) - {Kind.UNANSWERABLE, Kind.PARAPHRASE}
        exact = self.fraction({Outcome.EXACT}, answerable) or 0.0
        return '\n'.join([*lines, f'exact recall, paraphrases apart: {exact:.1%}'])


def measure_recall(
    settings: Settings, task: RecallTask, on_question: Callable[[int], None] = lambda _: None
) -> RecallReport:
    """
    Ask the model what was said.

    Parameters
    ----------
    settings
        Names the model; no store is opened.
    task
        What to ask.
    on_question
        Called with the number of questions asked so far.

    Raises
    ------
    ConfigError
        The context does not fit the model.

    """
    cache = settings.engine.cache_path
    checkpoint = Checkpoint.configured(settings.engine)
    if task.context + 2 * MAX_ANSWER_TOKENS > checkpoint.kv_spec.max_tokens:
        raise ConfigError(
            f'context {task.context} leaves no room for questions',
            hint=f'the model was trained for {checkpoint.kv_spec.max_tokens} tokens',
        )
    counts: Counter[tuple[Kind, Outcome]] = Counter()
    with open_engine(
        lambda formulation: build_graph(checkpoint, formulation, cache),
        checkpoint.kv_spec,
        checkpoint.identity,
        settings.engine,
    ) as engine:
        examiner = Examiner(engine, checkpoint, task, settings)
        for number, (question, said) in enumerate(examiner.exchanges(), start=1):
            counts[question.kind, judge(question, said)] += 1
            on_question(number)
    return RecallReport(task=task, counts=counts)


def judge(question: Question, said: str) -> Outcome:
    """Say how an answer is."""
    if said == question.answer:
        return Outcome.EXACT
    if said == UNKNOWN:
        return Outcome.ABSTAINED
    return Outcome.STALE if question.stale and said == question.stale else Outcome.WRONG


class Examiner:
    """Asks all questions of one dialogue after another, each from the same context."""

    def __init__(
        self, engine: Engine, checkpoint: Checkpoint, task: RecallTask, settings: Settings
    ) -> None:
        self._engine = engine
        self._checkpoint = checkpoint
        self._task = task
        self._settings = settings
        self._count = turn_counter(checkpoint)

    def exchanges(self) -> Iterator[tuple[Question, str]]:
        """Yield each question with what the model says."""
        asked, seed = 0, self._task.seed * DIALOGUES_PER_SEED
        while asked < self._task.questions:
            dialogue = make_dialogue(seed, self._task.context, self._count)
            seed += 1
            self._prepare(dialogue)
            for question in dialogue.questions[: self._task.questions - asked]:
                yield question, self._ask(dialogue, question)
                asked += 1

    def _prepare(self, dialogue: Dialogue) -> None:
        engine, task = self._engine, self._task
        tokens = self._checkpoint.chat.render(dialogue.turns, add_generation_prompt=False)
        engine.reset()
        engine.run(tokens, 0, rows=LogitRows.NONE)
        self._num_tokens = len(tokens)
        if task.codec:
            self._recode(self._settings.codec.chunk_tokens)
        steps = order_chunks(
            (),
            num_tokens=len(tokens),
            chunk_tokens=self._settings.codec.chunk_tokens,
            turn_stops=self._turn_stops(dialogue),
            settings=self._settings.thaw,
        )
        usable = [step for step in steps if step.is_usable_part]
        others = sorted(set(steps) - set(usable), key=lambda step: -step.start)
        for step in [*usable, *others][round(task.resident * len(steps)) :]:
            engine.drop(step.start, step.stop)

    def _turn_stops(self, dialogue: Dialogue) -> list[int]:
        chat = self._checkpoint.chat
        last = chat.render_suffix(
            dialogue.turns[:-1], dialogue.turns[-1:], add_generation_prompt=False
        )
        first = chat.render(dialogue.turns[:1], add_generation_prompt=False)
        return [len(first), self._num_tokens - len(last), self._num_tokens]

    def _recode(self, chunk_tokens: int) -> None:
        """Let all KV pass through the codec."""
        engine, codec, scratch = self._engine, codec_named(self._task.codec), Scratch()
        for start in range(0, self._num_tokens, chunk_tokens):
            stop = min(start + chunk_tokens, self._num_tokens)
            payload = encode_chunk(engine.export_kv(start, stop).kv, codec, 'lz4', scratch)
            engine.drop(start, stop)
            decode_chunk(
                memoryview(bytes(payload)),
                spec=engine.spec,
                num_tokens=stop - start,
                codec=codec,
                out=engine.import_view(start, stop),
                scratch=scratch,
                source=Path('payload'),
            )
            engine.mark_resident(start, stop)

    def _ask(self, dialogue: Dialogue, question: Question) -> str:
        turn = Turn(role=Role.USER, text=question.text)
        engine, chat = self._engine, self._checkpoint.chat
        tokens = chat.render_suffix(dialogue.turns, [turn], add_generation_prompt=True)
        said: list[int] = []
        position = self._num_tokens
        while len(said) < MAX_ANSWER_TOKENS:
            logits = engine.run(tokens, position, rows=LogitRows.LAST)
            position += len(tokens)
            token = int(logits[-1].argmax())
            if token in self._checkpoint.stop_ids:
                break
            said.append(token)
            tokens = np.array([token], np.int32)
        engine.drop(self._num_tokens, position)
        return self._checkpoint.tokenizer.decode(said).strip()
