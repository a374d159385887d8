# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a file says is shown, and steers no terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cwm_ros.cli.app import printable
from cwm_ros.kv import Role, Turn
from cwm_ros.store import Store
from tests.cli.test_cli import run
from tests.store import makers

if TYPE_CHECKING:
    from pathlib import Path


def test_words_of_a_hostile_file_are_shown_as_they_are(tmp_path: Path) -> None:
    model = '[/red]\x1b]0;owned\x07\x9b2J'
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        manifest = makers.commit(store, 'w')
        named = replace(manifest.identity, name=model)
        store.commit_window(replace(manifest, identity=named, tags=('\x1b[2J',)))
        store.commit_turns('w', [Turn(role=Role.USER, text='\x1b[31mred\rblue', time_ms=1)])
    for verb in (['list'], ['show', 'w', '--turns']):
        text = run(tmp_path, *verb).stdout
        assert '[/red]\\x1b' in text
        assert not {'\x1b', '\x07', '\x9b', '\r'} & {*text}


def test_lines_and_letters_stay() -> None:
    assert printable('ä\n\t€ 語 \U0001f697') == 'ä\n\t€ 語 \U0001f697'
    assert printable('\0\x1b\x7f\x85') == '\\x00\\x1b\\x7f\\x85'
