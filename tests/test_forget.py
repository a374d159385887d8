# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is forgotten is nowhere any more, and the rest is as it was."""

from __future__ import annotations

from dataclasses import replace
import io
from itertools import pairwise
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.bundle_export import export_window
from cwm_ros.bundle_import import import_window
from cwm_ros.errors import BusyError, ConfigError
from cwm_ros.forget import exchanges_of, forget
from cwm_ros.kv import Role, Turn
from cwm_ros.meaning import row_of
from cwm_ros.proof import unpack_samples
from cwm_ros.restore import PayloadCheck
from tests.fakes import assert_true_kv, assert_verified, complete, freeze, make_window, say
from tests.store import bundles, makers
from tests.store.bundles import opened

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cwm_ros.kv import KVSpec
    from tests.conftest import OpenManager

FORGOTTEN = 'Quittenmarmelade'
ROLES = (Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER, Role.ASSISTANT, Role.USER)


def turns() -> list[Turn]:
    texts = [
        'You help.',
        'I like tea.',
        'Noted.',
        f'I love {FORGOTTEN}.',
        f'Ah, {FORGOTTEN}.',
        'Hm.',
    ]
    return [
        Turn(role=role, text=text, time_ms=makers.NOW_MS)
        for role, text in zip(ROLES, texts, strict=True)
    ]


def all_bytes(folder: Path) -> bytes:
    paths = [path for path in folder.rglob('*') if path.is_file()]
    return b''.join(str(path).encode() + path.read_bytes() for path in paths)


def meaning_of(spec: KVSpec, stops: Sequence[int]) -> bytes:
    dimension = spec.num_kv_heads * spec.head_dim
    rows = [
        row_of(start, stop, np.full(dimension, float(stop), np.float32))
        for start, stop in pairwise((0, *stops))
    ]
    return struct.pack('<HHI', 1, 0, len(rows)) + np.stack(rows).tobytes()


def prepare(root: Path, *, segment_start_turn: int = 0) -> tuple[bytes, bytes, list[str]]:
    """Make a window, a clone of its beginning, and leftovers; return what must not be found."""
    tokens = makers.tokens_of(60)
    with opened(root) as store:
        store.commit_turns('drive', turns())
        chunks = makers.write_chunks(store, tokens)
        stops = (5, 18, 24, 40, 50, 60)[segment_start_turn:]
        manifest = replace(
            makers.manifest_of('drive', tokens, chunks),
            num_turns=6,
            turn_stops=stops,
            segment_start_turn=segment_start_turn,
            provisional=((20, 44),),
            probe=b'probe of the end',
        )
        manifest = replace(manifest, meaning=meaning_of(manifest.spec, stops))
        store.commit_window(manifest)
        store.set_pinned('drive', is_pinned=True)
        store.commit_turns('other', turns()[:3])
        damaged = chunks[5]
        path = store.chunk_path(damaged.id, damaged.codec)
        path.write_bytes(path.read_bytes() + b'damage')
        store.discard_chunk(damaged)
    secret_tokens = tokens[24:40].astype('<i4').tobytes()
    return FORGOTTEN.encode(), secret_tokens, [entry.id.hex() for entry in chunks[3:]]


def test_a_byte_search_finds_nothing(tmp_path: Path) -> None:
    words, tokens, ids = prepare(tmp_path / 'a')
    before = all_bytes(tmp_path)
    assert words in before
    assert tokens[:32] in before
    assert all(name.encode() in before for name in ids)
    with opened(tmp_path / 'a') as store:
        told = forget(store, 'drive', [3])
    assert (told.turns, told.turns_left, told.tokens_kept) == ((3, 4), 4, 24)
    assert (told.chunks_removed, told.kept_in, told.bundles) == (5, (), ())
    found = all_bytes(tmp_path)
    for piece in (words, tokens[:16], tokens[32:48], b'probe of'):
        assert piece not in found
    for name in ids:
        assert name.encode() not in found
        assert bytes.fromhex(name) not in found
    with opened(tmp_path / 'a', writable=False) as store:
        window = store.window('drive')
        assert [turn.text for turn in window.turns] == [
            'You help.',
            'I like tea.',
            'Noted.',
            'Hm.',
        ]
        assert window.manifest is not None
        assert window.manifest.num_turns == 3
        assert window.manifest.tokens.tolist() == makers.tokens_of(60)[:24].tolist()
        assert window.manifest.provisional == ((20, 24),)
        spec, stops = window.manifest.spec, (5, 18, 24)
        assert window.manifest.meaning == meaning_of(spec, stops)
        assert window.manifest.tags == ('work', 'überall')
        assert [entry.stop for entry in window.manifest.chunks] == [8, 16, 24]
        assert store.verify(None, makers.check_payload).ok
        assert next(info for info in store.windows() if info.name == 'drive').is_pinned


def test_of_a_later_segment_only_turns_stay(tmp_path: Path) -> None:
    words, tokens, _ = prepare(tmp_path / 'a', segment_start_turn=4)
    with opened(tmp_path / 'a') as store:
        forget(store, 'drive', [1])
        window = store.window('drive')
        assert window.manifest is not None
        assert (window.manifest.num_turns, window.manifest.segment_start_turn) == (0, 0)
        assert len(window.manifest.tokens) == len(window.manifest.chunks) == 0
        assert [turn.text for turn in window.turns][:2] == ['You help.', f'I love {FORGOTTEN}.']
        assert not list((tmp_path / 'a' / 'profiles' / 'default' / 'chunks').iterdir())
    found = all_bytes(tmp_path)
    assert b'tea' not in found.replace(b'I like tea.', b'', 1)  # the other window has it still
    assert tokens[:16] not in found
    assert words in found


