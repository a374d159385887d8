# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from cwm_ros.bench.dialogues import BOS_TOKENS, make_dialogue
from cwm_ros.bench.lengths import turn_counter
from cwm_ros.config import Settings
from cwm_ros.model import Checkpoint


@pytest.mark.parametrize('num_tokens', [1024, 4096])
def test_a_dialogue_is_as_long_as_it_was_asked_for(num_tokens: int) -> None:
    model = Checkpoint.configured(Settings().engine)
    count = turn_counter(model)
    turns = make_dialogue(7, num_tokens, count).turns
    rendered = len(model.chat.render(turns, add_generation_prompt=False))

    assert num_tokens - 64 < rendered <= num_tokens
    assert rendered == BOS_TOKENS + sum(map(count, turns))
