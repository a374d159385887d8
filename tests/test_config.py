# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, fields, FrozenInstanceError, replace
from pathlib import Path

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import pytest
import yaml

from cwm_ros.config import (
    AssistantSettings,
    CodecSettings,
    default_store_root,
    EngineSettings,
    load_settings,
    Settings,
    StorageSettings,
    ThawSettings,
)
from cwm_ros.errors import ConfigError

DEFAULT = Path(__file__).parents[1] / 'config' / 'default.yaml'
GROUPS = [field.name for field in fields(Settings)]
PARAMETERS = [
    (group, field.name) for group in GROUPS for field in fields(getattr(Settings(), group))
]


def write(tmp_path: Path, parameters: object) -> Path:
    path = tmp_path / 'board.yaml'
    path.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}), encoding='utf-8')
    return path


def refused(path: Path, *names: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert str(path) in caught.value.message
    for name in names:
        assert name in caught.value.message
    return caught.value


def test_the_default_file_says_the_defaults() -> None:
    assert load_settings(DEFAULT) == Settings()


def test_the_default_file_names_every_parameter_but_the_root() -> None:
    document = yaml.safe_load(DEFAULT.read_text(encoding='utf-8'))
    named = [
        (group, name)
        for group, values in document['/**']['ros__parameters'].items()
        for name in values
    ]

    assert named == [pair for pair in PARAMETERS if pair != ('storage', 'root')]
    assert '# root:' in DEFAULT.read_text(encoding='utf-8')


def test_every_parameter_of_the_default_file_has_a_comment() -> None:
    lines = DEFAULT.read_text(encoding='utf-8').splitlines()
    for group, name in PARAMETERS:
        place = next(
            i for i, line in enumerate(lines) if line.strip().lstrip('# ').startswith(f'{name}:')
        )
        paragraph = lines[max(0, place - 3) : place]
        assert any(line.strip().startswith('#') for line in paragraph), (group, name)


def test_all_defaults_survive_a_round_trip(tmp_path: Path) -> None:
    values = asdict(Settings())
    values['storage']['root'] = str(values['storage']['root'])

    assert load_settings(write(tmp_path, values)) == Settings()


def test_what_is_left_out_keeps_its_default(tmp_path: Path) -> None:
    loaded = load_settings(write(tmp_path, {'storage': {'quota_mib': 5}}))

    assert loaded == Settings(storage=StorageSettings(quota_mib=5))
    assert load_settings(write(tmp_path, {})) == Settings()


def test_a_whole_number_may_stand_for_a_float(tmp_path: Path) -> None:
    timeout_s = load_settings(write(tmp_path, {'storage': {'lock_timeout_s': 3}})).storage

    assert timeout_s.lock_timeout_s == 3.0
    assert isinstance(timeout_s.lock_timeout_s, float)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', '/home/driver')
    loaded = load_settings(write(tmp_path, {'storage': {'root': '~/windows'}}))

    assert loaded.storage.root == Path('/home/driver/windows')


@pytest.mark.parametrize('root', ['', 'a\0b', '~nobody-of-this-name/cwm'])
def test_a_root_that_is_no_folder_is_refused(tmp_path: Path, root: str) -> None:
    """An empty one would be the folder that the process happens to run in."""
    refused(write(tmp_path, {'storage': {'root': root}}), 'storage.root')


@pytest.mark.parametrize(('group', 'name'), PARAMETERS)
def test_a_misspelt_parameter_is_named(tmp_path: Path, group: str, name: str) -> None:
    error = refused(write(tmp_path, {group: {name + 's': 1}}), f'{group}.{name}s', 'unknown')

    assert name in error.hint


@pytest.mark.parametrize('group', GROUPS)
def test_a_misspelt_group_is_named(tmp_path: Path, group: str) -> None:
    error = refused(write(tmp_path, {group + 's': {}}), f"'{group}s'", 'unknown')
    assert group in error.hint


def test_a_dotted_name_is_refused_with_how_to_write_it(tmp_path: Path) -> None:
    error = refused(write(tmp_path, {'storage.quota_mib': 5}), "'storage.quota_mib'", 'unknown')
    assert 'not behind a dot' in error.hint


@pytest.mark.parametrize('value', [None, [1], {'a': 1}, True, 'x', 1.5, 7])
@pytest.mark.parametrize(('group', 'name'), PARAMETERS)
def test_a_value_of_the_wrong_type_is_named(
    tmp_path: Path, group: str, name: str, value: object
) -> None:
    default = getattr(getattr(Settings(), group), name)
    if isinstance(value, str) and isinstance(default, (str, Path)):
        return  # texts are checked as texts
    if type(value) in (int, float) and isinstance(default, float):
        return
    if type(value) is type(default):
        return
    error = refused(write(tmp_path, {group: {name: value}}), f'{group}.{name}', repr(value))
    assert error.hint.startswith(('use a ', 'use text'))


@pytest.mark.parametrize(
    ('group', 'name', 'values'),
    [
        ('storage', 'quota_mib', [0, -1, (1 << 30) + 1, 10**30]),
        ('storage', 'free_floor_mib', [-1, (1 << 30) + 1]),
        ('storage', 'lock_timeout_s', [-0.1, 3601.0, float('nan'), float('inf')]),
        ('codec', 'kind', ['int3', 'INT8', '']),
        ('codec', 'chunk_tokens', [0, 64, 255, 1024]),
        ('codec', 'compression', ['zstd', '']),
        ('thaw', 'first_tokens', [0, (1 << 20) + 1]),
        ('thaw', 'last_tokens', [0, (1 << 20) + 1]),
        ('thaw', 'relevant_chunks', [-1, 1025]),
        ('thaw', 'io_threads', [-1, 257]),
        ('thaw', 'staging_mib', [0, 65537]),
        ('engine', 'kind', ['tensorrt9', '']),
        ('engine', 'threads', [-1, 1025]),
        ('engine', 'formulation', ['gather', '']),
        ('engine', 'prefill_slice', [0, 16385]),
        ('engine', 'context_tokens', [-1, (1 << 20) + 1]),
        ('assistant', 'max_tokens', [0, 65537]),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(
    tmp_path: Path, group: str, name: str, values: list[object]
) -> None:
    for value in values:
        error = refused(write(tmp_path, {group: {name: value}}), f'{group}.{name}')
        assert error.hint.startswith('use ')


@pytest.mark.parametrize(
    ('content', 'problem'),
    [
        (b'', 'not a ROS parameter file'),
        (b'storage: {}', 'not a ROS parameter file'),
        (b'- a', 'not a ROS parameter file'),
        (b'just words', 'not a ROS parameter file'),
        (b'/**: {ros__parameters: {}}\n/other: {ros__parameters: {}}', 'of one node'),
        (b'/**: {ros__parameters: }', 'ros__parameters'),
        (b'/**: {ros__parameters: {storage: }}', 'storage'),
        (b'/**: {ros__parameters: {storage: [1]}}', 'storage'),
        (b'/**: {ros__parameters: {1: {}}}', 'ros__parameters'),
        (b'a: [', 'cannot be read'),
        (b'a: \xff\xfe', 'cannot be read'),
        (b'a: !!int x', 'cannot be read'),
        (b'a: 2026-13-45', 'cannot be read'),
        (b'a: !!timestamp x', 'cannot be read'),
        (b'a: !!bool x', 'cannot be read'),
        (b'a: !!python/object/apply:os.getcwd []', 'cannot be read'),
        (b'? [a]\n: b', 'cannot be read'),
        (b'[' * 3000, 'cannot be read'),
        (b'a: \x00', 'cannot be read'),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_what_is_no_parameter_file_is_refused_by_name(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / 'board.yaml'
    path.write_bytes(content)

    refused(path, problem)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    refused(tmp_path / 'absent.yaml', 'cannot be read')
    refused(tmp_path, 'cannot be read')


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=60), st.text('/*:{}[]ros_param -\n!&', max_size=60)))
def test_no_file_is_answered_with_another_exception(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / 'board.yaml'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with suppress(ConfigError):
        load_settings(path)


@pytest.mark.parametrize(
    ('environment', 'root'),
    [
        ({'CWM_STORE': '/a', 'XDG_DATA_HOME': '/b'}, '/a'),
        ({'XDG_DATA_HOME': '/b', 'HOME': '/c'}, '/b/cwm'),
        ({'XDG_DATA_HOME': '', 'HOME': '/c'}, '/c/.local/share/cwm'),
    ],
)
def test_the_environment_says_where_the_store_is(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], root: str
) -> None:
    monkeypatch.delenv('CWM_STORE', raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert default_store_root() == StorageSettings().root == Path(root)


def test_settings_are_checked_at_construction_and_do_not_change() -> None:
    with pytest.raises(ConfigError, match=r'codec\.chunk_tokens is 100'):
        CodecSettings(chunk_tokens=100)
    with pytest.raises(ConfigError, match=r'thaw\.io_threads'):
        replace(ThawSettings(), io_threads=-1)
    with pytest.raises(FrozenInstanceError):
        AssistantSettings().max_tokens = 3  # type: ignore[misc]


def test_numbers_that_mean_by_yourself_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('os.cpu_count', lambda: 8)
    monkeypatch.setenv('XDG_CACHE_HOME', '/cache')

    assert ThawSettings().num_threads == 4
    assert ThawSettings(io_threads=3).num_threads == 3
    assert EngineSettings().cache_path == Path('/cache/cwm')
    assert EngineSettings(cache_dir='/x').cache_path == Path('/x')
    monkeypatch.setattr('os.cpu_count', lambda: None)
    assert ThawSettings().num_threads == 1
