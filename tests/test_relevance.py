# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.relevance import relevance


def slow_relevance(prompt: list[int], tokens: list[int], size: int) -> list[float]:
    """Count, for each term of the prompt, the chunks that hold it."""
    num_chunks = math.ceil(len(tokens) / size)
    scores = [0.0] * num_chunks
    for length, weight in ((1, 1.0), (2, 0.25)):
        places = [
            (tuple(tokens[i : i + length]), i // size) for i in range(len(tokens) - length + 1)
        ]
        for term in {tuple(prompt[i : i + length]) for i in range(len(prompt) - length + 1)}:
            holders = {chunk for found, chunk in places if found == term}
            for chunk in holders:
                scores[chunk] += weight * math.log(num_chunks / len(holders)) ** 2
    return scores


@given(
    st.lists(st.integers(0, 9), max_size=12),
    st.lists(st.integers(0, 9), max_size=60),
    st.integers(1, 9),
)
def test_relevance_equals_a_slow_and_obvious_one(
    prompt: list[int], tokens: list[int], size: int
) -> None:
    scores = relevance(np.array(prompt, np.int32), np.array(tokens, np.int32), size)

    np.testing.assert_allclose(scores, slow_relevance(prompt, tokens, size), atol=1e-9)


@pytest.mark.parametrize('place', [0, 7, 15])
def test_the_chunk_that_holds_a_rare_word_ranks_first(place: int) -> None:
    rng = np.random.default_rng(place)
    tokens = rng.integers(0, 200, 16 * 256).astype(np.int32)
    tokens[place * 256 + 100 : place * 256 + 102] = (900, 901)
    prompt = np.array([*rng.integers(0, 200, 10), 900, 901], np.int32)

    assert int(np.argmax(relevance(prompt, tokens, 256))) == place


def test_a_word_of_the_largest_ids_is_not_confused_with_another() -> None:
    tokens = np.array([1, 2, (1 << 31) - 1, (1 << 31) - 2, 3, 4], np.int32)
    scores = relevance(np.array([(1 << 31) - 1, (1 << 31) - 2], np.int32), tokens, 2)

    assert list(scores > 0) == [False, True, False]
