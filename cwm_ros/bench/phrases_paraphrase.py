# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Facts about the speaker whose questions share no content word with their statements.

The assistant acknowledges them without an echo, so that nothing but the statement holds the value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cwm_ros.bench import phrases_values as values
from cwm_ros.bench.phrases import Family, Keyed

if TYPE_CHECKING:
    from random import Random

    from cwm_ros.bench.phrases_values import Maker

FUNCTION_WORDS = frozenset(
    (
        'a about again also always am an and any are as at be been before but by can cannot could '
        'did do does for from had has have hey how i if in is it its just listen may me must my '
        'need no not of oh ok okay on one or our out please quick s should so some still t thanks '
        'thank that the there this to up us was way we what when where which who will with would '
        'you your'
    ).split()
)


def content_words(text: str) -> frozenset[str]:
    """Return the lower-case words of ``text`` that carry meaning."""
    return frozenset(re.findall(r'[a-z]+', text.lower())) - FUNCTION_WORDS


def _family(name: str, nouns: str, answer: str, says: str, asks: str) -> Family:
    """Describe a paraphrased fact; alternatives are separated by bars."""
    return Family(
        name,
        tuple(nouns.split('|')),
        answer,
        tuple(says.split('|')),
        tuple(asks.split('|')),
        is_plain=False,
    )


