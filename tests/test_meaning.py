# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What exchanges mean: noted at freeze, kept, and used when an answer was an abstention."""

from __future__ import annotations

from dataclasses import replace
import struct
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.answer import Answer, Delta, Request, When
from cwm_ros.kv import Role, Turn
from cwm_ros.meaning import meanings_of, note_meanings, read_meanings, row_of
from cwm_ros.relevance import exchanges
from tests.fakes import complete, freeze, make_window
from tests.oracle import read_meaning
from tests.store.makers import manifests
from tests.test_review import NUM_TURNS, Unwanted

if TYPE_CHECKING:
    from cwm_ros.manager import Manager
    from cwm_ros.store import Manifest
    from tests.conftest import OpenManager


def committed(manager: Manager) -> Manifest:
    manifest = manager.store.window('trip').manifest
    assert manifest is not None
    return manifest


def places(manager: Manager) -> list[tuple[int, int]]:
    session = manager.session
    return [(one.start, one.stop) for one in exchanges(session.turns, session.turn_stops)]


def test_every_exchange_is_noted_with_the_mean_of_its_values(open_tiny: OpenManager) -> None:
    manager = open_tiny()
    make_window(manager, 'trip', NUM_TURNS)
    manifest, spec = committed(manager), manager.engine.spec
    rows = read_meaning(manifest.meaning, spec.num_kv_heads * spec.head_dim)

    assert [(start, stop) for start, stop, _ in rows] == places(manager)
    for start, stop, vector in rows:
        kv = manager.engine.export_kv(start, stop).kv
        mean = kv[-1, 1].astype(np.float64).mean(axis=1).ravel()
        np.testing.assert_allclose(vector, mean, atol=np.abs(mean).max() / 250)
    found = read_meanings(manifest)
    assert found is not None
    np.testing.assert_allclose(found.vectors, [vector for _, _, vector in rows], rtol=1e-6)


def test_what_is_noted_stays_while_its_tokens_do(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', NUM_TURNS)
        before = committed(manager)
    manager = open_fake()
    manager.open_window('trip')  # nothing is resident yet
    manager.add_turns([Turn(role=Role.USER, text='More.')])
    session, spec = manager.session, manager.engine.spec
    fresh = replace(before, meaning=b'')
    kept = note_meanings(fresh, session, before, has_time=True)
    assert kept.meaning == before.meaning

    changed = before.tokens.copy()
    third = places(manager)[2]
    changed[third[0]] += 1
    fewer = note_meanings(replace(fresh, tokens=changed), session, before, has_time=True)
    rows = read_meaning(fewer.meaning, spec.num_kv_heads * spec.head_dim)
    assert [(start, stop) for start, stop, _ in rows] == places(manager)[:2]

    other = replace(before, identity=replace(before.identity, model=bytes(32)))
    assert note_meanings(fresh, session, other, has_time=True).meaning == b''

    complete(manager)
    freeze(manager)
    assert len(read_meaning(committed(manager).meaning, 2)) == len(places(manager))


def test_without_time_nothing_new_is_noted(open_fake: OpenManager) -> None:
    manager = open_fake()
    make_window(manager, 'trip', NUM_TURNS)
    bare = replace(committed(manager), meaning=b'')
    assert note_meanings(bare, manager.session, None, has_time=False).meaning == b''
    assert note_meanings(bare, manager.session, None, has_time=True).meaning


def test_the_closest_exchange_decides_about_a_range() -> None:
    vectors = np.array([[4, 0], [0, 4], [-4, 0], [0, -4]], np.float32)
    meanings = meanings_of(
        np.stack([row_of(10 * i, 10 * i + 10, v) for i, v in enumerate(vectors)])
    )
    closeness = meanings.closeness(np.array([0, 9], np.float32))
    assert closeness(10, 20) == pytest.approx(1)
    assert closeness(0, 11) == pytest.approx(1)
    assert closeness(0, 10) == pytest.approx(0, abs=1e-6)
    assert closeness(25, 45) == pytest.approx(0, abs=1e-6)
    assert closeness(30, 45) == pytest.approx(-1)
    assert closeness(40, 50) == -1


@given(manifests(), st.binary(max_size=200), st.sampled_from(['', 'head']))
def test_what_anyone_wrote_there_is_read_or_ignored(
    manifest: Manifest, data: bytes, has_head: str
) -> None:
    row_bytes = 12 + manifest.spec.num_kv_heads * manifest.spec.head_dim
    if has_head:
        data = struct.pack('<HHI', 1, 0, len(data) // row_bytes) + data
    found = read_meanings(replace(manifest, meaning=data))
    if found is not None:
        assert np.isfinite(found.vectors).all()
        assert (found.starts < found.stops).all()
        assert (found.stops <= len(manifest.tokens)).all()


@pytest.mark.parametrize('scale', [float('nan'), float('inf'), 0.0, -1.0])
def test_rows_with_an_impossible_scale_are_ignored(open_fake: OpenManager, scale: float) -> None:
    manager = open_fake()
    make_window(manager, 'trip', NUM_TURNS)
    manifest = committed(manager)
    data = bytearray(manifest.meaning)
    data[16:20] = struct.pack('<f', scale)
    found = read_meanings(replace(manifest, meaning=bytes(data)))
    assert found is not None
    assert len(found.starts) == len(places(manager)) - 1


@pytest.mark.parametrize('has_index', ['', 'index'])
def test_after_an_abstention_the_closest_chunk_comes_next(
    open_fake: OpenManager, has_index: str
) -> None:
    """Without an index the newest comes next, since no word is shared."""
    with open_fake() as manager:
        make_window(manager, 'trip', NUM_TURNS)
    manager = open_fake(thaw={'io_threads': 1, 'relevant_chunks': 1})
    thaw = manager.open_window('trip')
    absent = [step for step in thaw.steps if not step.is_usable_part]
    oldest = min(absent, key=lambda step: step.start)
    rows = [
        row_of(step.start, step.stop, np.full(2, 2.0 * (step is oldest), np.float32))
        for step in thaw.steps
    ]
    head = struct.pack('<HHI', 1, 0, len(rows))
    meaning = head + np.stack(rows).tobytes() if has_index else b''
    manager.live.manifest = replace(committed(manager), meaning=meaning)
    manager.live.abstentions = Unwanted(1)
    events = manager.say(Request(text='?', when=When.USABLE))
    next(event for event in events if isinstance(event, Delta))  # nothing is said of a draft
    resident = manager.session.engine.resident
    assert resident.covers(oldest.start, oldest.stop) == bool(has_index)
    assert not all(resident.covers(step.start, step.stop) for step in absent)
    assert isinstance([*events][-1], Answer)
