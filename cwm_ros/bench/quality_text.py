# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What was measured about partial windows, as the tables of docs/quality.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cwm_ros.bench.quality_exam import GROUPS, OTHER, PARAPHRASE, SHARED, SYSTEM, UNANSWERABLE
from cwm_ros.bench.quality_rows import COMPLETE, KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.bench.quality_rows import QualityReport, QualityRow

IN_FULL = (SHARED, PARAPHRASE, OTHER)
"""Groups of questions of which all outcomes are told; of the others how many are exact."""
HEADINGS = (
    *('codec', 'resident', 'bytes', 'agreement', 'perplexity', f'{SYSTEM}, exact'),
    *(f'{group}: exact / abstains / wrong' for group in IN_FULL),
    f'{UNANSWERABLE}: abstains',
)


def format_quality(report: QualityReport) -> str:
    """Return a Markdown table for each length, and the targets."""
    lines = []
    for context in dict.fromkeys(row.context for row in report.rows):
        rows = [row for row in report.rows if row.context == context]
        lines += [f'## {context} tokens', '', _counts(rows), '']
        lines += [_line(HEADINGS), '|' + '---|' * len(HEADINGS)]
        lines += [_line(tuple(_cells(row))) for row in rows] + ['']
    return '\n'.join([*lines, *map(str, report.targets())])


def _counts(rows: list[QualityRow]) -> str:
    full = next(row for row in rows if row.case == COMPLETE)
    counts = ', '.join(f'{full.count(group)} {group}' for group in GROUPS)
    return f'{full.dialogues} dialogues; questions: {counts}.'


def _line(cells: tuple[str, ...]) -> str:
    return f'| {" | ".join(cells)} |'


def _cells(row: QualityRow) -> Iterator[str]:
    yield from (row.codec, row.case, _share(row.share))
    if row.agreement is None or row.agreement_low is None:
        yield from ('', '')
    else:
        yield from (
            f'{_share(row.agreement, 1)} ({row.agreement_low * 100:.1f})',
            f'{row.perplexity_ratio:.3f}',
        )
    yield _share(row.rate(SYSTEM))
    for group in IN_FULL:
        yield ' / '.join(_share(row.rate(group, kind)) for kind in KINDS if row.count(group))
    yield _share(row.rate(UNANSWERABLE))


def _share(rate: float | None, digits: int = 0) -> str:
    return '' if rate is None else f'{rate * 100:.{digits}f} %'
