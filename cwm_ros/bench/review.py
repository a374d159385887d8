# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Planted late facts: questions answered while the fact's chunks are absent, and their reviews.

Each question about a held-out dialogue is asked without all but the usable part, or without what
answers it; then everything is there, and the answer is reviewed. A wrong answer is to be changed,
a right one not.
"""

from __future__ import annotations

from dataclasses import dataclass
import itertools
from itertools import islice
from typing import TYPE_CHECKING

from cwm_ros.abstention import Abstentions
from cwm_ros.bench.dialogues import make_dialogue
from cwm_ros.bench.lengths import turn_counter
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.kv import Role
from cwm_ros.model import build_graph, Checkpoint
from cwm_ros.plan import usable_bounds
from cwm_ros.review import Review, Reviewer, ReviewVerdict, Spoken
from cwm_ros.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.bench.dialogues import Question
    from cwm_ros.config import Settings
    from cwm_ros.engine import Engine

MAX_ANSWER_TOKENS = 64
DIALOGUES_PER_SEED = 10_000
ABSENT = (MIDDLE, SOURCE) = 'middle', 'source'


@dataclass(slots=True, kw_only=True)
class Judged:
    """
    Provisional answers of a sort.

    Parameters
    ----------
    total, changed
        How many there were, and how many of them were marked CHANGED.
    corrected
        Those of them whose new answer is right to the letter.

    """

    total: int = 0
    changed: int = 0
    corrected: int = 0

    def add(self, review: Review, answer: str) -> None:
        """Count one."""
        is_changed = review.verdict is ReviewVerdict.CHANGED
        self.total += 1
        self.changed += is_changed
        self.corrected += is_changed and review.text == answer

    def as_text(self, sort: str) -> str:
        """Return the figures for a person."""
        share = f' ({self.changed / self.total:.1%})' if self.total else ''
        changed = f'{self.changed} of {self.total} changed{share}'
        return f'{sort}: {changed}, {self.corrected} then right'


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewCount:
    """
    How reviews went.

    Parameters
    ----------
    context, questions, absent
        Length of the dialogues [tokens], how many questions were asked, and without what.
    wrong
        Provisional answers that said something else than is true; they are to be changed.
    abstained
        Those that said nothing about what had been told; they are to be changed, too.
    right
        Those that were right; a change is a false alarm.

    """

    context: int
    questions: int
    absent: str
    wrong: Judged
    abstained: Judged
    right: Judged

    def as_text(self) -> str:
        """Return the figures for a person."""
        sorts = (self.wrong, 'wrong'), (self.abstained, 'abstained'), (self.right, 'right')
        return '\n'.join(
            [
                f'{self.questions} questions at {self.context} tokens, without {self.absent}',
                *(judged.as_text(sort) for judged, sort in sorts),
            ]
        )


def measure_reviews(
    settings: Settings,
    *,
    context: int,
    questions: int,
    seed: int,
    absent: str = MIDDLE,
    on_question: Callable[[int], None] = lambda _: None,
) -> ReviewCount:
    """
    Ask with little context, review with all, and count.

    Parameters
    ----------
    settings
        Names the model; no store is opened.
    context, questions, seed
        Length of each dialogue [tokens], how many questions, and which dialogues.
    absent
        What is not there while they are asked, one of `ABSENT`: all but the usable part, or only
        the chunks that hold what answers the question. Questions for which this is nothing are
        not asked.
    on_question
        Called with the number of questions asked so far.

    """
    cache = settings.engine.cache_path
    model = Checkpoint.configured(settings.engine)
    abstentions = Abstentions(model.card.abstentions)
    wrong, abstained, right = Judged(), Judged(), Judged()
    with open_engine(
        lambda formulation: build_graph(model, formulation, cache),
        model.kv_spec,
        model.identity,
        settings.engine,
    ) as engine:
        exams = _exams(engine, model, settings, context=context, seed=seed, absent=absent)
        for number, (question, review) in enumerate(islice(exams, questions), 1):
            if review.said == question.answer:
                sort = right
            else:
                sort = abstained if abstentions.is_one(review.said) else wrong
            sort.add(review, question.answer)
            on_question(number)
    return ReviewCount(
        context=context,
        questions=questions,
        absent=absent,
        wrong=wrong,
        abstained=abstained,
        right=right,
    )


def _exams(
    engine: Engine, model: Checkpoint, settings: Settings, *, context: int, seed: int, absent: str
) -> Iterator[tuple[Question, Review]]:
    count = turn_counter(model)
    for number in itertools.count(seed * DIALOGUES_PER_SEED):
        dialogue = make_dialogue(number, context, count)
        for question in dialogue.questions:
            engine.reset()
            session = Session(engine, model.chat, model.stop_ids)
            for turn in dialogue.turns:
                session.add_turn(turn)
            left_out = _left_out(session, question, settings, absent)
            if left_out:
                session.compute(0, session.num_tokens, LogitRows.NONE)
                for start, stop in left_out:
                    session.drop(start, stop)
                yield question, _ask(session, model, question)


def _left_out(
    session: Session, question: Question, settings: Settings, absent: str
) -> list[tuple[int, int]]:
    """Return what is absent while a question is asked [token ranges]; nothing that is usable."""
    stops = session.turn_stops
    first, last = usable_bounds(session.num_tokens, stops, settings=settings.thaw)
    if absent == MIDDLE:
        return [(first, last)] if first < last else []
    size, chunks = settings.codec.chunk_tokens, set()
    for source in question.sources:
        begin = stops[source - 1] if source else 0
        chunks |= {*range(begin // size, (stops[source] - 1) // size + 1)}
    ranges = ((max(first, n * size), min(last, (n + 1) * size)) for n in sorted(chunks))
    return [(start, stop) for start, stop in ranges if start < stop]


def _ask(session: Session, model: Checkpoint, question: Question) -> Review:
    """Answer from what is there, then review with all of it."""
    session.add_prompt(question.text, 0)
    session.begin_answer(MAX_ANSWER_TOKENS)
    said = list(session.generate(lambda logits: int(logits.argmax()), MAX_ANSWER_TOKENS))
    is_cut = not session.is_answer_ended
    session.end_answer(model.tokenizer.decode(said).strip(), 0)
    reviewer = Reviewer(
        session=session,
        tokenizer=model.tokenizer,
        stop_ids=model.stop_ids,
        abstentions=Abstentions(model.card.abstentions),
        max_tokens=MAX_ANSWER_TOKENS,
    )
    *_, review = reviewer.review(Spoken(turn=session.num_turns - 1, is_cut=is_cut))
    assert isinstance(review, Review)
    assert session.turns[-2].role is Role.USER
    return review
