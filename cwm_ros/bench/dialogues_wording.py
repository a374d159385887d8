# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How facts, questions and answers are put into words."""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING

from cwm_ros.bench import phrases, phrases_paraphrase, phrases_state
from cwm_ros.bench.phrases_values import DAYS, FIRST_NAMES, MONTHS

if TYPE_CHECKING:
    from random import Random

    from cwm_ros.bench.phrases import Family
    from cwm_ros.bench.phrases_state import Slot

CASUAL_SHARE = 0.3
LOWER_SHARE = 0.25
NO_APOSTROPHE_SHARE = 0.5
CURLY_SHARE = 0.1
PREFIX_SHARE = 0.25
SUFFIX_SHARE = 0.06
OTHER_SPELLING_SHARE = 0.15
ODD_SHARE = 0.012
PLAIN_SHARE = 0.3
ARTICLES = ('my ', 'the ', 'our ')
TYPO_SHARE = 0.1
NAMES = frozenset(FIRST_NAMES)


class Part(NamedTuple):
    """A piece of a turn and the loss weight of its tokens."""

    text: str
    weight: float


class Told(NamedTuple):
    """A worded statement with key and value as they were spelt."""

    text: str
    key: str
    value: str


def fact_id(family: Family, key: str) -> str:
    """Name a fact: two with equal names are the same fact, told again."""
    name = family.nouns[0].replace('{k}', key).lower()
    name = f'my {name[4:]}' if name.startswith('our ') else name
    return name.replace('favorite', 'favourite').replace('color', 'colour')


def fill(template: str, key: str, value: str = '') -> str:
    """Put key and value into a template."""
    if '{b}' in template:
        template = template.replace('{b}', 'are' if key.endswith('s') else 'is')
    return template.replace('{k}', key).replace('{v}', value)


def sentence(text: str) -> str:
    """Begin with a capital letter."""
    return text[:1].upper() + text[1:]


def echo(key: str) -> str:
    """Turn the speaker's own into the listener's."""
    owner, _, rest = key.partition(' ')
    return f'your {rest}' if owner in {'my', 'our'} and rest else key


def split_value(template: str, value: str, weights: tuple[float, float]) -> tuple[Part, ...]:
    """Cut an answer into the part before the value, the value, and the rest."""
    before, after = template.split(' {v}')
    text_weight, value_weight = weights
    return (Part(before, text_weight), Part(f' {value}', value_weight), Part(after, text_weight))


def answer_parts(
    family: Family, key: str, value: str, *, weights: tuple[float, float]
) -> tuple[Part, ...]:
    """Word the answer to a question about a fact."""
    template = family.answer.replace('{e}', echo(key))
    return split_value(sentence(fill(template, key, '{v}')), value, weights)


def state_parts(slot: Slot, value: str, *, weights: tuple[float, float]) -> tuple[Part, ...]:
    """Word the answer to a question about the vehicle's state."""
    return split_value(slot.answer, value, weights)


def odd(rng: Random, text: str) -> str:
    """Now and then append an emoji, a foreign character or a typed role marker."""
    return text + rng.choice(phrases_state.ODDITIES) if rng.random() < ODD_SHARE else text


def casual(rng: Random, text: str) -> str:
    """Now and then write as people type: no capital at the start, no full stop, no apostrophe."""
    if rng.random() >= CASUAL_SHARE:
        return text
    if text[-1:] in {'.', '?'} and rng.random() < 2 * CASUAL_SHARE:
        text = text[:-1]
    if "'" in text and rng.random() < NO_APOSTROPHE_SHARE:
        text = text.replace("'", '')
    if rng.random() < TYPO_SHARE:
        text = _mistype(rng, text)
    return _uncapital(text) if text[:2] != 'I ' or rng.random() < LOWER_SHARE else text


def _mistype(rng: Random, text: str) -> str:
    """Leave out, double or swap a letter inside a word; placeholders stay whole."""
    at = rng.randrange(1, len(text))
    before, here, after = text[at - 1 : at], text[at : at + 1], text[at + 1 : at + 2]
    if not (before.isalpha() and here.isalpha() and after.isalpha()):
        return text
    typed = rng.choice(('', here + here, after + here))
    return text[:at] + typed + text[at + 1 + (typed[:1] == after and len(typed) > 1) :]


def _uncapital(text: str) -> str:
    """Lower the first letter unless the word is a placeholder or is always capital."""
    is_name = text[:1] == '{' or text[:2] in {'I ', "I'"}
    return text if is_name else text[:1].lower() + text[1:]


