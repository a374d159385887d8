# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Verbs that hold a conversation: say, ingest, chat."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
import sys
from typing import TYPE_CHECKING

import click

from cwm_ros.answer import Answer, Delta, Request, When
from cwm_ros.bench.timing import say_timed
from cwm_ros.cli.app import EXIT_CODE_BASE, show_error
from cwm_ros.cli.conversation import read_conversation
from cwm_ros.cli.picture import eviction_line, show_bar, thaw_line
from cwm_ros.errors import CwmError
from cwm_ros.manager import Manager
from cwm_ros.review import Review, ReviewVerdict
from cwm_ros.segment import SegmentStarted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.cli.app import Options
    from cwm_ros.store import Eviction

WHENS = [when.value for when in When]


@contextmanager
def open_manager(options: Options) -> Iterator[Manager]:
    """Open store and model; a model's first start shows how far its conversion is."""
    with Manager(options.settings, profile=options.profile, defer_engine=True) as manager:
        with show_bar('converting the model', 1.0) as update:
            manager.load_engine(update)
        yield manager


def open_or_create(manager: Manager, window: str) -> None:
    """Open a window, or begin one of this name."""
    if manager.store.has_window(window):
        manager.open_window(window)
    else:
        manager.create(window)


@click.command('say')
@click.argument('text')
@click.option('--window', required=True, help='Window to thaw, or to create.')
@click.option('--when', type=click.Choice(WHENS), default='usable', show_default=True)
@click.option('--max-tokens', type=click.IntRange(1), default=64, show_default=True)
@click.option('--temperature', type=click.FloatRange(0, 10), default=0.0, show_default=True)
@click.option('--seed', type=click.IntRange(0), default=0, show_default=True)
@click.option('--no-freeze', is_flag=True, help='Keep the turns only, write no chunks.')
@click.option('--tag', 'tags', multiple=True, help='A word about the window; may be repeated.')
@click.option('--context', default='', help='What is now: "fuel 42 %, at Mill Road".')
@click.pass_obj
def say_command(
    options: Options,
    *,
    text: str,
    window: str,
    when: str,
    max_tokens: int,
    temperature: float,
    seed: int,
    no_freeze: bool,
    tags: tuple[str, ...],
    context: str,
) -> None:
    """Thaw WINDOW, answer TEXT, freeze."""
    request = Request(
        text=text,
        when=When(when),
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
    )
    with open_manager(options) as manager:
        open_or_create(manager, window)
        manager.add_tags(tags)
        entry = manager.enter(context) if context else None
        told = say_timed(manager, request)
        frozen = FreezeOutcome() if no_freeze else try_freeze(manager)
    if entry is not None and entry.left_out:
        options.note(f'the context was too long, left out: {entry.left_out}')
    for warning in told.warnings:
        options.note(warning)
    if told.provisional:
        options.note(f'answered from {told.fidelity}')
    for review in told.reviews:
        options.note(describe_review(review))
    frozen.note(options)
    options.show({**told.as_json(), **frozen.as_json()}, told.text)
    frozen.check()


def describe_review(review: Review) -> str:
    """Say what became of an answer when all context was there."""
    if review.verdict is ReviewVerdict.CHANGED:
        return f'correction: instead of "{review.said}" it is "{review.text}"'
    return f'"{review.said}" holds in the full context'


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeOutcome:
    """What became of a freeze; what was said is shown also when it failed."""

    bytes_written: int = 0
    evicted: tuple[Eviction, ...] = ()
    error: CwmError | None = None

    def as_json(self) -> dict[str, object]:
        """Return the fields for ``--json``."""
        return {
            'bytes_written': self.bytes_written,
            'evicted': [asdict(eviction) for eviction in self.evicted],
            'freeze_error': str(self.error) if self.error else '',
        }

    def note(self, options: Options) -> None:
        """Tell a person what was evicted to make room."""
        for eviction in self.evicted:
            options.note(eviction_line(eviction))

    def check(self) -> None:
        """End with the error's status if the freeze failed; the turns are safe."""
        if self.error is not None:
            show_error(self.error, is_json=False)
            click.echo('what was said is stored; its KV is computed again when needed', err=True)
            raise SystemExit(EXIT_CODE_BASE + self.error.code)


def try_freeze(manager: Manager) -> FreezeOutcome:
    """Freeze; a failure is returned, so that what came before it can be shown."""
    try:
        *_, progress = manager.freeze()
    except CwmError as exc:
        return FreezeOutcome(error=exc)
    return FreezeOutcome(bytes_written=progress.bytes_written, evicted=progress.evicted)


