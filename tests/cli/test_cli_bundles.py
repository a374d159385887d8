# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Windows that move between stores, and forget, from the command line."""

from __future__ import annotations

from contextlib import redirect_stdout
import io
import json
import os
import sys
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from cwm_ros.cli import main

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOT_FOUND, EXISTS, KEY_MISSING, CORRUPT, IO = 12, 29, 22, 15, 23


@pytest.fixture(scope='module')
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a window in which two things were told."""
    folder = tmp_path_factory.mktemp('told')
    said = folder / 'said.jsonl'
    turns = [
        ('user', 'My gate code is 4821.'),
        ('assistant', 'Noted: your gate code is 4821.'),
        ('user', 'My locker number is 77.'),
        ('assistant', 'Noted: your locker number is 77.'),
    ]
    lines = (json.dumps({'role': role, 'text': text}) for role, text in turns)
    said.write_text('\n'.join(lines), encoding='utf-8')
    run(folder / 'store', 'ingest', '--window', 'drive', str(said))
    return folder / 'store'


def _loading(store: Path) -> Path:
    """Return settings under which what is there is loaded, however fast this machine computes."""
    path = store.parent / 'loading.yaml'
    path.write_text(
        '/**:\n  ros__parameters:\n    thaw:\n      strategy: load\n', encoding='utf-8'
    )
    return path


def run(
    store: Path, *arguments: str, status: int = 0, given: bytes = b'', options: Sequence[str] = ()
) -> bytes:
    """Run a command in this process, which spares its imports each time."""
    out, found = io.TextIOWrapper(io.BytesIO()), 0
    environment = {'XDG_CONFIG_HOME': str(store.parent / 'settings')}
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, 'stdin', io.TextIOWrapper(io.BytesIO(given))),
        redirect_stdout(out),
    ):
        try:
            main(['--store', str(store), '--config', str(_loading(store)), *options, *arguments])
        except SystemExit as exc:
            found = int(str(exc.code))
    out.flush()
    written = out.buffer.getvalue()  # type: ignore[attr-defined]
    assert found == status, (found, written[-500:])
    return bytes(written)


def test_a_window_goes_through_a_pipe_and_is_remembered(told: Path, tmp_path: Path) -> None:
    bundle = run(told, 'export', 'drive', '-')
    target = tmp_path / 'store'
    shown = json.loads(run(target, '--json', 'import', '-', given=bundle))
    assert (shown['window'], shown['is_whole'], shown['problems']) == ('drive', True, [])
    answer = json.loads(
        run(target, '--json', 'say', '--window', 'drive', 'What is my gate code?', '--no-freeze')
    )
    assert '4821' in answer['text']
    assert answer['reused_tokens'] > 0
    assert answer['recomputed_tokens'] == 0
    run(target, 'import', '-', given=bundle, status=EXISTS)
    run(target, 'import', '-', '--as', 'again', given=bundle)
    run(target, 'import', '-', '--as', 'cut', given=bundle[:-40], status=CORRUPT)
    run(target, 'import', '-', '--as', 'less', given=bundle[:90], status=CORRUPT)
    names = [w['name'] for w in json.loads(run(target, '--json', 'list'))['windows']]
    assert names == ['again', 'cut', 'drive']
    assert json.loads(run(target, '--json', 'verify'))['ok']


def test_a_file_is_not_replaced_and_is_remembered_by_the_profile(
    told: Path, tmp_path: Path
) -> None:
    file = tmp_path / 'drive.cwmz'
    shown = json.loads(run(told, '--json', 'export', 'drive', str(file)))
    assert shown['bytes_written'] == file.stat().st_size
    assert file.stat().st_mode & 0o077 == 0
    run(told, 'export', 'drive', str(file), status=EXISTS)
    run(told, 'export', 'nothing', str(tmp_path / 'x'), status=NOT_FOUND)
    assert [path.name for path in tmp_path.iterdir()] == ['drive.cwmz']
    missing = tmp_path / 'no folder' / 'x'
    run(told, 'export', 'drive', str(missing), status=IO)
    erasing = run(told, 'profile', 'erase', 'default').decode()
    assert str(file) in erasing
    assert str(missing) not in erasing, 'nothing was written there'


def test_a_file_that_is_no_bundle_is_refused_with_what_reads_it(
    told: Path, tmp_path: Path
) -> None:
    file = tmp_path / 'dialogue.txt'
    file.write_text('My gate code is 4821.\n' * 10)
    error = json.loads(run(told, '--json', 'import', str(file), status=CORRUPT))['error']
    assert 'cwm ingest' in error['hint']


def test_an_encrypted_profile_exports_what_only_it_can_import(told: Path, tmp_path: Path) -> None:
    plain = run(told, 'export', 'drive', '-')
    target = tmp_path / 'store'
    run(target, 'profile', 'create', 'eve', '--encrypt')
    eve = ['--profile', 'eve']
    run(target, 'import', '-', given=plain, options=eve)
    file = tmp_path / 'eve.cwmz'
    run(target, 'export', 'drive', str(file), options=eve)
    assert b'4821' in plain
    assert b'4821' not in file.read_bytes()
    run(target, 'import', str(file), status=KEY_MISSING)
    run(target, 'import', str(file), '--as', 'back', options=eve)


def test_a_window_forgets(told: Path, tmp_path: Path) -> None:
    target = tmp_path / 'store'
    run(target, 'import', '-', given=run(told, 'export', 'drive', '-'))
    turns = json.loads(run(target, '--json', 'show', 'drive', '--turns'))['conversation']
    (number,) = (t['number'] for t in turns if t['text'] == 'My gate code is 4821.')
    shown = json.loads(run(target, '--json', 'forget', 'drive', str(number)))
    assert shown['turns'] == [number, number + 1]
    everything = b''.join(p.read_bytes() for p in target.rglob('*') if p.is_file())
    assert b'4821' not in everything
    answers = [
        json.loads(run(target, '--json', 'say', '--window', 'drive', '--no-freeze', question))
        for question in ('What is my locker number?', 'What is my gate code?')
    ]
    assert '77' in answers[0]['text']
    assert answers[0]['reused_tokens'] > 0
    assert '4821' not in answers[1]['text']
