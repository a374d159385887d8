# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of the thaw bench as a picture; the only use of matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cwm_ros.bench.tables import LIMITS

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from cwm_ros.bench.tables import Report, Row

COLORS = {'header': '#0b3c5d', 'usable': '#1f78b4', 'complete': '#7fb8de'}
PEER_COLOR, LIMIT_COLOR, RECOMPUTE_COLOR = '#b8b8b8', '#dedede', '#c0392b'
COLUMNS = 2
PANEL_INCHES = (5.2, 2.9)
FONT_SIZE = 8


def draw(report: Report, file: Path) -> None:
    """
    Draw the rows into a file.

    A case is a panel of bars for each state; cases of one name with a number of tokens at its end
    share a panel, with lines over the number and without the limits.
    """
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    panels = list(dict.fromkeys((_series(row), row.state) for row in report.rows))
    height = PANEL_INCHES[1] * -(-len(panels) // COLUMNS)
    with plt.rc_context({'font.size': FONT_SIZE, 'axes.spines.top': False}):
        figure, axes = plt.subplots(
            -(-len(panels) // COLUMNS),
            COLUMNS,
            figsize=(PANEL_INCHES[0] * COLUMNS, height),
            squeeze=False,
            layout='constrained',
        )
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (series, state) in zip(axes.flat, panels, strict=False):
            rows = [r for r in report.rows if (_series(r), r.state) == (series, state)]
            axis.spines['right'].set_visible(False)
            axis.set_title(f'{series}, {state}', loc='left', size=FONT_SIZE + 2)
            if len({row.case for row in rows}) > 1:
                _draw_lines(axis, rows)
            else:
                _draw_bars(axis, rows)
        figure.savefig(file, dpi=100)
        plt.close(figure)


def _series(row: Row) -> str:
    name, _, tokens = row.case.rpartition('-')
    return name if tokens.isdigit() else row.case


def _draw_bars(axis: Axes, rows: list[Row]) -> None:
    rows = sorted(rows, key=lambda row: (row.path != 'cwm', row.path in LIMITS, row.median_s))
    values = [row.median_s * 1e3 for row in rows]
    bars = axis.barh([_label(row) for row in rows], values, color=[_color(row) for row in rows])
    axis.bar_label(bars, [f'{value:.1f}' for value in values], padding=3)
    axis.set_xlim(0, max(values) * 1.15)
    axis.set_xlabel('median [ms]')
    axis.invert_yaxis()


def _draw_lines(axis: Axes, rows: list[Row]) -> None:
    rows = [row for row in rows if row.path not in LIMITS]
    for label in dict.fromkeys(_label(row) for row in rows):
        points = [row for row in rows if _label(row) == label]
        tokens = [int(row.case.rpartition('-')[2]) for row in points]
        values = [row.median_s * 1e3 for row in points]
        axis.plot(tokens, values, marker='o', markersize=3, color=_color(points[0]))
        axis.annotate(label, (tokens[-1], values[-1]), xytext=(5, -3), textcoords='offset points')
    axis.set_xscale('log', base=2)
    axis.set_yscale('log')
    axis.set_xticks(tokens, [f'{count >> 10}K' for count in tokens])
    axis.set_xlim(tokens[0] * 0.9, tokens[-1] * 2.4)
    axis.set_xlabel('tokens of the window, at most')
    axis.set_ylabel('median [ms]')
    axis.grid(visible=True, alpha=0.3)


def _label(row: Row) -> str:
    return f'cwm {row.stage}' if row.path == 'cwm' else row.path


def _color(row: Row) -> str:
    if row.path == 'cwm':
        return COLORS[row.stage]
    if row.path == 'recompute':
        return RECOMPUTE_COLOR
    return LIMIT_COLOR if row.path in LIMITS else PEER_COLOR
