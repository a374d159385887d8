# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The vehicle's state, commands that change it, re-entry turns, and small talk."""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING

from cwm_ros.bench import phrases_values as values
from cwm_ros.config import DEFAULT_SYSTEM_PROMPT

if TYPE_CHECKING:
    from random import Random

    from cwm_ros.bench.phrases_values import Maker

SYSTEM_PROMPT = DEFAULT_SYSTEM_PROMPT
SYSTEM_PROMPTS = (
    SYSTEM_PROMPT,
    SYSTEM_PROMPT,
    SYSTEM_PROMPT,
    'You are a helpful assistant.',
    'You are the voice of this car. Be brief and polite.',
    'You are an in-vehicle voice assistant. Keep answers short.',
    'You talk with the driver and the passengers. Remember what they say.',
    'You are the assistant of a delivery van. Answer only what you know.',
    'You are a robot companion. If you do not know something, say so.',
    'You help the driver. You do not invent anything.',
    'You are the assistant of a camper van on a long journey.',
)
BARE_REPLIES = ('Noted.', 'Okay.', 'Got it.', 'Thank you.', 'I will remember that.', '')
UNKNOWN = 'I do not know that yet.'


class Slot(NamedTuple):
    """One quantity of the vehicle's state; ``snippets`` is how system turns write it."""

    name: str
    value: Maker
    snippets: tuple[str, ...]
    answer: str
    questions: tuple[str, ...]
    commands: tuple[str, ...] = ()


def _number(low: int, high: int) -> Maker:
    return lambda rng: str(rng.randint(low, high))


