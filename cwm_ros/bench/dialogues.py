# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Synthetic dialogues between driver and assistant, with questions whose answers are known.

A dialogue tells facts once, corrects some, changes the vehicle's state and chats; questions about
what was never asked or repeated are kept apart, to be asked one by one after the end. Equal seeds
give equal dialogues. The reference model is trained on other seeds of the same generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random
import re
from typing import TYPE_CHECKING

from cwm_ros.bench import phrases, phrases_state, phrases_values
from cwm_ros.bench.dialogues_talk import Talk
from cwm_ros.bench.dialogues_wording import ask, ask_state, state_parts
from cwm_ros.kv import Role, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.bench.dialogues_talk import Fact, Quantity

    CountTokens = Callable[[Turn], int]
    Step = Callable[[], object]

TRAINING_SEEDS = 1 << 32
"""Seeds from here on are for training; evaluation seeds are smaller."""

DEMO_CODE = '4821'
DEMO_QUESTION = "What's the code for the gate?"
DEMO_TOLD_AT = 320
BOS_TOKENS = 1
LONG_WORD = 6
STEP_TOKENS = 192
"""No single exchange is longer than this."""

NO_WEIGHTS = (0.0, 0.0)


class Kind(str, Enum):
    """What a question asks for."""

    FACT = 'fact'
    CORRECTED = 'corrected'
    STATE = 'state'
    TWO_FACTS = 'two_facts'
    PARAPHRASE = 'paraphrase'
    UNANSWERABLE = 'unanswerable'
    RE_ENTRY_STATE = 're_entry_state'
    RE_ENTRY_FACT = 're_entry_fact'


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    A question to be asked after the end of a dialogue, independently of the others.

    Parameters
    ----------
    text, answer
        What the user asks, and the whole answer that is right.
    kind
        What it asks for.
    sources
        Indices of the turns that say it last; empty when unanswerable.
    stale
        The answer that was right before a correction, command or re-entry; empty if there is none.

    """

    text: str
    answer: str
    kind: Kind
    sources: tuple[int, ...] = ()
    stale: str = ''


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """Turns, the first of role SYSTEM and the last of role ASSISTANT, and held-out questions."""

    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]


def estimate_tokens(turn: Turn) -> int:
    """Estimate how many tokens of the reference model's tokenizer a turn becomes, rather more."""
    words: list[str] = re.findall(r'[A-Za-z]+', turn.text)
    numbers: list[str] = re.findall(r'[0-9]+', turn.text)
    marks = len(re.sub(r'[A-Za-z0-9 ]', '', turn.text).encode())
    long = sum((len(word) > LONG_WORD) + word[0].isupper() for word in words[1:])
    return 3 + len(words) + long + marks + sum(len(number) + 1 for number in numbers)


def make_dialogue(
    seed: int,
    num_tokens: int,
    count_tokens: CountTokens = estimate_tokens,
    *,
    num_reentries: int | None = None,
    bare_share: float = 0.0,
) -> Dialogue:
    """
    Make a dialogue that fills a token budget, with questions about it.

    Parameters
    ----------
    seed
        Below ``TRAINING_SEEDS``.
    num_tokens
        Upper bound of the rendered length, the beginning-of-text token included.
    count_tokens
        Number of tokens of one rendered turn.
    num_reentries
        How often the dialogue is interrupted; drawn from the seed when None.
    bare_share
        How often a fact is acknowledged in a word, or not at all, instead of being repeated.

    """
    if not 0 <= seed < TRAINING_SEEDS:
        raise ValueError(f'seed {seed} is not in [0, {TRAINING_SEEDS})')
    rng = Random(seed)
    talk = Talk(rng=rng, bare_share=bare_share)
    talk.open(phrases_state.SYSTEM_PROMPT, phrases_state.CORE_SLOTS)
    breaks = _breaks(rng, num_tokens, num_reentries)
    steps = _steps(talk)
    used = BOS_TOKENS + count_tokens(talk.lines[0].turn)
    while used < num_tokens - STEP_TOKENS:
        before = len(talk.lines)
        if breaks and used >= breaks[0]:
            breaks.pop(0)
            talk.reenter(phrases_state.CORE_SLOTS + rng.randint(0, 1))
        rng.choice(steps)()
        used += sum(count_tokens(line.turn) for line in talk.lines[before:])
    turns = _fill(talk, num_tokens - used, count_tokens)
    return Dialogue(turns=turns, questions=tuple(_questions(talk)))


