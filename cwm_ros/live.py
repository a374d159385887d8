# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The window that is in the engine now: its session, its thaw, and what of it is durable."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from inspect import GEN_RUNNING, GEN_SUSPENDED, getgeneratorstate
from threading import RLock
from typing import TYPE_CHECKING

from cwm_ros.abstention import Abstentions
from cwm_ros.deadline import Pace
from cwm_ros.errors import BusyError, ContextFullError, CwmError
from cwm_ros.freeze import manifest_of
from cwm_ros.kv import Role, Turn
from cwm_ros.reentry import compose, elapsed_text
from cwm_ros.segment import begin_segment, head_of, SegmentStarted, turn_lengths
from cwm_ros.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from cwm_ros.answer import Speaker
    from cwm_ros.codec import KernelLoader
    from cwm_ros.config import Settings
    from cwm_ros.model import Checkpoint
    from cwm_ros.reentry import ReEntry
    from cwm_ros.review import Spoken
    from cwm_ros.store import ChunkEntry, Manifest, Store
    from cwm_ros.thaw import Thaw


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """
    What a `cwm_ros.manager.Manager` has opened, for the stories that it tells.

    Parameters
    ----------
    settings
        Of all rooms.
    store, checkpoint, kernels
        Opened for writing; the model; gives the codec's fastest kernels.
    clock, wall_ms
        Steady clock [s]; wall clock [ms since 1970].
    pace
        How long writing took lately.

    """

    settings: Settings
    store: Store
    checkpoint: Checkpoint
    kernels: KernelLoader
    clock: Callable[[], float]
    wall_ms: Callable[[], int]
    pace: Pace = field(default_factory=Pace)


