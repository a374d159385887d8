# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
import json
from typing import TYPE_CHECKING

from click.testing import CliRunner
import pytest

from cwm_ros.cli.app import cli
from cwm_ros.config import EngineSettings
from cwm_ros.engine import cuda, open_engine
from cwm_ros.engine.plans import (
    find_problems,
    list_engines,
    Machine,
    PARTS_VERSION,
    read_sidecar,
    Recipe,
    Sidecar,
)
from cwm_ros.errors import EngineError, FormatError, NotFoundError
from cwm_ros.model import build_graph

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.model import Checkpoint

MACHINE = Machine(tensorrt='10.3.0', gpu='Orin', capability='8.7')


@pytest.fixture
def sidecar(tiny: Checkpoint) -> Sidecar:
    recipe = Recipe(
        model=tiny.identity.model.hex(),
        name='tiny',
        precision='fp16',
        context_tokens=4096,
        slice_tokens=256,
        group_layers=2,
        level=2,
        parts_version=PARTS_VERSION,
    )
    return Sidecar(recipe=recipe, machine=MACHINE, files={'part-000.plan': 5}, build_s=1.5)


@pytest.fixture
def folder(sidecar: Sidecar, tmp_path: Path) -> Path:
    folder = tmp_path / 'engines' / 'one'
    folder.mkdir(parents=True)
    (folder / 'engine.json').write_text(sidecar.to_json())
    (folder / 'part-000.plan').write_bytes(b'12345')
    return folder


def problems_of(folder: Path, sidecar: Sidecar, tiny: Checkpoint, **changes: int) -> list[str]:
    wanted = {'context_tokens': 4096, 'slice_tokens': 256} | changes
    return find_problems(folder, sidecar, MACHINE, identity=tiny.identity, **wanted)


def test_a_sidecar_survives_a_round_trip(folder: Path, sidecar: Sidecar, tiny: Checkpoint) -> None:
    assert read_sidecar(folder) == sidecar
    assert problems_of(folder, sidecar, tiny) == []
    assert list_engines(folder.parents[1]) == [(folder, sidecar)]


def test_every_reason_is_named(folder: Path, sidecar: Sidecar, tiny: Checkpoint) -> None:
    (folder / 'part-000.plan').write_bytes(b'123')
    other = Sidecar(
        recipe=replace(sidecar.recipe, model='00', parts_version=0),
        machine=Machine(tensorrt='8.6.0', gpu='Thor', capability='11.0'),
        files=sidecar.files | {'kernels.cubin': 7},
        build_s=0,
    )
    found = '\n'.join(problems_of(folder, other, tiny, context_tokens=5000, slice_tokens=512))

    for word in ('another model', 'version 0', '8.6.0', 'Thor', '11.0', '5000', '512'):
        assert word in found
    assert 'part-000.plan has 3 bytes, not 5' in found
    assert 'kernels.cubin is missing' in found


@pytest.mark.parametrize(
    'change',
    [
        lambda d: d.pop('recipe'),
        lambda d: d.update(version=9),
        lambda d: d['recipe'].update(level='high'),
        lambda d: d['machine'].pop('gpu'),
        lambda d: d.update(files={'../part': 1}),
        lambda d: d.update(files=[1]),
        lambda d: d.update(build_s=None),
    ],
)
def test_what_is_no_sidecar_is_refused(folder: Path, change: object) -> None:
    document = json.loads((folder / 'engine.json').read_text())
    change(document)  # type: ignore[operator]
    (folder / 'engine.json').write_text(json.dumps(document))
    with pytest.raises(FormatError):
        read_sidecar(folder)


@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'\xff', b'[' * 100_000])
def test_damage_is_refused(folder: Path, content: bytes) -> None:
    (folder / 'engine.json').write_bytes(content)
    with pytest.raises(FormatError):
        read_sidecar(folder)


def test_a_folder_without_a_sidecar_is_no_engine(folder: Path) -> None:
    (folder / 'engine.json').unlink()
    with pytest.raises(NotFoundError, match='no engine') as error:
        read_sidecar(folder)
    assert 'cwm engine build' in error.value.hint


def test_without_a_gpu_the_settings_decide(
    tiny: Checkpoint, graph_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, 'LIBRARY', 'libcuda-of-nobody.so.1')
    settings = EngineSettings(kind='tensorrt', context_tokens=512)

    def open_it(given: EngineSettings) -> object:
        return open_engine(
            lambda name: build_graph(tiny, name, graph_dir), tiny.kv_spec, tiny.identity, given
        )

    with pytest.raises(EngineError, match='no NVIDIA driver'):
        open_it(settings)
    with open_it(replace(settings, cpu_fallback=True)) as engine:  # type: ignore[attr-defined]
        assert type(engine).__name__ == 'OrtEngine'


def test_the_command_line_lists_and_refuses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, 'LIBRARY', 'libcuda-of-nobody.so.1')
    config = tmp_path / 'cwm.yaml'
    config.write_text(
        f'/**:\n  ros__parameters:\n    engine: {{cache_dir: {folder.parents[1]}}}\n'
    )
    base = ['--config', str(config), '--json', 'engine']
    listed = CliRunner().invoke(cli, [*base, 'list'])

    assert json.loads(listed.stdout)['engines'][0]['machine']['gpu'] == 'Orin'
    for verb in ('build', 'check'):
        assert CliRunner().invoke(cli, [*base, verb], catch_exceptions=True).exit_code != 0