PARAPHRASES: tuple[tuple[Family, Maker], ...] = (
    (_family('own job', 'my job|my profession|my occupation', 'your job is {v}.',
             'I earn money as a {v}.|I work as a {v}.|I have been a {v} for ten years.|By trade I '
             'am a {v}.|I make my living as a {v}.|People pay me for being a {v}.|I trained as a '
             '{v}.|I became a {v} long ago.',
             'Which career did I choose?|What is my occupation called?'),
     values.mostly(values.JOBS)),
    (_family('own address', 'my home address|my address', 'your home address is {v}.',
             'I live at {v}.|I moved to {v}.|We reside at {v}.|My flat is at {v}.|My house stands '
             'at {v}.|I sleep at {v} every night.|You can drop me off at {v}.|We rent rooms at '
             '{v}.', 'Where is home?|Which address is mine?'), values.address),
    (_family('own birthday', 'my birthday|my date of birth', 'your birthday is on {v}.',
             'I was born on {v}.|I came into the world on {v}.|I turn a year older on {v}.|On {v} '
             'I get a cake with candles.|My mother had me on {v}.|I grow one year older on {v}.|My '
             'presents arrive on {v}.|I get older on {v}.',
             'When is my birthday?|When do I celebrate my birthday?'), values.date),
    (_family('own origin', 'my home town|my native city', 'your home town is {v}.',
             'I come from {v}.|I grew up in {v}.|I spent my childhood in {v}.|My family is from '
             '{v}.|I was a child in {v}.|My parents raised me in {v}.|My roots are in {v}.|I left '
             '{v} when I was young.', 'Which town am I from?|Which city was I born in?'),
     values.city),
    (_family('own allergy', 'my allergy', 'you are allergic to {v}.',
             'I must never eat {v}.|My body does not tolerate {v}.|My doctor keeps me away from '
             '{v}.|I get ill from {v}.|I swell up from {v}.|I have to avoid {v}.|I get a rash from '
             '{v}.|I stay away from {v}.',
             'What am I allergic to?|Which allergy do I have?|Do I have an allergy?'),
     values.mostly(values.ALLERGENS)),
    (_family('own music', 'my favourite music|my taste in music', 'your favourite music is {v}.',
             'I love listening to {v}.|Nothing beats {v} on the radio.|I always enjoy some {v}.|I '
             'could hear {v} all day.|My radio only plays {v}.|I sing along to {v}.|I buy records '
             'with {v}.|I dance to {v}.', 'Which music do I like?|What kind of music do I prefer?'),
     values.mostly(values.MUSIC)),
    (_family('own drink', 'my usual drink|my favourite drink', 'your usual drink is {v}.',
             'In the morning I always have {v}.|I start each day with a cup of {v}.|I cannot wake '
             'up without {v}.|I take {v} with me every day.|I ask for {v} in every cafe.|I order '
             '{v} wherever I go.|Nothing beats a cold glass of {v}.|I buy {v} all the time.',
             'Which drink do I like?|What do I like to drink?'), values.mostly(values.DRINKS)),
    (_family('own flight', 'my flight time|my departure time', 'your flight is at {v}.',
             'My plane takes off at {v}.|We lift off at {v}.|The plane leaves at {v}.|I am in the '
             'air at {v}.|My plane is due at {v}.|The aircraft rolls at {v}.|The plane goes at '
             '{v}.|We board the aircraft for {v}.', 'When is my flight?|When do I depart?'),
     values.clock),
    (_family('own spouse', 'my spouse|my partner', 'your spouse is {v}.',
             'I am married to {v}.|I married {v} years ago.|{v} and I had our wedding in spring.|'
             '{v} said yes to me.|I wear a ring from {v}.|{v} and I are a couple.|I share my life '
             'with {v}.|{v} and I tied the knot.', 'Who is my spouse?|Who is my partner?'),
     values.first_name),
    (_family('own hobby', 'my hobby|my pastime', 'your hobby is {v}.',
             'I spend my weekends with {v}.|After work I do some {v}.|I never get tired of {v}.|I '
             'joined a club for {v}.|I could spend all day with {v}.|I love {v}.|Every Sunday I go '
             'for some {v}.|I relax with {v}.', 'Which hobby do I have?|What hobby is mine?'),
     values.mostly(values.HOBBIES)),
    (_family('own hotel', 'my hotel', 'your hotel is {v}.',
             'We are staying at {v} tonight.|I sleep at {v} tonight.|We checked in at {v}.|I got a '
             'room at {v}.|Our room is at {v}.|We spend the night at {v}.|My suitcase is already '
             'at {v}.|We reserved two beds at {v}.',
             'Which hotel did I book?|What is our hotel called?'), values.word),
    (_family('own language', 'my native language|my mother tongue',
             'your native language is {v}.',
             'I grew up speaking {v}.|I dream in {v}.|As a child I spoke {v}.|My parents talked to '
             'me in {v}.|I count in {v}.|I learned {v} from birth.|I spoke {v} first.|We speak {v} '
             'in my family.', 'Which language is mine?|What is my mother tongue called?'),
     values.mostly(values.LANGUAGES)),
    (_family('own shoes', 'my shoe size', 'your shoe size is {v}.',
             'My feet measure {v}.|I take boots in {v}.|My feet need a {v}.|Boots only fit me in '
             '{v}.|I always buy sneakers in {v}.|I have feet like {v}.|In the store I ask for '
             '{v}.|My sneakers are a {v}.', 'Which shoe size do I have?|How big are my shoes?'),
     values.small_number),
    (_family('own budget', 'my budget|my spending limit', 'your budget is {v} euros.',
             'I can spend {v} euros.|I do not want to pay more than {v} euros.|I have {v} euros '
             'left.|I put {v} euros aside for this trip.|I can afford {v} euros.|I brought {v} '
             'euros.|{v} euros is all I have.|I saved {v} euros.',
             'How much money is available to me?|How big is my budget?'), values.small_number),
    (_family('own waking', 'my wake-up time', 'your wake-up time is {v}.',
             'I get out of bed at {v}.|Every day I rise at {v}.|I get going at {v}.|My alarm rings '
             'at {v}.|My day starts at {v}.|I am on my feet at {v}.|I set the alarm to {v}.|I get '
             'up at {v}.', 'When do I wake?|When must you wake me?'), values.clock),
    (_family('own instrument', 'my instrument', 'your instrument is the {v}.',
             'I play the {v}.|I take lessons for the {v}.|I practise the {v} each evening.|I was '
             'in a band with my {v}.|I bought a {v}.|I love to play my {v}.|I studied the {v}.|I '
             'make music on the {v}.',
             'Which instrument is mine?|Which instrument did I learn?'),
     values.mostly(values.INSTRUMENTS)),
)  # fmt: skip
PARAPHRASE_NAMES = frozenset(family.name for family, _ in PARAPHRASES)
ASK_PLAINLY = ('What is {n}?', "What's {n}?", 'Tell me {n}.', 'Do you know {n}?', '{n}?',
               'I forgot {n}.', 'What was {n} again?', 'Can you tell me {n}?')  # fmt: skip


def paraphrase_key(rng: Random) -> Keyed:
    """Choose a fact about the speaker."""
    family, maker = rng.choice(PARAPHRASES)
    return Keyed(family, 'me', maker)
