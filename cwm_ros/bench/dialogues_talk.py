# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A conversation as it grows: who knows what, and what was said.

Everything is a function of the random generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TYPE_CHECKING

from cwm_ros.bench import phrases, phrases_paraphrase, phrases_state
from cwm_ros.bench.dialogues_wording import (
    answer_parts,
    ask,
    ask_state,
    ask_two,
    casual,
    fact_id,
    odd,
    Part,
    state_parts,
    tell,
)
from cwm_ros.kv import Role, Turn

if TYPE_CHECKING:
    from random import Random

    from cwm_ros.bench.phrases import Family
    from cwm_ros.bench.phrases_state import Slot
    from cwm_ros.bench.phrases_values import Maker

TEXT_WEIGHT = 1.0
ECHO_WEIGHT, ECHO_VALUE_WEIGHT = 5.0, 10.0
ANSWER_WEIGHT, ANSWER_VALUE_WEIGHT = 10.0, 20.0
PARAPHRASE_SHARE = 0.08
MAX_TRIES = 20


class Line(NamedTuple):
    """A turn in parts; each part has the loss weight of its tokens."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def turn(self) -> Turn:
        """The turn without weights."""
        return Turn(role=self.role, text=''.join(part.text for part in self.parts))


@dataclass(slots=True, kw_only=True)
class Fact:
    """Something told; ``source`` is the line of the last mention, ``first`` of the first."""

    family: Family
    key: str
    maker: Maker
    value: str
    source: int
    first: int
    stale: str = ''
    is_held: bool = False
    is_asked: bool = False

    @property
    def is_paraphrased(self) -> bool:
        """Whether questions share no content word with the statement."""
        return self.family.name in phrases_paraphrase.PARAPHRASE_NAMES

    def answer(self, text: float, value: float) -> tuple[Part, ...]:
        """Return the answer with the given weights."""
        return answer_parts(self.family, self.key, self.value, weights=(text, value))


@dataclass(slots=True, kw_only=True)
class Quantity:
    """The last known value of a state slot, where it was said, and the value before."""

    slot: Slot
    value: str
    source: int
    stale: str = ''


@dataclass(slots=True, kw_only=True)
class Talk:
    """A growing conversation."""

    rng: Random
    lines: list[Line] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)
    state: dict[str, Quantity] = field(default_factory=dict)
    last_reentry: int = 0
    bare_share: float = 0.0
    """How often a fact is acknowledged in a word, or not at all, instead of being repeated."""
    _open: list[Fact] = field(default_factory=list)

    def say(self, role: Role, *parts: Part) -> int:
        """Append a line and return its index."""
        self.lines.append(Line(role, parts))
        return len(self.lines) - 1

    def say_text(self, role: Role, text: str, weight: float = TEXT_WEIGHT) -> int:
        """Append a line with one weight."""
        return self.say(role, Part(text, weight))

    def open(self, prompt: str, num_slots: int) -> None:
        """Say the system prompt with the state of the vehicle."""
        report = self._report(num_slots) if num_slots else ''
        self.say_text(Role.SYSTEM, f'{prompt} {report}'.strip())

    def _report(self, num_slots: int) -> str:
        """Change the state and put it into words; slots not named are forgotten."""
        rng, source = self.rng, len(self.lines)
        slots = list(phrases_state.SLOTS[:num_slots])
        if num_slots > phrases_state.CORE_SLOTS:
            others = phrases_state.SLOTS[phrases_state.CORE_SLOTS :]
            slots = [*slots[: phrases_state.CORE_SLOTS], rng.choice(others)]
        elif num_slots < phrases_state.CORE_SLOTS:
            slots = rng.sample(phrases_state.SLOTS, num_slots)
        before, self.state = self.state, {}
        snippets = []
        for slot in slots:
            value = slot.value(rng)
            known = before.get(slot.name)
            stale = known.value if known and known.value != value else ''
            self.state[slot.name] = Quantity(slot=slot, value=value, source=source, stale=stale)
            snippets.append(rng.choice(slot.snippets).replace('{v}', value))
        return f'{rng.choice(phrases_state.NOW)}{", ".join(snippets)}.'

    def reenter(self, num_slots: int) -> None:
        """Say how much time passed and what the state of the vehicle is now."""
        report = self._report(num_slots)
        self.last_reentry = self.say_text(Role.SYSTEM, f'{phrases_state.span(self.rng)} {report}')

    def new_key(self) -> phrases.Keyed | None:
        """Choose what was not told yet."""
        rng = self.rng
        for _ in range(MAX_TRIES):
            is_paraphrase = rng.random() < PARAPHRASE_SHARE
            make = phrases_paraphrase.paraphrase_key if is_paraphrase else rng.choice(phrases.KEYS)
            keyed = make(rng)
            if fact_id(keyed.family, keyed.key) not in self.facts:
                return keyed
        return None

    def tell(self, *, is_held: bool = False) -> Fact | None:
        """Tell a new fact and have it acknowledged."""
        keyed = self.new_key()
        if keyed is None:
            self.chat()
            return None
        value = keyed.value(self.rng)
        return self.tell_this(keyed, value, is_held=is_held)

    def tell_this(self, keyed: phrases.Keyed, value: str, *, is_held: bool = False) -> Fact:
        """Tell a given fact and have it acknowledged."""
        family = keyed.family
        is_plain = family.name in phrases_paraphrase.PARAPHRASE_NAMES
        said = tell(self.rng, family, keyed.key, value, is_paraphrase=is_plain)
        index = self.say_text(Role.USER, odd(self.rng, said.text))
        fact = Fact(
            family=family,
            key=said.key,
            maker=keyed.value,
            value=said.value,
            source=index,
            first=index,
            is_held=is_held,
        )
        self.facts[fact_id(family, keyed.key)] = fact
        if not is_held:
            self._open.append(fact)
        self._acknowledge(fact)
        return fact

    def tell_two(self, *, is_held: bool = False) -> None:
        """Tell two new facts in one turn."""
        start = len(self.lines)
        facts = [self.tell(is_held=is_held), self.tell(is_held=is_held)]
        first, second = facts
        if first is None or second is None or first.is_paraphrased or second.is_paraphrased:
            return
        said = [self.lines[fact.source].turn.text for fact in (first, second)]
        del self.lines[start:]
        joint = self.rng.choice(('. ', '. ', ' and ', ', '))
        second.source = second.first = first.source
        self.say_text(Role.USER, said[0].rstrip('.?') + joint + said[1])
        self._acknowledge(first, second)

    def _acknowledge(self, *facts: Fact) -> None:
        if self.bare_share and self.rng.random() < self.bare_share:
            # Dialogues that others wrote do so; it is to be read, not learnt to be said.
            if reply := self.rng.choice(phrases_state.BARE_REPLIES):
                self.say_text(Role.ASSISTANT, reply, 0.0)
            return
        parts = [Part(phrases_state.NOTED, ECHO_WEIGHT)]
        for fact in facts:
            if not fact.is_paraphrased:
                head, *rest = fact.answer(ECHO_WEIGHT, ECHO_VALUE_WEIGHT)
                parts += [Part(f' {head.text}', ECHO_WEIGHT), *rest]
        self.say(Role.ASSISTANT, *parts)

    def correct(self) -> None:
        """Tell an earlier fact again with another value."""
        if not self.facts:
            self.chat()
            return
        fact = self.rng.choice(list(self.facts.values()))
        value = fact.maker(self.rng)
        if value == fact.value or fact.is_asked or fact.is_paraphrased:
            self.chat()
            return
        said = tell(self.rng, fact.family, fact.key, value, is_correction=True)
        fact.stale, fact.value, fact.key = fact.value, said.value, said.key
        fact.source = self.say_text(Role.USER, odd(self.rng, said.text))
        self._acknowledge(fact)

    def chat(self) -> None:
        """Exchange small talk."""
        line, reply = phrases_state.small_talk(self.rng)
        self.say_text(Role.USER, odd(self.rng, casual(self.rng, line)))
        self.say_text(Role.ASSISTANT, reply, ECHO_WEIGHT)

    def command(self) -> None:
        """Command a change of the vehicle's state; the assistant confirms it."""
        rng = self.rng
        slot = rng.choice([slot for slot in phrases_state.SLOTS if slot.commands])
        value = slot.value(rng)
        known = self.state.get(slot.name)
        stale = known.value if known and known.value != value else ''
        text = rng.choice(slot.commands).replace('{v}', value)
        index = self.say_text(Role.USER, odd(rng, text))
        self.state[slot.name] = Quantity(slot=slot, value=value, source=index, stale=stale)
        head, *rest = state_parts(slot, value, weights=(ECHO_WEIGHT, ECHO_VALUE_WEIGHT))
        self.say(Role.ASSISTANT, Part(f'Okay. {head.text}', ECHO_WEIGHT), *rest)

    def _respond(self, question: str, parts: tuple[Part, ...]) -> None:
        self.say_text(Role.USER, odd(self.rng, question))
        self.say(Role.ASSISTANT, *parts)

    def ask_open(self) -> None:
        """Ask for a fact, most often one that was not asked for before."""
        rng = self.rng
        if self._open and rng.random() < 0.9:
            at = rng.randrange(len(self._open))
            self._open[at], self._open[-1] = self._open[-1], self._open[at]
            self.ask_fact(self._open.pop())
            return
        asked = [fact for fact in self.facts.values() if fact.is_asked]
        if asked:
            self.ask_fact(rng.choice(asked))
        else:
            self.chat()

    def ask_fact(self, fact: Fact, *, is_lost: bool = False) -> None:
        """Ask for a fact; a lost one is beyond the assistant's knowledge."""
        fact.is_asked = True
        answer: tuple[Part, ...] = (Part(phrases_state.UNKNOWN, ANSWER_WEIGHT),)
        if not is_lost:
            answer = fact.answer(ANSWER_WEIGHT, ANSWER_VALUE_WEIGHT)
        self._respond(ask(self.rng, fact.family, fact.key), answer)

    def ask_two(self) -> None:
        """Ask for two facts at once."""
        if len(self._open) < 2:
            self.ask_open()
            return
        first, second = self.rng.sample(self._open, 2)
        first.is_asked = second.is_asked = True
        self._open = [fact for fact in self._open if fact is not first and fact is not second]
        self._respond(*self.two_facts(first, second))

    def two_facts(self, first: Fact, second: Fact) -> tuple[str, tuple[Part, ...]]:
        """Word a question about two facts, and its answer."""
        head, *rest = second.answer(ANSWER_WEIGHT, ANSWER_VALUE_WEIGHT)
        head = Part(f' {head.text}', head.weight)
        question = ask_two(self.rng, (first.family, first.key), (second.family, second.key))
        return question, (*first.answer(ANSWER_WEIGHT, ANSWER_VALUE_WEIGHT), head, *rest)

    def unknown_question(self) -> str:
        """Word a question that nothing said so far answers."""
        rng = self.rng
        if rng.random() < phrases_state.BEYOND_SHARE:
            line = phrases_state.fill_in(rng, rng.choice(phrases_state.BEYOND))
            return casual(rng, line)
        absent = [slot for slot in phrases_state.SLOTS if slot.name not in self.state]
        if absent and not self.last_reentry and rng.random() < 0.1:
            return ask_state(rng, rng.choice(absent))
        keyed = self.new_key()
        while keyed is None:
            keyed = self.new_key()
        return ask(rng, keyed.family, keyed.key)

    def ask_unknown(self) -> None:
        """Ask what nobody told."""
        self._respond(self.unknown_question(), (Part(phrases_state.UNKNOWN, ANSWER_WEIGHT),))

    def ask_state(self) -> None:
        """Ask for a known quantity of the vehicle's state."""
        if not self.state:
            self.chat()
            return
        quantity = self.rng.choice(list(self.state.values()))
        weights = (ANSWER_WEIGHT, ANSWER_VALUE_WEIGHT)
        answer = state_parts(quantity.slot, quantity.value, weights=weights)
        self._respond(ask_state(self.rng, quantity.slot), answer)
