# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What was measured about partial windows, as rows, and the targets they are held against."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.quality_exam import Asked, GROUPS, OTHER, Said, SHARED, SYSTEM
from cwm_ros.bench.recall import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 2000
COMPLETE, USABLE = 'complete', 'usable'
TARGET_AGREEMENT, TARGET_RECALL, TARGET_BYTES = 0.94, 0.95, 0.30
TARGET_CONTEXT = 8192
HEADINGS = (
    *('tokens', 'codec', 'resident', 'bytes', 'agreement (low)', 'perplexity', 'system prompt'),
    *('shared word: exact / abstains / wrong', 'no shared word: exact / abstains / wrong'),
)


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

    def rate(self, group: str, outcome: Outcome = Outcome.EXACT) -> float | None:
        """Return the part of a group's questions with an outcome; None without any."""
        counts = self.outcomes[group]
        total = sum(counts.values())
        return counts[outcome.value] / total if total else None


def summarize(
    context: int, codec: str, case: str, asked: Sequence[Asked], said: Sequence[Said]
) -> QualityRow:
    """Make one row of everything that was asked and said."""
    counts = Counter((one.group, one.outcome) for one in asked)
    kinds = (Outcome.EXACT, Outcome.ABSTAINED, Outcome.WRONG)
    agreements = np.array([one.agreement for one in said])
    picks = np.random.default_rng(0).integers(0, max(len(said), 1), (RESAMPLES, len(said)))
    low = float(np.quantile(agreements[picks].mean(axis=1), 0.025)) if said else None
    ratio = float(np.exp(np.mean([one.loss - one.exact_loss for one in said]))) if said else None
    return QualityRow(
        context=context,
        codec=codec,
        case=case,
        dialogues=len(said),
        questions=len(asked),
        share=float(np.mean([one.share for one in asked])),
        agreement=float(agreements.mean()) if said else None,
        agreement_low=low,
        perplexity_ratio=ratio,
        outcomes={g: {kind.value: counts[g, kind] for kind in kinds} for g in GROUPS},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure and its limit."""

    name: str
    measured: float
    limit: float
    is_met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """All rows."""

    rows: tuple[QualityRow, ...]

    def targets(self) -> list[Target]:
        """Return what is promised, with what was measured."""
        complete = {(r.context, r.codec): r for r in self.rows if r.case == COMPLETE}
        targets = []
        for row in self.rows:
            name, full = f'{row.context} {row.codec} {row.case}', complete[row.context, row.codec]
            if row.case == USABLE:
                low, known = row.agreement_low or 0.0, row.rate(SYSTEM)
                targets.append(_at_least(f'{name}: agreement, low', low, TARGET_AGREEMENT))
                if known is not None:
                    targets.append(_at_least(f'{name}: system prompt', known, 1.0))
            if row.case.startswith('relevant') and row.context == TARGET_CONTEXT:
                found, best = row.rate(SHARED), full.rate(SHARED)
                if found is not None and best and row.share <= TARGET_BYTES:
                    targets.append(_at_least(f'{name}: of recall', found / best, TARGET_RECALL))
        return targets

    def as_json(self) -> dict[str, object]:
        """Return rows and targets for ``--json``."""
        return {
            'rows': [asdict(row) for row in self.rows],
            'targets': [asdict(target) for target in self.targets()],
        }

    def as_text(self) -> str:
        """Return a Markdown table, and the targets."""
        lines = [f'| {" | ".join(HEADINGS)} |', '|' + '---|' * len(HEADINGS)]
        lines += [_line(row) for row in self.rows]
        lines += [''] + [
            f'{"met   " if t.is_met else "MISSED"} {t.name}: {t.measured:.1%} (>= {t.limit:.0%})'
            for t in self.targets()
        ]
        return '\n'.join(lines)


def _at_least(name: str, measured: float, limit: float) -> Target:
    return Target(name=name, measured=measured, limit=limit, is_met=measured >= limit)


def _line(row: QualityRow) -> str:
    agree, ratio = '', ''
    if row.agreement is not None and row.agreement_low is not None:
        agree = f'{row.agreement:.1%} ({row.agreement_low:.1%})'
        ratio = f'{row.perplexity_ratio:.3f}'
    system = row.rate(SYSTEM)
    cells = [
        *(row.context, row.codec, row.case, f'{row.share:.0%}', agree, ratio),
        '' if system is None else f'{system:.0%}',
        *(_outcomes(row, group) for group in (SHARED, OTHER)),
    ]
    return '| ' + ' | '.join(map(str, cells)) + ' |'


def _outcomes(row: QualityRow, group: str) -> str:
    rates = [row.rate(group, kind) for kind in (Outcome.EXACT, Outcome.ABSTAINED, Outcome.WRONG)]
    return ' / '.join(f'{rate:.1%}' for rate in rates if rate is not None)
