# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How fast the reference model generates while its window still comes back, and afterwards."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cwm_ros.bench.thaw_contest import Contestant, Reached, WARM
from cwm_ros.errors import EngineError
from cwm_ros.manager import Manager

if TYPE_CHECKING:
    from cwm_ros.config import Settings
    from cwm_ros.session import Session
    from cwm_ros.thaw import Thaw

PATH = 'generation'
TOKEN, TOKEN_THAWING = 'token', 'token-thawing'
CALM_TOKENS = 48
"""Generated after the window is complete."""
MOST_TOKENS = 512


def generation_case(case: str, settings: Settings) -> Contestant:
    """
    Return what answers from a window that is just usable, and goes on when it is complete.

    Both rates are of one answer, a token after the other, so that a busy moment meets both. The
    token is not chosen by the model, which would soon stop.

    Parameters
    ----------
    case
        Names the rows and the window.
    settings
        Their store holds the window.

    """
    return Contestant(case=case, path=PATH, run=lambda: _generate(settings, case), states=(WARM,))


def _generate(settings: Settings, name: str) -> list[Reached]:
    with Manager(settings) as manager:
        manager.warm_up()
        manager.kernels.wait()
        thaw = manager.open_window(name)
        while not thaw.progress().is_usable:
            thaw.advance(wait=True)
        thaw.settle()
        return _time_tokens(manager.session, thaw)


def _time_tokens(session: Session, thaw: Thaw) -> list[Reached]:
    clock = time.perf_counter
    session.add_prompt('What did I say?', 0)
    session.begin_answer(MOST_TOKENS)
    chosen = int(session.tokens[len(session.tokens) // 2])
    thawing: list[float] = []
    calm: list[float] = []
    tokens = session.generate(lambda _: chosen, MOST_TOKENS)
    next(tokens)  # computes the prompt
    last = clock()
    for _ in tokens:
        is_there = session.engine.resident.covers(0, thaw.num_tokens)
        thaw.advance(wait=False)
        now = clock()
        (calm if is_there else thawing).append(now - last)
        last = now
        if len(calm) == CALM_TOKENS:
            break
    if not thawing or len(calm) < CALM_TOKENS:
        raise EngineError(f'{len(thawing)} tokens while thawing, {len(calm)} after: no rate')
    return [
        Reached(TOKEN_THAWING, sum(thawing) / len(thawing), 0),
        Reached(TOKEN, sum(calm) / len(calm), 0),
    ]
