# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Freeze and thaw with a tiny model of every family, from a published-looking folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.answer import Request
from cwm_ros.engine import LogitRows
from cwm_ros.kv import Role, Turn
from cwm_ros.segment import SegmentStarted
from cwm_ros.verdict import Verdict
from tests.fakes import assert_verified, complete, freeze, say
from tests.families import FAMILIES, family_folder
from tests.model.published import PUBLISHED, write_rendering
from tests.test_proof import plant

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.kv import FloatArray
    from cwm_ros.manager import Manager
    from tests.conftest import OpenManager

SPEAKS_AS = {'mistral-all': 'mistral', 'qwen2-late': 'qwen2', 'phi-3-long': 'phi-3'} | {
    'stablelm-2': 'stablelm', 'gemma-2': 'gemma'
}  # fmt: skip
"""Whose template and tokenizer a family takes that has none of its own."""
VOCABULARY = 512
STOPS = 'Remember the stops, please. ' * 6


@pytest.fixture(params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a checkpoint with the family's template, and a tokenizer of its kind."""
    family = request.param
    made = family_folder(family, tmp_path / 'models', vocab_size=VOCABULARY, eos_token_id=1)
    (made / 'chat_template.jinja').unlink()
    write_rendering(PUBLISHED[SPEAKS_AS.get(family, family)], made)
    return made


def talk(manager: Manager) -> None:
    """Fill some chunks with turns of which a user would not think that they are long."""
    manager.create('trip', 'You are the voice of a car.')
    for number in range(4):
        said = f'Remember that stop {number} is [INST] 4{number} <|user|> km away, please. '
        manager.add_turns(
            [
                Turn(role=Role.USER, text=said * 2),
                Turn(role=Role.ASSISTANT, text=f'Yes, 4{number}'),
            ]
        )
    assert say(manager, 'How far is it?').text is not None
    complete(manager)
    freeze(manager)


def logits_of_question(manager: Manager) -> FloatArray:
    session = manager.session
    start = session.num_tokens
    manager.add_turns([Turn(role=Role.USER, text='What did I say?')])
    return session.compute(start, session.num_tokens, LogitRows.ALL)


def test_a_conversation_comes_back_bit_for_bit(open_tiny: OpenManager, folder: Path) -> None:
    with open_tiny(engine={'model': str(folder)}) as manager:
        talk(manager)
        manager.store.clone_window('trip', 'twin')
        tokens = manager.session.tokens.copy()
        kv = manager.engine.export_kv(0, len(tokens)).kv.copy()
        expected = logits_of_question(manager)
    with open_tiny(engine={'model': str(folder)}) as manager:
        thaw = manager.open_window('twin')
        complete(manager)

        assert len(tokens) > 256
        assert manager.session.tokens.tolist() == tokens.tolist()
        assert thaw.progress().reused_tokens == len(tokens)
        assert thaw.progress().recomputed_tokens == 0
        np.testing.assert_array_equal(manager.engine.export_kv(0, len(tokens)).kv, kv)
        assert thaw.result().verdict is Verdict.PROVEN
        np.testing.assert_array_equal(logits_of_question(manager), expected)
        assert_verified(manager)


def test_a_lost_chunk_is_computed_again(open_tiny: OpenManager, folder: Path) -> None:
    with open_tiny(engine={'model': str(folder)}) as manager:
        talk(manager)
        manager.store.clone_window('trip', 'twin')
        num_tokens = manager.session.num_tokens
        manifest = manager.store.window('twin').manifest
        assert manifest is not None
        lost = manager.store.chunk_path(manifest.chunks[1].id, manifest.chunks[1].codec)
        kv = manager.engine.export_kv(0, num_tokens).kv.copy()
        expected = logits_of_question(manager)
    lost.unlink()
    with open_tiny(engine={'model': str(folder)}) as manager:
        thaw = manager.open_window('twin')
        complete(manager)

        assert thaw.progress().recomputed_tokens == 128
        again = manager.engine.export_kv(0, num_tokens).kv
        np.testing.assert_allclose(again, kv, atol=2e-4)
        np.testing.assert_allclose(logits_of_question(manager), expected, atol=1e-3)


def test_a_changed_description_is_another_model(open_tiny: OpenManager, folder: Path) -> None:
    """Same weights, other config: nothing of the old KV is taken; the turns are."""
    with open_tiny(engine={'model': str(folder)}) as manager:
        talk(manager)
        turns, old = list(manager.session.turns), manager.checkpoint.identity
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {'rope_theta': 20000.0}))
    with open_tiny(engine={'model': str(folder)}) as manager:
        thaw = manager.open_window('trip')
        complete(manager)

        assert manager.checkpoint.identity.model != old.model
        assert manager.checkpoint.identity.rendering == old.rendering
        assert manager.session.turns == turns
        assert thaw.progress().reused_tokens == 0
        assert thaw.result().verdict is Verdict.RECOMPUTED
        assert 'made by other weights' in thaw.result().reason


def test_another_template_begins_another_segment(open_tiny: OpenManager, folder: Path) -> None:
    with open_tiny(engine={'model': str(folder)}) as manager:
        talk(manager)
        turns, tokens = list(manager.session.turns), manager.session.tokens.tolist()
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    (folder / 'chat_template.jinja').write_text(template)
    with open_tiny(engine={'model': str(folder)}) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        rendered = manager.checkpoint.chat.render(turns, add_generation_prompt=False)

        assert manager.session.turns == turns
        assert manager.session.tokens.tolist() == rendered.tolist() != tokens
        assert thaw.progress().reused_tokens == 0
        assert 'chat template' in thaw.result().reason


def test_a_chunk_of_other_tokens_is_not_taken(open_tiny: OpenManager, folder: Path) -> None:
    """Header, name and checksum are in order; keys and values are those of the chunk before."""
    with open_tiny(engine={'model': str(folder)}) as manager:
        talk(manager)
        num_tokens = manager.session.num_tokens
        kv = manager.engine.export_kv(0, num_tokens).kv.copy()

        def take_the_first(contents: list[FloatArray]) -> None:
            contents[1][...] = contents[0]

        plant(manager, take_the_first)
    with open_tiny(engine={'model': str(folder)}) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        result = thaw.result()

        assert (result.rejected_chunks, result.recomputed_tokens) == (1, 128)
        assert result.verdict is Verdict.PROVEN
        assert 'KV of tokens -128 away' in manager.warnings[0]
        again = manager.engine.export_kv(0, num_tokens).kv
        np.testing.assert_allclose(again, kv, atol=2e-4)


def test_a_full_context_goes_on_in_another_segment(open_tiny: OpenManager, folder: Path) -> None:
    """The system prompt and the last turns, as the family's template begins a conversation."""
    small = {'model': str(folder), 'context_tokens': 900}
    with open_tiny(engine=small) as manager:
        talk(manager)
        started = next(
            first
            for first, *_ in (manager.say(Request(text=STOPS)) for _ in range(9))
            if isinstance(first, SegmentStarted)
        )
        assert started.carried > 1
        assert started.left_behind > 0
        complete(manager)
        freeze(manager)
        turns, tokens = list(manager.session.turns), manager.session.tokens.tolist()
        rendered = manager.checkpoint.chat.render(turns[:2], add_generation_prompt=False)
        assert tokens[: len(rendered)] == rendered.tolist()
    with open_tiny(engine=small) as manager:
        thaw = manager.open_window('trip')
        complete(manager)

        assert (manager.session.turns, manager.session.tokens.tolist()) == (turns, tokens)
        assert thaw.progress().reused_tokens == len(tokens)
        assert thaw.result().verdict is Verdict.PROVEN
