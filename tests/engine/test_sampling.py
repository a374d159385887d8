# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from cwm_ros.engine import sample, Sampling
from cwm_ros.errors import ConfigError

LOGITS = np.array([0, 3, 1, 3, -50], np.float32)


def test_greedy_takes_the_lowest_of_the_likeliest() -> None:
    rng = np.random.default_rng(0)
    state = rng.bit_generator.state

    assert sample(LOGITS, Sampling(), rng) == 1
    assert rng.bit_generator.state == state


def test_a_seed_repeats_an_answer() -> None:
    sampling = Sampling(temperature=1.5)
    answers = []
    for _ in range(2):
        rng = np.random.default_rng(7)
        answers.append([sample(LOGITS, sampling, rng) for _ in range(50)])

    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 2


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    rng = np.random.default_rng(1)
    draws = [sample(LOGITS, Sampling(temperature=temperature), rng) for _ in range(20_000)]
    expected = np.exp(LOGITS.astype(np.float64) / temperature)
    expected /= expected.sum()

    np.testing.assert_allclose(np.bincount(draws, minlength=5) / 20_000, expected, atol=0.015)


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([3e38, -3e38], np.float32)

    assert sample(logits, Sampling(temperature=0.1), np.random.default_rng(0)) == 0


@pytest.mark.parametrize('temperature', [-0.1, 11, float('nan')])
def test_a_temperature_that_cannot_be_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match='temperature'):
        Sampling(temperature=temperature)