class LiveWindow:
    """
    An open window; its chunks are held in the store until `close`.

    It belongs to the thread that owns the engine, except for `secure`: turns come and go under a
    lock, which is never held while something is computed.

    Parameters
    ----------
    name
        Of the window.
    session
        Its conversation.
    tools
        What is open beside it.

    Attributes
    ----------
    thaw
        Brings it back; None for a new window.
    entries
        Chunks of the window as it was committed last, those that fit this engine.
    manifest
        The window as it was committed last; None for a new one.
    spoken
        Answers that are to be reviewed, oldest first.
    abstentions
        How answers begin that say that the model does not know.
    tags
        The user's words about it, which the next freeze stores.
    problems
        What could not be used as it was, for people.
    story
        Gives the answer that was asked for last.
    is_closed
        Whether it was left.
    foreseen
        The end probe of the session as it was when it was idle last; empty without one.
    speaker
        Who gives the answer that is being given.

    """

    def __init__(self, name: str, session: Session, tools: Tools) -> None:
        self.name = name
        self.session = session
        self.tools = tools
        self.thaw: Thaw | None = None
        self.entries: tuple[ChunkEntry, ...] = ()
        self.manifest: Manifest | None = None
        self.spoken: list[Spoken] = []
        self.abstentions = Abstentions(
            (*tools.checkpoint.card.abstentions, *tools.settings.assistant.abstention_phrases)
        )
        self.tags: tuple[str, ...] = ()
        self.problems: tuple[str, ...] = ()
        self.story: Generator[object, None, None] | None = None
        self.is_closed = False
        self.foreseen = b''
        self.speaker: Speaker | None = None
        self._cut: Turn | None = None
        self._turns_lock = RLock()
        tools.store.hold(name)

    def close(self) -> None:
        """End the thaw in flight; what is committed stays."""
        self.is_closed = True
        self.tools.store.let_go(self.name)
        if self.thaw is not None:
            try:
                self.thaw.close()
            finally:
                # Nobody may read them soon: what the engine holds is not loaded again.
                with suppress(CwmError):
                    self._set_aside(self.thaw)

    def settle(self) -> None:
        """Take the chunks in flight, and set those aside that proved damaged."""
        if self.thaw is not None:
            self.thaw.settle()
            self._set_aside(self.thaw)

    def _set_aside(self, thaw: Thaw) -> None:
        for entry in thaw.damaged:
            self.tools.store.discard_chunk(entry)
        thaw.damaged.clear()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the window could not be used as it was, and why, for people."""
        return self.problems + (self.thaw.warnings if self.thaw else ())

    @property
    def is_answering(self) -> bool:
        """Whether an answer is being given: a flag might stay when an interrupt comes."""
        states = (GEN_SUSPENDED, GEN_RUNNING)
        return self.story is not None and getgeneratorstate(self.story) in states

    def check_idle(self) -> None:
        """Refuse to touch the conversation while an answer is being given."""
        if self.is_answering:
            raise BusyError(
                'an answer is being given', hint='take all of it, or close it, before you go on'
            )

    def add_turns(self, turns: Sequence[Turn]) -> int:
        """Append turns, durable on return; see `Manager.add_turns`."""
        with self._turns_lock:
            num_durable, num_tokens = self.session.num_turns, 0
            try:
                for turn in turns:
                    if self._add(partial(Session.add_turn, turn=turn)) is not None:
                        num_durable = self.session.num_turns
                    num_tokens += self.session.last_turn_tokens
            finally:
                self.commit(or_keep=num_durable)
            return num_tokens

    def add_prompt(self, text: str, answer_tokens: int) -> SegmentStarted | None:
        """
        Append what the user says, durable on return; begin a new segment if there is no room.

        An answer of ``answer_tokens`` finds room behind it, unless the prompt is so long that
        this cannot be.

        Raises
        ------
        ContextFullError
            The prompt alone is too long; nothing has changed.
        StorageError
            It cannot be made durable; nothing has changed.

        """
        add = partial(Session.add_prompt, text=text, time_ms=self.tools.wall_ms())
        with self._turns_lock:
            num_turns = self.session.num_turns
            try:
                started = self._add(partial(add, answer_tokens=answer_tokens))
            except ContextFullError:
                started = self._add(add)
            self.commit(or_keep=num_turns)
            return started

    def enter(self, context: str) -> ReEntry | None:
        """Tell the assistant what is now, durable on return; see `Manager.enter`."""
        session, chat, now_ms = self.session, self.tools.checkpoint.chat, self.tools.wall_ms()
        prompt = Turn(role=Role.USER, text='?')

        def turn(text: str) -> Turn:
            return Turn(role=Role.SYSTEM, text=text, time_ms=now_ms)

        def length(*turns: Turn) -> int:
            # With a prompt behind: there are templates that put the one into the other.
            turns = (*turns, prompt)
            return len(chat.render_suffix(session.turns, turns, add_generation_prompt=False))

        since_ms = session.turns[-1].time_ms if session.turns else 0
        entry = compose(
            context, elapsed_text(since_ms, now_ms), lambda text: length(turn(text)) - length()
        )
        if entry is not None:
            self.add_turns([turn(entry.text)])
        return entry

    def end_answer(self, session: Session) -> Turn:
        """Append what the `speaker` said, durable on return unless the window was left."""
        with self._turns_lock:
            speaker, self.speaker = self.speaker, None
            cut, self._cut = self._cut, None
            assert speaker is not None
            time_ms = cut.time_ms if cut else self.tools.wall_ms()
            said = session.end_answer(speaker.text.strip(), time_ms)
            if not self.is_closed:
                self.commit(or_keep=session.num_turns)
            return said

    @contextmanager
    def ahead_of_thaw(self, who: str) -> Iterator[None]:
        """Leave the drive to what is done in the block; for any thread."""
        thaw = self.thaw
        if thaw is not None:
            thaw.pause(who)
        try:
            yield
        finally:
            if thaw is not None:
                thaw.resume(who)

    def secure(self) -> int:
        """Make durable all that was said, from any thread; see `Manager.secure_turns`."""
        with self._turns_lock:
            self.commit(or_keep=self.session.num_turns)
            if self.speaker is not None and self._cut is None and (said := self.speaker.cut()):
                cut = Turn(role=Role.ASSISTANT, text=said, time_ms=self.tools.wall_ms())
                self.tools.store.commit_turns(self.name, [cut])
                self._cut = cut
            return self.num_durable_turns

    @property
    def num_durable_turns(self) -> int:
        """Turns of the window that are durable, those of older segments included."""
        return self.tools.store.commit_turns(self.name, [])

    def _add(self, add: Callable[[Session], object]) -> SegmentStarted | None:
        """Append to the session, or to one of a new segment when its context is full."""
        try:
            add(self.session)
        except ContextFullError:
            self.commit(or_keep=self.session.num_turns)
            for keep_tokens in self._carry_overs():
                fresh = self._next_segment(keep_tokens)
                with suppress(ContextFullError):
                    add(fresh)
                    return self._go_on_with(fresh)
            raise
        return None

    def _carry_overs(self) -> tuple[int, ...]:
        """Return how many tokens to carry over, at best and if that leaves too little room."""
        capacity = self.session.engine.capacity
        most = int(capacity * self.tools.settings.assistant.carry_over)
        return (most, most // 2, most // 4, 0)

    def _next_segment(self, keep_tokens: int) -> Session:
        session = self.session
        head = head_of(session.turns)
        return begin_segment(
            self._new_session,
            session.turns[:head],
            session.turns[head:],
            turn_lengths(session)[head:],
            stop_turn=session.num_turns,
            keep_tokens=keep_tokens,
        )

    def _new_session(self, head: int, first_turn: int) -> Session:
        model, engine = self.tools.checkpoint, self.session.engine
        return Session(engine, model.chat, model.stop_ids, head=head, first_turn=first_turn)

    def _go_on_with(self, fresh: Session) -> SegmentStarted:
        """
        Make another session the live one, with what it has more than is durable.

        The chunks of the segment before are garbage from then on: the manifest is committed
        without them, so that a restart finds the same segment.
        """
        store, before = self.tools.store, self.session
        store.commit_turns(self.name, fresh.turns_from(before.num_turns))
        if self.thaw is not None:
            self.thaw.close()
        self.thaw, self.entries = None, ()
        try:
            self.session = fresh
            fresh.adopt(before)
        except BaseException:
            before.engine.reset()  # what it holds is of neither
            raise
        carried = before.num_turns - fresh.first_turn
        started = SegmentStarted(
            first_turn=fresh.first_turn,
            left_behind=len(before.turns) - fresh.head - carried,
            carried=carried,
            tokens=fresh.turn_stops[fresh.head + carried - 1] if fresh.head + carried else 0,
        )
        try:
            self.manifest = store.commit_window(
                manifest_of(fresh, self.name, self.tools.settings.codec, tags=self.tags)
            )
        except CwmError as exc:
            self.problems += (f'the new segment is not on disk yet: {exc}',)
        self.problems += (str(started),)
        return started

    def commit(self, *, or_keep: int) -> None:
        """Make all turns durable, or forget those from ``or_keep`` on."""
        store = self.tools.store
        try:
            # The store knows what is durable; an earlier failure may have left a turn behind.
            store.commit_turns(self.name, self.session.turns_from(self.num_durable_turns))
        except CwmError:
            self.session.take_back(or_keep)
            raise
