# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Verbs on windows at rest, without a model: list, show, delete, verify, storage."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
import time
from typing import TYPE_CHECKING

import click

from cwm_ros.cli.picture import table
from cwm_ros.errors import ErrorCode
from cwm_ros.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.cli.app import Options
    from cwm_ros.store import WindowInfo

MIB = 1 << 20


@contextmanager
def open_store(options: Options, *, writable: bool) -> Iterator[Store]:
    """Open the store that the options name."""
    with Store.open(
        options.settings.storage,
        profile=options.profile,
        writable=writable,
        clock=lambda: time.time_ns() // 1_000_000,
    ) as store:
        yield store


@click.command('list')
@click.pass_obj
def list_command(options: Options) -> None:
    """List the windows."""
    with open_store(options, writable=False) as store:
        windows = store.windows()
    rows = [
        (w.name, w.tokens, w.turns, w.chunks, f'{w.bytes / MIB:.1f}', w.model, w.problem)
        for w in windows
    ]
    headings = ('window', 'tokens', 'turns', 'chunks', 'MiB', 'model', 'problem')
    options.show(
        {'windows': [asdict(window) for window in windows]},
        table(headings, rows) if rows else 'no windows',
    )