def make_return(
    seed: int, num_tokens: int, count_tokens: CountTokens = estimate_tokens
) -> tuple[Dialogue, str]:
    """
    Make a dialogue that a break ends, and the state of the vehicle after the break.

    Parameters
    ----------
    seed, num_tokens, count_tokens
        As for `make_dialogue`.

    Returns
    -------
    Dialogue, str
        The dialogue until the break, with questions about what holds after it; and the state as
        a vehicle tells it: 'fuel 42 %, at Mill Road'.

    """
    rng = Random(seed)
    talk = Talk(rng=rng)
    talk.open(phrases_state.SYSTEM_PROMPT, phrases_state.CORE_SLOTS)
    steps = _steps(talk)
    used = BOS_TOKENS + count_tokens(talk.lines[0].turn)
    while used < num_tokens - STEP_TOKENS:
        before = len(talk.lines)
        rng.choice(steps)()
        used += sum(count_tokens(line.turn) for line in talk.lines[before:])
    turns = tuple(line.turn for line in talk.lines)
    talk.reenter(phrases_state.CORE_SLOTS)
    report = talk.lines[-1].turn.text
    for now in phrases_state.NOW:
        report = report.partition(now)[2] or report
    return Dialogue(turns=turns, questions=tuple(_questions(talk))), report.rstrip('.')


def _steps(talk: Talk) -> list[Step]:
    """Return what may happen next, each step as often as it is likely in 99 times."""
    likely: tuple[tuple[Step, int], ...] = (
        (lambda: talk.tell(is_held=True), 17),
        (lambda: talk.tell_two(is_held=True), 1),
        (talk.tell, 19),
        (talk.chat, 29),
        (talk.correct, 6),
        (talk.command, 8),
        (talk.ask_open, 10),
        (talk.ask_unknown, 3),
        (talk.ask_two, 2),
        (talk.ask_state, 4),
    )
    return [step for step, times in likely for _ in range(times)]


def _breaks(rng: Random, num_tokens: int, num_reentries: int | None) -> list[int]:
    """Draw the positions of re-entry turns."""
    count = rng.choice((0, 1, 1, 2)) if num_reentries is None else num_reentries
    return sorted(int(num_tokens * rng.uniform(0.25, 0.9)) for _ in range(count))


def _fill(talk: Talk, budget: int, count_tokens: CountTokens) -> tuple[Turn, ...]:
    """Add small talk while it fits and return all turns."""
    while True:
        before = len(talk.lines)
        talk.chat()
        budget -= sum(count_tokens(line.turn) for line in talk.lines[before:])
        if budget < 0:
            del talk.lines[before:]
            return tuple(line.turn for line in talk.lines)


