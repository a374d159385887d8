# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whom and what people talk about: relations, locks, things, events, places."""

from __future__ import annotations

from cwm_ros.bench.phrases_values import DAYS

RELATIONS = tuple(
    (
        'sister|brother|mother|father|wife|husband|daughter|son|uncle|aunt|cousin|boss|colleague|'
        'neighbour|dentist|doctor|teacher|hairdresser|mechanic|landlord|friend|grandmother|mom|dad|'
        'grandfather|niece|nephew|lawyer|trainer|best friend|roommate|assistant|plumber|coach'
    ).split('|')
)
ANIMALS = ('dog', 'cat', 'horse', 'parrot', 'rabbit', 'hamster', 'turtle', 'puppy')
LOCKS = tuple(
    (
        'gate|safe|garage|alarm|front door|locker|mailbox|suitcase|bike lock|office door|cellar|'
        'elevator|car park|storage room|pool|gym|boathouse|key box|back door|workshop|archive|'
        'barn|roof door|tool shed|side entrance|parking garage|holiday house|cabin'
    ).split('|')
)
ITEMS = tuple(
    (
        'passport|keys|sunglasses|umbrella|first aid kit|charger|wallet|map|camera|laptop|blanket|'
        'water bottle|gloves|ticket|flashlight|phone|jacket|headphones|notebook|spare key|medicine|'
        'toolbox|tent|book|snacks|hat|scarf|pen|lighter|tablet|cable|rope|parking disc|helmet'
    ).split('|')
)
EVENTS = tuple(
    (
        'dentist appointment|meeting|concert|dinner|haircut|job interview|piano lesson|parents '
        'evening|vet appointment|car inspection|party|train|ferry|lunch|exam|yoga class|football '
        'match|doctor appointment|wedding|board meeting|video call|theatre play|massage|school run'
    ).split('|')
)
MEETINGS = ('meeting', 'dinner', 'lunch', 'call', 'appointment', 'coffee', 'interview', 'lesson')
PLACES = tuple(
    (
        'airport|station|office|school|hospital|hotel|theatre|harbour|museum|bakery|bank|stadium|'
        'city hall|restaurant|garage|clinic|market|campsite|ferry terminal|border|library|church'
    ).split('|')
)
OCCASIONS = (
    *(f'on {day}' for day in DAYS),
    *'at the bakery|in town|after lunch|tonight|tomorrow morning|at the station|before dinner|at '
    'the office|on the way back|this evening|next week|at the mall|tomorrow|at noon'.split('|'),
)
