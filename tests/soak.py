# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Random lives of a store under the reference model, beside a simple model of what must be there.

The model knows three things: which turns of each window were committed, from what it said and what
it heard; which chunk files nobody removed; and, from a second engine that never thaws, what KV the
tokens have. A kill forgets the manager without closing it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
import shutil
import threading
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.answer import Delta, Request, When
from cwm_ros.errors import InterruptedOperation
from cwm_ros.kv import Role, Turn
from cwm_ros.manager import Manager
from cwm_ros.restore import PayloadCheck
from cwm_ros.session import common_length
from cwm_ros.store import Store

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from pathlib import Path

    from cwm_ros.config import Settings
    from cwm_ros.engine import Engine
    from cwm_ros.kv import FloatArray, TokenArray

NAMES = ('home', 'trip')
SYSTEM = Turn(role=Role.SYSTEM, text='You are the voice of a car.', time_ms=5)
MAX_TOKENS = 900
"""A window this long is left alone, so that a sequence stays cheap."""
ANY_CHUNK = '*'
"""Among those removed: nobody knows which were."""
FACTS = (
    'My dog is called Rex and sleeps in the kitchen.',
    'The parking code is 4711, please remember it.',
    'We meet Anna at the station at seven.',
    'My favourite song is the one about the river.',
)


class Oracle:
    """
    KV of conversations that were never frozen.

    Parameters
    ----------
    engine
        Of its own, for each window one, so that only what is new is computed.

    """

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        self._open = open_engine
        self._engines: dict[str, tuple[Engine, TokenArray]] = {}

    def kv(self, name: str, tokens: TokenArray) -> FloatArray:
        """Return KV of ``tokens``, float32 (L, 2, H, T, D), a view."""
        engine, known = self._engines.get(name) or (self._open(), np.zeros(0, np.int32))
        same = min(common_length(known, tokens), max(0, len(tokens) - 1))
        engine.drop(same, engine.capacity)
        engine.run(tokens[same:], same)
        self._engines[name] = engine, tokens.copy()
        return engine.export_kv(0, len(tokens)).kv

    def close(self) -> None:
        """Close its engines."""
        for engine, _ in self._engines.values():
            engine.close()


Turns = dict[str, list[Turn]]
"""By window."""


@dataclass
class Right:
    """What must be there: turns, and chunk files but for those that were removed."""

    turns: Turns
    removed: set[str] = field(default_factory=set)