def _decorate(rng: Random, text: str, prefixes: tuple[str, ...], suffixes: tuple[str, ...]) -> str:
    """Put a few words before or after a template."""
    text = sentence(text)
    if rng.random() < PREFIX_SHARE:
        text = sentence(rng.choice(prefixes) + _uncapital(text))
    if rng.random() < SUFFIX_SHARE:
        text = (text if text[-1:] in {'.', '?'} else f'{text}.') + rng.choice(suffixes)
    return casual(rng, text)


def _lower_key(rng: Random, key: str) -> str:
    """Sometimes write a listed name in lower case; built names keep their spelling."""
    name = key.removesuffix("'s").split("'s ")[0]
    is_lower = name in NAMES and rng.random() < LOWER_SHARE * CASUAL_SHARE
    return name.lower() + key[len(name) :] if is_lower else key


def _finish(rng: Random, text: str) -> str:
    """Begin with a capital where the template did, and vary the apostrophe."""
    if "'" in text and rng.random() < CURLY_SHARE:
        text = text.replace("'", '\u2019')
    return text


def tell(
    rng: Random,
    family: Family,
    key: str,
    value: str,
    *,
    is_paraphrase: bool = False,
    is_correction: bool = False,
) -> Told:
    """Word a statement."""
    is_plain = family.is_plain and (not family.statements or rng.random() < PLAIN_SHARE)
    template = rng.choice(phrases.TELL if is_plain else family.statements)
    if is_plain:
        template = template.replace('{n}', rng.choice(family.nouns))
    template = template.replace('{k}', key) if key.startswith(ARTICLES) else template
    if is_paraphrase:
        template = _decorate(rng, template, phrases_state.PLAIN_TELL_PREFIXES, (' Thanks.',))
    else:
        if is_correction:
            if template.endswith('{v}.') and rng.random() < LOWER_SHARE:
                template = f'{template[:-1]} now.'
            prefix = rng.choice(phrases_state.CORRECTIONS)
            template = prefix + (_uncapital(template) if prefix else template)
        template = _decorate(rng, template, phrases_state.PREFIXES, phrases_state.SUFFIXES)
    if rng.random() < LOWER_SHARE * CASUAL_SHARE and not value.startswith(tuple(DAYS + MONTHS)):
        value = value.lower()
    key = _lower_key(rng, key)
    return Told(_finish(rng, fill(template, key, value)), key, value)


def _respell(rng: Random, noun: str) -> str:
    """Sometimes use the other English spelling."""
    if 'avo' not in noun and 'olo' not in noun:
        return noun
    if rng.random() >= OTHER_SPELLING_SHARE:
        return noun
    if 'colour' in noun or 'favourite' in noun:
        return noun.replace('colour', 'color').replace('favourite', 'favorite')
    return noun.replace('color', 'colour').replace('favorite', 'favourite')


def ask(rng: Random, family: Family, key: str) -> str:
    """Word a question about a fact."""
    key = _lower_key(rng, key)
    if key.startswith('our ') and rng.random() < LOWER_SHARE:
        key = f'my {key[4:]}'
    is_paraphrase = family.name in phrases_paraphrase.PARAPHRASE_NAMES
    generic: tuple[str, ...]
    prefixes: tuple[str, ...]
    if is_paraphrase:
        generic, prefixes = phrases_paraphrase.ASK_PLAINLY, phrases_state.PLAIN_ASK_PREFIXES
    else:
        generic, prefixes = phrases.ASK, phrases_state.ASK_PREFIXES
    if family.questions and rng.random() > PLAIN_SHARE:
        template = rng.choice(family.questions)
    else:
        key = _respell(rng, key)
        template = rng.choice(generic).replace('{n}', _respell(rng, rng.choice(family.nouns)))
    template = template.replace('{k}', key) if key.startswith(ARTICLES) else template
    suffixes = (' Please.',) if is_paraphrase else phrases_state.ASK_SUFFIXES
    return _finish(rng, fill(_decorate(rng, template, prefixes, suffixes), key))


def ask_two(rng: Random, first: tuple[Family, str], second: tuple[Family, str]) -> str:
    """Word a question about two facts."""
    nouns = [fill(rng.choice(family.nouns), key) for family, key in (first, second)]
    template = rng.choice(phrases.ASK_TWO).replace('{n}', nouns[0]).replace('{m}', nouns[1])
    return _decorate(rng, template, phrases_state.ASK_PREFIXES, phrases_state.ASK_SUFFIXES)


def ask_state(rng: Random, slot: Slot) -> str:
    """Word a question about the vehicle's state."""
    template = rng.choice(slot.questions)
    return _decorate(rng, template, phrases_state.ASK_PREFIXES, phrases_state.ASK_SUFFIXES)
