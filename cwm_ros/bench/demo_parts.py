# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The two processes of the demo: one talks and is killed, one thaws and is asked."""

from __future__ import annotations

import json
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING

from cwm_ros.answer import Request
from cwm_ros.bench.dialogues import demo_dialogue
from cwm_ros.bench.timing import say_timed
from cwm_ros.config import EngineSettings, Settings, StorageSettings
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.kv import Role
from cwm_ros.manager import Manager
from cwm_ros.model import build_graph

if TYPE_CHECKING:
    from cwm_ros.bench.dialogues import Dialogue

WINDOW = 'demo'
DIALOGUE_TOKENS = 4500


def report(**values: object) -> None:
    """Tell the parent process."""
    sys.stdout.write(json.dumps(values) + '\n')
    sys.stdout.flush()


def talk(manager: Manager, dialogue: Dialogue) -> None:
    """Hold the conversation, freeze it, and go on running until killed."""
    manager.create(WINDOW, dialogue.turns[0].text)
    report(role='system', text=dialogue.turns[0].text, tokens=manager.session.num_tokens)
    for turn in dialogue.turns[1:]:
        if turn.role is Role.SYSTEM:
            manager.add_turns([turn])
        if turn.role is not Role.USER:
            continue
        told_at = manager.session.num_tokens
        told = say_timed(manager, Request(text=turn.text))
        report(role='user', text=turn.text, answer=told.text, tokens=told_at)
    for _ in manager.catch_up():
        pass
    began = time.perf_counter()
    *_, progress = manager.freeze()
    report(
        frozen=True,
        tokens=manager.session.num_tokens,
        chunks=progress.chunks_done,
        freeze_s=time.perf_counter() - began,
        bytes_on_disk=manager.store.storage().used_bytes,
    )
    while True:
        time.sleep(1)


def ask(manager: Manager, dialogue: Dialogue) -> None:
    """Thaw the window and answer the question while it is partial."""
    (question,) = dialogue.questions
    thaw = manager.open_window(WINDOW)
    tokens = thaw.num_tokens
    first_token_at: list[float] = []
    told = say_timed(
        manager,
        Request(text=question.text),
        lambda _: first_token_at.append(time.monotonic()),
    )
    recompute_s = _recompute(manager, tokens)
    report(
        result=True,
        steps=[
            (step.elapsed_s, step.chunks_done, step.is_usable, step.is_complete)
            for step in told.steps
        ],
        chunks_total=len(thaw.steps),
        question=question.text,
        answer=told.text,
        expected=question.answer,
        tokens=tokens,
        reused_tokens=told.reused_tokens,
        distance_tokens=tokens - _position_of(manager, dialogue.turns[question.sources[0]].text),
        fidelity=told.fidelity,
        time_to_header_s=told.time_to_header_s,
        time_to_usable_s=told.time_to_usable_s,
        time_to_first_token_s=told.time_to_first_token_s,
        time_to_complete_s=told.time_to_complete_s,
        recompute_s=recompute_s,
        first_token_at=first_token_at[0],
    )


def _recompute(manager: Manager, num_tokens: int) -> float:
    """
    Return how long prefilling the window takes [s].

    In a new engine, whose cache grows with the tokens: one that has room for the whole window
    already would attend to the empty part of it, and look slower than it is.
    """
    checkpoint, settings = manager.checkpoint, manager.settings.engine
    with open_engine(
        lambda formulation: build_graph(checkpoint, formulation, settings.cache_path),
        checkpoint.kv_spec,
        checkpoint.identity,
        settings,
    ) as engine:
        began = time.perf_counter()
        engine.run(manager.session.tokens[:num_tokens], 0, rows=LogitRows.LAST)
        return time.perf_counter() - began


def _position_of(manager: Manager, text: str) -> int:
    """Return where in the window the turn of this text begins."""
    session = manager.session
    index = next(i for i, turn in enumerate(session.turns) if turn.text == text)
    return session.turn_stops[index - 1]


def main(part: str, store: str, model: str) -> None:
    """Run one process of the demo."""
    settings = Settings(
        storage=StorageSettings(root=Path(store)), engine=EngineSettings(model=model)
    )
    with Manager(settings) as manager:
        encode = manager.checkpoint.tokenizer.encode
        dialogue = demo_dialogue(DIALOGUE_TOKENS, lambda turn: 2 + len(encode(f' {turn.text}')))
        {'talk': talk, 'ask': ask}[part](manager, dialogue)


if __name__ == '__main__':
    main(*sys.argv[1:])
