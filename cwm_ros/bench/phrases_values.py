# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Values that people tell: names, places, numbers, times.

About half are listed, half are built from syllables or digits, so that a model has to copy what
was said instead of knowing it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Maker = Callable[[Random], str]

FIRST_NAMES = tuple(
    (
        'Olivia Emma Mia Anna Lena Sofia Clara Nora Ida Maya Zoe Julia Laura Eva Alice Rosa Tara '
        'Leila Amina Yuki Hana Priya Carmen Ines Greta Paula Vera Sara Lucy Ruth Tom Paul Max Leo '
        'Felix Jonas Noah Ben Liam Oscar Hugo Ivan Omar Ali Ravi Kenji Diego Marco Luca Pierre '
        'Anton Emil Karl Peter Simon David Adam John Jack Sam Daniel Robert Mark Chris Alex Kim'
    ).split()
)
PETS = tuple('Rex Bella Luna Rocky Charlie Milo Daisy Oreo Coco Buddy Shadow Ginger'.split())
COLOURS = tuple(
    (
        'red blue green yellow black white orange purple brown grey pink silver gold turquoise '
        'beige violet crimson olive cyan magenta'
    ).split()
)
FOODS = tuple(
    (
        'pizza|pasta|sushi|lasagne|curry|apple pie|tomato soup|noodles|pancakes|falafel|risotto|'
        'paella|dumplings|cheesecake|mushrooms|grilled fish|fried rice|salad|ramen|goulash'
    ).split('|')
)
DRINKS = tuple(
    (
        'green tea|black coffee|orange juice|lemonade|cocoa|espresso|mint tea|apple juice|milk|'
        'ginger beer|iced tea|sparkling water|cappuccino|tomato juice|mango juice|hot chocolate'
    ).split('|')
)
ALLERGENS = tuple(
    'nuts|milk|eggs|wheat|shrimp|cats|pollen|dust|soy|peanuts|strawberries|bees|sesame|latex|'
    'celery|mustard'.split('|')
)
JOBS = tuple(
    (
        'baker teacher nurse pilot carpenter gardener lawyer plumber painter chemist writer '
        'farmer dentist driver tailor singer engineer waiter cook mason optician florist sailor'
    ).split()
)
INSTRUMENTS = tuple('violin piano guitar flute drums cello trumpet harp clarinet organ'.split())
LANGUAGES = tuple(
    'French Spanish German Italian Japanese Turkish Polish Arabic Hindi Swedish Korean'.split()
)
MUSIC = tuple('jazz rock opera reggae techno soul blues folk punk swing disco metal'.split())
HOBBIES = tuple(
    'chess|tennis|sailing|climbing|knitting|fishing|pottery|yoga|skiing|rowing|archery|baking|'
    'hiking|surfing|judo|dancing|painting|running'.split('|')
)
CITIES = tuple(
    (
        'Berlin Paris Rome Vienna Oslo Lisbon Madrid Prague Dublin Athens Zurich Geneva Munich '
        'Hamburg Milan Porto Lyon Boston Denver Chicago Austin Tokyo Osaka Sydney Cairo Lima'
    ).split()
)
STREET_STEMS = tuple(
    (
        'Elm Oak Maple Cedar Lake River Hill Mill Park Church Station Garden Forest Bridge King '
        'Queen Market School Harbour Castle Sunset Spring Meadow Willow Birch Tower Rose North'
    ).split()
)
STREET_ENDS = ('Street', 'Street', 'Street', 'Road', 'Avenue', 'Lane', 'Square', 'Way')
DAYS = ('Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday')
MONTHS = tuple(
    'January February March April May June July August September October November December'.split()
)
SPOTS = tuple(
    (
        'in the glovebox|in the trunk|under the seat|in the door pocket|on the back seat|in the '
        'red bag|in the backpack|on the shelf|in the kitchen|at the office|in the garage|in my '
        'jacket|behind the mirror|in the cup holder|in the drawer|on the desk|in the suitcase|'
        'under the mat|at home|in the cool box|in the side pocket|in the toolbox|on the roof'
    ).split('|')
)
ERRANDS = tuple(
    (
        'buy milk|call the bank|pick up the parcel|water the plants|pay the bill|feed the cat|'
        'get stamps|return the book|wash the car|buy bread|collect the suit|renew the ticket|'
        'charge the phone|send the letter|order flowers|check the tyres|book a table|buy batteries|'
        'fetch the keys|print the contract|get cash|buy a present|take the pills|sign the form'
    ).split('|')
)
ONSETS = tuple('b d f g k l m n p r s t v z br dr fl gr kl pr st tr sh ch w h j'.split())
NUCLEI = ('a', 'e', 'i', 'o', 'u', 'a', 'e', 'o', 'ai', 'ou', 'ei')
CODAS = ('', '', '', 'n', 'r', 'l', 's', 'm', 'k', 't', 'x')
FRAGMENTS = tuple(
    (
        'bis cuit lin coln pla za ter son ing ham ford wood ster mont gar den field burg stone '
        'wick ley ton ville land berg man er el an or ic us um ash bel cor dal ev fen gul har isk '
        'jun kov lam mer nor ost pen qui ras sel tar ul vin wes xan yor zed bright black well sand '
        'moor cliff spring gold silver thorn apple berry fish bird light house way mark point '
        'cross bridge chi cka doo ffle gg hop itt jel kno ll mu nny oo pper qua rri ss tto uck vvy'
    ).split()
)
TITLES = tuple(
    (
        'Grand Royal Blue Golden Old New Little Central White Red Green Silver Happy Wild Sunny '
        'North South East West Great Saint Park Hotel Cafe Villa Casa Lake City'
    ).split()
)
THINGS = tuple(
    (
        'tent|lamp|printer|parcel|bike|lawn mower|tickets|shoes|cake|chairs|guitar|window|keys|'
        'batteries|medicine|stamps|wine|cheese|fruit|paint|screws|books|curtains|heater|camera'
    ).split('|')
)
VERBS = tuple(
    'buy|get|call|pick up|return|clean|fix|order|find|bring|sell|check|visit|ask for|pay for|'
    'write to|look for|thank|repair|wash'.split('|')
)
MAX_HOUR = 23
LISTED_SHARE = 0.5


