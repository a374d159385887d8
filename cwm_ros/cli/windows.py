# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Verbs on windows at rest, without a model: list, show, clone, delete, pin, verify, storage."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
import time
from typing import TYPE_CHECKING

import click

from cwm_ros.cli.app import EXIT_CODE_BASE
from cwm_ros.cli.picture import eviction_line, show_bar, table
from cwm_ros.config import LOSSLESS_CODEC
from cwm_ros.errors import ErrorCode
from cwm_ros.optimize import optimize
from cwm_ros.restore import PayloadCheck
from cwm_ros.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.cli.app import Options
    from cwm_ros.store import Window, WindowInfo

MIB = 1 << 20


@contextmanager
def open_store(options: Options, *, writable: bool) -> Iterator[Store]:
    """Open the store that the options name."""
    with Store.open(
        options.settings.storage,
        profile=options.profile,
        writable=writable,
        clock=lambda: time.time_ns() // 1_000_000,
        privacy=options.settings.privacy,
    ) as store:
        if writable:
            for eviction in store.take_evictions():
                options.note(eviction_line(eviction))
        yield store


@click.command('list')
@click.pass_obj
def list_command(options: Options) -> None:
    """List the windows."""
    with open_store(options, writable=False) as store:
        windows = store.windows()
    rows = [
        (
            w.name,
            w.tokens,
            w.turns,
            w.chunks,
            w.chunks - w.chunks_present,
            f'{w.bytes / MIB:.1f}',
            w.model,
            'yes' if w.is_pinned else '',
            w.problem,
        )
        for w in windows
    ]
    headings = (
        'window', 'tokens', 'turns', 'chunks', 'missing', 'MiB', 'model', 'pinned', 'problem',
    )  # fmt: skip
    options.show(
        {'windows': [window._asdict() for window in windows]},
        table(headings, rows) if rows else 'no windows',
    )


@click.command('show')
@click.argument('window')
@click.option('--turns', is_flag=True, help='Print what was said.')
@click.pass_obj
def show_command(options: Options, *, window: str, turns: bool) -> None:
    """Show WINDOW: its size, fidelity and model."""
    with open_store(options, writable=False) as store:
        found = store.window(window)
        info = next(info for info in store.windows() if info.name == window)
    values = describe(info, found)
    lines = [f'{name:>18}  {value}' for name, value in values.items()]
    if turns:
        values['conversation'] = [
            {'number': number, 'role': turn.role.value, 'text': turn.text}
            for number, turn in enumerate(found.turns)
        ]
        lines += [
            f'{n:>5} {turn.role.value:>9}: {turn.text}' for n, turn in enumerate(found.turns)
        ]
    options.show(values, '\n'.join(lines))


def describe(info: WindowInfo, window: Window) -> dict[str, object]:
    """Return what ``cwm show`` says of a window."""
    manifest = window.manifest
    codecs = sorted({entry.codec for entry in manifest.chunks}) if manifest else []
    provisional = sum(stop - start for start, stop in manifest.provisional) if manifest else 0
    lossy = [codec for codec in codecs if codec != LOSSLESS_CODEC]
    return {
        'name': info.name,
        'tokens': info.tokens,
        'turns': info.turns,
        'chunks': info.chunks,
        'chunks_present': info.chunks_present,
        'chunks_missing': info.chunks - info.chunks_present,
        'bytes': info.bytes,
        'fidelity': f'LOSSY({lossy[0]})' if lossy else 'EXACT',
        'provisional_tokens': provisional,
        'uncomputed_turns': info.turns - (manifest.num_turns if manifest else 0),
        'pinned': info.is_pinned,
        'model': info.model,
        'revision': info.revision,
        'tags': list(manifest.tags) if manifest else [],
        'updated_ms': info.updated_ms,
    }


@click.command('clone')
@click.argument('window')
@click.argument('new')
@click.pass_obj
def clone_command(options: Options, *, window: str, new: str) -> None:
    """Make NEW, which goes on from what WINDOW is now; they share their chunks."""
    with open_store(options, writable=True) as store:
        store.clone_window(window, new)
    options.show({'window': window, 'clone': new}, f'{new} is a clone of {window}')


