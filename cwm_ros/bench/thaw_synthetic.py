# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
KV of a model that is not here, thawed into a cache that belongs to no runtime.

Store, codec, plan and thaw are the real ones; only the engine is a stub that owns an array.
"""

from __future__ import annotations

from dataclasses import dataclass
import time
from typing import cast, TYPE_CHECKING

import numpy as np

from cwm_ros.bench.thaw_contest import Reached
from cwm_ros.codec import codec_named, encode_chunk, Scratch
from cwm_ros.engine import Engine, LogitRows
from cwm_ros.errors import EngineError
from cwm_ros.kv import KVSpec, ModelIdentity, Role, TokenRanges, Turn
from cwm_ros.plan import order_chunks
from cwm_ros.reopen import restore_session
from cwm_ros.restore import ChunkReader
from cwm_ros.store import ChunkHeader, Manifest
from cwm_ros.thaw import Thaw

if TYPE_CHECKING:
    import threading

    import numpy.typing as npt

    from cwm_ros.codec.kernels import KernelLoader
    from cwm_ros.config import CodecSettings, ThawSettings
    from cwm_ros.kv import FloatArray, TokenArray
    from cwm_ros.model import ChatRenderer
    from cwm_ros.store import Store

WINDOW = 'bench'
TOKENS_PER_TURN = 64
VOCABULARY = 32_000
IDENTITY = ModelIdentity(model=b'm' * 32, rendering=b'r' * 32, name='synthetic')


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A window's size: the KV spec, and the number of tokens."""

    spec: KVSpec
    num_tokens: int

    @property
    def half_bytes(self) -> int:
        """Size of the KV in float16."""
        return self.spec.elements_per_token() * self.num_tokens * 2


FULL_SIZE = Geometry(
    spec=KVSpec(num_layers=16, num_kv_heads=8, head_dim=64, max_tokens=8192), num_tokens=8192
)
"""268 MB of float16."""


class ArrayEngine(Engine):
    """A cache without a model: positions come in, nothing is computed."""

    supports_kv = True

    def __init__(self, geometry: Geometry, dtype: type[np.float16 | np.float32]) -> None:
        self.spec = geometry.spec
        self.identity = IDENTITY
        self.vocab_size = VOCABULARY
        self.capacity = geometry.num_tokens
        self.resident = TokenRanges()
        # Ones, because pages of zeros are only promised: a live cache has its memory.
        self.cache: npt.NDArray[np.float16 | np.float32] = np.ones(
            geometry.spec.shape(geometry.num_tokens), dtype
        )

    def run(
        self,
        tokens: TokenArray,
        start: int,
        *,
        rows: LogitRows = LogitRows.LAST,
        cancel: threading.Event | None = None,
    ) -> FloatArray:
        del rows, cancel
        raise EngineError(f'{len(tokens)} tokens at {start} would be computed: a chunk is lost')

    def reserve(self, num_tokens: int) -> None:
        pass

    def drop(self, start: int, stop: int) -> None:
        self.resident.remove(start, stop)

    def reset(self) -> None:
        self.drop(0, self.capacity)

    def close(self) -> None:
        pass

    def import_view(self, start: int, stop: int) -> FloatArray:
        return cast('FloatArray', self.cache[:, :, :, start:stop])

    def mark_resident(self, start: int, stop: int) -> None:
        self.resident.add(start, stop)


class NoChat:
    """Renders nothing: the window's tokens are used as they are."""

    def closing(self) -> TokenArray:
        """Return no tokens."""
        return np.zeros(0, np.int32)


def make_tokens(num_tokens: int) -> TokenArray:
    """Return token ids that repeat as words do: few are frequent, most are rare."""
    rng = np.random.default_rng(0)
    return np.minimum(rng.zipf(1.2, num_tokens), VOCABULARY - 1).astype(np.int32)


def make_kv(spec: KVSpec, tokens: TokenArray, start: int) -> FloatArray:
    """
    Return KV for some tokens, float32, as that of trained models looks to a codec.

    Channels differ in scale by some octaves; a few are 20 times larger. The values of layer 0
    depend on the token id only, so they repeat; nothing else does.
    """
    rng = np.random.default_rng(1 + start)
    kv = rng.standard_normal(spec.shape(len(tokens)), np.float32)
    embedded = np.random.default_rng(0).standard_normal(
        (VOCABULARY, spec.num_kv_heads, spec.head_dim), np.float32
    )
    kv[0, 1] = embedded[tokens].transpose(1, 0, 2)
    scale_rng = np.random.default_rng(0)
    shape = (spec.num_layers, 2, spec.num_kv_heads, 1, spec.head_dim)
    scales = np.exp2(scale_rng.normal(-1, 1.5, shape)).astype(np.float32)
    scales[scale_rng.random(shape) < 0.02] *= 20
    kv *= scales
    return kv


