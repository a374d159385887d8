# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What people tell an assistant and how they ask for it later.

In templates ``{k}`` is the key as said, ``{e}`` the key as the assistant says it, ``{v}`` the
value, ``{n}`` a noun phrase that names the fact and ``{b}`` is or are.
"""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING

from cwm_ros.bench import phrases_values as values
from cwm_ros.bench.phrases_things import (
    ANIMALS,
    EVENTS,
    ITEMS,
    LOCKS,
    MEETINGS,
    OCCASIONS,
    PLACES,
    RELATIONS,
)

if TYPE_CHECKING:
    from random import Random

    from cwm_ros.bench.phrases_values import Maker


class Family(NamedTuple):
    """A kind of fact; the first noun phrase, filled with the key, identifies a fact."""

    name: str
    nouns: tuple[str, ...]
    answer: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    is_plain: bool = True
    """Whether ``{n} is {v}`` says it too."""


class Keyed(NamedTuple):
    """A family, the key of one fact of it, and what makes values for it."""

    family: Family
    key: str
    value: Maker


ATTRIBUTES: tuple[tuple[Maker, str], ...] = (
    (values.small_number, 'locker number|room number|seat number|badge number|shoe size|table '
     'number|ticket number|lucky number|jersey number|platform|hat size|gate number|desk number'),
    (values.code, 'customer number|booking number|membership number|pin|licence number|pin code'),
    (values.mostly(values.COLOURS), 'favourite colour|favorite color|car colour|bike colour|jacket '
     'colour|bag colour|door colour|hair colour|helmet colour'),
    (values.word, 'nickname|username|team|bank|wifi password|password|company|boat|safe word|'
     'hotel|school|supermarket|favourite book|favourite song|favourite band|favourite film|gym'),
    (values.city, 'favourite city|home town|birthplace|next stop|holiday destination'),
    (values.street, 'street|office address|bus stop|meeting point'),
    (values.mostly(values.FOODS), 'favourite food|favourite dish|favorite food|lunch'),
    (values.mostly(values.HOBBIES), 'hobby|favourite sport|sport'),
    (values.clock, 'check-in time|boarding time|wake-up time|bedtime|lunch break|closing time'),
    (values.first_name, 'tour guide|contact|favourite singer|best player|driver|middle name'),
    (values.mostly(values.LANGUAGES), 'native language|second language'),
    (values.plate, 'licence plate|number plate|license plate|plate'),
    (values.phone, 'phone number|mobile number|office number'),
)  # fmt: skip
ATTRIBUTE_MAKERS = tuple((attr, maker) for maker, line in ATTRIBUTES for attr in line.split('|'))
OWN_ATTRIBUTES = ('home town', 'favourite food', 'favorite food', 'phone number')
THE_ATTRIBUTES = tuple(
    (
        'wifi password|wifi name|alarm word|room number|meeting point|tour guide|gate number|team '
        'name|boat|hotel|closing time|password|door colour|emergency contact|next stop|bus number'
    ).split('|')
)

TELL = (
    '{n} is {v}.', '{n} is {v}.', '{n} is {v}.', '{v} is {n}.', 'Note {n}: {v}.', '{n}: {v}',
    'I think {n} is {v}.', 'Save {n}, it is {v}.', 'I want you to know that {n} is {v}.',
    'Write down that {n} is {v}.', 'About {n}: it is {v}.', 'You should know {n}. It is {v}.',
)  # fmt: skip
ASK = (
    'What is {n}?', 'What is {n}?', "What's {n}?", "What's {n}?", 'Tell me {n}.', 'What was {n}?',
    'Do you remember {n}?', 'Do you know {n}?', 'I forgot {n}.', 'What was {n} again?',
    'Can you tell me {n}?', 'Remind me of {n}.', 'Could you repeat {n}?', 'Give me {n}.',
    'I need {n}.', 'Say {n} again.', 'I cannot remember {n}.', '{n}?', 'Do you still know {n}?',
    'I told you {n}. What is it?', 'Have you noted {n}?', 'Please look up {n}.',
)  # fmt: skip
ASK_TWO = (
    'What are {n} and {m}?', 'Tell me {n} and {m}.', 'What is {n}, and what is {m}?',
    'I need {n} and {m}.', 'Do you remember {n} and {m}?', 'I forgot {n} and {m}.',
    'Give me {n} and also {m}.', 'Can you tell me {n} and {m}?', 'Do you know {n} and {m}?',
)  # fmt: skip

CODE = Family(
    'code',
    ('the {k} code', 'the code for the {k}', 'the code of the {k}', 'my {k} code', 'the {k} pin'),
    'the {k} code is {v}.',
    (
        'My {k} code is {v}.', 'The code for the {k} is {v}.', '{v} is the code for the {k}.',
        '{v} opens the {k}.', 'You open the {k} with {v}.', 'For the {k} the code is {v}.',
        'The pin for the {k} is {v}.', 'To open the {k}, enter {v}.', 'The {k} opens with {v}.',
        'They gave me {v} as the code for the {k}.', 'The {k} has the code {v}.',
        'We need {v} to open the {k}.', 'My code for the {k} is {v}.', 'The {k} code: {v}',
    ),
    (
        'Which code opens the {k}?', 'How do I open the {k}?', 'What do I enter at the {k}?',
        'We are at the {k}. What is the code?', 'Which number opens the {k}?',
        'I am standing at the {k}, what was the code?', 'How does the {k} open?',
    ),
)  # fmt: skip
NAME = Family(
    'name',
    ("{k}'s name", 'the name of {k}'),
    "{e}'s name is {v}.",
    (
        '{k} is called {v}.', '{v} is {k}.', '{k} is named {v}.', '{k} has the name {v}.',
        'We are picking up {k}, {v}.', 'This is {v}, {k}.', '{k} is {v}.', 'Meet {v}, {k}.',
        'Everybody calls {k} {v}.', 'The name of {k} is {v}.', "{k}'s name is {v}.",
    ),
    (
        'Who is {k}?', 'What is {k} called?', 'How is {k} called?', "What's {k} called?",
        'Do you know who {k} is?', 'What do we call {k}?', 'Which name does {k} have?',
    ),
)  # fmt: skip
ATTRIBUTE = Family('attribute', ('{k}',), '{e} is {v}.', (), ())
BOX = Family(
    'box',
    ('the colour of box {k}', 'the color of box {k}', 'the colour of box number {k}'),
    'box {k} is {v}.',
    (
        'Box {k} is {v}.', 'Box {k} is {v}.', 'Box number {k} is {v}.', 'I painted box {k} {v}.',
        'The {v} box is number {k}.', 'Box {k} is the {v} one.', 'We made box {k} {v}.',
        'Box {k} has the colour {v}.', 'There is a {v} sticker on box {k}.',
    ),
    (
        'What colour is box {k}?', 'What color is box {k}?', 'What colour does box {k} have?',
        'Which colour is box {k}?', 'How is box {k} painted?', 'What colour is box number {k}?',
    ),
)  # fmt: skip
ITEM = Family(
    'item',
    ('the place of the {k}', 'the place of my {k}'),
    'the {k} {b} {v}.',
    (
        'I put the {k} {v}.', 'The {k} {b} {v}.', 'I left the {k} {v}.', 'My {k} {b} {v}.',
        'You find the {k} {v}.', 'I placed my {k} {v}.', 'We keep the {k} {v}.', 'I laid my {k} {v}.',
        'I have put my {k} {v}.', 'There is the {k} {v}.', 'I left my {k} {v}.',
    ),
    (
        'Where {b} the {k}?', 'Where {b} my {k}?', "Where's my {k}?", 'Where did I put the {k}?',
        'Where did I leave my {k}?', 'I am looking for the {k}.', 'I cannot find my {k}.',
        'Have you seen my {k}?', "Where's the {k}?", 'Where do I find my {k}?',
    ),
    is_plain=False,
)  # fmt: skip
EVENT = Family(
    'event',
    ('the time of the {k}', 'the date of the {k}', 'the time of my {k}'),
    'the {k} is {v}.',
    (
        'The {k} is {v}.', 'My {k} is {v}.', 'I have a {k} {v}.', 'There is a {k} {v}.',
        'We have the {k} {v}.', 'The {k} starts {v}.', 'Put the {k} in my calendar, {v}.',
        'I must not miss the {k} {v}.', 'They scheduled my {k} {v}.', 'The {k} will be {v}.',
    ),
    (
        'When is the {k}?', 'When is my {k}?', "When's the {k}?", 'What time is the {k}?',
        'At what time is my {k}?', 'When does the {k} start?', 'When do I have the {k}?',
        'What time is my {k}?', 'When will the {k} be?',
    ),
    is_plain=False,
)  # fmt: skip
REMINDER = Family(
    'reminder',
    ('my reminder {k}', 'my plan {k}', 'the reminder {k}'),
    'you want to {v} {k}.',
    (
        'Remind me to {v} {k}.', 'I want to {v} {k}.', 'I have to {v} {k}.', 'I must {v} {k}.',
        'Do not let me forget to {v} {k}.', 'I need to {v} {k}.', 'I plan to {v} {k}.',
        'Set a reminder to {v} {k}.', 'I should {v} {k}.', "Don't let me forget to {v} {k}.",
    ),
    (
        'What do I want to do {k}?', 'What should I do {k}?', 'What do I have to do {k}?',
        'What did I want to do {k}?', 'What is planned {k}?', 'What was I going to do {k}?',
        'What must I do {k}?', 'What did I plan {k}?',
    ),
    is_plain=False,
)  # fmt: skip


def person(name: str, noun: str, does: str, ways: str, asks: str) -> Family:
    """Describe what a named person is or does; alternatives are separated by bars."""
    nouns = (f"{{k}}'s {noun}", f'the {noun} of {{k}}')
    statements = (f'{{k}} {does} {{v}}.', f'{{k}} {does} {{v}}.', *ways.split('|'))
    questions = tuple(asks.split('|'))
    return Family(name, nouns, f'{{e}} {does} {{v}}.', statements, questions)


PERSON: tuple[tuple[Family, Maker], ...] = (
    (person('lives', 'address', 'lives at', '{k} has a flat at {v}.|{k} moved to {v}.',
            'Where does {k} live?|At which address does {k} live?|Where do I find {k}?'),
     values.address),
    (person('allergy', 'allergy', 'is allergic to', '{k} cannot have {v}.|{k} does not tolerate '
            '{v}.', 'What is {k} allergic to?|Does {k} have an allergy?|Which allergy does {k} '
            'have?'), values.mostly(values.ALLERGENS)),
    (person('job', 'job', 'works as a', '{k} is a {v} by profession.|{k} has a job as a {v}.',
            'What does {k} do for work?|What does {k} work as?|What does {k} do for a living?'),
     values.mostly(values.JOBS)),
    (person('instrument', 'instrument', 'plays the', '{k} is good at playing the {v}.|{k} learns '
            'the {v}.', 'What does {k} play?|Which instrument does {k} play?'),
     values.mostly(values.INSTRUMENTS)),
    (person('origin', 'home town', 'comes from', '{k} grew up in {v}.|{k} is from {v}.',
            'Where does {k} come from?|Where is {k} from?|Which town is {k} from?'), values.city),
    (person('drink', 'favourite drink', 'likes to drink', '{k} always orders {v}.|{k} drinks {v}.',
            'What does {k} drink?|What does {k} like to drink?|What should I order for {k}?'),
     values.mostly(values.DRINKS)),
    (person('food', 'favourite food', 'likes to eat', '{k} loves {v}.|{k} likes {v}.',
            'What does {k} like?|What does {k} like to eat?|What does {k} love?'),
     values.mostly(values.FOODS)),
    (person('phone', 'phone number', 'has the phone number', 'Call {k} under {v}.|You reach {k} '
            'under {v}.', 'How do I reach {k}?|Which number does {k} have?|Under which number do '
            'I reach {k}?'), values.phone),
    (person('birthday', 'birthday', 'has a birthday on', '{k} was born on {v}.|{k} celebrates on '
            '{v}.', 'When was {k} born?|When does {k} have a birthday?|When is the birthday of '
            '{k}?'), values.date),
    (person('arrival', 'arrival time', 'arrives at', '{k} lands at {v}.|{k} will be here at {v}.',
            'When does {k} arrive?|What time does {k} arrive?|When will {k} be here?'),
     values.clock),
    (person('language', 'language', 'speaks', '{k} talks to us in {v}.|{k} only understands {v}.',
            'What does {k} speak?|Which language does {k} speak?'),
     values.mostly(values.LANGUAGES)),
    (person('school', 'school', 'goes to', '{k} attends {v}.|{k} is a pupil at {v}.',
            'Which school does {k} go to?|Where does {k} go to school?|What school does {k} '
            'attend?'), lambda rng: f'{values.invented(rng)} School'),
    (person('floor', 'floor', 'lives on floor', "{k}'s flat is on floor {v}.|{k} moved to floor "
            '{v}.', 'On which floor does {k} live?|Which floor does {k} live on?'),
     values.small_number),
)  # fmt: skip
PARKING = Family(
    'parking',
    ('the place of the car', 'our parking place', 'my parking spot'),
    'you parked {v}.',
    (
        'I parked {v}.', 'I parked the car {v}.', 'The car is parked {v}.', 'We parked {v}.',
        'My car is {v}.', 'I left the car {v}.', 'The car stands {v}.', 'I have parked {v}.',
        'We left the car {v}.', 'I just parked {v}.', 'The car is {v}.',
    ),
    (
        'Where did I park?', 'Where is my car?', "Where's the car parked?", 'Where is the car?',
        'Where did we leave the car?', 'Where did I park the car?', 'Where did we park?',
        'Where have I parked?', 'I cannot find the car.',
    ),
    is_plain=False,
)  # fmt: skip


OWN_NAME = Family(
    'own name',
    ('my name', 'my first name'),
    'your name is {v}.',
    (
        'My name is {v}.', 'I am {v}.', 'Call me {v}.', 'Please call me {v}.', "I'm {v}.",
        'You can call me {v}.', 'This is {v} speaking.', 'I am called {v}.', 'They call me {v}.',
    ),
    (
        'What is my name?', 'Who am I?', 'Do you know my name?', 'What am I called?',
        'How do you call me?', 'Do you remember who I am?', "What's my name?", 'Who is speaking?',
    ),
)  # fmt: skip
NUMBER = Family(
    'number',
    ('the number', 'that number', 'the number I told you'),
    'the number is {v}.',
    (
        'Remember the number {v}.', 'The number is {v}.', 'Keep the number {v} in mind.',
        'Note the number {v}.', 'Please note {v}.', 'Please remember {v}.', 'Remember {v}.',
        'Write down {v}.', 'Save the number {v}.',
    ),
    (
        'What number did I tell you?', 'Which number did I tell you?', 'What was that number?',
        'Which number was it?', 'What number was it?', 'What number should you remember?',
    ),
)  # fmt: skip
DUE = Family(
    'due',
    ('the time for the {k}', 'our time at the {k}'),
    'you need to be at the {k} {v}.',
    (
        'We need to be at the {k} {v}.', 'I have to be at the {k} {v}.', 'We are due at the {k} '
        '{v}.', 'We must be at the {k} {v}.', 'They expect us at the {k} {v}.', 'I should be at '
        'the {k} {v}.', 'I need to be at the {k} {v}.', 'Somebody waits at the {k} {v}.',
    ),
    (
        'When do we need to be at the {k}?', 'When do I have to be at the {k}?',
        'When are we due at the {k}?', 'What time must we be at the {k}?',
        'When should I be at the {k}?', 'What time do we need to be at the {k}?',
    ),
    is_plain=False,
)  # fmt: skip


def _owner(rng: Random) -> str:
    """Choose whose fact it is: a named person or a relation."""
    if rng.random() < values.LISTED_SHARE:
        return values.first_name(rng)
    return f'my {rng.choice(RELATIONS)}'


def code_key(rng: Random) -> Keyed:
    """Choose a lock."""
    lock = values.syllables(rng) if rng.random() < values.LISTED_SHARE / 3 else rng.choice(LOCKS)
    return Keyed(CODE, lock, values.code)


def name_key(rng: Random) -> Keyed:
    """Choose a person or pet of the speaker."""
    if rng.random() < values.LISTED_SHARE / 2:
        return Keyed(NAME, f'my {rng.choice(ANIMALS)}', values.pet_name)
    if rng.random() < values.LISTED_SHARE / 4:
        return Keyed(NAME, f'my {values.syllables(rng)}', values.first_name)
    return Keyed(NAME, f'my {rng.choice(RELATIONS)}', values.first_name)


def attribute_key(rng: Random) -> Keyed:
    """Choose whose attribute and which."""
    attribute, maker = rng.choice(ATTRIBUTE_MAKERS)
    roll = rng.random()
    if roll < values.LISTED_SHARE / 4:
        return Keyed(ATTRIBUTE, f'the {rng.choice(THE_ATTRIBUTES)}', values.word)
    if roll < values.LISTED_SHARE / 2:
        maker = rng.choice((values.word, values.small_number, values.mostly(values.COLOURS)))
        owner = rng.choice(('my', 'the', 'our', f"{_owner(rng)}'s"))
        return Keyed(ATTRIBUTE, f'{owner} {values.syllables(rng)}', maker)
    is_own = roll < 3 * values.LISTED_SHARE / 2 or attribute in OWN_ATTRIBUTES
    own = 'our' if rng.random() < values.LISTED_SHARE / 3 else 'my'
    owner = own if is_own else f"{_owner(rng)}'s"
    return Keyed(ATTRIBUTE, f'{owner} {attribute}', maker)


def box_key(rng: Random) -> Keyed:
    """Choose a box."""
    return Keyed(BOX, str(rng.randint(1, rng.choice((9, 60)))), values.mostly(values.COLOURS))


def item_key(rng: Random) -> Keyed:
    """Choose a thing."""
    thing = values.syllables(rng) if rng.random() < values.LISTED_SHARE / 4 else rng.choice(ITEMS)
    return Keyed(ITEM, thing, values.spot)


def event_key(rng: Random) -> Keyed:
    """Choose an appointment."""
    event = rng.choice(EVENTS)
    if rng.random() < values.LISTED_SHARE / 2:
        event = f'{rng.choice(MEETINGS)} with {values.first_name(rng)}'
    elif rng.random() < values.LISTED_SHARE / 4:
        event = values.syllables(rng)
    return Keyed(EVENT, event, values.when)


def reminder_key(rng: Random) -> Keyed:
    """Choose the occasion of a reminder."""
    return Keyed(REMINDER, rng.choice(OCCASIONS), values.errand)


def person_key(rng: Random) -> Keyed:
    """Choose a person and what is told about them."""
    family, maker = rng.choice(PERSON)
    return Keyed(family, _owner(rng), maker)


def due_key(rng: Random) -> Keyed:
    """Choose where somebody has to be."""
    return Keyed(DUE, rng.choice(PLACES), values.when)


def single_key(rng: Random) -> Keyed:
    """Choose a fact of which there is only one."""
    return rng.choice(
        (
            Keyed(PARKING, 'car', values.parking),
            Keyed(OWN_NAME, 'me', values.first_name),
            Keyed(NUMBER, 'number', values.code),
        )
    )


KEYS = (
    code_key, code_key, name_key, name_key, attribute_key, attribute_key, attribute_key, box_key,
    box_key, item_key, item_key, event_key, reminder_key, person_key, person_key, person_key,
    single_key, single_key, due_key,
)  # fmt: skip
