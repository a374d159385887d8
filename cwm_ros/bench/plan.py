# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Loading, recomputing, and choosing between them: on simulated boards, and on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
import statistics
import tempfile
import time
from typing import TYPE_CHECKING

from cwm_ros.bench.simulated_board import BoardSpeed, learned_book, simulate_thaw
from cwm_ros.bench.thaw_reference import write_window
from cwm_ros.config import STRATEGIES
from cwm_ros.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.config import Settings

DRIVES = (2e7, 1e8, 3e8, 1e9, 5e9)
TOKENS_S = (1e-5, 1e-4, 1e-3)
LENGTHS = (1024, 2048, 4096, 16384)
LEARNED_TOKENS = 4096
WINDOW = 'plan'


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """
    One board and window: how long each strategy takes.

    Parameters
    ----------
    board
        Which, in words.
    tokens
        Length of the window.
    usable_s, complete_s
        By strategy [s].
    recomputed_tokens
        How many the choice computed.

    """

    board: str
    tokens: int
    usable_s: dict[str, float]
    complete_s: dict[str, float]
    recomputed_tokens: int

    @property
    def usable_ratio(self) -> float:
        """What the choice takes until usable, of the better fixed strategy."""
        return _ratio(self.usable_s)

    @property
    def complete_ratio(self) -> float:
        """What the choice takes until complete, of the better fixed strategy."""
        return _ratio(self.complete_s)

    def as_json(self) -> dict[str, object]:
        """Return the row for ``--json``."""
        ratios = {'usable_ratio': self.usable_ratio, 'complete_ratio': self.complete_ratio}
        return {**asdict(self), **ratios}


def _ratio(seconds: dict[str, float]) -> float:
    return seconds['auto'] / min(seconds['load'], seconds['recompute'])


def simulated_rows() -> list[PlanRow]:
    """Return the grid of drives, engines, lengths, and engines with cores of their own or not."""
    rows = []
    for drive, token_s, tokens, is_shared in product(DRIVES, TOKENS_S, LENGTHS, (False, True)):
        speed = BoardSpeed(
            drive_bytes_per_s=drive,
            token_s=token_s,
            position_s=token_s / 20_000,
            is_shared=is_shared,
        )
        book = learned_book(speed, LEARNED_TOKENS)
        results = {name: simulate_thaw(speed, tokens, name) for name in STRATEGIES[1:]}
        results['auto'] = simulate_thaw(speed, tokens, 'auto', book)
        engine = f'{1 / token_s:.0f} tokens/s {"on the same cores" if is_shared else "apart"}'
        rows.append(
            PlanRow(
                board=f'{drive / 1e6:.0f} MB/s, {engine}',
                tokens=tokens,
                usable_s={name: result.usable_s for name, result in results.items()},
                complete_s={name: result.complete_s for name, result in results.items()},
                recomputed_tokens=results['auto'].recomputed_tokens,
            )
        )
    return rows


def measured_row(
    settings: Settings, folder: Path, *, num_tokens: int, rounds: int, note: Callable[[str], None]
) -> PlanRow:
    """
    Thaw a window of the model here by each strategy, in turns; medians, files warm.

    Parameters
    ----------
    settings
        Model and codec; the store is the bench's own, the board learns from it.
    folder
        On the drive to be measured.
    num_tokens, rounds
        Length of the window, and how often each strategy runs.
    note
        Is told how far it is.

    """
    usable_s: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    complete_s: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        own = replace(settings, storage=replace(settings.storage, root=Path(temporary) / 'store'))
        note(f'writing a window of {num_tokens} tokens')
        with Manager(own) as manager:
            manager.warm_up()
            manager.kernels.wait()
            write_window(manager, WINDOW, num_tokens)
        for number in range(rounds):
            note(f'round {number + 1} of {rounds}')
            for strategy in ('load', 'recompute', 'auto'):
                usable, complete, recomputed = _thaw(own, strategy)
                usable_s[strategy].append(usable)
                complete_s[strategy].append(complete)
    return PlanRow(
        board='this machine',
        tokens=num_tokens,
        usable_s={name: statistics.median(values) for name, values in usable_s.items()},
        complete_s={name: statistics.median(values) for name, values in complete_s.items()},
        recomputed_tokens=recomputed,
    )


def _thaw(settings: Settings, strategy: str) -> tuple[float, float, int]:
    """Thaw in a new engine; return when usable, when complete [s], and tokens recomputed."""
    with Manager(settings) as manager:
        manager.warm_up()
        manager.kernels.wait()
        began = time.perf_counter()
        thaw = manager.open_window(WINDOW, strategy=strategy)
        while not thaw.progress().is_usable:
            thaw.advance(wait=True)
        usable_s = time.perf_counter() - began
        while thaw.advance(wait=True):
            pass
        return usable_s, time.perf_counter() - began, thaw.progress().recomputed_tokens


def format_plan_rows(rows: Sequence[PlanRow]) -> str:
    """Return a Markdown table, and the worst of all rows."""
    lines = [
        '| board | tokens | load | recompute | auto | of the better | usable, of the better |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        seconds = ' | '.join(
            f'{row.complete_s[name]:.3f} s' for name in ('load', 'recompute', 'auto')
        )
        lines.append(
            f'| {row.board} | {row.tokens} | {seconds} | {row.complete_ratio:.2f} | '
            f'{row.usable_ratio:.2f} |'
        )
    lines.append('')
    for stage in ('complete', 'usable'):
        ratios = sorted(getattr(row, f'{stage}_ratio') for row in rows)
        lines.append(
            f'{stage}, of the better fixed strategy: best {ratios[0]:.2f}, median '
            f'{statistics.median(ratios):.2f}, worst {ratios[-1]:.2f}'
        )
    return '\n'.join(lines)