def write_window(store: Store, geometry: Geometry, codec: CodecSettings) -> Manifest:
    """Freeze synthetic KV as a window of the store and return its manifest."""
    spec, tokens = geometry.spec, make_tokens(geometry.num_tokens)
    stops = tuple(range(TOKENS_PER_TURN, geometry.num_tokens + 1, TOKENS_PER_TURN))
    turns = [Turn(role=Role.SYSTEM, text='You are the voice assistant of this car.')]
    roles = (Role.USER, Role.ASSISTANT)
    turns += [Turn(role=roles[i % 2], text=f'{i} ' + 60 * 'word ') for i in range(len(stops) - 1)]
    store.commit_turns(WINDOW, turns)
    size, scratch = codec.chunk_tokens, Scratch()
    entries = []
    for index, chunk_id in enumerate(store.chunk_ids(IDENTITY, tokens, size)):
        start, stop = index * size, min((index + 1) * size, geometry.num_tokens)
        kv = make_kv(spec, tokens[start:stop], start)
        payload = encode_chunk(kv, codec_named(codec.kind), codec.compression, scratch)
        header = ChunkHeader(
            id=chunk_id,
            model=IDENTITY.model,
            spec=spec,
            start=start,
            stop=stop,
            codec=codec.kind,
        )
        entries.append(store.write_chunk(header, tokens[start:stop], payload))
    manifest = Manifest(
        window=WINDOW,
        identity=IDENTITY,
        spec=spec,
        chunk_tokens=size,
        codec=codec.kind,
        num_turns=len(turns),
        tokens=tokens,
        turn_stops=stops,
        chunks=tuple(entries),
    )
    return store.commit_window(manifest)


def own_bytes(store: Store, name: str) -> int:
    """Return the size of a window's manifest and log: what its header stage reads."""
    manifest = store.window(name).manifest
    info = next(info for info in store.windows() if info.name == name)
    return info.bytes - sum(entry.file_bytes for entry in (manifest.chunks if manifest else ()))


def thaw_window(
    store: Store, engine: ArrayEngine, kernels: KernelLoader, settings: ThawSettings
) -> list[Reached]:
    """Thaw the window once, as `Manager.open_window` does, and say when what was reached."""
    engine.reset()
    header_bytes = own_bytes(store, WINDOW)
    clock = time.perf_counter
    began = clock()
    window = store.window(WINDOW)
    header_s = clock() - began
    restored = restore_session(window, engine, cast('ChatRenderer', NoChat()), frozenset())
    session, entries = restored.session, restored.entries
    manifest = window.manifest
    assert manifest is not None
    steps = order_chunks(
        entries,
        num_tokens=session.num_tokens,
        chunk_tokens=manifest.chunk_tokens,
        turn_stops=session.turn_stops,
        settings=settings,
    )
    load = ChunkReader(store, window, engine, kernels, settings)
    with Thaw(
        session,
        steps,
        load,
        chunk_tokens=manifest.chunk_tokens,
        max_in_flight=2 * settings.num_threads,
        clock=clock,
        began=began,
    ) as thaw:
        return follow(thaw, header_s, header_bytes)


def follow(thaw: Thaw, header_s: float, header_bytes: int) -> list[Reached]:
    """
    Advance a thaw to its end and say when it was usable and complete.

    Parameters
    ----------
    thaw
        It has just begun.
    header_s, header_bytes
        How long reading manifest and log took [s], and their size.

    Raises
    ------
    EngineError
        Not all of the window came from chunks, so this would not be the time of a thaw.

    """
    while not (usable := thaw.progress()).is_usable:
        thaw.advance(wait=True)
    while thaw.advance(wait=True):
        pass
    complete = thaw.progress()
    if not complete.is_complete or complete.recomputed_tokens or thaw.warnings:
        raise EngineError(f'the window did not come back as it was: {complete} {thaw.warnings}')
    return [
        Reached('header', header_s, header_bytes),
        Reached('usable', usable.elapsed_s, header_bytes + usable.bytes_loaded),
        Reached('complete', complete.elapsed_s, header_bytes + complete.bytes_loaded),
    ]
