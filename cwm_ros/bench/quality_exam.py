# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
One held-out dialogue at a time, asked and continued from any part of its chunks.

Nothing is generated: an answer is exact when each of its tokens, the one that ends it included, is
the model's first choice behind the ones before, which one run over all of them shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cwm_ros.bench.dialogues import Kind, make_dialogue, STEP_TOKENS
from cwm_ros.bench.lengths import turn_counter
from cwm_ros.bench.phrases_paraphrase import content_words
from cwm_ros.bench.phrases_state import UNKNOWN
from cwm_ros.bench.recall import Outcome
from cwm_ros.codec import codec_named, decode_chunk, encode_chunk, Scratch
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.errors import ConfigError
from cwm_ros.kv import Role, Turn
from cwm_ros.meaning import meanings_of, row_of
from cwm_ros.model import build_graph, Checkpoint
from cwm_ros.plan import usable_bounds
from cwm_ros.relevance import exchanges, relevance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from typing_extensions import Self

    from cwm_ros.bench.dialogues import Dialogue as Told
    from cwm_ros.bench.dialogues import Question
    from cwm_ros.config import Settings
    from cwm_ros.engine import Engine
    from cwm_ros.kv import FloatArray, TokenArray
    from cwm_ros.meaning import Meanings

CONTINUED_TOKENS = 256
"""How far a dialogue goes on behind its window, to be predicted."""
ANSWER_TOKENS = 128
SYSTEM, SHARED, UNANSWERABLE = 'system prompt', 'shared word', 'unknown'
PARAPHRASE, OTHER = 'paraphrase', 'other words'
"""No word is shared with the turn that answers: a fact, or state and corrections."""
GROUPS = (SYSTEM, SHARED, PARAPHRASE, OTHER, UNANSWERABLE)
FROM_SYSTEM, FROM_PARAPHRASES = 2, 2
"""How many questions of these kinds are asked at most besides those that are drawn."""