class Life:
    """
    One random sequence on a store.

    Parameters
    ----------
    settings
        With the store's folder.
    turns
        What was said in it before.
    oracle
        Knows the right KV.
    tolerance
        Largest deviation of sound KV, as part of the channel's largest magnitude.
    rng
        Decides.
    done
        Counts what was done.

    """

    def __init__(
        self,
        settings: Settings,
        turns: Turns,
        *,
        oracle: Oracle,
        tolerance: float,
        rng: np.random.Generator,
        done: Counter[str],
    ) -> None:
        self._settings = settings
        self._oracle = oracle
        self._tolerance = tolerance
        self._rng = rng
        self._done = done
        self.right = Right(turns={name: list(said) for name, said in turns.items()})
        self.manager = Manager(settings, wall_ms=lambda: 5)

    # --- what happens -----------------------------------------------------------------------

    def live_through(self, num_steps: int) -> None:
        """Do so many random things; check turns after each, and all in the end."""
        self.live_on(num_steps)
        self.check_all()

    def live_on(self, num_steps: int) -> None:
        """Do so many random things, and check turns after each."""
        actions = (
            (self.open, 3), (self.advance, 4), (self.cancel, 2), (self.pause, 2),
            (self.say, 3), (self.say_partly, 2), (self.listen, 2), (self.freeze, 3),
            (self.freeze_partly, 2), (self.evict, 2), (self.leave, 1), (self.kill, 2),
        )  # fmt: skip
        weights = np.array([weight for _, weight in actions], float)
        for _ in range(num_steps):
            action, _ = actions[self._rng.choice(len(actions), p=weights / weights.sum())]
            if not self.manager.window:
                action = self.open
            action()
            self._done[action.__name__] += 1
            self.check_turns()

    def _pick(self, stop: int) -> int:
        return int(self._rng.integers(stop))

    def _fact(self) -> str:
        return f'{FACTS[self._pick(len(FACTS))]} That was number {self._pick(100)}.'

    @property
    def _is_long(self) -> bool:
        return self.manager.session.num_tokens > MAX_TOKENS

    def _note(self, *possible: list[Turn]) -> None:
        """Know that one of these was said; which one, only the store can tell."""
        name = self.manager.window
        before = self.right.turns.get(name, [])
        found = list(self.manager.store.window(name).turns)
        assert found in [before + said for said in possible], (found[len(before) :], possible)
        self.right.turns[name] = found

    def _exchange(self, fact: str, heard: list[str]) -> list[Turn]:
        """Return what must be on the record when these pieces of an answer were heard."""
        answer = ''.join(heard).strip()
        return [
            Turn(role=Role.USER, text=fact, time_ms=5),
            Turn(role=Role.ASSISTANT, text=answer, time_ms=5),
        ]

    def open(self) -> None:
        name = NAMES[self._pick(len(NAMES))]
        if name in self.right.turns:
            self.manager.open_window(name)
        else:
            self.manager.create(name, SYSTEM.text)
            self._note([SYSTEM])

    def advance(self) -> None:
        for _ in range(self._pick(5)):
            if self.manager.thaw is not None:
                self.manager.thaw.advance(wait=bool(self._pick(2)))

    def cancel(self) -> None:
        """Stop a completion in the middle, from another thread or between two steps."""
        cancel = threading.Event()
        timer = threading.Timer(float(self._rng.uniform(0, 0.01)), cancel.set)
        timer.start()
        try:
            for _ in self.manager.catch_up(cancel):
                pass
        except InterruptedOperation:
            self._done['cancelled'] += 1
        finally:
            timer.cancel()
            timer.join()

    def pause(self) -> None:
        thaw = self.manager.thaw
        if thaw is None:
            return
        thaw.pause()
        self.advance_paused()
        thaw.resume()

    def advance_paused(self) -> None:
        assert self.manager.thaw is not None
        assert not self.manager.thaw.advance(wait=False)
        if self._pick(2):
            for _ in self.manager.freeze():
                pass

    def say(self) -> None:
        if self._is_long:
            return
        fact, when = self._fact(), list(When)[self._pick(len(When))]
        events = self.manager.say(Request(text=fact, when=when, max_tokens=2))
        heard = [event.text for event in events if isinstance(event, Delta)]
        self._note(self._exchange(fact, heard))

    def say_partly(self) -> None:
        """Stop to listen, or cancel; the answer is on the record as far as it was heard."""
        if self._is_long:
            return
        fact, heard, num_heard = self._fact(), list[str](), self._pick(6)
        cancel = threading.Event()
        events = self.manager.say(Request(text=fact, max_tokens=4), cancel)
        try:
            for number, event in enumerate(events, 1):
                if isinstance(event, Delta):
                    heard.append(event.text)
                if number >= num_heard:
                    if self._pick(2):
                        break
                    cancel.set()
        except InterruptedOperation:
            self._done['cancelled'] += 1
        finally:
            events.close()
        prompt, answer = self._exchange(fact, heard)
        if heard:
            self._note([prompt, answer])
        else:  # it may have been cut before the answer began
            self._note([prompt], [prompt, answer])

    def listen(self) -> None:
        if self._is_long:
            return
        turns = [
            Turn(role=Role.USER, text=self._fact()),
            Turn(role=Role.ASSISTANT, text='I will remember that.'),
        ]
        self.manager.add_turns(turns)
        self._note(turns)

    def freeze(self) -> None:
        for _ in self.manager.freeze(is_final=bool(self._pick(2))):
            pass

    def freeze_partly(self) -> None:
        progress = self.manager.freeze()
        for _ in range(1 + self._pick(3)):
            next(progress, None)
        progress.close()

    def evict(self) -> None:
        """Remove a chunk as an eviction does."""
        paths = sorted(chunk_folder(self._settings).glob('*'))
        if paths:
            path = paths[self._pick(len(paths))]
            path.unlink()
            self.right.removed.add(path.name)

    def leave(self) -> None:
        self.manager.leave()

    def kill(self) -> None:
        """Forget the manager as a process that is killed does; another one begins."""
        if self.manager.thaw is not None:
            self.manager.thaw.close()  # threads of a killed process end, too
        self.manager.store._state.is_dirty = False
        self.manager.store._records = {}  # it must not write its catalog
        self.manager.close()
        self.manager = Manager(self._settings, wall_ms=lambda: 5)

    # --- what must be -----------------------------------------------------------------------

    def check_turns(self) -> None:
        """Every committed turn is there, in the store and in the live window."""
        for name, turns in self.right.turns.items():
            assert list(self.manager.store.window(name).turns) == turns, name
        if self.manager.window:
            assert self.manager.session.turns == self.right.turns[self.manager.window]

    def check_all(self) -> None:
        """Check chunks and KV, then let the window complete, and check KV again."""
        self.check_chunks()
        if not self.manager.window:
            self.open()
        self.check_kv()
        for _ in self.manager.catch_up():
            pass
        assert list(self.manager.session.unsound()) == []
        self.check_kv()
        self._done['sequences'] += 1
        self.manager.close()

    def check_chunks(self) -> None:
        """What manifests name is on the disk and in order, but for what was removed."""
        report = self.manager.store.verify(None, PayloadCheck())
        assert report.problems == ()
        for name in self.right.turns:
            manifest = self.manager.store.window(name).manifest
            for entry in manifest.chunks if manifest else ():
                is_there = self.manager.store.has_chunk(entry.id, entry.codec)
                assert is_there or self.right.removed & {entry.file_name, ANY_CHUNK}

    def check_kv(self) -> None:
        """Sound resident KV is that of a session that was never frozen."""
        if self.manager.thaw is not None:
            self.manager.thaw.settle()
        self._done['tokens compared'] += compare_kv(self.manager, self._oracle, self._tolerance)


