# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The engines that `cwm_ros.bench.engine` lets take turns: ours, and llama.cpp's."""

from __future__ import annotations

from contextlib import closing, ExitStack
from dataclasses import replace
from importlib.util import find_spec
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TYPE_CHECKING

from cwm_ros.bench.peer_llamacpp import LlamaCpp, write_gguf
from cwm_ros.bench.random_checkpoint import write_random_checkpoint
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.model import build_graph, Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.config import EngineSettings
    from cwm_ros.engine import Engine
    from cwm_ros.kv import TokenArray

PEER = 'llama.cpp'
SLICE_TOKENS = 256


class Contender(Protocol):
    """An engine with a position."""

    def run(self, tokens: TokenArray) -> None:
        """Append tokens, computing logits of the last one."""

    def rewind(self, position: int) -> None:
        """Forget the positions from ``position`` on."""


class _Ours:
    """An engine of ours, with the position kept."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._position = 0

    def run(self, tokens: TokenArray) -> None:
        self._engine.run(tokens, self._position, rows=LogitRows.LAST)
        self._position += len(tokens)

    def rewind(self, position: int) -> None:
        self._engine.drop(position, self._position)
        self._position = position


class Contest:
    """
    Engines with the same weights, opened; what they need is made first.

    Parameters
    ----------
    settings
        Model and threads; its formulation, precision and slice are not used.
    context_tokens
        How many tokens they have to hold.
    formulations, kinds
        Of our graphs, and of weights.
    geometry
        A model of the table of published ones, whose sizes random weights get instead of the
        settings' model; empty for none.
    keep
        Folder where what was made stays for the next time; without one it is removed.
    note
        Takes a sentence on what is being made, which takes minutes for large models.

    Attributes
    ----------
    contenders
        By engine ('scatter', 'delta', 'llama.cpp') and kind of weights. llama.cpp is there when
        it is installed.
    vocab_size, threads
        Of all of them.

    """

    def __init__(
        self,
        settings: EngineSettings,
        context_tokens: int,
        *,
        formulations: Sequence[str],
        kinds: Sequence[str],
        geometry: str = '',
        keep: Path | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.threads = settings.threads or os.cpu_count() or 1
        self.contenders: dict[tuple[str, str], Contender] = {}
        self._tokens = context_tokens
        self._note = note
        settings = replace(
            settings, threads=self.threads, prefill_slice=SLICE_TOKENS, context_tokens=0
        )
        with ExitStack() as opened:
            folder = keep or Path(opened.enter_context(TemporaryDirectory(prefix='cwm-bench-')))
            if geometry:
                made = self._random_checkpoint(geometry, folder)
                settings = replace(settings, model=str(made), cache_dir=str(folder / 'graphs'))
            for kind in kinds:
                checkpoint = Checkpoint.configured(replace(settings, precision=kind))
                for name in formulations:
                    engine = self._ours(checkpoint, replace(settings, formulation=name))
                    self.contenders[name, kind] = _Ours(opened.enter_context(engine))
                if find_spec('llama_cpp') and find_spec('gguf'):
                    peer = self._peer(checkpoint, folder)
                    self.contenders[PEER, kind] = opened.enter_context(closing(peer))
            self.vocab_size = checkpoint.spec.vocab_size
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close them, and remove what was made unless it is kept."""
        self._opened.close()

    def _random_checkpoint(self, geometry: str, folder: Path) -> Path:
        target = folder / f'{geometry}-{self._tokens}'
        if not target.is_dir():
            self._note(f'making random weights of {geometry}')
            part = target.with_name(f'{target.name}.{os.getpid()}.part')
            write_random_checkpoint(geometry, self._tokens, part).rename(target)
        return target

    def _ours(self, checkpoint: Checkpoint, settings: EngineSettings) -> Engine:
        self._note(f'opening {settings.formulation} with {checkpoint.weights} weights')
        return open_engine(
            lambda formulation: build_graph(checkpoint, formulation, settings.cache_path),
            checkpoint.kv_spec,
            checkpoint.identity,
            settings,
        )

    def _peer(self, checkpoint: Checkpoint, folder: Path) -> LlamaCpp:
        self._note(f'opening {PEER} with {checkpoint.weights} weights')
        name = f'{checkpoint.identity.model.hex()[:32]}-{checkpoint.weights}.gguf'
        path = folder / name
        if not path.exists():
            part = path.with_name(f'{name}.{os.getpid()}.part')
            write_gguf(checkpoint, part)
            part.rename(path)
        return LlamaCpp(path, self._tokens, self.threads)
