# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The window that is in the engine now: its session, its thaw, and what of it is durable."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cwm_ros.errors import BusyError, CwmError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.codec import KernelLoader
    from cwm_ros.config import Settings
    from cwm_ros.kv import Turn
    from cwm_ros.model import Checkpoint
    from cwm_ros.session import Session
    from cwm_ros.store import ChunkEntry, Store
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

    """

    settings: Settings
    store: Store
    checkpoint: Checkpoint
    kernels: KernelLoader
    clock: Callable[[], float]
    wall_ms: Callable[[], int]


class LiveWindow:
    """
    An open window; its chunks are held in the store until `close`.

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
    tags
        The user's words about it, which the next freeze stores.
    problems
        What could not be used as it was, for people.
    is_answering
        Whether an answer is being given.
    is_closed
        Whether it was left.

    """

    def __init__(self, name: str, session: Session, tools: Tools) -> None:
        self.name = name
        self.session = session
        self.tools = tools
        self.thaw: Thaw | None = None
        self.entries: tuple[ChunkEntry, ...] = ()
        self.tags: tuple[str, ...] = ()
        self.problems: tuple[str, ...] = ()
        self.is_answering = False
        self.is_closed = False
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

    def check_idle(self) -> None:
        """Refuse to touch the conversation while an answer is being given."""
        if self.is_answering:
            raise BusyError(
                'an answer is being given', hint='take all of it, or close it, before you go on'
            )

    def add_turns(self, turns: Sequence[Turn]) -> int:
        """Append turns, durable on return; see `Manager.add_turns`."""
        num_turns, num_tokens = len(self.session.turns), self.session.num_tokens
        try:
            for turn in turns:
                self.session.add_turn(turn)
        finally:
            self.commit(or_keep=num_turns)
        return self.session.num_tokens - num_tokens

    def commit(self, *, or_keep: int) -> None:
        """Make all turns durable, or forget those behind the first ``or_keep``."""
        store = self.tools.store
        try:
            # The store knows what is durable; an earlier failure may have left a turn behind.
            num_durable = store.commit_turns(self.name, [])
            store.commit_turns(self.name, self.session.turns[num_durable:])
        except CwmError:
            self.session.take_back(or_keep)
            raise