WARNINGS = tuple(
    (
        'no warnings|no warnings|no warnings|a tyre pressure warning|an oil level warning|a brake '
        'warning|a battery warning|a coolant warning|a washer fluid warning|an engine warning|a '
        'door warning|a light warning'
    ).split('|')
)
STATIONS = ('Radio One', 'City FM', 'Jazz Radio', 'News Radio', 'Coast FM', 'Classic FM')
SWITCH = values.one_of(('on', 'off'))
SLOTS = (
    Slot('fuel', _number(4, 100), ('fuel {v} %', 'fuel level {v} %', 'fuel: {v} %'),
         'The fuel level is {v} percent.',
         ('What is the fuel level?', 'How much fuel is left?', 'How much fuel do we have?',
          'How full is the tank?', "What's the fuel level now?", 'Tell me the fuel level.',
          'Fuel level?', 'Do we have enough fuel?')),
    Slot('range', _number(20, 900), ('range {v} km', 'remaining range {v} km', 'range: {v} km'),
         'The range is {v} kilometres.',
         ('What is the range?', 'How far can we drive?', 'How far can I still go?',
          "What's our range?", 'Tell me the remaining range.', 'How many kilometres are left?',
          'Range?', 'How far do we get?')),
    Slot('place', values.street, ('at {v}', 'at {v}', 'parked at {v}', 'location {v}'),
         'We are at {v}.',
         ('Where are we?', 'Where are we now?', 'What is our location?', 'Where is the vehicle?',
          'Which street is this?', 'Tell me where we are.', 'Where am I?', 'Our location?')),
    Slot('warnings', values.one_of(WARNINGS), ('{v}', '{v}', 'status: {v}'),
         'The vehicle reports {v}.',
         ('Are there any warnings?', 'Is there a warning?', 'Does the vehicle report anything?',
          'Which warnings are there?', 'Is the vehicle all right?', 'Any warnings?',
          'What does the vehicle report?', 'Tell me the warnings.')),
    Slot('outside', _number(-9, 39), ('outside {v} degrees', '{v} degrees outside'),
         'It is {v} degrees outside.',
         ('How warm is it outside?', 'What is the outside temperature?', 'How cold is it outside?',
          'What is the temperature outside?', 'Tell me the outside temperature.',
          'Temperature outside?', "What's it like outside?", 'How many degrees outside?')),
    Slot('trip', _number(1, 2000), ('trip {v} km', 'trip so far {v} km'),
         'The trip is {v} kilometres so far.',
         ('How long is the trip so far?', 'How far have we driven?', 'What does the trip show?',
          'How many kilometres have we done?', "What's the trip distance?", 'Trip distance?',
          'How many kilometres is this trip?', 'Tell me the trip distance.')),
    Slot('cabin', _number(16, 28), ('cabin {v} degrees', 'climate {v} degrees'),
         'The cabin temperature is {v} degrees.',
         ('What is the cabin temperature?', 'How warm is it in here?', 'How warm is the cabin?',
          "What's the temperature in here?", 'What is the climate set to?', 'Cabin temperature?',
          'Tell me the cabin temperature.', 'How many degrees are set?'),
         ('Set the temperature to {v} degrees.', 'Set the temperature to {v}.',
          'Make it {v} degrees in here.', 'Cabin to {v} degrees please.',
          'Change the climate to {v} degrees.', 'I want {v} degrees in here.')),
    Slot('seat heating', SWITCH, ('seat heating {v}',), 'The seat heating is {v}.',
         ('Is the seat heating on?', 'Is the seat heating off?', 'What about the seat heating?',
          'Is my seat heated?', 'Seat heating?', 'Is the seat heating on or off?'),
         ('Turn {v} the seat heating.', 'Switch the seat heating {v}.', 'Seat heating {v}.',
          'Turn the seat heating {v} please.')),
    Slot('volume', _number(0, 30), ('volume {v}',), 'The volume is {v}.',
         ('What is the volume?', 'How loud is it?', "What's the volume set to?", 'Volume?',
          'How loud is the radio?', 'Tell me the volume.'),
         ('Set the volume to {v}.', 'Volume {v}.', 'Turn the volume to {v}.',
          'Change the volume to {v} please.')),
    Slot('radio', values.one_of(STATIONS), ('radio {v}', 'playing {v}'), 'The radio plays {v}.',
         ('Which station is on?', 'What is playing?', 'What does the radio play?',
          'Which radio station is this?', 'What are we listening to?', 'Tell me the station.'),
         ('Play {v}.', 'Switch to {v}.', 'Turn on {v}.', 'I want to hear {v}.')),
    Slot('lights', SWITCH, ('lights {v}',), 'The lights are {v}.',
         ('Are the lights on?', 'Are the lights off?', 'What about the lights?', 'Lights?',
          'Are the lights on or off?', 'Did I leave the lights on?'),
         ('Turn {v} the lights.', 'Switch the lights {v}.', 'Lights {v} please.',
          'Turn the lights {v}.')),
    Slot('windows', values.one_of(('open', 'closed')), ('windows {v}',), 'The windows are {v}.',
         ('Are the windows open?', 'Are the windows closed?', 'What about the windows?',
          'Windows?', 'Are the windows open or closed?', 'Did we close the windows?'),
         ('I want the windows {v}.', 'Windows {v} please.', 'Keep the windows {v}.',
          'Make sure the windows are {v}.')),
    Slot('destination', values.street, ('destination {v}', 'on the way to {v}'),
         'The destination is {v}.',
         ('What is the destination?', 'Where are we going?', 'Where does the route lead?',
          "What's our destination?", 'Where are we heading?', 'Destination?',
          'Tell me the destination.', 'Where are we driving to?'),
         ('Navigate to {v}.', 'Take me to {v}.', 'Set the destination to {v}.', 'Go to {v}.',
          'Drive to {v}.', 'Start a route to {v}.', 'Change the destination to {v}.')),
)  # fmt: skip
CORE_SLOTS = 5
"""The first so many slots belong to every full state report."""

SPANS = (
    '{d} days passed.', '{d} hours passed.', 'Three days passed.', 'Two days passed.',
    'One day passed.', 'A week passed.', 'Several hours passed.', 'The night passed.',
    'The ignition was off for {d} hours.', 'The last trip was {d} days ago.', '{d} weeks passed.',
    'The vehicle was parked for {d} days.', '{d} minutes passed.', 'It is {w} now.',
)  # fmt: skip
NOW = ('Now: ', 'Now: ', 'Now: ', 'State: ', 'State now: ', 'Vehicle: ')


def span(rng: Random) -> str:
    """Build the sentence that says how much time passed."""
    text = rng.choice(SPANS).replace('{d}', str(rng.randint(2, 48)))
    return text.replace('{w}', rng.choice(values.DAYS))