@contextmanager
def telling_what_stayed(manager: Manager, num_turns: int) -> Iterator[None]:
    """Let an error say how many of the turns that are being added are durable."""
    before = len(manager.store.turns(manager.window))
    try:
        yield
    except CwmError as exc:
        kept = len(manager.store.turns(manager.window)) - before
        rest = '' if kept == num_turns else ', the others are not'
        exc.message += (
            f'; {kept} of {num_turns} turns are stored in window {manager.window!r}{rest}'
        )
        raise


@click.command('ingest')
@click.argument('file', type=click.Path(path_type=Path))
@click.option('--window', required=True, help='Window to continue, or to create.')
@click.option('--tag', 'tags', multiple=True, help='A word about the window; may be repeated.')
@click.pass_obj
def ingest_command(options: Options, *, file: Path, window: str, tags: tuple[str, ...]) -> None:
    """
    Read a dialogue into WINDOW and freeze it.

    FILE holds JSON lines of role and text, or plain text, each paragraph of which is a turn of
    the user. When it fails, the error says how many turns are stored.
    """
    turns = read_conversation(file)
    with open_manager(options) as manager:
        open_or_create(manager, window)
        manager.add_tags(tags)
        with telling_what_stayed(manager, len(turns)):
            manager.add_turns(turns)
            total = manager.session.num_tokens
            with show_bar('computing', total) as update:
                for left in manager.catch_up():
                    if not isinstance(left, Review):
                        update(total - left)
        frozen = try_freeze(manager)
        warnings = manager.warnings
    for warning in warnings:
        options.note(warning)
    frozen.note(options)
    options.show(
        {'window': window, 'turns': len(turns), 'tokens': total, **frozen.as_json()},
        f'{window}: {len(turns)} turns, {total} tokens, {frozen.bytes_written} bytes written',
    )
    frozen.check()


@click.command('chat')
@click.option('--window', default='chat', show_default=True)
@click.pass_obj
def chat_command(options: Options, *, window: str) -> None:
    """Talk; /freeze, /thaw, /status and /quit are commands, and quitting freezes."""
    with open_manager(options) as manager:
        open_or_create(manager, window)
        _catch_up(manager)
        for warning in manager.warnings:
            options.note(warning)
        manager.warm_up()
        click.echo(f'{window}: {manager.session.fidelity}; /quit ends')
        for line in iter(_read_line, '/quit'):
            _obey(manager, line)
        _freeze(manager, is_final=True)


def _read_line() -> str:
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip() if line else '/quit'
    with suppress(ImportError):
        import readline  # noqa: F401 - gives the prompt line editing and a history
    try:
        return input('> ').strip()
    except EOFError:
        return '/quit'


def _obey(manager: Manager, line: str) -> None:
    try:
        _run_line(manager, line)
    except CwmError as exc:
        click.echo(f'cwm: {exc.code.name}: {exc}', err=True)


def _run_line(manager: Manager, line: str) -> None:
    if line == '/freeze':
        _freeze(manager, is_final=False)
    elif line == '/thaw':
        manager.open_window(manager.window)
        _show_thaw(manager)
        _show_status(manager)
    elif line == '/status':
        _show_status(manager)
    elif line.startswith('/'):
        click.echo(f'{line} is unknown: /freeze /thaw /status /quit', err=True)
    elif line:
        _answer(manager, line)


def _freeze(manager: Manager, *, is_final: bool) -> None:
    _catch_up(manager)
    *_, progress = manager.freeze(is_final=is_final)
    if progress.deferred:
        click.echo(f'what was said is safe, the rest waits for the end: {progress.deferred}')
        return
    click.echo(
        f'frozen: {progress.chunks_done} chunks, {progress.chunks_reused} of them reused, '
        f'{progress.bytes_written} bytes written'
    )


def _catch_up(manager: Manager) -> None:
    """Do what idle time is for, and say which answers do not hold."""
    for event in manager.idle():
        if isinstance(event, Review) and event.verdict is ReviewVerdict.CHANGED:
            click.echo(describe_review(event))


def _show_status(manager: Manager) -> None:
    turns = len(manager.session.turns)
    click.echo(f'{manager.window}: {turns} turns, {manager.session.fidelity}')


def _show_thaw(manager: Manager) -> None:
    thaw = manager.thaw
    while thaw is not None and thaw.advance(wait=True):
        click.echo(thaw_line(thaw.progress()))
    if thaw is not None:
        result = thaw.result()
        click.echo(f'{result.verdict.value}: {result.reason}')


def _answer(manager: Manager, line: str) -> None:
    """Answer one line; Ctrl-C ends the answer, not the conversation."""
    try:
        for event in manager.say(Request(text=line)):
            if isinstance(event, Delta):
                click.echo(event.text, nl=False)
            elif isinstance(event, SegmentStarted):
                click.echo(f'({event})', err=True)
            elif isinstance(event, Answer):
                click.echo(f'  [{event.fidelity}]' if event.is_provisional else '')
        _catch_up(manager)
    except KeyboardInterrupt:
        click.echo(' ...')
