# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Conversions that are killed, that meet another, and how much memory they take."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

from cwm_ros.errors import ModelError
from cwm_ros.model import build_graph, Checkpoint
from cwm_ros.model.families import read_spec
from cwm_ros.model.graph_journal import Entry, GraphJournal
from cwm_ros.model.weights import Weights
from tests.families import family_folder

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.kv import FloatArray

SIZES = {'hidden_size': 256, 'intermediate_size': 1024, 'num_hidden_layers': 8}


def start(folder: Path, cache: Path, kind: str) -> subprocess.Popen[str]:
    command = [sys.executable, '-m', 'tests.model.converting_child']
    return subprocess.Popen(
        [*command, str(folder), str(cache), kind], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize('kind', ['fp32', 'int4'])
def test_a_killed_conversion_goes_on_where_it_was(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, cache = family_folder('llama-2', tmp_path, **SIZES), tmp_path / 'cache'
    with start(folder, cache, kind) as child:
        assert child.stdout is not None
        while float(child.stdout.readline()) < 0.6:
            pass
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    (staging,) = cache.glob('*.building')
    listing = (staging / 'written.jsonl').read_text().splitlines()
    assert len(listing) > 5

    read: list[str] = []
    reading = Weights._read

    def noted(self: Weights, name: str, start: int, stop: int, *, axis: int = 0) -> FloatArray:
        read.append(name)
        return reading(self, name, start, stop, axis=axis)

    monkeypatch.setattr(Weights, '_read', noted)
    checkpoint = Checkpoint(folder, cache, kind)
    shown: list[float] = []
    with caplog.at_level('INFO'):
        path = build_graph(checkpoint, 'scatter', cache, shown.append)
    assert 'going on after' in caplog.text
    matrices = [name for name in read if name.endswith('proj.weight')]

    assert not any('.layers.0.' in name for name in matrices)
    assert any('.layers.7.' in name for name in matrices)
    assert shown == sorted(shown)
    assert shown[-1] == pytest.approx(1, abs=0.01)
    fresh = build_graph(checkpoint, 'scatter', tmp_path / 'fresh')
    for name in ('model.onnx', 'model.onnx.data', 'sizes.json'):
        assert path.with_name(name).read_bytes() == fresh.with_name(name).read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(
        p.name for p in fresh.parent.iterdir()
    )
    assert not list(cache.glob('*.building'))


def test_who_comes_second_waits_and_takes_the_same(tmp_path: Path) -> None:
    checkpoint = Checkpoint(family_folder('llama-2', tmp_path), tmp_path / 'cache')
    shown: list[float] = []
    with ThreadPoolExecutor(4) as pool:
        builds = [
            pool.submit(build_graph, checkpoint, 'delta', tmp_path / 'graphs', shown.append)
            for _ in range(4)
        ]
        (path,) = {build.result() for build in builds}

    assert path.is_file()
    assert shown.count(shown[0]) == 1  # one of them did the work
    assert [p.name for p in (tmp_path / 'graphs').iterdir()] == [path.parent.name]


def test_what_others_left_is_removed_after_a_week_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graphs = tmp_path / 'graphs'
    checkpoint = Checkpoint(family_folder('llama-2', tmp_path), tmp_path / 'cache')
    week = 7 * 86400
    for name, age in (('old', week + 60), ('new', week - 60), ('busy', week + 60)):
        folder = graphs / f'{name}.building'
        folder.mkdir(parents=True)
        (folder / 'model.onnx.data').write_bytes(bytes(3 << 20))
        for path in (folder / 'model.onnx.data', folder):
            os.utime(path, (time.time() - age,) * 2)
    (graphs / 'file.building').write_text('')
    handle = os.open(graphs / 'busy.building', os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with caplog.at_level('INFO'):
        path = build_graph(checkpoint, 'delta', graphs)
    os.close(handle)

    left = {entry.name for entry in graphs.iterdir()}
    assert left == {path.parent.name, 'new.building', 'busy.building', 'file.building'}
    assert 'old.building: removed an interrupted conversion, 3 MiB' in caplog.text
    assert 'new.building: an interrupted conversion, 3 MiB, waits' in caplog.text
    assert 'busy' not in caplog.text
    build_graph(checkpoint, 'delta', graphs)

    assert not (graphs / 'busy.building').exists()  # free now, and the graph was there already


def test_a_torn_or_foreign_listing_is_believed_as_far_as_it_goes(tmp_path: Path) -> None:
    data, listing = tmp_path / 'data', tmp_path / 'listing'
    first, second = Entry('a', 'int8', (4,), 0, 4), Entry('b', 'int8', (4,), 4, 4)
    with GraphJournal(data, listing) as journal:
        for entry in (first, second):
            journal.data.write(b'....')
            journal.add(entry)
        journal.sync()
    whole = listing.read_bytes()
    for content, size, kept in (
        (whole, 8, 2),
        (whole, 7, 1),
        (whole[:-3], 8, 1),
        (b'["a", 1]\n', 8, 0),
        (b'\xff', 8, 0),
        (b'', 8, 0),
    ):
        listing.write_bytes(content)
        data.write_bytes(b'.' * size)
        with GraphJournal(data, listing) as journal:
            assert journal.has(first) == (kept > 0)
            assert journal.has(second) == (kept > 1)
            assert not journal.has(first._replace(shape=(2, 2)))
        assert data.stat().st_size == 4 * kept


def test_weights_at_fault_leave_nothing_even_late(tmp_path: Path) -> None:
    folder = family_folder('llama-2', tmp_path / 'models')
    checkpoint = Checkpoint(folder, tmp_path / 'cache', 'int4')
    shapes = checkpoint.spec.tensor_shapes()
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    tensors['lm_head.weight'][-1, -1] = np.nan
    save_file(tensors, folder / 'model.safetensors')
    with pytest.raises(ModelError, match='not finite'):
        build_graph(checkpoint, 'scatter', tmp_path / 'graphs')

    assert list((tmp_path / 'graphs').iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['fp32', 'fp16', 'int8', 'int4'])
def test_a_conversion_takes_less_than_the_shard_and_a_third(kind: str, tmp_path: Path) -> None:
    """In one shard of 357 MiB, most of it the embedding; the mapped file itself is 1."""
    folder = family_folder('llama-3', tmp_path)
    config = json.loads((folder / 'config.json').read_text())
    config |= {'vocab_size': 151936, 'hidden_size': 1024, 'intermediate_size': 4096}
    (folder / 'config.json').write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.integers(-99, 99, shape, np.int8).astype(np.float16)
        for name, shape in read_spec(folder).tensor_shapes().items()
    }
    save_file(tensors, folder / 'model.safetensors')
    del tensors
    shard = (folder / 'model.safetensors').stat().st_size
    with start(folder, tmp_path / 'cache', kind) as child:
        assert child.stdout is not None
        *_, last = child.stdout
    assert child.returncode == 0
    grown = int(last.removeprefix('grown')) / shard
    sys.stdout.write(f'grown by {grown:.3f} of the shard\n')
    assert grown < 1.3
