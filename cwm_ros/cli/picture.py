# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What people see: progress bars and tables, on a terminal only where they move."""

from __future__ import annotations

from contextlib import contextmanager, ExitStack
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cwm_ros.progress import ThawProgress
    from cwm_ros.store import Eviction

BAR_CELLS = 30


@contextmanager
def show_bar(label: str, total: float) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on stderr from the first call on, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with ExitStack() as shown:
        bar = Progress(console=Console(stderr=True), transient=True)
        task = bar.add_task(label, total=total)

        def update(done: float) -> None:
            if not bar.live.is_started:
                shown.enter_context(bar)
            bar.update(task, completed=done)

        yield update


def thaw_line(progress: ThawProgress) -> str:
    """Return one line that shows how far a thaw is."""
    filled = BAR_CELLS * progress.chunks_done // max(progress.chunks_total, 1)
    state = 'complete' if progress.is_complete else 'usable' if progress.is_usable else 'thawing'
    return (
        f'{progress.elapsed_s * 1e3:8.1f} ms  {"█" * filled}{"·" * (BAR_CELLS - filled)}  '
        f'{progress.chunks_done:3} of {progress.chunks_total} chunks  {state}'
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned table as text."""
    import io

    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    content = Table(*headings, box=SIMPLE)
    for row in rows:
        content.add_row(*map(str, row))
    text = io.StringIO()
    # What a cell says is text of a file, not markup.
    Console(file=text, width=160, markup=False, force_terminal=False).print(content)
    return text.getvalue().strip('\n')


def eviction_line(eviction: Eviction) -> str:
    """Say what a window lost, and why."""
    if eviction.is_expired:
        return f'{eviction.window} was not used for privacy.retention_days and is deleted'
    gone = 'the window itself, ' if eviction.is_removed else ''
    return (
        f'to make room, {eviction.window} lost {gone}{eviction.chunks} chunks, '
        f'{eviction.bytes} bytes'
    )
