# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A process that thaws a window and answers, and says how much memory it took at most.

Arguments: the store's folder and its tokens in a chunk, the model, and a window's name.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
from pathlib import Path
import subprocess
import sys

from cwm_ros.answer import Request, When
from cwm_ros.config import CodecSettings, EngineSettings, Settings, StorageSettings
from cwm_ros.errors import EngineError
from cwm_ros.manager import Manager

PROMPT = 'What did I tell you first?'
TIMEOUT_S = 600
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """
    Memory of a process [bytes].

    Parameters
    ----------
    resident
        The most that was resident.
    weights, cache
        The model's files, and the engine's KV cache at the end, as float32.

    """

    resident: int
    weights: int
    cache: int

    @property
    def above(self) -> int:
        """What is neither model nor cache: interpreter, libraries, buffers."""
        return self.resident - self.weights - self.cache


def measure_peak(settings: Settings, window: str) -> Peak:
    """
    Thaw a window in a process of its own.

    Raises
    ------
    EngineError
        It failed.

    """
    chunk_tokens, model = settings.codec.chunk_tokens, settings.engine.model
    arguments = [str(settings.storage.root), str(chunk_tokens), model, window]
    command = [sys.executable, '-m', __name__, *arguments]
    ended = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if ended.returncode:
        raise EngineError(f'the process that measures memory failed: {ended.stderr.strip()}')
    return Peak(**json.loads(ended.stdout))


def main(root: str, chunk_tokens: str, model: str, window: str) -> None:
    """Thaw, answer, and print the figures."""
    settings = Settings(
        storage=StorageSettings(root=Path(root)),
        codec=CodecSettings(chunk_tokens=int(chunk_tokens)),
        engine=EngineSettings(model=model),
    )
    with Manager(settings) as manager:
        manager.warm_up()
        manager.open_window(window)
        for _ in manager.say(Request(text=PROMPT, when=When.COMPLETE)):
            pass
        weights = manager.checkpoint.folder.glob('*.safetensors')
        cache = manager.engine.reach * manager.engine.spec.elements_per_token() * FLOAT_BYTES
        peak = Peak(
            resident=_peak_bytes(), weights=sum(f.stat().st_size for f in weights), cache=cache
        )
    values = {'resident': peak.resident, 'weights': peak.weights, 'cache': peak.cache}
    print(json.dumps(values))


def _peak_bytes() -> int:
    for line in Path('/proc/self/status').read_text(encoding='ascii').splitlines():
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) * 1024
    raise OSError('/proc/self/status has no VmHWM')


if __name__ == '__main__':
    main(*sys.argv[1:])
