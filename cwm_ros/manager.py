# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The one object that shells talk to: opens model, engine and store, and tells their stories.

All methods are called from one thread, the one that owns the engine. What takes time is a
generator: the caller sets the pace and may stop asking; what was done until then stays valid.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
import time
from typing import TYPE_CHECKING

from cwm_ros.deadline import Pace
from cwm_ros.errors import EngineError, ExistsError
from cwm_ros.kv import Role, Turn
from cwm_ros.live import LiveWindow, Tools
from cwm_ros.loaded import check_room, LoadedModel
from cwm_ros.opening import begin_live_thaw, find_session
from cwm_ros.recheck import recheck
from cwm_ros.save import save, write_behind
from cwm_ros.session import Session
from cwm_ros.store import Store
from cwm_ros.store.layout import check_tags
from cwm_ros.talk import catch_up, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from threading import Event
    from types import TracebackType

    from typing_extensions import Self

    from cwm_ros.answer import Answer, Delta, Request
    from cwm_ros.codec import KernelLoader
    from cwm_ros.config import Settings
    from cwm_ros.engine import Engine
    from cwm_ros.freeze import FreezeProgress
    from cwm_ros.model import Checkpoint
    from cwm_ros.progress import ThawProgress
    from cwm_ros.rates import RateBook
    from cwm_ros.reentry import ReEntry
    from cwm_ros.review import Review
    from cwm_ros.segment import SegmentStarted
    from cwm_ros.thaw import Thaw


