# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: real processes, real files, the reference model."""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
import errno
import io
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import NamedTuple
from unittest import mock

import pytest

from cwm_ros.cli import main
from cwm_ros.store import files

CWM = [sys.executable, '-m', 'cwm_ros.cli']
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one window, in which a gate code was told."""
    folder = tmp_path_factory.mktemp('store')
    run(folder, 'say', '--window', 'drive', 'My gate code is 4821.')
    return folder


class Done(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


def run(store: Path, *arguments: str, status: int | None = 0, config: Path | None = None) -> Done:
    """Run a command in this process, which spares half a second of imports each time."""
    options = ['--store', str(store), *(['--config', str(config)] if config else [])]
    stdout, stderr = io.StringIO(), io.StringIO()
    found = 0
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main([*options, *arguments])
        except SystemExit as exc:
            found = int(str(exc.code))
    assert found == status or (status is None and found), (
        found,
        stdout.getvalue(),
        stderr.getvalue(),
    )
    return Done(stdout.getvalue(), stderr.getvalue())


def run_json(
    store: Path, *arguments: str, status: int = 0, config: Path | None = None
) -> dict[str, object]:
    done = run(store, '--json', *arguments, status=status, config=config)
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.fixture
def loading(tmp_path: Path) -> Path:
    """Load whatever this machine has learned: a busy one may find that it computes faster."""
    path = tmp_path / 'loading.yaml'
    path.write_text('/**: {ros__parameters: {thaw: {strategy: load}}}\n', encoding='utf-8')
    return path


def test_a_second_process_remembers_what_the_first_was_told(store: Path, loading: Path) -> None:
    told = run_json(store, 'say', '--window', 'drive', 'What is my gate code?', config=loading)

    assert '4821' in str(told['text'])
    assert told['reused_tokens'] != 0
    assert told['recomputed_tokens'] == 0
    keys = {
        'text', 'new_tokens', 'prompt_tokens', 'time_to_usable_s', 'time_to_first_token_s',
        'time_to_complete_s', 'reused_tokens', 'recomputed_tokens', 'fidelity', 'provisional',
    }  # fmt: skip
    assert keys <= told.keys()


def test_a_plan_tells_what_a_thaw_will_do(store: Path, loading: Path) -> None:
    shown = run_json(store, 'show', 'drive')
    plan = run_json(store, 'plan', 'drive', '--prompt', 'What is my gate code?', config=loading)
    steps = plan['steps']
    assert isinstance(steps, list)
    assert sum(step['stop'] - step['start'] for step in steps) == shown['tokens']
    assert {step['way'] for step in steps} == {'load'}
    assert {'window', 'usable_s', 'answerable_s', 'complete_s', 'rates'} <= plan.keys()
    assert 'first tokens' in run(store, 'plan', 'drive').stdout

    recomputed = run_json(store, 'plan', 'drive', '--strategy', 'recompute')['steps']
    assert isinstance(recomputed, list)
    assert {step['way'] for step in recomputed} == {'recompute'}
    past = run_json(store, 'plan', 'drive', '--deadline', '-1')
    assert (past['steps_in_time'], past['usable_in_time']) == (0, False)
    assert 'deadline has passed' in run(store, 'plan', 'drive', '--deadline', '-1').stdout
    for wrong in ('nan', 'inf', '-inf'):
        refused = run(store, 'plan', 'drive', '--deadline', wrong, status=30).stderr
        assert f'BAD_VALUE: the deadline is {wrong}' in refused
    assert 'NOT_FOUND' in run(store, 'plan', 'nothing', status=12).stderr
    assert 'BAD_VALUE' in run(store, 'plan', 'drive', '--prompt', ' ', status=30).stderr


def test_json_keys_that_others_rely_on_are_there(store: Path) -> None:
    shown = run_json(store, 'show', 'drive')
    assert {
        'name', 'tokens', 'turns', 'chunks', 'bytes', 'fidelity', 'provisional_tokens', 'pinned',
        'model',
    } <= shown.keys()  # fmt: skip
    windows = run_json(store, 'list')['windows']
    assert isinstance(windows, list)
    assert [window['name'] for window in windows] == ['drive']
    assert {'ok', 'windows', 'chunks', 'problems'} <= run_json(store, 'verify').keys()
    assert {
        'used_bytes', 'quota_bytes', 'device_free_bytes', 'written_today_bytes',
        'lifetime_bytes', 'can_store',
    } <= run_json(store, 'storage').keys()  # fmt: skip
    assert {'board', 'models'} <= run_json(store, 'models').keys()


@pytest.mark.parametrize(
    'name', ['..', 'a/b', '../x', '', ' ', 'x' * 300, 'caf\u00e9', '\U0001f697', '-x', 'a\nb']
)
def test_a_name_that_is_not_allowed_is_refused_with_the_rule(store: Path, name: str) -> None:
    failed = run_json(store, 'say', '--window', name, 'Hello', status=25)

    error = failed['error']
    assert isinstance(error, dict)
    assert error['name'] == 'BAD_NAME'
    assert 'A-Z a-z 0-9' in error['hint']


def test_an_unknown_window_is_not_found(store: Path) -> None:
    for verb in (['show', 'nowhere'], ['delete', 'nowhere'], ['verify', 'nowhere']):
        done = run(store, *verb, status=12)
        assert "'nowhere'" in done.stderr
        assert 'remedy' in done.stderr


def test_an_unknown_model_folder_is_named(store: Path, tmp_path: Path) -> None:
    config = tmp_path / 'cwm.yaml'
    config.write_text('/**:\n  ros__parameters:\n    engine: {model: /no/such/folder}\n')

    done = run(store, 'say', '--window', 'drive', 'Hello', status=21, config=config)

    assert '/no/such/folder' in done.stderr


def test_an_unknown_parameter_is_an_error_that_names_file_and_key(
    store: Path, tmp_path: Path
) -> None:
    config = tmp_path / 'cwm.yaml'
    config.write_text('/**:\n  ros__parameters:\n    thaw: {speed: 11}\n')

    done = run(store, 'list', status=30, config=config)

    assert str(config) in done.stderr
    assert 'thaw.speed' in done.stderr


def test_a_prompt_longer_than_the_context_changes_nothing(store: Path, tmp_path: Path) -> None:
    config = tmp_path / 'cwm.yaml'
    config.write_text('/**:\n  ros__parameters:\n    engine: {context_tokens: 512}\n')
    turns = run_json(store, 'show', 'drive')['turns']

    run(store, 'say', '--window', 'drive', 'word ' * 600, status=26, config=config)

    assert run_json(store, 'show', 'drive')['turns'] == turns
    assert run_json(store, 'verify')['ok'] is True


def test_a_dialogue_in_json_lines_and_one_in_plain_text_are_read(tmp_path: Path) -> None:
    store, lines, text = tmp_path / 'store', tmp_path / 'd.jsonl', tmp_path / 'd.txt'
    lines.write_text(
        '{"role": "user", "text": "My locker code is 9034."}\n'
        '{"role": "assistant", "text": "Noted. The locker code is 9034."}\n'
    )
    text.write_text('We drive to the sea.\n\nThe children\nare asleep.\n')

    first = run_json(store, 'ingest', '--window', 'w', str(lines))
    second = run_json(store, 'ingest', '--window', 'w', str(text))

    assert (first['turns'], second['turns']) == (2, 2)
    told = run_json(store, 'say', '--window', 'w', 'What is the locker code?')
    assert '9034' in str(told['text'])


@pytest.mark.parametrize(
    'content',
    [b'', b'\xff\xfe', b'{"role": "user"}\n', b'{"role": "pilot", "text": "x"}', b'{'],
)
def test_a_dialogue_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'd.jsonl'
    path.write_bytes(content)

    done = run(tmp_path / 'store', 'ingest', '--window', 'w', str(path), status=30)

    assert str(path) in done.stderr


def test_an_answer_is_shown_also_when_there_is_no_room_to_freeze(tmp_path: Path) -> None:
    config = tmp_path / 'cwm.yaml'
    config.write_text('/**:\n  ros__parameters:\n    storage: {free_floor_mib: 1000000000}\n')

    done = run(tmp_path / 's', 'say', '--window', 'w', 'Hello', status=16, config=config)

    assert done.stdout.strip()
    assert 'remedy' in done.stderr
    assert run_json(tmp_path / 's', 'show', 'w')['turns'] == 3


def test_a_partial_answer_says_so(tmp_path: Path) -> None:
    path = tmp_path / 'd.txt'
    path.write_text('\n\n'.join(f'We pass house {n} of the long street.' for n in range(150)))
    run(tmp_path / 's', 'ingest', '--window', 'w', str(path))

    done = run(tmp_path / 's', 'say', '--window', 'w', 'Hello')

    assert 'PARTIAL(' in done.stderr


def test_an_empty_prompt_is_refused_and_changes_nothing(store: Path) -> None:
    turns = run_json(store, 'show', 'drive')['turns']
    assert 'empty' in run(store, 'say', '--window', 'drive', ' ', status=30).stderr
    assert run_json(store, 'show', 'drive')['turns'] == turns


def test_json_may_be_asked_for_behind_the_verb(store: Path) -> None:
    assert json.loads(run(store, 'list', '--json').stdout)['windows']


@pytest.mark.parametrize('folder', ['/proc/nope', '/dev/null', '/dev/null/x'])
def test_a_store_where_none_can_be_is_refused_with_a_remedy(folder: str) -> None:
    done = run(Path(folder), 'say', '--window', 'w', 'Hello', status=None)
    assert 'remedy' in done.stderr


def test_nothing_is_recorded_about_the_user(tmp_path: Path) -> None:
    command = [*CWM, '--store', str(tmp_path / 's'), 'say', '--window', 'w', 'Hello']
    environment = {**os.environ, 'HOME': str(tmp_path / 'home')}
    environment.pop('XDG_CACHE_HOME', None)
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)

    assert sorted(p.name for p in (tmp_path / 'home' / '.cache').iterdir()) == ['cwm']


def test_wrong_usage_exits_with_2(store: Path) -> None:
    run(store, 'say', 'no window named', status=2)
    run(store, 'fly', status=2)


def test_a_flipped_bit_is_found_by_verify_and_costs_only_that_chunk(tmp_path: Path) -> None:
    run(tmp_path, 'say', '--window', 'w', 'My gate code is 4821.')
    (chunk,) = tmp_path.glob('profiles/default/chunks/**/*.int8')
    data = bytearray(chunk.read_bytes())
    data[-100] ^= 1
    chunk.write_bytes(data)

    assert 'cwm doctor' in run(tmp_path, 'verify', status=15).stdout
    report = run_json(tmp_path, 'verify', status=15)
    told = run_json(tmp_path, 'say', '--window', 'w', 'What is the code for the gate?')

    assert report['ok'] is False
    assert str(chunk.name) in str(report['problems'])
    assert '4821' in str(told['text'])
    assert told['recomputed_tokens'] != 0
    assert str(chunk.name) in str(told['warnings'])
    assert run_json(tmp_path, 'verify')['ok'] is True


def test_a_chat_tells_what_could_not_be_loaded_and_whether_a_thaw_is_proven(
    tmp_path: Path,
) -> None:
    path = tmp_path / 'd.txt'
    path.write_text('\n\n'.join(f'We pass house {n} of the long street.' for n in range(60)))
    run(tmp_path / 's', 'ingest', '--window', 'w', str(path))
    chunk = min((tmp_path / 's').glob('profiles/*/chunks/*'))
    chunk.write_bytes(b'')
    command = [*CWM, '--store', str(tmp_path / 's'), 'chat', '--window', 'w']
    done = subprocess.run(
        command, input='/thaw\n/quit\n', capture_output=True, text=True, timeout=60, check=True
    )

    assert chunk.name in done.stderr
    assert 'proven: the end is ' in done.stdout


def test_a_second_writer_waits_and_then_learns_who_writes(tmp_path: Path) -> None:
    command = [*CWM, '--store', str(tmp_path), 'chat', '--window', 'w']
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as chat:
        assert chat.stdout is not None
        assert 'w:' in chat.stdout.readline()
        began = time.monotonic()
        done = run(tmp_path, 'say', '--window', 'w', 'Hello', status=13)
        assert time.monotonic() - began >= 2
        assert str(chat.pid) in done.stderr
        assert run_json(tmp_path, 'list')['windows']
        out, _ = chat.communicate('/thaw\n/quit\n', timeout=60)
        assert '\nw: ' in f'\n{out}', 'a thaw with nothing left to do says so, too'
    run(tmp_path, 'say', '--window', 'w', 'Hello')


def test_ctrl_c_while_reading_a_long_dialogue_leaves_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / 'd.txt'
    path.write_text('\n\n'.join(f'We pass house {n} of the long street.' for n in range(700)))
    command = [*CWM, '--store', str(tmp_path / 's'), 'ingest', '--window', 'w', str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as ingest:
        while not list((tmp_path / 's').glob('profiles/*/windows/*.log')):
            time.sleep(0.01)
            assert ingest.poll() is None
        time.sleep(0.3)
        ingest.send_signal(signal.SIGINT)
        _, said = ingest.communicate(timeout=60)

    assert ingest.returncode == 130
    assert 'interrupted' in said
    assert run_json(tmp_path / 's', 'verify')['ok'] is True
    assert run_json(tmp_path / 's', 'show', 'w')['turns'] != 0


def test_a_quota_too_small_for_a_window_is_said_with_figures(tmp_path: Path) -> None:
    config = tmp_path / 'cwm.yaml'
    config.write_text('/**:\n  ros__parameters:\n    storage: {quota_mib: 1}\n')

    done = run(tmp_path / 's', 'say', '--window', 'w', 'Hello', status=30, config=config)

    assert 'storage.quota_mib is 1, a full window of this model takes up to' in done.stderr
    assert 'remedy: set it to' in done.stderr
    assert not (tmp_path / 's').exists()


def test_a_dialogue_for_whose_kv_there_is_no_room_is_stored(tmp_path: Path) -> None:
    config = tmp_path / 'cwm.yaml'
    config.write_text('/**:\n  ros__parameters:\n    storage: {free_floor_mib: 1000000000}\n')
    path = tmp_path / 'd.txt'
    path.write_text('\n\n'.join(f'We pass house {n} of the long street.' for n in range(60)))

    done = run(tmp_path / 's', 'ingest', '--window', 'w', str(path), status=16, config=config)

    assert 'remedy' in done.stderr
    assert 'what was said is stored; its KV is computed again' in done.stderr
    assert run_json(tmp_path / 's', 'show', 'w')['turns'] == 61
    assert run_json(tmp_path / 's', 'verify')['ok'] is True


def test_a_dialogue_with_a_turn_that_is_too_long_says_what_is_stored(tmp_path: Path) -> None:
    config = tmp_path / 'cwm.yaml'
    config.write_text('/**:\n  ros__parameters:\n    engine: {context_tokens: 512}\n')
    path = tmp_path / 'd.txt'
    path.write_text('\n\n'.join(['We stop.', 'We go on.', 'rain ' * 700, 'It is dry.']))

    arguments = ['--json', 'ingest', '--window', 'w', str(path)]
    done = run(tmp_path / 's', *arguments, status=26, config=config)

    error = json.loads(done.stdout)['error']
    assert error['name'] == 'CONTEXT_FULL'
    assert "2 of 4 turns are stored in window 'w', the others are not" in error['message']
    assert run_json(tmp_path / 's', 'show', 'w')['turns'] == 3


def test_a_dialogue_that_a_full_device_does_not_take_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / 's', 'say', '--window', 'w', 'Hello')
    path = tmp_path / 'd.txt'
    path.write_text('We stop.\n\nWe go on.')

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(files, 'write_at', full)
    done = run(tmp_path / 's', 'ingest', '--window', 'w', str(path), status=16)

    assert "0 of 2 turns are stored in window 'w', the others are not" in done.stderr
    monkeypatch.undo()
    assert run_json(tmp_path / 's', 'show', 'w')['turns'] == 3


def test_verify_mentions_a_commit_that_was_cut(tmp_path: Path) -> None:
    run(tmp_path, 'say', '--window', 'w', 'Hello')
    (log,) = tmp_path.glob('profiles/default/windows/*.log')
    log.write_bytes(log.read_bytes() + b'torn' * 5)

    report = run_json(tmp_path, 'verify')
    assert (report['ok'], report['torn_bytes']) == (True, 20)
    assert '20 bytes of a commit that was cut' in run(tmp_path, 'verify').stdout
    run(tmp_path, 'pin', 'w')
    assert run_json(tmp_path, 'verify')['torn_bytes'] == 0


def test_windows_are_tagged_cloned_and_pinned(tmp_path: Path) -> None:
    run(tmp_path, 'say', '--window', 'w', '--tag', 'Urlaub', '--tag', 'a', 'My gate code is 4821.')
    assert run_json(tmp_path, 'clone', 'w', 'v') == {'window': 'w', 'clone': 'v'}
    run(tmp_path, 'clone', 'w', 'v', status=29)
    run(tmp_path, 'clone', 'x', 'y', status=12)
    assert run_json(tmp_path, 'pin', 'v') == {'window': 'v', 'pinned': True}
    shown = run_json(tmp_path, 'show', 'v')
    assert (shown['pinned'], shown['tags']) == (True, ['Urlaub', 'a'])
    run(tmp_path, 'delete', 'w')
    told = run_json(tmp_path, 'say', '--window', 'v', 'What is the code for the gate?')
    assert '4821' in str(told['text'])
    assert told['recomputed_tokens'] == 0
    assert any('v ' in x and ' yes ' in x for x in run(tmp_path, 'list').stdout.splitlines())
    assert run_json(tmp_path, 'unpin', 'v')['pinned'] is False
    assert ' yes ' not in run(tmp_path, 'list').stdout
    run(tmp_path, 'unpin', 'w', status=12)


def test_what_a_freeze_evicts_is_told(tmp_path: Path) -> None:
    config = tmp_path / 'cwm.yaml'
    config.write_text(
        '/**:\n  ros__parameters:\n    storage: {quota_mib: 1, keep_recent: 0}\n'
        '    engine: {context_tokens: 512}\n'
    )
    path = tmp_path / 'd.txt'
    store = tmp_path / 's'
    for name in 'abcd':
        turns = [f'{name}: We pass house {n} of the long street.' for n in range(20)]
        path.write_text('\n\n'.join(turns))
        done = run(store, '--json', 'ingest', '--window', name, str(path), config=config)
        if evicted := json.loads(done.stdout)['evicted']:
            break

    assert evicted[0]['window'] == 'a'
    assert 'to make room, a lost' in done.stderr
    assert run_json(store, 'storage')['evictions'] == sum(e['chunks'] for e in evicted)
    assert run_json(store, 'show', 'a')['turns'] == 21
    assert run_json(store, 'verify')['ok'] is True


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give up its rights')
def test_a_store_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    code = (
        'import os, sys; from cwm_ros.cli import main, windows; '
        'os.setgid(65534); os.setuid(65534); main(sys.argv[1:])'
    )
    closed = tmp_path / 'closed'
    closed.mkdir(mode=0o755)
    for folder in (closed, *list(closed.parents)[:3]):
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, '-c', code, '--store', str(closed / 's'), 'delete', 'w'],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, 'HOME': '/nonexistent'}, check=False,
    )  # fmt: skip
    assert done.returncode == 32, done.stderr
    assert str(closed) in done.stderr


@pytest.mark.slow
def test_the_demo_shows_the_main_job(tmp_path: Path) -> None:
    shown = run_json(tmp_path, 'demo')

    assert shown['answer_correct'] is True
    assert shown['killed'] is True
    assert int(str(shown['tokens'])) >= 4096
    assert shown['reused_tokens'] == shown['tokens']
    assert str(shown['fidelity']).startswith('PARTIAL')
    times = ['time_to_header_s', 'time_to_usable_s', 'time_to_complete_s', 'recompute_s']
    values = [float(str(shown[name])) for name in times]
    assert values == sorted(values)
    assert {'cold_start_s', 'bytes_on_disk'} <= shown.keys()


@pytest.mark.parametrize('cause', [KeyboardInterrupt(), None])
def test_an_interrupt_while_a_library_is_loaded_is_one(
    capsys: pytest.CaptureFixture[str], cause: BaseException | None
) -> None:
    """pybind11 makes an ImportError of it."""

    def interrupted(_arguments: list[str]) -> None:
        raise ImportError('initialization failed') from cause

    expected = SystemExit if cause else ImportError
    with mock.patch('cwm_ros.cli.app.run', interrupted), pytest.raises(expected):
        main([])
    assert ('interrupted' in capsys.readouterr().err) == bool(cause)
