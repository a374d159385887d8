# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A model that cannot be fooled.

The key of a position tells its token and place. Its value is a digest of all keys that were
resident before it, and the next token is chosen by a digest of all keys and values. So any chunk
that is missing, shifted, stale or of another conversation changes what follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.answer import Answer, Request, When
from cwm_ros.codec import numpy_kernels
from cwm_ros.engine import Engine, LogitRows
from cwm_ros.engine.cache import KVCache
from cwm_ros.errors import EngineError, InterruptedOperation
from cwm_ros.kv import KVChunk, KVSpec, Role, TokenRanges, Turn
from cwm_ros.restore import PayloadCheck

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    import threading

    import numpy.typing as npt
    from typing_extensions import Self

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.freeze import FreezeProgress
    from cwm_ros.kv import FloatArray, ModelIdentity, TokenArray
    from cwm_ros.manager import Manager
    from cwm_ros.plan import ThawStep
    from cwm_ros.session import Session

    IntArray = npt.NDArray[np.int64]

SPEC = KVSpec(num_layers=1, num_kv_heads=1, head_dim=2, max_tokens=8192)
STOP_TOKEN = 1
EXACT_BITS = 24
"""A float32 holds integers of so many bits."""


def mix(values: IntArray, seed: int) -> IntArray:
    """Return integers of 24 bits that depend on all bits of ``values``."""
    mixed = (values + seed + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(64 - EXACT_BITS)).astype(np.int64)