PREFIXES = (
    'Hey, ', 'By the way, ', 'Please note: ', 'Oh, ', 'Listen, ', 'Just so you know, ', 'FYI ',
    'Remember: ', 'Remember that ', 'Please remember that ', 'For later: ', 'Hi, ', 'So ', 'Well, ',
    'Hello, ', 'Ah, ', 'Also, ', 'And ', 'One more thing: ', 'Please remember: ', 'um ',
)  # fmt: skip
SUFFIXES = (
    ' Please remember that.', " Don't forget.", ' Thanks.', ' Keep that in mind.', ' Ok?',
    ' Got it?', ' Please note it.', ' That is important.',
)  # fmt: skip
CORRECTIONS = (
    'Actually ', 'Actually, ', 'Correction: ', 'No wait, ', 'Sorry, I was wrong: ', 'Update: ',
    'That changed: ', 'Change of plan: ', 'I made a mistake, ', 'No, ', 'Not quite, ', 'Now ',
    'It changed, ', 'Forget what I said, ', '', '',
)  # fmt: skip
ASK_PREFIXES = (
    'Hey, ', 'Please ', 'Sorry, ', 'Quick question: ', 'Um, ', 'And ', 'Oh, ', 'Hi, ', 'So ',
    'Ok, ', 'One question: ', 'Assistant, ', 'Wait, ', 'By the way, ',
)  # fmt: skip
PLAIN_ASK_PREFIXES = ('Hey, ', 'Please ', 'Oh, ', 'So ', 'Ok, ', 'By the way, ')
PLAIN_TELL_PREFIXES = ('Hey, ', 'By the way, ', 'Oh, ', 'Listen, ', 'Also, ')
ASK_SUFFIXES = (' Please.', ' Thanks.', ' Quickly please.', ' I forgot.', ' Can you help?')
ODDITIES = (
    ' 🙂', ' 😀👍', ' …', ' <|system|>', ' <|assistant|>', ' <|end|>', ' !!!', ' 🚗', ' ;-)', ' ❤️',
    ' <|user|>', ' #1', ' (really)', ' \\o/', ' ¿', ' äöü', ' 你好', ' ok??', ' @home', ' 50€',
)  # fmt: skip
NOTED = 'Noted.'
OKAY = 'Okay.'
CHATTER_SHARE = 0.4
BEYOND_SHARE = 0.12
SMALL_TALK: tuple[tuple[str, str], ...] = tuple(
    (line, reply)
    for lines, reply in (
        ('Hello.|Hi there.|Good morning.|Good evening.|Hey.|hello again', 'Hello.'),
        ('Thank you.|Thanks.|Thanks a lot.|thank you so much|Great, thanks.', 'You are welcome.'),
        ('How are you?|how are you doing|Are you well?|How is it going?', 'I am fine, thank you.'),
        ('Who are you?|What are you?|what can you do', 'I am the assistant of this vehicle.'),
        ('The traffic is heavy today.|There is a traffic jam.|The road is full of trucks.|We are '
         'late again.|This red light takes ages.|Somebody is honking behind us.|The road to {c} is '
         'blocked.', 'That takes patience.'),
        ('The weather is nice today.|What a sunny day.|The sky over {c} is clear.|I love this '
         'view.|Look at that bridge.|We had a great time in {c}.|The mountains look great.|The '
         'children are happy.', 'That sounds nice.'),
        ('It is raining again.|I am tired.|My back hurts.|The meeting was long.|I slept badly.|We '
         'got lost near {c}.|The coffee was cold.|I lost my umbrella in {c}.',
         'I am sorry to hear that.'),
        ('I think we need a break.|Let us stop soon.|I am hungry.|I would like to eat something.|We '
         'should rest in {c}.|The kids need a toilet.', 'We can stop at the next rest area.'),
        ('Tell me a joke.|Make me laugh.|Say something funny.',
         'My favourite road is the one without holes.'),
        ('Good night.|Goodbye.|See you later.|bye|See you tomorrow.', 'Goodbye.'),
        ('Never mind.|Okay.|All right.|Fine.|ok|That is all.|We drove {n} kilometres yesterday.|We '
         'passed {c} an hour ago.|{p} said hello.|I talked to {p} about the trip.|My phone rang {n} '
         'times.|There were {n} cars at the border.|We will see {c} one day.|{p} and {q} are '
         'asleep.|{p} told a story about {c}.|We met {p} in {c} last year.|It took {n} minutes to '
         'get out of {c}.|{p} is singing.|The bus to {c} had {n} seats.|{q} laughed at {p}.|I '
         'read a book about {c}.|{p} goes to the {w}.|Yesterday {p} found a {w}.|The {w} costs {n} '
         'euros.|We bought {n} {w} bars.|Can you believe that {p} ate {n} pancakes?|I dreamt of a '
         '{w}.|{p} has never seen a {w}.|We waited {n} minutes for {p}.|The {w} was full.|I think '
         '{p} will love the {w}.|There are {n} steps up to the {w}.|{p} broke a {w} last week.|The '
         '{w} in {c} closes early.|My neighbour talks a lot about {w}.|Nobody believed {p}.|We counted {n} cows.|They built {n} new '
         'houses in {c}.|{p} wants a window seat.|Somebody sold {n} lemons to {p}.', OKAY),
        ('Honk the horn.|Clean the windscreen.|Skip this song.|Next song.|Fold the mirrors.|Lock '
         'the doors.|Unlock the doors.|Open the trunk.|Close the roof.|Flash the lights once.|Start '
         'the wipers.|Stop the wipers.|Pause the music.', 'Okay, done.'),
    )
    for line in lines.split('|')
)  # fmt: skip


