# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The reference model does not know what its window forgot, and knows the rest."""

from __future__ import annotations

from cwm_ros.bench.forget import measure_forgetting
from cwm_ros.config import Settings


def test_what_is_forgotten_is_not_recalled_and_the_rest_is() -> None:
    count = measure_forgetting(Settings(), context=768, dialogues=2, seed=3)
    assert count.known_before == count.forgotten >= 2
    assert count.known_after == 0
    assert count.others_after >= count.others_before > 0


def test_a_dialogue_too_short_to_ask_about_a_fact_counts_as_none() -> None:
    count = measure_forgetting(Settings(), context=512, dialogues=1, seed=3)
    assert (count.dialogues, count.forgotten, count.others) == (1, 0, 0)
