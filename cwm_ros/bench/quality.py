# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How good answers are from a part of a window, by the order in which it came back.

Each held-out dialogue is computed once; then its chunks pass through the codec, are masked and
come back. What the model would say next is compared with what it says from all of the exact KV.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
import time
from typing import TYPE_CHECKING

from cwm_ros.bench.dialogues import STEP_TOKENS
from cwm_ros.bench.quality_exam import Examiner
from cwm_ros.bench.quality_log import Place, QualityLog
from cwm_ros.bench.quality_rows import COMPLETE, make_report, RELEVANT, USABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cwm_ros.bench.quality_exam import Asked, ExamContext, Said
    from cwm_ros.bench.quality_log import Cases
    from cwm_ros.bench.quality_rows import QualityReport
    from cwm_ros.config import Settings

NEWEST, OLDEST, RANDOM = 'newest first', 'oldest first', 'random'
SHARES = (0.5, 0.75)
"""Parts of the chunks that fixed orders are looked at."""
COUNTS = (2, 6)
"""Chunks that a prompt pulls, beside `thaw.relevant_chunks`."""
MORE = (1, 2, 4)
"""Chunks that a larger usable part would have; what is asked says nothing about it."""
SEED = 8_000_000
"""First dialogue; neither trained on nor used for choosing anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityBench:
    """
    What to measure.

    Parameters
    ----------
    contexts
        Lengths of the windows [tokens].
    dialogues
        How many of each length.
    questions
        How many of each dialogue, drawn from all kinds; those about the system prompt are added.
        0 for none at all, only agreement.
    codecs
        What KV passes through; fixed orders and other counts are measured with the first alone.
    settings
        Model, chunks, and what usable means.
    minutes
        No dialogue is begun after so many; 0 for no limit [min].
    file
        Keeps what was found out; what it holds already is not measured again. None for no file.

    """

    contexts: tuple[int, ...]
    dialogues: int
    questions: int
    codecs: tuple[str, ...]
    settings: Settings
    minutes: float = 0.0
    file: Path | None = None

    def places(self, dialogue: int) -> list[Place]:
        """Return all that is to be found out about a dialogue."""
        return [
            Place(dialogue=dialogue, context=context, codec=codec, is_brief=number > 0)
            for context in self.contexts
            for number, codec in enumerate(self.codecs)
        ]

    def head(self, model: str) -> dict[str, object]:
        """Return what all figures of a model depend on."""
        thaw = self.settings.thaw
        return {
            'model': model,
            'seed': SEED,
            'questions': self.questions,
            'behind': STEP_TOKENS,
            'chunk_tokens': self.settings.codec.chunk_tokens,
            'usable_tokens': [thaw.first_tokens, thaw.last_tokens],
            'relevant_chunks': thaw.relevant_chunks,
            'abstention_retries': thaw.abstention_retries,
        }


def bench_quality(bench: QualityBench, tell: Callable[[str], None]) -> QualityReport:
    """
    Measure, telling each dialogue's number as it is done.

    Raises
    ------
    ConfigError
        A context does not fit the model, or the file is of something else.

    """
    began = time.monotonic()
    with Examiner.open(bench.settings) as examiner:
        log = QualityLog(bench.head(examiner.checkpoint.identity.model.hex()), bench.file)
        is_first = True
        for number in range(bench.dialogues):
            missing = [place for place in bench.places(number) if place not in log.found]
            if missing and not is_first and 0 < bench.minutes * 60 < time.monotonic() - began:
                break
            if missing:
                _examine(examiner, missing, bench.questions, log)
                is_first = False
            tell(f'{number + 1} of {bench.dialogues} dialogues')
    places = [place for number in range(bench.dialogues) for place in bench.places(number)]
    return make_report(log.of(places), bench.settings.thaw.relevant_chunks)


def _examine(
    examiner: Examiner, places: Sequence[Place], num_questions: int, log: QualityLog
) -> None:
    """Find out about one dialogue."""
    number = places[0].dialogue
    exact = examiner.compute(SEED + number, max(place.context for place in places))
    for place in places:
        exam = examiner.prepare(exact, place.context, place.codec, num_questions)
        cases: Cases = {}
        for case, asked, said in _cases(exam, Random(number), is_brief=place.is_brief):
            cases[case] = asked, said
        log.add(place, cases)


def _cases(
    exam: ExamContext, rng: Random, *, is_brief: bool
) -> Iterator[tuple[str, list[Asked], list[Said]]]:
    """Yield the name of each case with what was asked and what was said on its own."""
    usable, others, count = exam.usable, exam.others, exam.settings.thaw.relevant_chunks
    yield COMPLETE, _ask_all(exam, others), [exam.listen([*usable, *others])]
    yield USABLE, _ask_all(exam, []), [exam.listen(usable)]
    yield f'{RELEVANT} {count}', _ask_relevant(exam, count), []
    yield f'{RELEVANT} {count}, again', _ask_again(exam), []
    if is_brief:
        return
    for more in MORE:
        yield f'{NEWEST}, {more} more', [], [exam.listen([*usable, *others[-more:]])]
    shuffled = rng.sample(others, len(others))
    for name, order in ((NEWEST, others[::-1]), (OLDEST, others), (RANDOM, shuffled)):
        for share in SHARES:
            part = order[: max(0, round(share * exam.num_chunks) - len(usable))]
            case = f'{name} {share:.0%}'
            yield case, _ask_all(exam, part), [exam.listen([*usable, *part])]
    for other in COUNTS:
        if other != count:
            yield f'{RELEVANT} {other}', _ask_relevant(exam, other), []


def _ask_all(exam: ExamContext, chunks: Sequence[int]) -> list[Asked]:
    return [exam.ask_one(question, chunks) for question in exam.questions]


def _ask_relevant(exam: ExamContext, count: int) -> list[Asked]:
    return [exam.ask_one(one, exam.rank(one.text)[:count]) for one in exam.questions]


def _ask_again(exam: ExamContext) -> list[Asked]:
    """Ask again with more chunks after an abstention, as `cwm_ros.talk` does."""
    settings, asked = exam.settings.thaw, []
    for question in exam.questions:
        by_words = exam.rank(question.text)
        chunks = by_words[: settings.relevant_chunks]
        by_words += [chunk for chunk in exam.others[::-1] if chunk not in by_words]
        one = exam.ask_one(question, chunks)
        for attempt in range(settings.abstention_retries):
            if not one.is_abstention:
                break
            if attempt % 2 == 0:
                ranked = exam.rank_by_meaning(question.text, chunks)
            else:
                ranked = [chunk for chunk in by_words if chunk not in chunks]
            chunks = [*chunks, *ranked[: settings.relevant_chunks]]
            one = exam.ask_one(question, chunks)
        asked.append(one)
    return asked