def compare_kv(manager: Manager, oracle: Oracle, tolerance: float) -> int:
    """Assert that sound KV is as it was never frozen; return how many tokens there were."""
    session, count = manager.session, 0
    truth = oracle.kv(manager.window, session.tokens)
    peaks = np.abs(truth).max(axis=3, keepdims=True)
    for start, stop in list(session.engine.resident):
        assert stop <= session.num_tokens
        for left, right in session.provisional.missing(start, stop):
            found = session.engine.export_kv(left, right).kv
            deviation = np.abs(found - truth[:, :, :, left:right]) / (peaks + 1e-6)
            assert deviation.max() <= tolerance, f'{left} to {right}'
            count += right - left
    return count


def chunk_folder(settings: Settings) -> Path:
    """Return where the chunks of the default profile are."""
    return settings.storage.root / 'profiles' / 'default' / 'chunks'


def make_template(settings: Settings) -> Turns:
    """Write the windows that every sequence begins with, both with the same beginning."""
    rng, said = np.random.default_rng(0), Turns()
    with Manager(settings, wall_ms=lambda: 5) as manager:
        for name in NAMES:
            facts = [FACTS[int(rng.integers(len(FACTS)))] + f' ({index})' for index in range(8)]
            roles = (Role.USER, Role.ASSISTANT)
            turns = [Turn(role=roles[i % 2], text=text) for i, text in enumerate(facts)]
            manager.create(name, SYSTEM.text)
            manager.add_turns(turns)
            for _ in manager.catch_up():
                pass
            for _ in manager.freeze():
                pass
            said[name] = [SYSTEM, *turns]
    return said


def turns_in(settings: Settings) -> Turns:
    """Return the turns of all windows of a store."""
    with Store.open(settings.storage, writable=False, clock=lambda: 5) as store:
        return {name: list(store.window(name).turns) for name in NAMES if store.has_window(name)}


def copy_of(settings: Settings, folder: Path) -> Settings:
    """Return settings of a copy of the store in ``folder``."""
    shutil.copytree(settings.storage.root, folder)
    return replace(settings, storage=replace(settings.storage, root=folder))
