# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A process that talks, uses its idle time and freezes, with and without a deadline, until killed.

Arguments: store folder, model cache. It prints 'ready', and 'said <prompt>' when the prompt and
its answer are committed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
import signal
import sys
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from cwm_ros.answer import Request
from cwm_ros.config import CodecSettings, EngineSettings, Settings, StorageSettings, ThawSettings
from cwm_ros.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TINY = Path(__file__).parent / 'model' / 'golden' / 'tiny'


def writing(manager: Manager, number: int) -> Iterator[object]:
    """Return one of the ways in which a window comes to the disk, each in its turn."""
    ways: tuple[Callable[[], Iterator[object]], ...] = (
        manager.idle,
        partial(manager.freeze, deadline_s=0.02),
        partial(manager.freeze, is_final=False),
        manager.freeze,
    )
    return ways[number % len(ways)]()


def main(root: str, cache: str) -> None:
    settings = Settings(
        storage=StorageSettings(root=Path(root), free_floor_mib=0),
        codec=CodecSettings(chunk_tokens=128),
        thaw=ThawSettings(first_tokens=100, last_tokens=200, relevant_chunks=2),
        engine=EngineSettings(model=str(TINY), threads=1, cache_dir=cache),
    )
    with Manager(settings) as manager:
        print('ready', flush=True)  # noqa: T201
        if manager.store.has_window('trip'):
            manager.open_window('trip')
        else:
            manager.create('trip')
        number = len(manager.session.turns)
        while manager.session.num_tokens < 7000:
            text = f'This is prompt {number}.'
            for _ in manager.say(Request(text=text, max_tokens=8)):
                pass
            print('said', text, flush=True)  # noqa: T201
            for _ in writing(manager, number // 2):
                pass
            number = len(manager.session.turns)
        signal.pause()


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2])
