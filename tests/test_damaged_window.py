# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Windows with a damaged file, as the assistant meets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cli.test_cli import run, run_json
from tests.fakes import complete, freeze, ingest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import OpenManager


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_window_without_its_manifest_comes_back_from_turns_and_whole_chunks(
    open_tiny: OpenManager,
) -> None:
    with open_tiny() as manager:
        manager.create('trip')
        ingest(manager, 4)
        complete(manager)
        freeze(manager)
        turns, tokens = list(manager.session.turns), manager.session.tokens.tolist()
    (path,) = (manager.settings.storage.root / 'profiles' / 'default' / 'windows').glob('*.cwm')
    flip(path, 70)
    with open_tiny() as manager:
        manager.open_window('trip')
        assert str(path) in manager.warnings[0]
        complete(manager)
        assert manager.thaw is not None
        done = manager.thaw.progress()
        assert (done.reused_tokens, done.recomputed_tokens) == (len(tokens), 0)
        assert list(manager.session.turns) == turns
        assert manager.session.tokens.tolist() == tokens
        assert freeze(manager).bytes_written == 0
    with open_tiny() as manager:
        manager.open_window('trip')
        assert manager.warnings == ()


def test_the_doctor_of_the_command_line_says_what_it_did(tmp_path: Path) -> None:
    run(tmp_path, 'say', '--window', 'w', 'My gate code is 4821.')
    assert run_json(tmp_path, 'doctor') == {'recovered': [], 'lost': [], 'kept': [], 'ok': True}
    (chunk,) = tmp_path.glob('profiles/default/chunks/*.int8')
    (manifest,) = tmp_path.glob('profiles/default/windows/*.cwm')
    flip(chunk, -100)
    assert chunk.name in str(run_json(tmp_path, 'doctor')['recovered'])
    flip(manifest, 100)
    done = run(tmp_path, 'doctor', status=15)
    assert 'recovered: w: its turns' in done.stdout
    assert 'lost: w: tags' in done.stdout
    assert run_json(tmp_path, 'verify')['ok'] is True
    told = run_json(tmp_path, 'say', '--window', 'w', 'What is the code for the gate?')
    assert '4821' in str(told['text'])
    assert len(list(tmp_path.glob('profiles/default/quarantine/*'))) == 2


def test_an_optimise_finds_a_flipped_bit(tmp_path: Path) -> None:
    run(tmp_path, 'say', '--window', 'w', 'My gate code is 4821.')
    done = run_json(tmp_path, 'optimize')
    assert (done['is_done'], done['chunks_done'], done['problems']) == (True, 1, [])
    (chunk,) = tmp_path.glob('profiles/default/chunks/*.int8')
    flip(chunk, -100)
    assert chunk.name in run(tmp_path, 'optimize').stdout
    assert run_json(tmp_path, 'verify')['missing_chunks'] == 1
    told = run_json(tmp_path, 'say', '--window', 'w', 'What is the code for the gate?')
    assert '4821' in str(told['text'])
    assert run_json(tmp_path, 'verify')['missing_chunks'] == 0