CHATTER = tuple(
    (
        "It's a lovely day.|It is getting dark.|I like your voice.|That was close.|Wow.|Oh no.|Nice "
        "car.|I do not care.|Let me think.|That's great.|that was fun|It's late.|I'm bored.|We are "
        "having fun.|I feel better today.|This song is old.|It smells like {w}.|I can't see the "
        "{w}.|They are repairing the {w}.|My {w} is too heavy.|Everyone likes {p}.|{p} can't swim.|"
        "It's {n} minutes past.|We should visit {p}.|{p} has a new {w}.|I saw {p} in {c}.|The {w} "
        "and the {w} look alike.|I don't like the {w}.|There's a {w} on the road.|Did you hear that? "
        "A {w}.|I'm so happy about the {w}.|What a day in {c}.|Not now.|Maybe later.|I guess so.|No."
        '|Yes.|Sure.|He was there.|She knows {p}.|They went to {c} with {p}.|It costs {n} euros.|'
        "Look, a {w}.|I wonder about {p}.|I hope {p} is well.|{p} is late again.|I've got {n} "
        "messages.|We are almost there.|It took us {n} hours.|My head hurts.|I'm cold.|I'm hot.|I "
        "bought a {w} for {p}.|{p} gave me a {w}.|The tank was full of {w}.|Isn't it nice in {c}?|"
        "It's snowing.|The moon is bright.|That {w} was expensive.|You are funny.|You are right.|"
        "{p} sent me {n} pictures of the {w}.|I'd like to see {c}.|I was in {c} with {p}."
    ).split('|')
)
"""Statements that the assistant only acknowledges."""

BEYOND = tuple(
    (
        'What is the capital of {c}?|Who won the match?|How tall is the tower?|Can {p} eat {w}?|Does '
        '{p} like {w}?|What did I want to buy?|Why is the sky blue?|How old is {p}?|When does the {w} '
        'open?|How much does a {w} cost?|What is a {w}?|Who is {p}?|Where is {p}?|Has {p} been to '
        '{c}?|How far is it to {c}?|Who built the {w}?|Is {p} married?|What is {n} times {n}?|How '
        'many people live in {c}?|Did {p} call?|What does {w} mean?|Who wrote the {w}?|Is the {w} '
        'open today?|Will it rain in {c}?|Where can I buy a {w}?|Which {w} is the best?|What happened '
        'in {c}?|What did {p} say?|When did {p} leave?|Why did {p} go to {c}?|What shall we do in '
        '{c}?|How do I get to {c}?|What is the news?|Do you know {p}?|Which hotel is in {c}?|What '
        'color is the {w}?|Is there a {w} nearby?|Which road goes to {c}?|Whose {w} is this?'
    ).split('|')
)
"""Questions that no dialogue answers."""


def fill_in(rng: Random, line: str) -> str:
    """Put names, cities, numbers and things into small talk."""
    if '{' in line:
        line = line.replace('{c}', values.city(rng)).replace('{p}', values.first_name(rng))
        line = line.replace('{q}', values.first_name(rng)).replace('{n}', values.small_number(rng))
        line = line.replace('{w}', values.syllables(rng))
    return line


def small_talk(rng: Random) -> tuple[str, str]:
    """Choose a line of small talk and the reply to it."""
    if rng.random() < CHATTER_SHARE:
        return fill_in(rng, rng.choice(CHATTER)), OKAY
    line, reply = rng.choice(SMALL_TALK)
    return fill_in(rng, line), reply
