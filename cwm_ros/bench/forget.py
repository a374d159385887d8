# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Recall before and after a window forgot: of what was forgotten, and of everything else.

Held-out dialogues become windows of a store of their own. In each, one fact after another is
forgotten; all questions are asked before and after, each from the same context.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.dialogues import Kind, make_dialogue
from cwm_ros.engine import LogitRows
from cwm_ros.forget import exchanges_of, forget
from cwm_ros.kv import Role, Turn
from cwm_ros.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.bench.dialogues import Dialogue, Question
    from cwm_ros.config import Settings

MAX_ANSWER_TOKENS = 32
DIALOGUES_PER_SEED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetCount:
    """
    How forgetting went.

    Parameters
    ----------
    context, dialogues
        Length of the dialogues [tokens], and how many.
    forgotten, known_before, known_after
        Facts forgotten, and how many questions about them were right before and after.
    others, others_before, others_after
        Other questions asked, and how many were right before and after.

    """

    context: int
    dialogues: int
    forgotten: int
    known_before: int
    known_after: int
    others: int
    others_before: int
    others_after: int

    def as_text(self) -> str:
        """Return the figures for a person."""
        return (
            f'{self.forgotten} facts forgotten in {self.dialogues} dialogues of {self.context} '
            f'tokens: {self.known_before} were recalled before, {self.known_after} after; of '
            f'{self.others} other questions {self.others_before} before, {self.others_after} after'
        )


def measure_forgetting(
    settings: Settings,
    *,
    context: int,
    dialogues: int,
    seed: int,
    on_dialogue: Callable[[int], None] = lambda _: None,
) -> ForgetCount:
    """
    Forget one fact in each of some dialogues, and count what is still known.

    Parameters
    ----------
    settings
        Names the model; the store is a temporary one.
    context, dialogues, seed
        Length of each dialogue [tokens], how many, and which.
    on_dialogue
        Called with the number of dialogues done so far.

    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        storage = replace(settings.storage, root=Path(folder))
        with Manager(replace(settings, storage=storage), profile='default') as manager:
            for number in range(dialogues):
                dialogue = make_dialogue(seed * DIALOGUES_PER_SEED + number, context)
                rows.append(_forget_in(manager, f'dialogue-{number}', dialogue))
                on_dialogue(number + 1)
    counts = np.array(rows).sum(axis=0).tolist()
    names = (
        'forgotten', 'known_before', 'known_after', 'others', 'others_before', 'others_after',
    )  # fmt: skip
    return ForgetCount(
        context=context, dialogues=dialogues, **dict(zip(names, counts, strict=True))
    )


def _forget_in(manager: Manager, name: str, dialogue: Dialogue) -> tuple[int, ...]:
    """Return the counts of one dialogue, in the order of `ForgetCount`."""
    facts = [q for q in dialogue.questions if q.kind in (Kind.FACT, Kind.RE_ENTRY_FACT)]
    if not facts:  # a short dialogue may have no question about one
        return (0,) * 6
    target = facts[len(facts) // 2]
    gone = exchanges_of(dialogue.turns, target.sources)
    told_there = [q for q in facts if set(q.sources) & set(gone)]
    others = [q for q in facts if q not in told_there]
    manager.create(name, dialogue.turns[0].text)
    manager.add_turns(dialogue.turns[1:])
    _complete(manager)
    for _ in manager.freeze():
        pass
    known_before, others_before = (_right(manager, qs) for qs in (told_there, others))
    manager.leave()
    forget(manager.store, name, gone)
    manager.open_window(name)
    _complete(manager)
    known_after, others_after = (_right(manager, qs) for qs in (told_there, others))
    return (
        len(told_there), known_before, known_after, len(others), others_before, others_after,
    )  # fmt: skip


def _complete(manager: Manager) -> None:
    for _ in manager.catch_up():
        pass


def _right(manager: Manager, questions: list[Question]) -> int:
    return sum(_ask(manager, question.text) == question.answer for question in questions)


def _ask(manager: Manager, text: str) -> str:
    """Ask behind the window's end, and leave no trace."""
    session, engine = manager.session, manager.engine
    chat, stop_ids = manager.checkpoint.chat, manager.checkpoint.stop_ids
    turn = Turn(role=Role.USER, text=text)
    tokens = chat.render_suffix(session.turns, [turn], add_generation_prompt=True)
    said: list[int] = []
    position = session.num_tokens
    while len(said) < MAX_ANSWER_TOKENS:
        logits = engine.run(tokens, position, rows=LogitRows.LAST)
        position += len(tokens)
        token = int(logits[-1].argmax())
        if token in stop_ids:
            break
        said.append(token)
        tokens = np.array([token], np.int32)
    engine.drop(session.num_tokens, position)
    return manager.checkpoint.tokenizer.decode(said).strip()
