# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command line says nothing of a conversation where nobody asked for it."""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout, suppress
import io
import json
import logging
import shutil
from typing import TYPE_CHECKING

from cwm_ros.cli import main
from tests.cli.test_cli import run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PLANTED = ('Quittenmarmelade', 'Zanzibarstrasse')


def config_of(folder: Path) -> Path:
    path = folder / 'config.yaml'
    path.write_text(
        '/**:\n  ros__parameters:\n    privacy:\n      encrypt: true\n'
        f'      key_dir: {folder / "keys"}\n',
        encoding='utf-8',
    )
    return path


def test_no_planted_word_reaches_logs_errors_or_the_drive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store, config = tmp_path / 'store', config_of(tmp_path)
    talk = tmp_path / 'talk.jsonl'
    turns = [{'role': 'user', 'text': f'I like {PLANTED[0]}.'}]
    turns.append({'role': 'assistant', 'text': 'I see.'})
    talk.write_text('\n'.join(json.dumps(turn) for turn in turns), encoding='utf-8')
    printed = []

    def call(*arguments: str, status: int | None = 0) -> str:
        done = run(store, '--verbose', *arguments, status=status, config=config)
        printed.append(done.stderr)
        return done.stdout

    call('ingest', '--window', 'w', str(talk))
    call('say', '--window', 'w', f'I live in {PLANTED[1]}.', '--max-tokens', '4')
    assert PLANTED[0] in call('show', 'w', '--turns')  # what was asked for
    verbs = (
        ['list'], ['show', 'w'], ['clone', 'w', 'v'], ['pin', 'w'], ['verify'], ['doctor'],
        ['optimize'], ['storage'], ['profile', 'list'], ['delete', 'v'],
    )  # fmt: skip
    printed += [call(*verb) for verb in verbs]
    profile = store / 'profiles' / 'default'
    drive = b''.join(path.read_bytes() for path in store.rglob('*') if path.is_file())
    assert not any(word.encode() in drive for word in PLANTED)
    shutil.copytree(store, tmp_path / 'kept')
    for path in sorted((profile / 'windows').iterdir()):
        data = path.read_bytes()
        for offset in (4, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
            verbs = (['verify'], ['show', 'w'], ['say', '--window', 'w', PLANTED[1]], ['doctor'])
            printed += [complaint(store, config, verb) for verb in verbs]
            shutil.rmtree(store)
            shutil.copytree(tmp_path / 'kept', store)
    errors = '\n'.join([*printed, caplog.text])
    assert 'problem=' in caplog.text
    for word in PLANTED:
        assert word not in errors


def complaint(store: Path, config: Path, verb: list[str]) -> str:
    """Run a verb that may fail; return what it says, but not what an assistant answers."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), suppress(SystemExit):
        main(['--store', str(store), '--config', str(config), *verb])
    return stderr.getvalue() + ('' if verb[0] == 'say' else stdout.getvalue())


def test_profiles_are_made_listed_and_erased_in_two_steps(tmp_path: Path) -> None:
    store, config = tmp_path / 'store', config_of(tmp_path)

    def call(*arguments: str, status: int = 0) -> dict[str, object]:
        done = run(store, '--json', *arguments, status=status, config=config)
        result: dict[str, object] = json.loads(done.stdout)
        return result

    assert call('profile', 'create', 'anna')['is_encrypted'] is True
    assert call('profile', 'create', 'ben', '--plain')['is_encrypted'] is False
    call('--profile', 'anna', 'say', '--window', 'w', 'Hello.', '--max-tokens', '2')
    listed = call('profile', 'list')['profiles']
    assert isinstance(listed, list)
    assert [(row['name'], row['windows']) for row in listed] == [('anna', 1), ('ben', 0)]
    assert call('profile', 'erase', 'anna')['is_done'] is False
    assert call('--profile', 'anna', 'list')['windows'] != []
    assert call('profile', 'erase', 'anna', '--yes')['is_done'] is True
    error = call('--profile', 'anna', 'list', status=22)['error']
    assert isinstance(error, dict)
    assert error['name'] == 'KEY_MISSING'
    call('profile', 'create', 'guest', status=25)
    call('profile', 'erase', 'nobody', status=12)


def test_an_erasure_without_the_key_tells_that_it_may_lie_elsewhere(tmp_path: Path) -> None:
    store, config = tmp_path / 'store', config_of(tmp_path)
    erase = ('profile', 'erase', 'anna')
    run(store, 'profile', 'create', 'anna', config=config)
    assert 'is destroyed' in run(store, *erase, config=config).stdout
    (key,) = (path for path in tmp_path.rglob('*.key'))
    key.rename(tmp_path / 'moved')
    for arguments in (erase, (*erase, '--yes')):
        told = run(store, *arguments, config=config).stdout
        assert 'elsewhere' in told
        assert 'is destroyed' not in told
    assert 'elsewhere' not in run(store, *erase, '--yes', config=config).stdout


def test_a_guest_is_forgotten_when_the_command_ends(tmp_path: Path) -> None:
    store, config = tmp_path / 'store', config_of(tmp_path)
    said = run(
        store, '--profile', 'guest', 'say', '--window', 'w', PLANTED[0], '--max-tokens', '2',
        config=config,
    )  # fmt: skip
    assert said.stdout
    assert not store.exists()
    listed = run(store, '--profile', 'guest', '--json', 'list', config=config)
    assert json.loads(listed.stdout)['windows'] == []