Predictions = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""The first choice for each token, and the loss of the one that came [nats]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How a question of a group went, and the share of the window's bytes it took."""

    group: str
    outcome: Outcome
    is_abstention: bool
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The continuation of a dialogue: share of equal first choices, and losses [nats a token]."""

    agreement: float
    loss: float
    exact_loss: float
    share: float


def group_of(question: Question, turns: Sequence[Turn]) -> str:
    """Say how a question can be found: by a content word of each turn that answers it, or not."""
    if question.kind is Kind.UNANSWERABLE:
        return UNANSWERABLE
    if question.sources == (0,):
        return SYSTEM
    told = [content_words(turns[source].text) for source in question.sources]
    if all(content_words(question.text) & words for words in told):
        return SHARED
    return PARAPHRASE if question.kind is Kind.PARAPHRASE else OTHER


class Examiner:
    """Owns the engine; a context manager."""

    def __init__(self, engine: Engine, checkpoint: Checkpoint, settings: Settings) -> None:
        self.engine = engine
        self.checkpoint = checkpoint
        self.settings = settings

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the configured model."""
        cache = settings.engine.cache_path
        checkpoint = Checkpoint.configured(settings.engine)
        engine = open_engine(
            lambda formulation: build_graph(checkpoint, formulation, cache),
            checkpoint.kv_spec,
            checkpoint.identity,
            settings.engine,
        )
        return cls(engine, checkpoint, settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.engine.close()

    def compute(self, seed: int, context: int) -> Dialogue:
        """
        Make a dialogue that goes on behind a window, and compute the KV of it.

        What fills up its end is left away: small talk is easier to foretell than the rest.

        Raises
        ------
        ConfigError
            The engine does not hold it.

        """
        engine = self.engine
        room = context + CONTINUED_TOKENS + ANSWER_TOKENS
        if room > engine.capacity:
            raise ConfigError(
                f'context {context} leaves no room for questions',
                hint=f'the engine holds {engine.capacity} tokens',
            )
        told = make_dialogue(
            seed,
            context + CONTINUED_TOKENS + STEP_TOKENS,
            turn_counter(self.checkpoint),
            num_reentries=seed % 2,
        )
        chat = self.checkpoint.chat
        whole = chat.render(told.turns, add_generation_prompt=False)
        tokens = whole[: context + CONTINUED_TOKENS]
        stops = [len(chat.render(told.turns[:1], add_generation_prompt=False))]
        for number in range(1, len(told.turns)):
            before, new = told.turns[:number], told.turns[number : number + 1]
            added = chat.render_suffix(before, new, add_generation_prompt=False)
            stops.append(stops[-1] + len(added))
        engine.reset()
        engine.reserve(room)
        engine.run(tokens, 0, rows=LogitRows.NONE)
        kv = engine.export_kv(0, len(tokens)).kv.copy()
        return Dialogue(seed=seed, told=told, tokens=tokens, stops=stops, kv=kv)

    def prepare(
        self, dialogue: Dialogue, context: int, codec: str, num_questions: int
    ) -> ExamContext:
        """Cut a dialogue after its last answer within a window, and let its KV pass a codec."""
        window = Window(dialogue, context, num_questions)
        self._load_exact(window)
        predictions = predict(self.engine, window.continuation, window.num_tokens)
        return ExamContext(self, window, codec, predictions)

    def _load_exact(self, window: Window) -> None:
        engine = self.engine
        engine.drop(0, len(window.dialogue.tokens))
        engine.import_view(0, window.num_tokens)[...] = window.kv
        engine.mark_resident(0, window.num_tokens)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dialogue:
    """A dialogue with its tokens, the position after each turn, and its exact KV."""

    seed: int
    told: Told
    tokens: TokenArray
    stops: list[int]
    kv: FloatArray


class Window:
    """The beginning of a dialogue, what comes behind it, and questions about it."""

    def __init__(self, dialogue: Dialogue, context: int, num_questions: int) -> None:
        self.dialogue = dialogue
        turns, stops = dialogue.told.turns, dialogue.stops
        num_turns = max(
            number + 1
            for number, turn in enumerate(turns)
            if turn.role is Role.ASSISTANT and stops[number] <= context
        )
        self.turns, self.stops = turns[:num_turns], stops[:num_turns]
        self.num_tokens = self.stops[-1]
        self.kv = dialogue.kv[:, :, :, : self.num_tokens]
        end = self.num_tokens + CONTINUED_TOKENS
        self.continuation = dialogue.tokens[self.num_tokens : end]
        rng = Random(dialogue.seed)
        self.questions = _draw(dialogue.told.questions, num_turns, num_questions, rng)


def _draw(
    questions: Sequence[Question], num_turns: int, count: int, rng: Random
) -> list[Question]:
    """Draw questions about what was said in the first turns alone; none if ``count`` is 0."""
    held = [q for q in questions if all(source < num_turns for source in q.sources)]
    chosen = [q for q in held if q.sources == (0,)][:FROM_SYSTEM]
    chosen += [q for q in held if q.kind is Kind.PARAPHRASE][:FROM_PARAPHRASES]
    rest = [q for q in held if q not in chosen]
    return [*chosen, *rng.sample(rest, min(count, len(rest)))] if count else []


def _meanings_of(window: Window) -> Meanings:
    """Return what the exchanges of a window mean, as a freeze would note it."""
    ranges = [(one.start, one.stop) for one in exchanges(window.turns, window.stops)]
    values = window.kv[-1, 1]
    rows = [row_of(a, b, values[:, a:b].mean(axis=1).reshape(-1)) for a, b in ranges]
    return meanings_of(np.stack(rows))


def predict(engine: Engine, tokens: TokenArray, start: int) -> Predictions:
    """Run over tokens behind ``start``, forget them, and say what was expected instead."""
    logits = engine.run(tokens, start, rows=LogitRows.ALL)[:-1].astype(np.float64)
    engine.drop(start, start + len(tokens))
    logits -= logits.max(axis=1, keepdims=True)
    totals = np.log(np.exp(logits).sum(axis=1))
    losses = totals - logits[np.arange(len(logits)), tokens[1:]]
    return logits.argmax(axis=1), losses


class ExamContext:
    """
    A dialogue whose KV went through a codec, to be asked from any of its chunks.

    Attributes
    ----------
    usable, others
        Indices of the chunks that make it usable, and of the others, ascending.
    questions
        What is asked.

    """

    def __init__(
        self, examiner: Examiner, window: Window, codec: str, predictions: Predictions
    ) -> None:
        self._examiner = examiner
        self._engine = examiner.engine
        self.window = exact = window
        self._predictions = predictions
        self.settings = examiner.settings
        self.questions = exact.questions
        size = self.settings.codec.chunk_tokens
        starts = range(0, exact.num_tokens, size)
        self._ranges = [(start, min(start + size, exact.num_tokens)) for start in starts]
        first, last = usable_bounds(exact.num_tokens, exact.stops, settings=self.settings.thaw)
        is_usable = [start < first or stop > last for start, stop in self._ranges]
        self.usable = [i for i, usable in enumerate(is_usable) if usable]
        self.others = [i for i, usable in enumerate(is_usable) if not usable]
        self._engine.drop(0, exact.num_tokens)
        self._kv, self._bytes = self._recode(codec)
        self._meanings = _meanings_of(exact)

    @property
    def num_chunks(self) -> int:
        """How many chunks the window has."""
        return len(self._ranges)

    def rank(self, prompt: str) -> list[int]:
        """Return the absent chunks that a prompt asks for, the most relevant first."""
        exact, size = self.window, self.settings.codec.chunk_tokens
        scores = relevance(prompt, exact.turns, exact.stops, size)
        ranked = np.argsort(-scores, kind='stable').tolist()
        absent = set(self.others)
        return [chunk for chunk in ranked if chunk in absent and scores[chunk] > 0]

    def rank_by_meaning(self, prompt: str, chunks: Sequence[int]) -> list[int]:
        """Return the absent chunks closest in meaning to a prompt, with only these resident."""
        exact, engine = self.window, self._engine
        self._load([*self.usable, *chunks])
        turns = [Turn(role=Role.USER, text=prompt)]
        chat = self._examiner.checkpoint.chat
        tokens = chat.render_suffix(exact.turns, turns, add_generation_prompt=True)
        stop = exact.num_tokens + len(tokens)
        engine.run(tokens, exact.num_tokens, rows=LogitRows.NONE)
        query = engine.export_kv(stop - 1, stop).kv[-1, 1, :, 0].reshape(-1).copy()
        engine.drop(exact.num_tokens, stop)
        closeness = self._meanings.closeness(query)
        absent = [chunk for chunk in self.others if chunk not in chunks]
        return sorted(absent, key=lambda chunk: -closeness(*self._ranges[chunk]))

    def ask_one(self, question: Question, chunks: Sequence[int]) -> Asked:
        """Ask a question from the usable chunks and these."""
        share = self._load([*self.usable, *chunks])
        is_abstention = False
        if self._is_said(question, question.answer):
            outcome, is_abstention = Outcome.EXACT, question.answer == UNKNOWN
        elif self._is_said(question, UNKNOWN):
            outcome, is_abstention = Outcome.ABSTAINED, True
        else:
            outcome = Outcome.WRONG
        group = group_of(question, self.window.turns)
        return Asked(group=group, outcome=outcome, is_abstention=is_abstention, share=share)

    def listen(self, chunks: Sequence[int]) -> Said:
        """Predict the continuation from these chunks."""
        share, exact = self._load(chunks), self.window
        choices, losses = predict(self._engine, exact.continuation, exact.num_tokens)
        exact_choices, exact_losses = self._predictions
        return Said(
            agreement=float((choices == exact_choices).mean()),
            loss=float(losses.mean()),
            exact_loss=float(exact_losses.mean()),
            share=share,
        )

    def _load(self, chunks: Sequence[int]) -> float:
        """Have exactly these chunks resident, and return their share of the bytes."""
        engine, wanted = self._engine, set(chunks)
        for index, (start, stop) in enumerate(self._ranges):
            is_there = engine.resident.covers(start, stop)
            if is_there and index not in wanted:
                engine.drop(start, stop)
            elif index in wanted and not is_there:
                engine.import_view(start, stop)[...] = self._kv[:, :, :, start:stop]
                engine.mark_resident(start, stop)
        return float(sum(self._bytes[i] for i in wanted) / sum(self._bytes))

    def _is_said(self, question: Question, answer: str) -> bool:
        exact, checkpoint = self.window, self._examiner.checkpoint
        turns = [Turn(role=Role.USER, text=question.text), Turn(role=Role.ASSISTANT, text=answer)]
        chat = checkpoint.chat
        prompt = chat.render_suffix(exact.turns, turns[:1], add_generation_prompt=True)
        whole = chat.render_suffix(exact.turns, turns, add_generation_prompt=False)
        ends = np.flatnonzero(np.isin(whole[len(prompt) :], sorted(checkpoint.stop_ids)))
        tokens = whole[: len(prompt) + int(ends[0]) + 1]
        choices, _ = predict(self._engine, tokens, exact.num_tokens)
        return bool((choices[len(prompt) - 1 :] == tokens[len(prompt) :]).all())

    def _recode(self, codec: str) -> tuple[FloatArray, list[int]]:
        """Return all KV as it is after the codec, and the bytes of each chunk."""
        exact, scratch, kv = self.window.kv, Scratch(), np.empty_like(self.window.kv)
        sizes = []
        for start, stop in self._ranges:
            part = np.s_[:, :, :, start:stop]
            payload = bytes(encode_chunk(exact[part], codec_named(codec), 'lz4', scratch))
            sizes.append(len(payload))
            decode_chunk(
                memoryview(payload),
                spec=self._engine.spec,
                num_tokens=stop - start,
                codec=codec_named(codec),
                out=kv[part],
                scratch=scratch,
                source=Path('payload'),
            )
        return kv, sizes