def test_a_clone_keeps_it_and_is_named(tmp_path: Path) -> None:
    prepare(tmp_path / 'a')
    with opened(tmp_path / 'a') as store:
        store.clone_window('drive', 'clone')
        store.note_export(tmp_path / 'drive.cwmz')
        told = forget(store, 'drive', [4])
        assert told.turns == (3, 4)
        assert told.kept_in == ('clone',)
        assert told.bundles == (str(tmp_path / 'drive.cwmz'),)
        clone = store.window('clone')
        assert FORGOTTEN in clone.turns[3].text
        assert clone.manifest is not None
        assert clone.manifest.origin is not None
        assert clone.manifest.origin.parent == 'drive'
        there = [store.has_chunk(e.id, e.codec) for e in clone.manifest.chunks]
        assert there == [True] * 5 + [False] + [True] * 2  # one was set aside
        assert forget(store, 'clone', [3]).kept_in == ()
    assert FORGOTTEN.encode() not in all_bytes(tmp_path)


def test_what_cannot_be_forgotten_is_said(tmp_path: Path) -> None:
    prepare(tmp_path / 'a')
    with opened(tmp_path / 'a') as store:
        before = all_bytes(tmp_path / 'a' / 'profiles' / 'default' / 'windows')
        for numbers, words in (
            ([0], 'system prompt'),
            ([6], 'does not exist'),
            ([-1], 'does not exist'),
            ([], 'no turn'),
        ):
            with pytest.raises(ConfigError, match=words):
                forget(store, 'drive', numbers)
        bundles.fill(store, 'user-first')
        with pytest.raises(ConfigError, match='delete the window'):
            forget(store, 'user-first', [0, 2])
        store.delete_window('user-first')
        store.hold('drive')
        with pytest.raises(BusyError, match='open'):
            forget(store, 'drive', [3])
        assert all_bytes(tmp_path / 'a' / 'profiles' / 'default' / 'windows') == before


def test_whole_exchanges_go() -> None:
    said = [*turns(), Turn(role=Role.SYSTEM, text='An hour passed.')]
    assert exchanges_of(said, [1]) == [1, 2]
    assert exchanges_of(said, [2, 4]) == [1, 2, 3, 4]
    assert exchanges_of(said, [6]) == [5, 6]


@pytest.mark.parametrize('number', [1, 5, 9])
def test_a_window_goes_on_after_it_forgot(open_fake: OpenManager, number: int) -> None:
    with open_fake() as manager:
        manager.create('w', 'You help.')
        for index in range(5):
            say(manager, f'prompt {index} {"x" * 40}', max_tokens=4)
        complete(manager)
        freeze(manager)
        manager.leave()
        before = manager.store.window('w')
        assert before.manifest is not None
        kept = forget(manager.store, 'w', [number]).tokens_kept
        manager.open_window('w')
        texts = [turn.text for turn in manager.session.turns]
        assert texts == [
            turn.text for n, turn in enumerate(before.turns) if n not in (number, number + 1)
        ]
        same = before.manifest.tokens[:kept]
        assert np.array_equal(manager.session.tokens[:kept], same)
        complete(manager)
        assert_true_kv(manager.session)
        say(manager, 'and now?', max_tokens=4)
        freeze(manager)
        assert_verified(manager)


def test_a_window_of_which_only_turns_stay_goes_on(open_fake: OpenManager) -> None:
    """So it is left when what is forgotten was said before the present segment."""
    with open_fake() as manager:
        manager.create('w', 'You help.')
        for index in range(4):
            say(manager, f'prompt {index} {"x" * 40}', max_tokens=4)
        complete(manager)
        freeze(manager)
        manager.leave()
        before = manager.store.window('w')
        assert before.manifest is not None
        later = replace(
            before.manifest, segment_start_turn=5, turn_stops=before.manifest.turn_stops[5:]
        )
        manager.store.commit_window(later)
        assert forget(manager.store, 'w', [1]).tokens_kept == 0
        manager.open_window('w')
        assert [turn.text for turn in manager.session.turns] == [
            turn.text for number, turn in enumerate(before.turns) if number not in (1, 2)
        ]
        complete(manager)
        assert_true_kv(manager.session)
        say(manager, 'and now?', max_tokens=4)
        freeze(manager)
        assert_verified(manager)


def test_an_imported_window_proves_itself(open_fake: OpenManager) -> None:
    data = bytearray()
    with open_fake() as manager:
        make_window(manager, 'w', 6)
        freeze(manager)
        manager.leave()
        for _ in export_window(manager.store, 'w', data.extend, PayloadCheck()):
            pass
        size = manager.settings.codec.chunk_tokens
        manager.store.delete_window('w')
        manager.create('x', 'Another.')
        source = io.BytesIO(data)
        *_, progress = import_window(manager.store, source, PayloadCheck(), chunk_tokens=size)
        assert progress.is_whole
        manifest = manager.store.window('w').manifest
        assert manifest is not None
        assert {entry.id for entry in manifest.chunks} == set(
            unpack_samples(manifest.samples, manifest.spec)
        )
        manager.open_window('w')
        complete(manager)
        assert manager.warnings == ()
        assert_true_kv(manager.session)
