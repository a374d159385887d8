# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How good answers are from a part of a window, by the order in which it came back.

Each held-out dialogue is computed once; then its chunks pass through the codec, are masked and
come back. What the model would say next is compared with what it says from all of the exact KV.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from random import Random
import time
from typing import TYPE_CHECKING

from cwm_ros.bench.quality_exam import ExamContext, Examiner
from cwm_ros.bench.quality_rows import QualityReport, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cwm_ros.bench.quality_exam import Asked, Said
    from cwm_ros.config import Settings

ORDERS = ('newest first', 'oldest first', 'random', 'relevant')
SHARES = (0.5, 0.75)
"""Parts of the chunks that fixed orders are looked at."""
COUNTS = (2, 6)
"""Chunks that a prompt pulls."""
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
    codecs
        What KV passes through; fixed orders and other counts are measured with the first alone.
    settings
        Model, chunks, and what usable means.
    minutes
        No dialogue is begun after so many; 0 for no limit [min].

    """

    contexts: tuple[int, ...]
    dialogues: int
    questions: int
    codecs: tuple[str, ...]
    settings: Settings
    minutes: float = 0.0


def bench_quality(bench: QualityBench, tell: Callable[[str], None]) -> QualityReport:
    """
    Measure, telling each dialogue's number as it is done.

    Raises
    ------
    ConfigError
        A context does not fit the model.

    """
    longest, began = max(bench.contexts), time.monotonic()
    asked: dict[tuple[int, str, str], list[Asked]] = defaultdict(list)
    said: dict[tuple[int, str, str], list[Said]] = defaultdict(list)
    with Examiner.open(bench.settings) as examiner:
        for number in range(bench.dialogues):
            if number and 0 < bench.minutes * 60 < time.monotonic() - began:
                break
            exact = examiner.compute(SEED + number, longest)
            for context, (place, codec) in product(bench.contexts, enumerate(bench.codecs)):
                exam = examiner.prepare(exact, context, codec, bench.questions)
                for case, some_asked, some_said in _cases(
                    exam, Random(number), is_brief=place > 0
                ):
                    asked[context, codec, case] += some_asked
                    said[context, codec, case] += some_said
            tell(f'{number + 1} of {bench.dialogues} dialogues')
    return QualityReport(rows=tuple(summarize(*key, asked[key], said[key]) for key in asked))


def _cases(
    exam: ExamContext, rng: Random, *, is_brief: bool
) -> Iterator[tuple[str, list[Asked], list[Said]]]:
    """Yield the name of each case with what was asked and what was said on its own."""
    usable, others = exam.usable, exam.others
    yield 'complete', _ask_all(exam, others), [exam.listen([*usable, *others])]
    yield 'usable', _ask_all(exam, []), [exam.listen(usable)]
    yield 'relevant 4', _ask_relevant(exam, 4), []
    yield 'relevant 4, again', _ask_again(exam), []
    if is_brief:
        return
    shuffled = rng.sample(others, len(others))
    fixed = zip(ORDERS[:3], (others[::-1], others, shuffled), strict=True)
    for name, order in fixed:
        for share in SHARES:
            part = order[: max(0, round(share * exam.num_chunks) - len(usable))]
            case = f'{name} {share:.0%}'
            yield case, _ask_all(exam, part), [exam.listen([*usable, *part])]
    for count in COUNTS:
        yield f'relevant {count}', _ask_relevant(exam, count), []


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