def _questions(talk: Talk) -> Iterator[Question]:
    """Yield questions about what was held out, told last to first told alike."""
    held = [fact for fact in talk.facts.values() if fact.is_held and not fact.is_asked]
    for fact in held:
        yield _fact_question(talk, fact)
    for _ in range(max(1, len(held) // 8)):
        yield Question(
            text=talk.unknown_question(), answer=phrases_state.UNKNOWN, kind=Kind.UNANSWERABLE
        )
    single = [fact for fact in held if not fact.is_paraphrased]
    for _ in range(min(len(held) // 10, len(single) // 2)):
        yield _two_facts_question(talk, *talk.rng.sample(single, 2))
    for quantity in talk.state.values():
        yield _state_question(talk, quantity)


def _fact_question(talk: Talk, fact: Fact) -> Question:
    """Make the question about one fact."""
    kind = Kind.RE_ENTRY_FACT if fact.source < talk.last_reentry else Kind.FACT
    kind = Kind.CORRECTED if fact.stale else kind
    kind = Kind.PARAPHRASE if fact.is_paraphrased else kind
    answer = ''.join(part.text for part in fact.answer(*NO_WEIGHTS))
    return Question(
        text=ask(talk.rng, fact.family, fact.key),
        answer=answer,
        kind=kind,
        sources=(fact.source,),
        stale=answer.replace(f' {fact.value}', f' {fact.stale}') if fact.stale else '',
    )


def _two_facts_question(talk: Talk, first: Fact, second: Fact) -> Question:
    """Make the question about two facts."""
    text, parts = talk.two_facts(first, second)
    return Question(
        text=text,
        answer=''.join(part.text for part in parts),
        kind=Kind.TWO_FACTS,
        sources=(first.source, second.source),
    )


def _state_question(talk: Talk, quantity: Quantity) -> Question:
    """Make the question about one quantity of the vehicle's state."""
    slot, stale = quantity.slot, quantity.stale
    answers = [
        ''.join(part.text for part in state_parts(slot, value, weights=NO_WEIGHTS))
        for value in (quantity.value, stale)
    ]
    return Question(
        text=ask_state(talk.rng, slot),
        answer=answers[0],
        kind=Kind.RE_ENTRY_STATE if talk.last_reentry else Kind.STATE,
        sources=(quantity.source,),
        stale=answers[1] if stale else '',
    )


def demo_dialogue(
    num_tokens: int = 4608, count_tokens: CountTokens = estimate_tokens, *, seed: int = 7
) -> Dialogue:
    """
    Make a conversation in which the code of a gate is told early, for asking at the end.

    The one question is about that code; nothing else is said about it.
    """
    rng = Random(seed)
    talk = Talk(rng=rng)
    talk.open(phrases_state.SYSTEM_PROMPT, phrases_state.CORE_SLOTS)
    gate = phrases.Keyed(phrases.CODE, 'gate', phrases_values.code)
    fact = talk.tell_this(gate, DEMO_CODE, is_held=True)
    told = talk.lines[-2:]
    del talk.lines[-2:]
    tell, chat, ask_open = talk.tell, talk.chat, talk.ask_open
    steps: list[Step] = [tell, tell, tell, *[chat] * 4, talk.command, *[ask_open] * 3]
    used = BOS_TOKENS + count_tokens(talk.lines[0].turn)
    while used < num_tokens - STEP_TOKENS:
        before = len(talk.lines)
        if told and used >= DEMO_TOLD_AT:
            fact.source = talk.say_text(Role.USER, f'My gate code is {DEMO_CODE}.')
            talk.lines.append(told.pop())
            told.clear()
        else:
            rng.choice(steps)()
        used += sum(count_tokens(line.turn) for line in talk.lines[before:])
    turns = _fill(talk, num_tokens - used, count_tokens)
    answer, sources = f'The gate code is {DEMO_CODE}.', (fact.source,)
    question = Question(text=DEMO_QUESTION, answer=answer, kind=Kind.FACT, sources=sources)
    return Dialogue(turns=turns, questions=(question,))


def _training_steps(talk: Talk) -> tuple[list[Step], list[float]]:
    """Return what may happen next and how likely it is; dialogues differ in both."""
    telling, asking, chatting = (
        talk.rng.uniform(2, 5),
        talk.rng.uniform(1, 5),
        talk.rng.uniform(0.2, 4),
    )
    weighted: tuple[tuple[Step, float], ...] = (
        (talk.tell, telling),
        (talk.tell_two, telling / 10),
        (talk.ask_open, asking),
        (talk.chat, chatting),
        (talk.correct, telling / 6),
        (talk.command, chatting / 3),
        (talk.ask_state, asking / 6),
        (talk.ask_unknown, asking / 7),
        (talk.ask_two, asking / 10),
    )
    return [step for step, _ in weighted], [weight for _, weight in weighted]


def training_talk(seed: int) -> Iterator[Talk]:
    """
    Grow a training conversation without end, one exchange for each value taken.

    Parameters
    ----------
    seed
        Added to ``TRAINING_SEEDS``, so that no evaluation dialogue is ever trained on.

    """
    rng = Random(TRAINING_SEEDS + seed)
    talk = Talk(rng=rng)
    prompt = rng.choice(phrases_state.SYSTEM_PROMPTS)
    talk.open(prompt, rng.choice((0, 3, 5, 5, 5, 6)))
    talk.bare_share = rng.choice((0.0, 0.0, 0.3, 1.0))
    steps, weights = _training_steps(talk)
    pause = rng.choice((0.0, 0.004, 0.01))
    while True:
        yield talk
        if rng.random() < pause:
            talk.reenter(rng.choice((2, 4, 5, 5, 6)))
        for step in rng.choices(steps, weights, k=4):
            step()
