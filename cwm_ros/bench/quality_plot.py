# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recall and agreement over bytes loaded, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cwm_ros.bench.quality_exam import PARAPHRASE, SHARED
from cwm_ros.bench.quality_rows import COMPLETE, USABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from cwm_ros.bench.quality_rows import QualityReport, QualityRow

COLORS = {
    'relevant': '#0b3c5d',
    'newest first': '#1f78b4',
    'oldest first': '#b8b8b8',
    'random': '#c0a060',
}
PANELS = (f'exact, {SHARED}', f'exact, {PARAPHRASE}', 'agreement')
PANEL_INCHES = (4.2, 3.0)
FONT_SIZE = 8
AGAIN = 'again'


def draw(report: QualityReport, file: Path) -> None:
    """Draw, for each length, recall by kind of question and agreement; the first codec alone."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    codec = report.rows[0].codec
    contexts = list(dict.fromkeys(row.context for row in report.rows))
    size = (PANEL_INCHES[0] * len(PANELS), PANEL_INCHES[1] * len(contexts))
    with plt.rc_context({'font.size': FONT_SIZE, 'axes.spines.top': False}):
        figure, axes = plt.subplots(
            len(contexts), len(PANELS), figsize=size, squeeze=False, layout='constrained'
        )
        for line, context in zip(axes, contexts, strict=True):
            rows = [r for r in report.rows if (r.context, r.codec) == (context, codec)]
            values: Sequence[Callable[[QualityRow], float | None]] = (
                lambda row: row.rate(SHARED),
                lambda row: row.rate(PARAPHRASE),
                lambda row: row.agreement,
            )
            for axis, name, value in zip(line, PANELS, values, strict=True):
                axis.spines['right'].set_visible(False)
                axis.set_title(f'{context} tokens, {codec}: {name}', loc='left')
                _draw_panel(axis, rows, value)
        if axes[0][0].lines:
            axes[0][0].legend(frameon=False)
        figure.savefig(file, dpi=100)
        plt.close(figure)


def _draw_panel(
    axis: Axes, rows: Sequence[QualityRow], value: Callable[[QualityRow], float | None]
) -> None:
    for name, color in COLORS.items():
        own = [row for row in rows if row.case.startswith(name) and AGAIN not in row.case]
        ends = [row for row in rows if row.case in {USABLE, COMPLETE}]
        points = sorted((row.share, y) for row in [*own, *ends] if (y := value(row)) is not None)
        if any(value(row) is not None for row in own):
            shares, rates = zip(*points, strict=True)
            axis.plot(shares, rates, color=color, marker='o', markersize=3, label=name)
    for row in rows:
        rate = value(row)
        if AGAIN in row.case and rate is not None:
            name = 'relevant, asked again'
            axis.plot([row.share], [rate], '*', color=COLORS['relevant'], markersize=9, label=name)
    axis.set_xlim(0, 1.03)
    axis.set_xlabel('part of the bytes loaded')
