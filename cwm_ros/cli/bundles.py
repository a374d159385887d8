# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Verbs that move windows, or make them forget: export, import, forget."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
import sys
from typing import TYPE_CHECKING

import click

from cwm_ros.bundle_export import export_window
from cwm_ros.bundle_import import import_window
from cwm_ros.cli.app import EXIT_CODE_BASE
from cwm_ros.cli.picture import show_bar
from cwm_ros.cli.windows import open_store
from cwm_ros.errors import ConfigError, ErrorCode
from cwm_ros.forget import forget, Forgotten
from cwm_ros.restore import PayloadCheck
from cwm_ros.store import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from cwm_ros.cli.app import Options
    from cwm_ros.store.files import Buffer

STANDARD = '-'


@contextmanager
def _writing(file: str) -> Iterator[Callable[[Buffer], object]]:
    """Write to a new file, to standard output, or into a pipe."""
    path = Path(file)
    if file == STANDARD:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
    elif path.is_fifo():
        with path.open('wb') as pipe:
            yield pipe.write
    else:
        with files.new_file(path) as write:
            yield write


@contextmanager
def _reading(file: str) -> Iterator[BinaryIO]:
    if file == STANDARD:
        yield sys.stdin.buffer
    else:
        with Path(file).open('rb') as opened:
            yield opened


@click.command('export')
@click.argument('window')
@click.argument('file')
@click.pass_obj
def export_command(options: Options, *, window: str, file: str) -> None:
    """
    Write WINDOW into FILE (- is standard output), encrypted if the profile is.

    What makes the window usable comes first, so that it can be imported while it arrives.
    """
    if file == STANDARD and options.is_json:
        raise ConfigError('standard output cannot take both the bundle and JSON',
                          hint='export into a file, or leave out --json')  # fmt: skip
    with open_store(options, writable=True) as store:
        store.window_or_turns(window)
        target = Path('standard output') if file == STANDARD else Path(file).absolute()
        with _writing(file) as write, show_bar('exporting', 1) as update:
            store.note_export(target)  # before the first byte, and only where there is to be one
            for progress in export_window(store, window, write, PayloadCheck()):
                update(progress.chunks_done / max(progress.chunks_total, 1))
        is_encrypted = store.is_encrypted
    values = {**asdict(progress), 'file': str(target), 'is_encrypted': is_encrypted}
    text = (
        f'{window}: {progress.turns} turns and {progress.chunks_done} chunks in {target}, '
        f'{"encrypted" if is_encrypted else "not encrypted"}'
    )
    if file == STANDARD:
        options.note(text)
    else:
        options.show(values, text)


@click.command('import')
@click.argument('file')
@click.option('--as', 'name', default='', help='Name of the window here  [default: as exported]')
@click.pass_obj
def import_command(options: Options, *, file: str, name: str) -> None:
    """
    Make a window from the bundle FILE (- is standard input).

    It is there as soon as what makes it usable has arrived. If the rest does not come, the window
    stays, and what is missing is computed from tokens.
    """
    with (
        _reading(file) as source,
        open_store(options, writable=True) as store,
        show_bar('importing', 1) as update,
    ):
        events = import_window(
            store,
            source,
            PayloadCheck(),
            chunk_tokens=options.settings.codec.chunk_tokens,
            name=name,
            path=Path('standard input' if file == STANDARD else file),
        )
        for progress in events:
            update(progress.chunks_done / max(progress.chunks_total, 1))
        store.collect_garbage()
    text = (
        f'{progress.window}: {progress.turns} turns and {progress.chunks_done} of '
        f'{progress.chunks_total} chunks{"" if progress.is_whole else ", NOT WHOLE"}'
    )
    options.show(asdict(progress), '\n'.join([text, *progress.problems]))
    if not progress.is_whole:
        raise SystemExit(EXIT_CODE_BASE + ErrorCode.CORRUPT)


@click.command('forget')
@click.argument('window')
@click.argument('turns', metavar='TURN...', nargs=-1, required=True, type=click.IntRange(0))
@click.option('--no-rebuild', is_flag=True, help='Compute the rest when it is used next.')
@click.pass_obj
def forget_command(
    options: Options, *, window: str, turns: tuple[int, ...], no_rebuild: bool
) -> None:
    """
    Let WINDOW forget TURNs, with the exchange that each belongs to.

    `cwm show --turns` numbers them. All chunks behind the first go, and are computed again.
    """
    with open_store(options, writable=True) as store:
        forgotten = forget(store, window, turns)
    if not no_rebuild:
        _rebuild(options, window)
    options.show(asdict(forgotten), '\n'.join(_tell(forgotten)))


def _rebuild(options: Options, window: str) -> None:
    from cwm_ros.manager import Manager

    with Manager(options.settings, profile=options.profile) as manager:
        manager.open_window(window)
        for _ in manager.catch_up():
            pass
        for _ in manager.freeze():
            pass


def _tell(forgotten: Forgotten) -> list[str]:
    numbers = ', '.join(map(str, forgotten.turns))
    text = (
        f'{forgotten.window}: turns {numbers} are forgotten, {forgotten.turns_left} are left; '
        f'{forgotten.chunks_removed} chunks were removed'
    )
    lines = [text]
    lines += [f'window {name} has it too, and keeps it' for name in forgotten.kept_in]
    lines += [f'window {name} could not be looked into' for name in forgotten.unread]
    lines += [f'a bundle that may hold it was written to {path}' for path in forgotten.bundles]
    return lines
