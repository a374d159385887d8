# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The one object that shells talk to: opens model, engine and store, and tells their stories.

All methods are called from one thread, the one that owns the engine. What takes time is a
generator: the caller sets the pace and may stop asking; what was done until then stays valid.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
import time
from typing import TYPE_CHECKING

from cwm_ros.answer import Answer, Delta, Request, Speaker, wait_for, When
from cwm_ros.codec import KernelLoader
from cwm_ros.engine import open_engine
from cwm_ros.errors import BusyError, CwmError, EngineError, ExistsError
from cwm_ros.freeze import Freeze, FreezeProgress, NOTHING_FROZEN
from cwm_ros.kv import Role, Turn
from cwm_ros.model import build_graph, Checkpoint, find_model, IncrementalDecoder
from cwm_ros.restore import begin_thaw, ChunkReader, find_chunks, restore_session
from cwm_ros.session import Session
from cwm_ros.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from threading import Event
    from types import TracebackType

    from typing_extensions import Self

    from cwm_ros.config import Settings
    from cwm_ros.store import ChunkEntry
    from cwm_ros.thaw import Thaw, ThawProgress


class Manager:
    """
    A store, a model and one live conversation; a context manager.

    Parameters
    ----------
    settings
        Of all rooms.
    profile
        Whose windows.
    clock
        Steady clock [s].
    wall_ms
        Wall clock [ms since 1970].

    Attributes
    ----------
    store, checkpoint, engine
        What was opened.
    window
        Name of the open window, else empty.
    thaw
        The thaw of the open window; None for a new one.
    time_to_header_s
        How long reading the open window's manifest and turns took [s].

    """

    def __init__(
        self,
        settings: Settings,
        *,
        profile: str = 'default',
        clock: Callable[[], float] = time.perf_counter,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.settings = settings
        self.window = ''
        self.thaw: Thaw | None = None
        self.time_to_header_s = 0.0
        self._session: Session | None = None
        self._entries: tuple[ChunkEntry, ...] = ()
        self._tags: tuple[str, ...] = ()
        self._problems: tuple[str, ...] = ()
        self._is_answering = False
        self._clock = clock
        self._wall_ms = wall_ms
        with ExitStack() as opening:
            self.store = opening.enter_context(
                Store.open(settings.storage, profile=profile, writable=True, clock=wall_ms)
            )
            cache = settings.engine.cache_path
            self.kernels = KernelLoader(cache / 'kernels')
            self.checkpoint = Checkpoint(find_model(settings.engine.model), cache)
            self.engine = opening.enter_context(
                open_engine(
                    lambda formulation: build_graph(self.checkpoint, formulation, cache),
                    self.checkpoint.kv_spec,
                    self.checkpoint.identity,
                    settings.engine,
                )
            )
            self._open = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the window, then close engine and store; nothing is frozen."""
        try:
            self.leave()
        finally:
            self._open.close()

    # --- windows ------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The live conversation."""
        if self._session is None:
            raise EngineError('no window is open', hint='create or open one first')
        return self._session

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the open window could not be used as it was, and why, for people."""
        return self._problems + (self.thaw.warnings if self.thaw else ())

    def create(self, name: str, system_prompt: str = '') -> None:
        """
        Begin a new window with a system prompt, its first turn, durable on return.

        Parameters
        ----------
        name
            Of the window.
        system_prompt
            What the assistant is told first; empty means as the settings say.

        Raises
        ------
        ExistsError
            There is one of this name.

        """
        self._check_idle()
        if self.store.has_window(name):
            raise ExistsError(f'window {name!r} exists', hint='open it, or delete it first')
        text = system_prompt or self.settings.assistant.read_system_prompt()
        system = Turn(role=Role.SYSTEM, text=text, time_ms=self._wall_ms())
        self._begin(name, Session(self.engine, self.checkpoint.chat, self.checkpoint.stop_ids))
        self.add_turns([system])

    def open_window(self, name: str) -> Thaw:
        """
        Begin to thaw a window; `say` may be called at once.

        Chunks of other weights are not loaded but computed from tokens; under another tokenizer
        or chat template the turns are rendered anew. Turns that were committed after the last
        freeze are computed with the next answer.

        Raises
        ------
        NotFoundError
            There is no such window.
        FormatError
            Its files are damaged.
        ContextFullError
            It is longer than this engine's context.

        """
        self._check_idle()
        began = self._clock()
        window, problem = self.store.window_or_turns(name)
        header_s = self._clock() - began
        session, entries = restore_session(
            window, self.engine, self.checkpoint.chat, self.checkpoint.stop_ids
        )
        if window.manifest is None:
            window, entries = find_chunks(self.store, window, session, self.settings.codec)
        self._begin(name, session)
        if problem:
            self._problems = (f'the window is opened from its turns: {problem}',)
        self.time_to_header_s = header_s
        self._entries = entries
        self._tags = window.manifest.tags if window.manifest else ()
        try:
            load = ChunkReader(
                self.store, window, self.engine, self.kernels, self.settings.thaw.num_threads
            )
            self.thaw = begin_thaw(
                window, session, entries, load, self.settings, clock=self._clock, began=began
            )
            for turn in window.turns[len(session.turns) :]:
                session.add_turn(turn)
        except BaseException:
            self.leave()  # half of its turns would be worse than none
            raise
        return self.thaw

    def warm_up(self) -> None:
        """
        Load compiled codec kernels in the background; for shells that live long.

        It takes a second of a core, which the first thaw and answer should not have to share;
        until it is done NumPy serves. Call it once, when the first window is there.
        """
        self.kernels.start()

    def add_tags(self, tags: Sequence[str]) -> None:
        """Add words about the window, which the next freeze stores."""
        self._tags = tuple(dict.fromkeys((*self._tags, *tags)))

    def leave(self) -> None:
        """End the thaw in flight and forget the live conversation; what is committed stays."""
        thaw = self.thaw
        if self.window:
            self.store.let_go(self.window)
        self.window, self.thaw, self._session = '', None, None
        self._entries, self._tags, self._problems = (), (), ()
        if thaw is not None:
            thaw.close()

    def _begin(self, name: str, session: Session) -> None:
        self.leave()
        self.engine.reset()
        self.store.hold(name)
        self.window, self._session = name, session

    # --- talking ------------------------------------------------------------------------------

    def add_turns(self, turns: Sequence[Turn]) -> int:
        """
        Append turns to the window; they are durable on return, and computed later.

        Returns
        -------
        int
            Number of tokens they became.

        Raises
        ------
        ContextFullError
            A turn does not fit; those before it are committed.
        StorageError
            They cannot be made durable; the conversation is as before.

        """
        self._check_idle()
        num_turns, num_tokens = len(self.session.turns), self.session.num_tokens
        try:
            for turn in turns:
                self.session.add_turn(turn)
        finally:
            self._commit(or_keep=num_turns)
        return self.session.num_tokens - num_tokens

    def _commit(self, *, or_keep: int) -> None:
        """Make all turns durable, or forget those behind the first ``or_keep``."""
        try:
            # The store knows what is durable; an earlier failure may have left a turn behind.
            num_durable = self.store.commit_turns(self.window, [])
            self.store.commit_turns(self.window, self.session.turns[num_durable:])
        except CwmError:
            self.session.take_back(or_keep)
            raise

    def catch_up(self, cancel: Event | None = None) -> Iterator[int]:
        """
        Finish the thaw, then compute what is pending and again what is provisional.

        Yields
        ------
        int
            Number of tokens that are not sound yet.

        Raises
        ------
        InterruptedOperation
            ``cancel`` was set; what was computed until then stays.

        """
        self._check_idle()
        while self.thaw is not None and self.thaw.advance(wait=True, cancel=cancel):
            yield len(self.session.unsound())
        for _ in self.session.repair(cancel):
            yield len(self.session.unsound())

    def say(
        self, request: Request, cancel: Event | None = None
    ) -> Iterator[Delta | ThawProgress | Answer]:
        """
        Answer a prompt, thawing meanwhile; the last value is the `Answer`.

        Both turns are durable before the last value. When ``cancel`` is set, what was said until
        then becomes the assistant's turn.

        Raises
        ------
        BusyError
            Another answer is being given.
        ContextFullError
            The prompt does not fit; nothing has changed.
        StorageError
            The prompt cannot be made durable; nothing has changed. Or the answer cannot: then it
            is committed with the next turn.

        """
        self._check_idle()
        request = replace(
            request, max_tokens=request.max_tokens or self.settings.assistant.max_tokens
        )
        began, start = self._clock(), self.session.num_tokens
        self._is_answering = True
        try:
            num_turns = len(self.session.turns)
            self.session.add_prompt(request.text, self._wall_ms())
            self._commit(or_keep=num_turns)
            yield from self._wait(request.when, start, cancel)
            self.session.begin_answer(request.max_tokens)
            yield from self._answer(request, self.session.num_tokens - start, began, cancel)
        finally:
            self._is_answering = False

    def _check_idle(self) -> None:
        """Refuse to touch the conversation while an answer is being given."""
        if self._is_answering:
            raise BusyError(
                'an answer is being given', hint='take all of it, or close it, before you go on'
            )

    def _wait(self, when: When, start: int, cancel: Event | None) -> Iterator[ThawProgress]:
        """Advance the thaw until the prompt that begins at ``start`` may be answered."""
        if self.thaw is not None:
            self.thaw.prioritize(self.session.tokens[start:], self.settings.thaw.relevant_chunks)
            yield from wait_for(self.thaw, when, cancel)
            # Chunks in flight write into the cache, which the answer may make grow.
            self.thaw.settle()

    def _answer(
        self, request: Request, prompt_tokens: int, began: float, cancel: Event | None
    ) -> Iterator[Delta | ThawProgress | Answer]:
        session, fidelity = self.session, self.session.fidelity
        speaker = Speaker(session, IncrementalDecoder(self.checkpoint.tokenizer), request)
        first_token_s = 0.0
        try:
            for piece in speaker.speak(cancel):
                first_token_s = first_token_s or self._clock() - began
                yield Delta(text=piece)
                if self.thaw is not None and self.thaw.advance(wait=False):
                    yield self.thaw.progress()
        finally:
            said = session.end_answer(speaker.text.strip(), self._wall_ms())
            if self._session is session:  # else the window was left in the middle of it
                self._commit(or_keep=len(session.turns))
        yield Answer(
            text=said.text,
            finish_reason=speaker.finish_reason,
            prompt_tokens=prompt_tokens,
            new_tokens=speaker.num_tokens,
            time_to_first_token_s=first_token_s,
            fidelity=str(fidelity),
            is_provisional=fidelity.resident < fidelity.total,
        )

    def freeze(self, *, is_final: bool = True) -> Iterator[FreezeProgress]:
        """
        Write the window; the last value says that it is committed.

        While the thaw is not complete, only what is sound is written; what was on disk stays.

        Parameters
        ----------
        is_final
            Whether the power may go next: then all is written, whatever the daily budget.
            Otherwise only full chunks are, and only turns when the budget is spent.

        Raises
        ------
        QuotaError
            There is no room for a chunk; the window is as it was committed before.

        """
        self._check_idle()
        if self.thaw is not None:
            self.thaw.settle()
            for entry in self.thaw.damaged:
                self.store.discard_chunk(entry)
            self.thaw.damaged.clear()
        self._commit(or_keep=len(self.session.turns))
        if not is_final and (reason := self.store.budget_problem()):
            evicted = self.store.take_evictions()
            yield replace(NOTHING_FROZEN, deferred=reason, evicted=evicted)
            return
        freeze = Freeze(
            self.store,
            self.session,
            settings=self.settings.codec,
            thaw_settings=self.settings.thaw,
            kernels=self.kernels,
            known=self._entries,
            is_final=is_final,
        )
        yield from freeze.write_chunks()
        self.store.commit_window(freeze.manifest(self.window, self._tags))
        self._entries = tuple(freeze.entries)
        yield replace(freeze.progress, is_committed=True, evicted=self.store.take_evictions())