def syllables(rng: Random) -> str:
    """Build a lower-case word that no list holds."""
    if rng.random() < LISTED_SHARE:
        return ''.join(rng.choices(FRAGMENTS, k=rng.choice((2, 2, 3))))
    word = ''
    for _ in range(rng.choice((2, 2, 2, 3))):
        word += rng.choice(ONSETS) + rng.choice(NUCLEI)
    return word + rng.choice(CODAS)


def invented(rng: Random) -> str:
    """Build a name that no list holds."""
    return syllables(rng).capitalize()


def first_name(rng: Random) -> str:
    """Choose or build a person's name."""
    return rng.choice(FIRST_NAMES) if rng.random() < LISTED_SHARE else invented(rng)


def pet_name(rng: Random) -> str:
    """Choose or build a pet's name."""
    return rng.choice(PETS) if rng.random() < LISTED_SHARE else invented(rng)


def city(rng: Random) -> str:
    """Choose or build a city."""
    return rng.choice(CITIES) if rng.random() < LISTED_SHARE else invented(rng)


def street(rng: Random) -> str:
    """Choose or build a street."""
    stem = rng.choice(STREET_STEMS) if rng.random() < LISTED_SHARE else invented(rng)
    return f'{stem} {rng.choice(STREET_ENDS)}'


def address(rng: Random) -> str:
    """Build a house number and a street."""
    return f'{rng.randint(1, 199)} {street(rng)}'


