# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A process that lives a random life of `tests.soak` until it is killed.

Arguments: store folder, model cache, codec, seed. It prints 'ready', and then after each step a
line of JSON: the texts of all turns that are committed, by window.
"""

from __future__ import annotations

from collections import Counter
import json
from pathlib import Path
import sys

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.soak import Life, Oracle, turns_in
from tests.test_soak import soak_settings


class Telling(Life):
    """Tells what is committed after each step."""

    def check_turns(self) -> None:
        texts = {name: [turn.text for turn in turns] for name, turns in self.right.turns.items()}
        print(json.dumps(texts), flush=True)  # noqa: T201


def main(root: str, cache: str, codec: str, seed: int) -> None:
    def no_engine() -> None:
        raise AssertionError('the parent compares KV')

    settings = soak_settings(Path(root), Path(cache), codec)
    oracle = Oracle(no_engine)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    said = turns_in(settings)
    life = Telling(settings, said, oracle=oracle, tolerance=0.0, rng=rng, done=Counter())
    print('ready', flush=True)  # noqa: T201
    life.check_turns()
    while True:
        life.live_on(100)


if __name__ == '__main__':
    main(*sys.argv[1:4], int(sys.argv[4]))
