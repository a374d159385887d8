# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Coming back after a while: what the assistant is told before it answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
import pytest

from cwm_ros.errors import ConfigError
from cwm_ros.kv import Role, Turn
from cwm_ros.reentry import compose, elapsed_text, MAX_TOKENS, ReEntry
from tests.fakes import assert_true_kv, complete, freeze, make_window, say

if TYPE_CHECKING:
    from cwm_ros.manager import Manager
    from tests.conftest import OpenManager

NOW_MS = 1_700_000_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ('away_ms', 'text'),
    [
        (59_000, ''),
        (MINUTE, 'One minute passed.'),
        (5 * MINUTE + 1, '5 minutes passed.'),
        (119 * MINUTE, '119 minutes passed.'),
        (3 * HOUR, '3 hours passed.'),
        (47 * HOUR, '47 hours passed.'),
        (2 * DAY, '2 days passed.'),
        (13 * DAY, '13 days passed.'),
        (15 * DAY, '2 weeks passed.'),
        (-DAY, ''),
    ],
)
def test_time_is_told_in_whole_units(away_ms: int, text: str) -> None:
    assert elapsed_text(NOW_MS - away_ms, NOW_MS) == text


@pytest.mark.parametrize(('since', 'now'), [(0, NOW_MS), (NOW_MS, 5_000), (1_000, 900_000)])
def test_a_clock_that_nobody_set_claims_nothing(since: int, now: int) -> None:
    assert elapsed_text(since, now) == ''


@pytest.mark.parametrize(
    ('context', 'text'),
    [
        ('fuel 42 %, at Mill Road', '3 hours passed. Now: fuel 42 %, at Mill Road.'),
        (' Now: fuel 42 %.\n', '3 hours passed. Now: fuel 42 %.'),
        ('', '3 hours passed.'),
        (' , ', '3 hours passed.'),
    ],
)
def test_the_wording_is_that_of_the_training(context: str, text: str) -> None:
    assert compose(context, '3 hours passed.', len) == ReEntry(text=text)


def test_without_anything_to_say_nothing_is_said() -> None:
    assert compose('', '', len) is None


@given(items=st.lists(st.text('abc ', min_size=1, max_size=30), min_size=1, max_size=12))
def test_what_is_too_long_loses_its_last_items(items: list[str]) -> None:
    context = ','.join(items)
    if not context.strip(' ,'):
        return
    first = ' '.join(context.split()).split(',')[0].rstrip(' .,;')
    if len(f'One minute passed. Now: {first}.') > MAX_TOKENS:
        with pytest.raises(ConfigError, match='64 tokens'):
            compose(context, 'One minute passed.', len)
        return
    entry = compose(context, 'One minute passed.', len)
    assert entry is not None
    assert len(entry.text) <= MAX_TOKENS
    joined = f'{entry.text[:-1]},{entry.left_out}' if entry.left_out else entry.text[:-1]
    whole = ' '.join(context.split()).rstrip(' .,;')
    assert joined.replace(' ', '') == f'One minute passed. Now: {whole}'.replace(' ', '')


def come_back(manager: Manager, context: str) -> ReEntry | None:
    manager.open_window('trip')
    return manager.enter(context)


def test_the_turn_comes_before_the_prompt_and_is_durable(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 4)
        turn = Turn(role=Role.USER, text='Bye', time_ms=NOW_MS - 3 * DAY)
        manager.add_turns([turn])
    with open_fake() as manager:
        entry = come_back(manager, 'fuel 4 %')
        assert entry == ReEntry(text='3 days passed. Now: fuel 4 %.')
        expected = Turn(role=Role.SYSTEM, text=entry.text, time_ms=NOW_MS)
        assert manager.store.window('trip').turns[-1] == expected
        say(manager, 'How much fuel is left?')
        assert manager.session.turns[-3] == expected
        complete(manager)
        assert_true_kv(manager.session)
        freeze(manager)
    with open_fake() as manager:
        assert come_back(manager, '') is None, 'no time has passed'
        assert manager.session.turns[-3] == expected


def test_a_context_that_is_too_long_is_refused_and_changes_nothing(
    open_fake: OpenManager,
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 2)
        before = manager.session.tokens.tolist()
        with pytest.raises(ConfigError, match='more than 64 tokens') as caught:
            manager.enter('x' * 100)
        assert caught.value.hint
        assert manager.session.tokens.tolist() == before
        entry = manager.enter('fuel 42 %, ' + 'y' * 100)
        assert entry == ReEntry(text='Now: fuel 42 %.', left_out='y' * 100)


def test_a_template_that_takes_no_later_system_turn_has_it_before_the_prompt(
    open_fake: OpenManager, strict_template: str
) -> None:
    path = Path(strict_template) / 'chat_template.jinja'
    text = path.read_text(encoding='utf-8')
    refusal = (
        "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}"
        "{{ raise_exception('system comes first') }}{% endif %}{% endfor %}"
    )
    path.write_text(refusal + text, encoding='utf-8')
    with open_fake(engine={'model': strict_template}) as manager:
        manager.create('trip')
        say(manager, 'Hello')
        before = manager.session.num_tokens
        manager.enter('fuel 4 %')
        say(manager, 'How much?')
        said = manager.checkpoint.tokenizer.decode(manager.session.tokens[before:].tolist())
        assert said.index('Now: fuel 4 %.') < said.index('How much?')
        complete(manager)
        assert_true_kv(manager.session)
        with pytest.raises(ConfigError):
            manager.enter('x' * 100)


def test_a_new_window_is_told_the_state_only(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        manager.create('trip')
        assert manager.enter('fuel 4 %') == ReEntry(text='Now: fuel 4 %.')
        assert manager.session.turns[-1].text == 'Now: fuel 4 %.'
