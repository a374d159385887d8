# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Keep a store healthy in idle time.

Windows that were kept long enough are deleted, garbage is collected, then every chunk is read and
checked. It may be cut off at any instant and goes on there the next time. Chunks are never encoded
anew; see docs/decisions/no-recompression.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import time
from typing import TYPE_CHECKING

from cwm_ros.config_checks import check_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Event

    from cwm_ros.store import PayloadChecker, Store

PAUSE_S = 0.05
"""Between two steps of a wait for the rate."""
MIN_BYTES_PER_S = 64 * 1024
MAX_BYTES_PER_S = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeProgress:
    """
    How far an optimise is.

    Parameters
    ----------
    garbage_bytes
        Room won from chunks that no window needed.
    chunks_done, chunks_total
        Chunks checked, of those that this round has left.
    bytes_read
        Of the chunks checked.
    problems
        What was wrong with chunks; their files are set aside, to be computed from tokens.
    expired_windows
        Windows deleted because nobody used them for as long as a setting says.
    is_done
        Whether every chunk has been checked; the next optimise begins a new round.

    """

    garbage_bytes: int
    chunks_done: int
    chunks_total: int
    bytes_read: int
    problems: tuple[str, ...] = ()
    expired_windows: int = 0
    is_done: bool = False


def check_rate(rate: int) -> None:
    """Raise ConfigError for a rate [bytes/s] at which the scrub of a full store never ends."""
    check_range('rate', rate, MIN_BYTES_PER_S, MAX_BYTES_PER_S)


def optimize(
    store: Store,
    check_payload: PayloadChecker,
    *,
    bytes_per_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    cancel: Event | None = None,
) -> Iterator[OptimizeProgress]:
    """
    Collect garbage, then scrub; the caller may stop asking at any time.

    Parameters
    ----------
    store
        Open for writing.
    check_payload
        Checks a payload's inside; raises a `CwmError` that names the path.
    bytes_per_s
        Most bytes that are read in a second.
    clock, sleep
        Steady clock [s], and how to wait.
    cancel
        Ends it before the next chunk.

    Yields
    ------
    OptimizeProgress
        After each chunk, and unchanged after each pause of `PAUSE_S` that the rate demands, so
        that something that matters more need not wait for it.

    """
    expired = store.expire_windows()
    garbage = store.collect_garbage()
    names = store.chunks_to_scrub()
    progress = OptimizeProgress(
        garbage_bytes=garbage,
        chunks_done=0,
        chunks_total=len(names),
        bytes_read=0,
        expired_windows=expired,
    )
    began = clock()
    for name in names:
        while clock() < began + progress.bytes_read / bytes_per_s:
            if cancel is not None and cancel.is_set():
                break
            sleep(PAUSE_S)
            yield progress
        if cancel is not None and cancel.is_set():
            store.keep_scrub_position()
            yield progress
            return
        num_bytes, problem = store.scrub_chunk(name, check_payload)
        progress = replace(
            progress,
            chunks_done=progress.chunks_done + 1,
            bytes_read=progress.bytes_read + num_bytes,
            problems=(*progress.problems, problem) if problem else progress.problems,
        )
        yield progress
    store.end_scrub()
    yield replace(progress, is_done=True)