class HashEngine(Engine):
    """
    See the module.

    Parameters
    ----------
    identity
        Its model digest is the weights: another one gives other KV.
    capacity, prefill_slice
        As of a real engine.

    """

    supports_kv = True

    def __init__(
        self,
        identity: ModelIdentity,
        *,
        vocab_size: int = 262,
        capacity: int = 8192,
        prefill_slice: int = 64,
    ) -> None:
        self.spec = SPEC
        self.identity = identity
        self.vocab_size = vocab_size
        self.capacity = capacity
        self.num_computed = 0
        self.before_slice: Callable[[int], object] = int
        self._seed = int.from_bytes(identity.model[:4], 'little')
        self._slice = prefill_slice
        self._cache = KVCache(SPEC, capacity)
        self.resident = self._cache.resident

    def run(
        self,
        tokens: TokenArray,
        start: int,
        *,
        rows: LogitRows = LogitRows.LAST,
        cancel: threading.Event | None = None,
    ) -> FloatArray:
        stop = start + len(tokens)
        self.reserve(stop)
        logits = [np.empty((0, self.vocab_size), np.float32)]
        for left in range(start, stop, self._slice):
            right = min(left + self._slice, stop)
            self.before_slice(left)
            if cancel is not None and cancel.is_set():
                raise InterruptedOperation(f'cancelled before position {left}')
            logits.append(self._run_slice(tokens[left - start : right - start], left))
        found = np.concatenate(logits)
        return found[len(found) - rows.count(len(found)) :]

    def _run_slice(self, tokens: TokenArray, start: int) -> FloatArray:
        stop = start + len(tokens)
        self._cache.drop(start, stop)
        keys = mix(tokens.astype(np.int64) * 65536 + np.arange(start, stop), self._seed)
        before = self._visible(start)
        values = mix(before[0].sum() + np.cumsum(keys), self._seed + 1)
        view = self._cache.view(start, stop)
        view[0, 0, 0] = keys[:, None]
        view[0, 1, 0] = values[:, None]
        self._cache.add(start, stop)
        self.num_computed += len(tokens)
        digests = mix(before.sum() + np.cumsum(keys + values), self._seed + 2)
        return self._logits(digests)

    def _visible(self, stop: int) -> IntArray:
        """Return keys and values of the resident positions before ``stop``, shape (2, R)."""
        kept = self._cache.is_visible[:stop]
        return self._cache.view(0, stop)[0, :, 0, kept, 0].T.astype(np.int64)

    def _logits(self, digests: IntArray) -> FloatArray:
        """Choose a letter, and now and then the end."""
        logits = np.zeros((len(digests), self.vocab_size), np.float32)
        chosen = np.where(digests % 16 == 0, STOP_TOKEN, 70 + digests // 16 % 20)
        logits[np.arange(len(digests)), chosen] = 1
        return logits

    def truth(self, tokens: TokenArray) -> FloatArray:
        """Return the KV of a conversation that was never frozen, shape of ``SPEC``."""
        fresh = HashEngine(self.identity, capacity=max(self.capacity, len(tokens)))
        fresh.run(tokens, 0)
        return fresh.export_kv(0, len(tokens)).kv

    def reserve(self, num_tokens: int) -> None:
        before = self._cache.array
        if self._cache.reserve(num_tokens):
            before[:] = np.nan  # whoever still writes or reads there is wrong

    @property
    def reach(self) -> int:
        return self._cache.slots

    def drop(self, start: int, stop: int) -> None:
        self._cache.drop(start, stop)

    def reset(self) -> None:
        self._cache.drop(0, self._cache.slots)
        self._cache.array[:] = 12345  # what is stale must not look right by chance

    def close(self) -> None:
        self._cache = KVCache(SPEC, 0)
        self.resident = self._cache.resident

    def export_kv(self, start: int, stop: int) -> KVChunk:
        if not self.resident.covers(start, stop):
            raise EngineError(f'[{start}, {stop}) is not resident')
        return KVChunk(start=start, kv=self._cache.view(start, stop))

    def import_view(self, start: int, stop: int) -> FloatArray:
        if any(True for _ in self.resident.overlap(start, stop)):
            raise EngineError(f'[{start}, {stop}) is resident')
        self.reserve(stop)
        return self._cache.view(start, stop)

    def mark_resident(self, start: int, stop: int) -> None:
        self._cache.add(start, stop)


class HashFirstLayer:
    """Tells keys as a `HashEngine` makes them; values, which depend on all before, as unknown."""

    def __init__(self, identity: ModelIdentity) -> None:
        self._seed = int.from_bytes(identity.model[:4], 'little')

    def kv(self, tokens: TokenArray, positions: IntArray) -> FloatArray:
        keys = mix(tokens.astype(np.int64) * 65536 + positions, self._seed)
        kv = np.full((2, 1, len(keys), 2), np.nan, np.float32)
        kv[0, 0] = keys[:, None]
        return kv

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class NumpyKernels:
    """Stands for the loader of compiled kernels, and loads none."""

    def __init__(self, cache_dir: Path) -> None:
        del cache_dir

    def __call__(self) -> Kernels:
        return numpy_kernels()

    def start(self) -> None:
        pass


class Gate:
    """A load function that waits at chosen chunks until told, and can fail at others."""

    def __init__(self, load: Callable[[ThawStep], None]) -> None:
        self.load = load
        self.closed: dict[int, threading.Event] = {}
        self.failures: dict[int, BaseException] = {}

    def __call__(self, step: ThawStep) -> None:
        if step.start in self.closed:
            assert self.closed[step.start].wait(20)
        if step.start in self.failures:
            raise self.failures[step.start]
        self.load(step)


def story(num_letters: int, seed: int = 0) -> str:
    """Return a text; the tiny tokenizer makes about one token of a letter."""
    letters = np.random.default_rng(seed).choice(list('abcdefghij klmnop'), num_letters)
    return 's' + ''.join(letters) + 'e'


def ingest(manager: Manager, num_turns: int, *, letters: int = 120, seed: int = 0) -> None:
    """Add turns of users and assistants."""
    roles = (Role.USER, Role.ASSISTANT)
    manager.add_turns(
        [
            Turn(role=roles[index % 2], text=story(letters, seed * 1000 + index))
            for index in range(num_turns)
        ]
    )


def make_window(manager: Manager, name: str, num_turns: int = 8, *, seed: int = 0) -> None:
    """Create a window, compute it and freeze it."""
    manager.create(name)
    ingest(manager, num_turns, seed=seed)
    complete(manager)
    freeze(manager)


def complete(manager: Manager) -> None:
    """Compute and repair all there is."""
    for _ in manager.catch_up():
        pass


def freeze(manager: Manager) -> FreezeProgress:
    """Freeze, and return the last word."""
    *_, last = manager.freeze()
    assert last.is_committed
    return last


def say(manager: Manager, text: str, when: When = When.USABLE, *, max_tokens: int = 0) -> Answer:
    """Return the answer to a prompt."""
    *_, last = manager.say(Request(text=text, when=when, max_tokens=max_tokens))
    assert isinstance(last, Answer)
    return last


def chunk_files(manager: Manager) -> dict[str, tuple[int, int]]:
    """Return time and inode of each chunk file by name."""
    folder = manager.settings.storage.root / 'profiles' / 'default' / 'chunks'
    return {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(folder.iterdir())
    }


def assert_verified(manager: Manager) -> None:
    """Assert that every byte of the store is in order."""
    report = manager.store.verify(None, PayloadCheck())
    assert report.problems == ()


def assert_true_kv(session: Session) -> None:
    """Assert that each resident position holds the truth, or is known to be provisional."""
    engine = session.engine
    assert isinstance(engine, HashEngine)
    truth = engine.truth(session.tokens)
    sound = TokenRanges(engine.resident)
    for start, stop in session.provisional:
        sound.remove(start, stop)
    for start, stop in sound.overlap(0, session.num_tokens):
        np.testing.assert_array_equal(
            engine.export_kv(start, stop).kv, truth[:, :, :, start:stop], err_msg=f'at {start}'
        )
    assert all(stop <= session.num_tokens for _, stop in engine.resident)