def word(rng: Random) -> str:
    """Choose or build a word such as a password or a nickname."""
    kind = rng.randrange(8)
    if kind < 2:
        return rng.choice(COLOURS) + rng.choice(('fox', 'bird', 'moon', 'stone', 'leaf', 'wind'))
    if kind < 4:
        return f'{rng.choice(TITLES)} {invented(rng)}'
    if kind == 4:
        return syllables(rng) + digits(rng, rng.randint(1, 4))
    return syllables(rng) if rng.random() < LISTED_SHARE else invented(rng)


def digits(rng: Random, length: int) -> str:
    """Build a number of exactly ``length`` digits."""
    return ''.join(rng.choices('0123456789', k=length))


def code(rng: Random) -> str:
    """Build a code, most often of four digits."""
    return digits(rng, rng.choice((4, 4, 4, 4, 4, 4, 4, 3, 5, 6)))


def phone(rng: Random) -> str:
    """Build a telephone number."""
    lengths = rng.choice(((3, 3), (6,), (3, 4), (4, 4), (3, 3, 4), (3, 2, 2), (8,)))
    return ' '.join(digits(rng, length) for length in lengths)


def plate(rng: Random) -> str:
    """Build a licence plate."""
    letters = ''.join(rng.choices('ABCDEFGHKLMNPRSTVWXYZ', k=rng.choice((1, 2, 3))))
    return f'{letters} {digits(rng, rng.choice((3, 4)))}'


def errand(rng: Random) -> str:
    """Choose or build something to do."""
    kind = rng.randrange(6)
    if kind < 2:
        return rng.choice(ERRANDS)
    if kind == 2:
        return f'{rng.choice(VERBS)} {first_name(rng)}'
    thing = syllables(rng) if kind == 3 else rng.choice(THINGS)
    return f'{rng.choice(VERBS)} {rng.choice(("the ", "the ", "a ", "some ", "my ", ""))}{thing}'


def small_number(rng: Random) -> str:
    """Build a number from 1 to 999."""
    return str(rng.randint(1, rng.choice((9, 99, 999))))


def clock(rng: Random) -> str:
    """Build a time of day."""
    if rng.random() < LISTED_SHARE / 4:
        return f'{rng.randint(1, 12)} {rng.choice(("am", "pm"))}'
    return f'{rng.randint(1, MAX_HOUR)}:{rng.choice(("00", "15", "30", "45", "10", "20", "40"))}'


def date(rng: Random) -> str:
    """Build a day of a month."""
    return f'{rng.choice(MONTHS)} {rng.randint(1, 28)}'


def when(rng: Random) -> str:
    """Build the time of an appointment."""
    kind = rng.randrange(9)
    if kind < 2:
        return f'at {clock(rng)}'
    if kind == 2:
        return f'on {date(rng)}'
    if kind == 3:
        return rng.choice((f'tomorrow at {clock(rng)}', f'at {clock(rng)} tomorrow'))
    if kind == 4:
        day = rng.choice(DAYS)
        return rng.choice((f'next {day}', f'on {day}', f'{day} at {clock(rng)}', 'tomorrow'))
    return f'on {rng.choice(DAYS)} at {clock(rng)}'


def spot(rng: Random) -> str:
    """Choose or build a place where a thing can be."""
    if rng.random() < 2 * LISTED_SHARE / 3:
        return rng.choice(('in the ', 'on the ', 'under the ')) + syllables(rng)
    return rng.choice(SPOTS)


def parking(rng: Random) -> str:
    """Build the place where a car stands."""
    kind = rng.randrange(5)
    if kind == 0:
        return f'in bay {rng.randint(1, 300)}'
    if kind == 1:
        return f'in {street(rng)}'
    if kind == 2:
        return f'on deck {rng.choice("ABCDEFGH")}'
    return f'on level {rng.randint(1, 12)}'


def one_of(values: tuple[str, ...]) -> Maker:
    """Make a chooser from a list."""
    return lambda rng: rng.choice(values)


def mostly(values: tuple[str, ...]) -> Maker:
    """Make a chooser from a list that builds one word in four."""
    return lambda rng: rng.choice(values) if rng.random() < 1.5 * LISTED_SHARE else syllables(rng)
