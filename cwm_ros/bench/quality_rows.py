# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What was measured about partial windows, as rows, and the targets they are held against."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.quality_exam import GROUPS, SHARED, SYSTEM
from cwm_ros.bench.recall import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cwm_ros.bench.quality_exam import Asked, Said
    from cwm_ros.bench.quality_log import Cases, Place

RESAMPLES = 2000
COMPLETE, USABLE, RELEVANT = 'complete', 'usable', 'relevant'
TARGET_AGREEMENT, TARGET_RECALL, TARGET_BYTES = 0.94, 0.95, 0.30
TARGET_CONTEXT, TARGET_DIALOGUES = 8192, 20
KINDS = (Outcome.EXACT, Outcome.ABSTAINED, Outcome.WRONG)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """
    One case: an order of chunks, and how much of it was there.

    Parameters
    ----------
    context, codec, case
        Length of the windows [tokens], the codec, which chunks.
    dialogues, questions
        How many.
    share
        Bytes that were loaded, as a mean part of all.
    agreement, agreement_low
        Part of the continuation's tokens whose first choice is that of the complete exact
        window, and the lower 95 % bound over the dialogues (bootstrap); None where not listened.
    perplexity_ratio
        Of the continuation, to that of the complete exact window.
    outcomes
        For each group of questions how many were exact, abstained and wrong.

    """

    context: int
    codec: str
    case: str
    dialogues: int
    questions: int
    share: float
    agreement: float | None
    agreement_low: float | None
    perplexity_ratio: float | None
    outcomes: dict[str, dict[str, int]]

    def count(self, group: str) -> int:
        """Return how many questions of a group there are."""
        return sum(self.outcomes[group].values())

    def rate(self, group: str, outcome: Outcome = Outcome.EXACT) -> float | None:
        """Return the part of a group's questions with an outcome; None without any."""
        total = self.count(group)
        return self.outcomes[group][outcome.value] / total if total else None


def summarize(
    context: int, codec: str, case: str, found: Sequence[tuple[Sequence[Asked], Sequence[Said]]]
) -> QualityRow:
    """Make one row of what was asked and said in each of some dialogues, at least one."""
    asked = [one for some, _ in found for one in some]
    said = [one for _, some in found for one in some]
    counts = Counter((one.group, one.outcome) for one in asked)
    agreements = np.array([one.agreement for one in said])
    picks = np.random.default_rng(0).integers(0, max(len(said), 1), (RESAMPLES, len(said)))
    low = float(np.quantile(agreements[picks].mean(axis=1), 0.025)) if said else None
    ratio = float(np.exp(np.mean([one.loss - one.exact_loss for one in said]))) if said else None
    return QualityRow(
        context=context,
        codec=codec,
        case=case,
        dialogues=len(found),
        questions=len(asked),
        share=float(np.mean([one.share for one in asked or said])) if asked or said else 0.0,
        agreement=float(agreements.mean()) if said else None,
        agreement_low=low,
        perplexity_ratio=ratio,
        outcomes={g: {kind.value: counts[g, kind] for kind in KINDS} for g in GROUPS},
    )


class Verdict(Enum):
    """Whether a promise is kept."""

    MET = 'met'
    MISSED = 'MISSED'
    TOO_FEW = 'too few'


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    A figure and the least it has to be.

    Parameters
    ----------
    name
        What is promised, and of which row.
    measured
        None where nothing was.
    limit
        The least that is good.
    verdict
        TOO_FEW also where nothing was measured.
    note
        How much was measured, and what else is asked for.

    """

    name: str
    measured: float | None
    limit: float
    verdict: Verdict
    note: str

    def __str__(self) -> str:
        """Return a line for people."""
        measured = 'not measured' if self.measured is None else f'{self.measured:.1%}'
        told = f'{self.verdict.value:7} {self.name}: {measured} (>= {self.limit:.0%})'
        return f'{told}, {self.note}'


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """All rows; ``relevant_chunks`` is how many chunks a prompt pulls unless set otherwise."""

    rows: tuple[QualityRow, ...]
    relevant_chunks: int

    def targets(self) -> list[Target]:
        """Return all that is promised, with what was measured."""
        complete = {(r.context, r.codec): r for r in self.rows if r.case == COMPLETE}
        targets: list[Target] = []
        for row in self.rows:
            if row.case == USABLE:
                targets += _of_usable(row)
            if row.case.startswith(RELEVANT) and row.context == TARGET_CONTEXT:
                targets.append(_of_recall(row, complete[row.context, row.codec]))
        if not any(row.context == TARGET_CONTEXT for row in self.rows):
            name = f'{TARGET_CONTEXT} {RELEVANT} {self.relevant_chunks}: of recall'
            note = f'no window of {TARGET_CONTEXT} tokens'
            targets.append(_target(name, None, TARGET_RECALL, note, is_enough=False))
        return targets

    def as_json(self) -> dict[str, object]:
        """Return rows and targets for ``--json``."""
        targets = [{**asdict(one), 'verdict': one.verdict.value} for one in self.targets()]
        return {'rows': [asdict(row) for row in self.rows], 'targets': targets}


def make_report(found: Mapping[Place, Cases], relevant_chunks: int) -> QualityReport:
    """Make rows of everything that was found out."""
    cases: dict[tuple[int, str, str], list[tuple[list[Asked], list[Said]]]] = {}
    for place, by_case in sorted(found.items(), key=lambda item: item[0].context):
        for case, answers in by_case.items():
            cases.setdefault((place.context, place.codec, case), []).append(answers)
    rows = tuple(summarize(*key, answers) for key, answers in cases.items())
    return QualityReport(rows=rows, relevant_chunks=relevant_chunks)


def _of_usable(row: QualityRow) -> Iterator[Target]:
    name = f'{row.context} {row.codec} {row.case}'
    yield _target(
        f'{name}: agreement, low',
        row.agreement_low,
        TARGET_AGREEMENT,
        f'{row.dialogues} dialogues (>= {TARGET_DIALOGUES})',
        is_enough=row.dialogues >= TARGET_DIALOGUES,
    )
    asked = row.count(SYSTEM)
    rate = row.rate(SYSTEM)
    yield _target(f'{name}: {SYSTEM}', rate, 1.0, f'{asked} questions', is_enough=asked > 0)


def _of_recall(row: QualityRow, full: QualityRow) -> Target:
    found, best, asked = row.rate(SHARED), full.rate(SHARED), row.count(SHARED)
    return _target(
        f'{row.context} {row.codec} {row.case}: of recall',
        found / best if found is not None and best else None,
        TARGET_RECALL,
        f'{asked} questions, {row.share:.1%} of the bytes (<= {TARGET_BYTES:.0%})',
        is_enough=asked > 0,
        is_other_met=row.share <= TARGET_BYTES,
    )


def _target(
    name: str,
    measured: float | None,
    limit: float,
    note: str,
    *,
    is_enough: bool,
    is_other_met: bool = True,
) -> Target:
    if measured is None or not is_enough:
        verdict = Verdict.TOO_FEW
    elif measured >= limit and is_other_met:
        verdict = Verdict.MET
    else:
        verdict = Verdict.MISSED
    return Target(name=name, measured=measured, limit=limit, verdict=verdict, note=note)