@click.command('pin')
@click.argument('window')
@click.pass_obj
def pin_command(options: Options, *, window: str) -> None:
    """Never evict anything of WINDOW."""
    _set_pinned(options, window, is_pinned=True)


@click.command('unpin')
@click.argument('window')
@click.pass_obj
def unpin_command(options: Options, *, window: str) -> None:
    """Let chunks of WINDOW go again when room is short."""
    _set_pinned(options, window, is_pinned=False)


def _set_pinned(options: Options, window: str, *, is_pinned: bool) -> None:
    with open_store(options, writable=True) as store:
        store.set_pinned(window, is_pinned=is_pinned)
    state = 'pinned' if is_pinned else 'not pinned'
    options.show({'window': window, 'pinned': is_pinned}, f'{window} is {state}')


@click.command('delete')
@click.argument('window')
@click.pass_obj
def delete_command(options: Options, *, window: str) -> None:
    """Delete WINDOW and the chunks that no other window shares."""
    with open_store(options, writable=True) as store:
        store.delete_window(window)
    options.show({'deleted': window}, f'{window} is deleted')


@click.command('verify')
@click.argument('window', required=False)
@click.pass_obj
def verify_command(options: Options, *, window: str | None) -> None:
    """Read every byte of WINDOW, or of all windows, and check it."""
    with open_store(options, writable=False) as store:
        report = store.verify(window, PayloadCheck())
    values = {**asdict(report), 'ok': report.ok}
    text = (
        f'{"ok" if report.ok else "DAMAGED"}: {report.windows} windows, {report.turns} turns, '
        f'{report.chunks} chunks, {report.bytes} bytes, '
        f'{report.missing_chunks} chunks missing (computed again when used)'
    )
    torn = (
        f'{report.torn_bytes} bytes of a commit that was cut, or is under way, lie behind the '
        'turns: it was never acknowledged, and the next writer removes them'
    )
    remedy = 'remedy: run cwm doctor, or restore the files from a backup'
    lines = [text, *([torn] if report.torn_bytes else []), *report.problems]
    lines += [] if report.ok else [remedy]
    options.show(values, '\n'.join(lines))
    if not report.ok:
        raise SystemExit(EXIT_CODE_BASE + ErrorCode.CORRUPT)


@click.command('doctor')
@click.pass_obj
def doctor_command(options: Options) -> None:
    """Rebuild what can be rebuilt, set damaged files aside, and say what was lost."""
    with open_store(options, writable=True) as store:
        report = store.mend(PayloadCheck())
    lines = [
        f'{title}: {sentence}'
        for title, sentences in asdict(report).items()
        for sentence in sentences
    ]
    options.show({**asdict(report), 'ok': not report.lost}, '\n'.join(lines or ['all is well']))
    if report.lost:
        raise SystemExit(EXIT_CODE_BASE + ErrorCode.CORRUPT)


@click.command('optimize')
@click.pass_obj
def optimize_command(options: Options) -> None:
    """Collect garbage and check every chunk, at a limited rate; an interrupted one goes on."""
    rate = options.settings.storage.scrub_mib_per_s * MIB
    with open_store(options, writable=True) as store, show_bar('checking', 1) as update:
        for progress in optimize(store, PayloadCheck(), bytes_per_s=rate):
            update(progress.chunks_done / max(progress.chunks_total, 1))
    text = (
        f'{progress.garbage_bytes} bytes of garbage collected, {progress.chunks_done} chunks '
        f'checked, {len(progress.problems)} damaged and set aside'
    )
    options.show(asdict(progress), '\n'.join([text, *progress.problems]))


@click.command('storage')
@click.pass_obj
def storage_command(options: Options) -> None:
    """Report room and wear."""
    with open_store(options, writable=False) as store:
        report = store.storage()
    values = asdict(report)
    options.show(values, '\n'.join(f'{name:>20}  {value}' for name, value in values.items()))
