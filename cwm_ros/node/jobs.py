# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the engine's thread is asked to do, as generators over a manager; knows nothing of ROS."""

from __future__ import annotations

from dataclasses import dataclass
import logging
import time
from typing import TYPE_CHECKING

from cwm_ros.answer import Answer, Delta
from cwm_ros.errors import ConfigError, EngineError, InterruptedOperation, RestoreNotEffectiveError
from cwm_ros.freeze import NOTHING_FROZEN
from cwm_ros.optimize import optimize
from cwm_ros.restore import PayloadCheck
from cwm_ros.segment import SegmentStarted
from cwm_ros.store import VerifyReport

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from threading import Event

    from cwm_ros.answer import Request
    from cwm_ros.freeze import FreezeProgress
    from cwm_ros.manager import Manager
    from cwm_ros.node.core import Run
    from cwm_ros.optimize import OptimizeProgress
    from cwm_ros.progress import ThawProgress
    from cwm_ros.verdict import ThawResult


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thawed:
    """
    How a thaw ended.

    Parameters
    ----------
    progress
        The last one.
    time_to_usable_s
        Since it was asked for [s].
    restored
        What the proof of the restore came to.
    warnings
        What could not be used as it was, for people.

    """

    progress: ThawProgress
    time_to_usable_s: float
    restored: ThawResult
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveResult:
    """
    What a save at shutdown reached; empty when no window was open.

    Parameters
    ----------
    saved, partial, skipped
        Windows with every chunk on disk; with some; with their turns only.
    chunks_done, chunks_total
        Chunks on disk, of all.

    """

    saved: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    chunks_done: int = 0
    chunks_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """
    How a prompt was answered.

    Parameters
    ----------
    answer
        What was said.
    window, turn
        Where that stands.

    """

    answer: Answer
    window: str
    turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many of how many are done."""

    done: int
    total: int


def short(run: Callable[[Manager], object]) -> Run:
    """Make a job of one step from a function."""

    def steps(manager: Manager, _cancel: Event) -> Generator[object, None, object]:
        result = run(manager)
        yield None
        return result

    return steps


def load_engine(manager: Manager, _cancel: Event) -> Generator[object, None, None]:
    """Load the model; one long step."""
    manager.load_engine()
    yield None


def thaw(
    manager: Manager,
    cancel: Event,
    *,
    window: str,
    strategy: str,
    stop_at_usable: bool,
    on_begin: Callable[[], None],
) -> Generator[object, None, Thawed]:
    """
    Open a window and bring it back, as far as asked; see `Manager.open_window`.

    The thaw of a window that is open goes on.
    """
    _check_engine(manager)
    if manager.window and manager.window != window:
        yield from _put_away(manager)
    moving = manager.thaw if manager.window == window else None
    if moving is None:
        moving = manager.open_window(window, strategy=strategy)
        on_begin()
        manager.warm_up()
    usable_s = 0.0
    while True:
        progress = moving.progress()
        if progress.is_usable and not usable_s:
            usable_s = progress.elapsed_s
        yield progress
        if progress.is_complete or (stop_at_usable and progress.is_usable):
            break
        if manager.thaw is not moving:
            raise InterruptedOperation(f'window {window!r} was left', hint='thaw it again')
        if cancel.is_set():
            raise InterruptedOperation('cancelled by the caller')
        moving.advance(wait=True, cancel=cancel)
    restored = moving.result()
    restored.check()
    return Thawed(
        progress=progress,
        time_to_usable_s=usable_s,
        restored=restored,
        warnings=tuple(manager.warnings),
    )


def check_kept(manager: Manager, on_begin: Callable[[], None]) -> Generator[object, None, None]:
    """Check the open window, which was asleep in memory; one without effect is thawed anew."""
    if not manager.has_engine or not manager.window:
        return
    try:
        log.info('memory was kept, window %s: %s', manager.window, manager.recheck())
    except RestoreNotEffectiveError as exc:
        log.error('%s: %s', exc.code.name, exc)  # noqa: TRY400 - it says all
        manager.open_window(manager.window)
        on_begin()
    yield None


def answer(
    manager: Manager,
    cancel: Event,
    *,
    request: Request,
    window: str,
    check_open: Callable[[], None],
    on_begin: Callable[[], None],
    take_entry: Callable[[], str | None],
) -> Generator[object, None, Answered]:
    """
    Answer a prompt in the open window; in ``window``, opened or begun, when none is open.

    ``check_open`` raises when a window must not come back now; ``take_entry`` gives the vehicle's
    state if the assistant has not been told since the thaw. Before the first piece of the answer
    comes the `Fidelity` that it began with.
    """
    _check_engine(manager)
    if not manager.window:
        if manager.store.has_window(window):
            check_open()
            manager.open_window(window)
            on_begin()
        else:
            manager.create(window)
        manager.warm_up()
    context = take_entry()
    if context is not None:
        try:
            manager.enter(context)
        except ConfigError as exc:
            log.warning('the assistant is not told the state of the vehicle: %s', exc)
    is_silent = True
    for value in manager.say(request, cancel):
        if is_silent and isinstance(value, Delta):
            is_silent = False
            yield manager.session.fidelity
        if isinstance(value, Answer):
            turn = manager.session.num_turns - 1
            return Answered(answer=value, window=manager.window, turn=turn)
        if isinstance(value, SegmentStarted):
            log.info('window %s: %s', manager.window, value)
        yield value
    raise EngineError('the answer did not end')


def freeze(
    manager: Manager,
    _cancel: Event,
    *,
    tags: tuple[str, ...] = (),
    until_s: float | None = None,
    copy: str = '',
) -> Generator[FreezeProgress, None, FreezeProgress]:
    """
    Write the open window, the most valuable first, until a time of the steady clock [s].

    Then, if it has a name, make a copy under it in place of what was there.
    """
    manager.add_tags(tags)
    last = NOTHING_FROZEN
    for last in manager.freeze(deadline_s=None if until_s is None else until_s - time.monotonic()):
        yield last
    if copy:
        if manager.store.has_window(copy):
            manager.store.delete_window(copy)
        manager.store.clone_window(manager.window, copy)
    return last


def save_for_shutdown(
    manager: Manager,
    cancel: Event,
    *,
    until_s: float,
    on_saved: Callable[[], None] = lambda: None,
) -> Generator[FreezeProgress, None, SaveResult]:
    """Write the open window before power goes; ``on_saved`` hears that nothing more comes."""
    if not manager.window:
        return SaveResult()
    manager.secure_turns()
    last = NOTHING_FROZEN
    for last in freeze(manager, cancel, until_s=until_s):
        yield last
        if cancel.is_set() and not last.is_committed:
            raise InterruptedOperation('the vehicle is on again')
    on_saved()
    name, done, total = (manager.window,), last.chunks_done, last.chunks_total
    is_whole = last.is_committed and done == total
    return SaveResult(
        saved=name if is_whole else (),
        partial=name if not is_whole and done else (),
        skipped=name if not is_whole and not done else (),
        chunks_done=done,
        chunks_total=total,
    )


def verify(
    manager: Manager, _cancel: Event, *, window: str
) -> Generator[object, None, VerifyReport]:
    """Check every byte of one window, or of all."""
    names = [window] if window else [info.name for info in manager.store.windows()]
    reports = []
    for done, name in enumerate(names):
        yield Counted(done=done, total=len(names))
        reports.append(manager.store.verify(name, PayloadCheck()))
    yield Counted(done=len(names), total=len(names))
    return VerifyReport(
        windows=sum(report.windows for report in reports),
        turns=sum(report.turns for report in reports),
        chunks=sum(report.chunks for report in reports),
        bytes=sum(report.bytes for report in reports),
        missing_chunks=sum(report.missing_chunks for report in reports),
        torn_bytes=sum(report.torn_bytes for report in reports),
        problems=tuple(dict.fromkeys(problem for r in reports for problem in r.problems)),
    )


def optimize_storage(
    manager: Manager, cancel: Event, *, bytes_per_s: float
) -> Generator[OptimizeProgress, None, OptimizeProgress | None]:
    """Collect garbage and scrub."""
    last = None
    for last in optimize(manager.store, PayloadCheck(), bytes_per_s=bytes_per_s, cancel=cancel):
        yield last
    return last


def use_profile(
    manager: Manager, _cancel: Event, *, profile: str
) -> Generator[object, None, None]:
    """Save and leave the open window, and open another profile."""
    if manager.window:
        yield from _put_away(manager)
    manager.use_profile(profile)
    yield None


def _put_away(manager: Manager) -> Generator[FreezeProgress, None, None]:
    """Save the open window before another one takes its place."""
    yield from manager.freeze()
    manager.leave()


def _check_engine(manager: Manager) -> None:
    if not manager.has_engine:
        raise EngineError('no model is loaded', hint='see ~/usability for the reason')
