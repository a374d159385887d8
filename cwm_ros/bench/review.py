# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Planted late facts: questions answered while the fact's chunks are absent, and their reviews.

Each question about a held-out dialogue is asked with only the first and last chunks there; then
everything is there, and the answer is reviewed. A wrong answer is to be flagged, a right one not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cwm_ros.abstention import Abstentions
from cwm_ros.bench.dialogues import make_dialogue
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.kv import Role, Turn
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewCount:
    """
    How reviews went.

    Parameters
    ----------
    context, questions
        Length of the dialogues [tokens], and how many questions were asked.
    wrong, flagged
        Provisional answers that were wrong (abstentions from what was told included), and those
        of them that were marked CHANGED.
    corrected
        Those of them whose new answer is right to the letter.
    right, false_alarms
        Provisional answers that were right, and those of them that were marked CHANGED.

    """

    context: int
    questions: int
    wrong: int
    flagged: int
    corrected: int
    right: int
    false_alarms: int

    def as_text(self) -> str:
        """Return the figures for a person."""
        shares = [
            f'{part / max(total, 1):.1%}'
            for part, total in (
                (self.flagged, self.wrong),
                (self.corrected, self.wrong),
                (self.false_alarms, self.right),
            )
        ]
        return (
            f'{self.questions} questions at {self.context} tokens: of {self.wrong} wrong answers '
            f'{shares[0]} flagged, {shares[1]} corrected; of {self.right} right ones {shares[2]} '
            'flagged'
        )


def measure_reviews(
    settings: Settings,
    *,
    context: int,
    questions: int,
    seed: int,
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
    on_question
        Called with the number of questions asked so far.

    """
    cache = settings.engine.cache_path
    model = Checkpoint.configured(settings.engine)
    counts = dict.fromkeys(('wrong', 'flagged', 'corrected', 'right', 'false_alarms'), 0)
    with open_engine(
        lambda formulation: build_graph(model, formulation, cache),
        model.kv_spec,
        model.identity,
        settings.engine,
    ) as engine:
        asked = 0
        for question, review in _reviews(engine, model, settings, context, seed):
            is_flagged = review.verdict is ReviewVerdict.CHANGED
            if review.said == question.answer:
                counts['right'] += 1
                counts['false_alarms'] += is_flagged
            else:
                counts['wrong'] += 1
                counts['flagged'] += is_flagged
                counts['corrected'] += is_flagged and review.text == question.answer
            asked += 1
            on_question(asked)
            if asked == questions:
                break
    return ReviewCount(context=context, questions=asked, **counts)


def _reviews(
    engine: Engine, model: Checkpoint, settings: Settings, context: int, seed: int
) -> Iterator[tuple[Question, Review]]:
    number = seed * DIALOGUES_PER_SEED

    def count(turn: Turn) -> int:
        return len(model.tokenizer.encode(f' {turn.text}')) + 2

    while True:
        dialogue = make_dialogue(number, context, count)
        number += 1
        for question in dialogue.questions:
            engine.reset()
            session = Session(engine, model.chat, model.stop_ids)
            for turn in dialogue.turns:
                session.add_turn(turn)
            first, last = usable_bounds(
                session.num_tokens, session.turn_stops, settings=settings.thaw
            )
            end = session.num_tokens
            session.compute(0, end, LogitRows.NONE)
            session.drop(first, last)
            review = _ask(session, model, question)
            yield question, review


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
