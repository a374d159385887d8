# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What is remembered across a break and across the end of the context, through the real manager.

Each question is asked of a clone of the window, thawed anew, so that none knows of another.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
import tempfile
from typing import TYPE_CHECKING

from cwm_ros.answer import Answer, Request
from cwm_ros.bench.dialogues import Kind, make_dialogue, make_return
from cwm_ros.bench.recall import judge, Outcome
from cwm_ros.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.bench.dialogues import Dialogue, Question
    from cwm_ros.config import Settings

WINDOW, BRANCH = 'dialogue', 'question'
DAY_MS = 86_400_000
BEGAN_MS = 1_700_000_000_000
LEFT_BEHIND, CARRIED, WHOLE = 'left behind', 'carried over', 'never cut'
BEFORE, AFTER = 'before the break', 'after it'


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """
    Outcomes of questions by circumstance.

    Parameters
    ----------
    counts
        Number of questions by circumstance and outcome.

    """

    counts: Counter[tuple[str, Outcome]]

    def rows(self) -> dict[str, dict[str, int]]:
        """Return the number of questions and outcomes of each circumstance."""
        names = sorted({name for name, _ in self.counts})
        return {
            name: {
                'questions': sum(self.counts[name, outcome] for outcome in Outcome),
                **{outcome.value: self.counts[name, outcome] for outcome in Outcome},
            }
            for name in names
        }

    def as_text(self) -> str:
        """Return the figures for a person."""
        rows = self.rows()
        lines = [f'{"":<34}' + ''.join(f'{word:>11}' for word in next(iter(rows.values()), {}))]
        lines += [
            f'{name:<34}' + ''.join(f'{count:>11}' for count in row.values())
            for name, row in rows.items()
        ]
        return '\n'.join(lines)


class _Stage:
    """A manager with a store and a wall clock of this bench."""

    def __init__(self, settings: Settings, root: str) -> None:
        self.now_ms = BEGAN_MS
        storage = replace(settings.storage, root=Path(root), quota_mib=4096)
        self._settings = replace(settings, storage=storage)
        self.manager = Manager(self._settings, wall_ms=lambda: self.now_ms)

    def prepare(self, dialogue: Dialogue) -> None:
        """Say a dialogue and freeze it."""
        manager = self.manager
        manager.create(WINDOW, dialogue.turns[0].text)
        manager.add_turns([replace(turn, time_ms=self.now_ms) for turn in dialogue.turns[1:]])
        for _ in manager.catch_up():
            pass
        for _ in manager.freeze():
            pass

    def ask(self, question: Question, context: str = '') -> Outcome:
        """Thaw a clone, tell it what is now, and ask."""
        manager = self.manager
        manager.store.clone_window(WINDOW, BRANCH)
        manager.leave()
        manager.engine.reset()  # so that it is thawed, and nothing is kept
        manager.open_window(BRANCH)
        if context:
            manager.enter(context)
        *_, answer = manager.say(Request(text=question.text))
        assert isinstance(answer, Answer)
        manager.leave()
        manager.store.delete_window(BRANCH)
        return judge(question, answer.text)

    def end(self) -> None:
        """Forget the dialogue."""
        self.manager.leave()
        self.manager.store.delete_window(WINDOW)


def measure_reentry(
    settings: Settings,
    *,
    tokens: int,
    dialogues: int,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> MemoryReport:
    """
    Ask for facts before a break of some days, and for facts and the vehicle's state after it.

    Parameters
    ----------
    settings
        Of the model; the store is one of this bench.
    tokens, dialogues, seed
        Length of each dialogue, how many, and which; none of them was trained on.
    note
        Told which dialogue it is.

    """
    counts: Counter[tuple[str, Outcome]] = Counter()
    for number, stage in _stages(settings, dialogues):
        note(f'dialogue {number + 1} of {dialogues}')
        dialogue, context = make_return(seed * 10_000 + number, tokens)
        stage.prepare(dialogue)
        for question in dialogue.questions:
            if question.kind is Kind.RE_ENTRY_STATE:
                continue
            counts[f'facts, {BEFORE}', stage.ask(question)] += 1
        stage.now_ms += (2 + number % 20) * DAY_MS
        for question in dialogue.questions:
            is_state = question.kind is Kind.RE_ENTRY_STATE
            name = f'{"state" if is_state else "facts"}, {AFTER}'
            counts[name, stage.ask(question, context)] += 1
        stage.end()
    return MemoryReport(counts=counts)


def measure_segments(
    settings: Settings,
    *,
    tokens: int,
    context: int,
    dialogues: int,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> MemoryReport:
    """
    Ask for what was said before the context was full, and compare with a context that never was.

    Parameters
    ----------
    settings
        Of the model; the store is one of this bench.
    tokens, context
        Length of each dialogue, and of the shorter context.
    dialogues, seed
        How many, and which; none of them was trained on.
    note
        Told which dialogue it is.

    """
    counts: Counter[tuple[str, Outcome]] = Counter()
    short = replace(settings, engine=replace(settings.engine, context_tokens=context))
    firsts: dict[int, int] = {}
    for given, is_short in ((short, True), (settings, False)):
        for number, stage in _stages(given, dialogues):
            note(f'dialogue {number + 1} of {dialogues}, {"cut" if is_short else "whole"}')
            dialogue = make_dialogue(seed * 10_000 + number, tokens, num_reentries=0)
            stage.prepare(dialogue)
            if is_short:
                firsts[number] = stage.manager.session.first_turn
            for question in dialogue.questions:
                # The first turn is in every segment, with the state of the vehicle as it began.
                if question.sources and question.kind is not Kind.STATE:
                    is_carried = min(question.sources) >= firsts[number]
                    where = CARRIED if is_carried else LEFT_BEHIND
                    name = f'{where}, {"new segment" if is_short else WHOLE}'
                    counts[name, stage.ask(question)] += 1
            stage.end()
    return MemoryReport(counts=counts)


def _stages(settings: Settings, count: int) -> Iterator[tuple[int, _Stage]]:
    with tempfile.TemporaryDirectory() as root:
        stage = _Stage(settings, root)
        with stage.manager:
            for number in range(count):
                yield number, stage
