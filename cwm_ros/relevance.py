# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Which chunks of a window a prompt asks for: a pure function of what was said.

What is ranked is exchanges (a user's turn and what was answered), not chunks: a chunk holds a
dozen of them and hides the one that matters. A chunk counts as much as the best exchange in it,
and both chunks of an exchange on a border count alike.
"""

from __future__ import annotations

from functools import lru_cache
import re
from typing import NamedTuple, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cwm_ros.kv import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cwm_ros.kv import Turn

Scores = npt.NDArray[np.float64]

RARITY_POWER = 3
"""A question shares its phrasing with other questions, its rare words with what it asks for."""
SATURATION, LENGTH_SHARE, LONGEST = 1.2, 0.3, 3.0
"""BM25's k1 and b (Robertson, Zaragoza 2009), and the length that counts at most."""
LEFT_OF_COVERED = 0.7
"""What a word still counts after a chosen exchange held it: a prompt may ask for two things."""
NEWEST_GAIN = 0.3
"""How much more the newest exchange counts than the oldest: facts are told again, corrected."""
QUESTION_SHARE = 0.5
"""What an exchange counts that begins with a question: it shares words, and tells less."""
REPORT_GAIN = 2.0
"""What the last turn of the system counts: how things are now."""
SHORTEST_PLURAL = 4

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['\u2019][^\W_]+)?")


class Exchange(NamedTuple):
    """Turns that belong together: token positions [start, stop), words, and what kind it is."""

    start: int
    stop: int
    words: list[str]
    role: Role
    is_question: bool


def words_of(text: str) -> list[str]:
    """Return the words of a text without case, possessive and plural."""
    return [_stem(word) for word in _WORD.findall(text.lower())]


@lru_cache(maxsize=1 << 12)
def _stem(word: str) -> str:
    word = word.replace('\u2019', "'").removesuffix("'s").replace("'", '')
    is_plural = len(word) >= SHORTEST_PLURAL and word[-1] == 's' and word[-2] != 's'
    return word[:-1] if is_plural else word


def exchanges(turns: Sequence[Turn], turn_stops: Sequence[int]) -> Iterator[Exchange]:
    """Yield each user's or system's turn with the assistant's turns behind it."""
    first, start = 0, 0
    for index, stop in enumerate(turn_stops):
        if index + 1 < len(turn_stops) and turns[index + 1].role is Role.ASSISTANT:
            continue
        said = turns[first : index + 1]
        words = [word for turn in said for word in words_of(turn.text)]
        is_question = said[0].text.rstrip(' .').endswith('?')
        yield Exchange(start, stop, words, said[0].role, is_question)
        first, start = index + 1, stop


def relevance(
    prompt: str, turns: Sequence[Turn], turn_stops: Sequence[int], chunk_tokens: int
) -> Scores:
    """
    Score each chunk of a window by the words that its exchanges share with a prompt.

    Exchanges are chosen one after the other: each time the one with the most, as BM25 weighs
    words, except that rarity counts to the third power, and that words of exchanges chosen before
    count less. The weights were chosen on dialogues of other seeds than those reported.

    Parameters
    ----------
    prompt
        What the user says.
    turns, turn_stops
        What was said, and the token position after each turn.
    chunk_tokens
        Length of a chunk [tokens].

    Returns
    -------
    NDArray
        float64, one score for each chunk up to the last turn; 0 where nothing is shared.

    """
    said = list(exchanges(turns, turn_stops))
    scores = np.zeros(-(-turn_stops[-1] // chunk_tokens) if turn_stops else 0)
    weights = _weigh(words_of(prompt), said)
    if not len(weights):
        return scores
    firsts = np.array([one.start // chunk_tokens for one in said])
    ends = np.array([-(-one.stop // chunk_tokens) for one in said])
    emphasis, left = _emphasize(said), np.ones(len(said), np.bool_)
    shares = np.ones(len(weights))
    while True:
        values = (shares @ weights) * emphasis * left
        best = len(said) - 1 - int(np.argmax(values[::-1]))
        if values[best] <= 0:
            return scores
        place = scores[firsts[best] : ends[best]]
        place[place == 0] = values[best]
        shares[weights[:, best] > 0] *= LEFT_OF_COVERED
        num_open = np.concatenate([[0], np.cumsum(scores == 0)])
        left = num_open[ends] > num_open[firsts]


def _weigh(prompt: Sequence[str], said: Sequence[Exchange]) -> Scores:
    """Return how much the prompt's words count in each exchange, shape (words, exchanges)."""
    wanted = {word: row for row, word in enumerate(dict.fromkeys(prompt))}
    counts = np.zeros((len(wanted), len(said)))
    for column, exchange in enumerate(said):
        for word in exchange.words:
            if word in wanted:
                counts[wanted[word], column] += 1
    holders = (counts > 0).sum(axis=1)
    counts, holders = counts[holders > 0], holders[holders > 0]
    rarity = np.log1p((len(said) - holders + 0.5) / (holders + 0.5))
    lengths = np.array([len(exchange.words) for exchange in said], np.float64)
    lengths = np.minimum(lengths / max(lengths.mean(), 1.0), LONGEST) if len(said) else lengths
    damping = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * lengths)
    frequency: Scores = counts * (SATURATION + 1) / (counts + damping)
    frequency *= (rarity**RARITY_POWER)[:, np.newaxis]
    return frequency


def _emphasize(said: Sequence[Exchange]) -> Scores:
    """Return what each exchange counts, whatever its words are."""
    emphasis: Scores = 1 + NEWEST_GAIN * np.arange(len(said)) / len(said)
    emphasis[[exchange.is_question for exchange in said]] *= QUESTION_SHARE
    reports = [i for i, exchange in enumerate(said) if exchange.role is Role.SYSTEM]
    if len(reports) > 1:
        emphasis[reports[-1]] *= REPORT_GAIN
    return emphasis