class Manager:
    """
    A store, a model and one live conversation; a context manager.

    Parameters
    ----------
    settings
        Of all rooms.
    profile
        Whose windows; empty for ``privacy.default_profile``.
    defer_engine
        Open the store only; `load_engine` loads the model.
    clock
        Steady clock [s].
    wall_ms
        Wall clock [ms since 1970].

    Raises
    ------
    CwmError
        The store cannot be opened, a full window of the model fits neither the quota nor the
        daily budget, or the model cannot be loaded; nothing stays open.

    Attributes
    ----------
    store, profile
        What is open, and whose.
    time_to_header_s
        How long reading the open window's manifest and turns took [s].

    """

    def __init__(
        self,
        settings: Settings,
        *,
        profile: str = '',
        defer_engine: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.settings = settings
        self.time_to_header_s = 0.0
        self._live: LiveWindow | None = None
        self._held: Session | None = None
        self._pace = Pace()
        self._clock = clock
        self._wall_ms = wall_ms
        self._model: LoadedModel | None = None
        self._store_open = ExitStack()
        check_room(settings)
        try:
            self._open_store(profile or settings.privacy.default_profile)
            if not defer_engine:
                self.load_engine()
        except BaseException:
            self._store_open.close()
            raise

    def _open_store(self, profile: str) -> None:
        with ExitStack() as opening:
            store = opening.enter_context(
                Store.open(
                    self.settings.storage,
                    profile=profile,
                    writable=True,
                    clock=self._wall_ms,
                    privacy=self.settings.privacy,
                )
            )
            store.check_chunk_tokens(self.settings.codec.chunk_tokens)
            before, self._store_open = self._store_open, opening.pop_all()
        before.close()
        self.store, self.profile = store, profile

    def load_engine(self, on_conversion: Callable[[float], None] = lambda _: None) -> None:
        """
        Load the model; for a manager that was made with ``defer_engine``.

        ``on_conversion`` hears how far a model is that has to be converted first, 0 to 1.

        Raises
        ------
        ModelError, EngineError
            It cannot be loaded; the store stays open.

        """
        if self._model is None:
            self._model = LoadedModel(self.settings, on_conversion)

    @property
    def has_engine(self) -> bool:
        """Whether the model is loaded."""
        return self._model is not None

    @property
    def _loaded(self) -> LoadedModel:
        if self._model is None:
            raise EngineError('the model is not loaded', hint='load it first')
        return self._model

    @property
    def checkpoint(self) -> Checkpoint:
        """The model's files."""
        return self._loaded.checkpoint

    @property
    def engine(self) -> Engine:
        """What runs the model."""
        return self._loaded.engine

    @property
    def kernels(self) -> KernelLoader:
        """Gives the codec's fastest kernels."""
        return self._loaded.kernels

    @property
    def rates(self) -> RateBook:
        """What is known of how fast this board loads and computes."""
        return self._loaded.rates

    def use_profile(self, profile: str) -> None:
        """
        Leave the open window and the profile, and open another profile; the model stays loaded.

        Raises
        ------
        CwmError
            It cannot be opened; then the profile stays the one that it was, without a window.

        """
        self._check_idle()
        if profile == self.profile:
            return
        self.leave()
        if self._model is not None:
            self.engine.reset()  # nothing of one driver stays for the next
        self._held = None
        self._open_store(profile)

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
            with self._store_open:
                if self._model is not None:
                    self.rates.save()
                    self._model.close()

    # --- windows ------------------------------------------------------------------------------

    @property
    def live(self) -> LiveWindow:
        """The window that is open."""
        if self._live is None:
            raise EngineError('no window is open', hint='create or open one first')
        return self._live

    @property
    def window(self) -> str:
        """Name of the open window, else empty."""
        return self._live.name if self._live else ''

    @property
    def session(self) -> Session:
        """The live conversation."""
        return self.live.session

    @property
    def thaw(self) -> Thaw | None:
        """The thaw of the open window; None for a new one."""
        return self._live.thaw if self._live else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the open window could not be used as it was, and why, for people."""
        return self._live.warnings if self._live else ()

    def _idle(self) -> LiveWindow:
        """Return the open window, unless it is answering."""
        self.live.check_idle()
        return self.live

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

    def open_window(self, name: str, *, strategy: str = '') -> Thaw:
        """
        Begin to thaw a window; `say` may be called at once.

        What the engine still holds of its tokens, because it was open until now or begins as the
        one before, stays; so a thaw that was left goes on where it was.

        Chunks of other weights are not loaded but computed from tokens; under another tokenizer
        or chat template the turns are rendered anew. Turns that were committed after the last
        freeze are computed with the next answer.

        Parameters
        ----------
        name
            Of the window.
        strategy
            'auto', 'load' or 'recompute', see `ThawSettings`; empty means as the settings say.

        Raises
        ------
        NotFoundError
            There is no such window.
        FormatError
            Its files are damaged.
        ContextFullError
            This engine's context does not even hold its system prompt. A window that is longer
            otherwise goes on in a new segment, which `warnings` tells.
            In all these cases the open window stays open.

        """
        self._check_idle()
        began = self._clock()
        window, problem = self.store.window_or_turns(name)
        header_s = self._clock() - began
        found = find_session(window, self._loaded, self.store, self.settings)
        live = self._begin(name, found.session)
        try:
            self.time_to_header_s = header_s
            if problem:
                live.problems += (f'the window is opened from its turns: {problem}',)
            return begin_live_thaw(live, found, self._loaded, began=began, strategy=strategy)
        except BaseException:
            self.leave()  # a session without its thaw would be computed as if it were new
            raise

    def recheck(self) -> str:
        """
        Compare the end of the open window with its probe again, as the end of a thaw does.

        For after the memory was asleep. Costs a step of the model.

        Returns
        -------
        str
            What it came to, or why it could not be checked, for people.

        Raises
        ------
        RestoreNotEffectiveError
            The model does not continue the window as it did. The engine has forgotten all of it;
            `open_window` brings it back.

        """
        return recheck(self._idle(), self._loaded)

    def warm_up(self) -> None:
        """
        Load compiled codec kernels in the background; for shells that live long.

        It takes a second of a core, which the first thaw and answer should not have to share;
        until it is done NumPy serves. Call it when a window is there; again, it does nothing.
        """
        self.kernels.start()

    def add_tags(self, tags: Sequence[str]) -> None:
        """
        Add words about the window, which the next freeze stores.

        Raises
        ------
        ConfigError
            One is too long, or they are too many; none is added.

        """
        all_tags = tuple(dict.fromkeys((*self.live.tags, *tags)))
        check_tags(all_tags)
        self.live.tags = all_tags

    def leave(self) -> None:
        """End the thaw in flight and forget the live conversation; what is committed stays."""
        live, self._live = self._live, None
        if live is not None:
            self._held = live.session
            live.close()

    def _make_tools(self) -> Tools:
        return Tools(
            settings=self.settings,
            store=self.store,
            checkpoint=self.checkpoint,
            kernels=self.kernels,
            clock=self._clock,
            wall_ms=self._wall_ms,
            pace=self._pace,
        )

    def _begin(self, name: str, session: Session) -> LiveWindow:
        """Leave the open window; what the engine holds of the next one's tokens stays."""
        self.leave()
        held, self._held = self._held, None  # an interrupt in between must not leave a half truth
        if held is None:
            self.engine.reset()
        else:
            session.adopt(held)
        self._held = session
        session.timing = partial(self.rates.computing, self.engine)
        self._live = LiveWindow(name, session, self._make_tools())
        return self._live

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
            A turn alone does not fit into the context; those before it are committed. When it is
            only full, a new segment begins, which `warnings` tells.
        StorageError
            They cannot be made durable; the conversation is as before.

        """
        return self._idle().add_turns(turns)

    def enter(self, context: str = '') -> ReEntry | None:
        """
        Tell the assistant how much time passed since the last turn, and what is now.

        For after `open_window` and before the first prompt, so that it does not answer from the
        state of the vehicle as it was. The turn takes at most 64 tokens, and is durable on
        return; it is computed with the next prompt. A clock that nobody has set makes no claim
        about time.

        Parameters
        ----------
        context
            The vehicle's state, such as 'fuel 42 %, at Mill Road, no warnings': items that commas
            separate, the most important first, for the last ones are left out if they are too
            long.

        Returns
        -------
        ReEntry or None
            What was said; None when there was nothing to say.

        Raises
        ------
        ConfigError
            Not even the first item is short enough; nothing has changed.
        StorageError
            It cannot be made durable; nothing has changed.

        """
        return self._idle().enter(context)

    def catch_up(self, cancel: Event | None = None) -> Iterator[int | Review]:
        """
        Do what idle time is for: finish the thaw, review what was said without it, repair.

        What is pending is computed, and again what is provisional.

        Yields
        ------
        int or Review
            Number of tokens that are not sound yet; and for each answer that was given while
            context was missing, whether it holds. The record stays as it was said.

        Raises
        ------
        InterruptedOperation
            ``cancel`` was set; what was computed until then stays.

        """
        yield from catch_up(self._idle(), cancel)

    def say(
        self, request: Request, cancel: Event | None = None
    ) -> Iterator[SegmentStarted | Delta | ThawProgress | Answer]:
        """
        Answer a prompt, thawing meanwhile; the last value is the `Answer`.

        Both turns are durable before the last value. When ``cancel`` is set, what was said until
        then becomes the assistant's turn.

        Raises
        ------
        BusyError
            Another answer is being given.
        ContextFullError
            The prompt alone does not fit into the context; nothing has changed. When it is only
            full, a new segment begins, which the first value and `warnings` tell.
        StorageError
            The prompt cannot be made durable; nothing has changed. Or the answer cannot: then it
            is committed with the next turn.

        """
        yield from say(self._idle(), request, cancel)

    def _check_idle(self) -> None:
        if self._live is not None:
            self._live.check_idle()

    def secure_turns(self) -> int:
        """
        Make durable all that was said until now; from any thread, whatever the engine does.

        An answer that is being given ends with what was said of it. This takes milliseconds,
        and is what comes first when the power may go: a thaw begins no chunk meanwhile.

        Returns
        -------
        int
            Number of turns of the open window that are durable; 0 without one.

        Raises
        ------
        StorageError
            They cannot be made durable; what was before is.

        """
        live = self._live
        if live is None:
            return 0
        with live.ahead_of_thaw('secure turns'):
            return live.secure()

    def freeze(
        self, *, is_final: bool = True, deadline_s: float | None = None
    ) -> Iterator[FreezeProgress]:
        """
        Write the window, the most valuable first; the last value says what is safe.

        Turns come first, then the chunks that make the window usable, then the others, the newest
        first, then the tokens behind the last full chunk. At any instant what is on the disk is
        in order, and what was written until then counts.

        While the thaw is not complete, only what is sound is written; what was on disk stays.

        Parameters
        ----------
        is_final
            Whether the power may go next: then all is written, whatever the daily budget.
            Otherwise only full chunks are, and only turns when the budget is spent.
        deadline_s
            When it must be over, from now [s]; None for no deadline. What would take longer, by
            how long it took before, is left out. A deadline in the past saves the turns only.

        Raises
        ------
        QuotaError
            There is no room for a chunk; what was there before is, and what was written counts.

        """
        yield from save(self._idle(), is_final=is_final, deadline_s=deadline_s)

    def idle(self, cancel: Event | None = None) -> Iterator[int | Review | FreezeProgress]:
        """
        Do what is best done between turns: `catch_up`, then write chunks that became full.

        So that at the end only the tail is left to write. `storage.write_behind` turns the
        writing off; the daily budget bounds it.

        Raises
        ------
        InterruptedOperation
            ``cancel`` was set; what was done until then stays.

        """
        live = self._idle()
        yield from catch_up(live, cancel)
        if self.settings.storage.write_behind:
            yield from write_behind(live)
        if self.rates.has_new_load:
            self.rates.save()  # a sync, on nobody's way
