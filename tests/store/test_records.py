# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every record packs and unpacks, and an independent reader agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
import re

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.errors import BadNameError, ConfigError, FormatError, FormatTooNewError
from cwm_ros.kv import ChunkId, KVSpec, ModelIdentity, Role, Turn
from cwm_ros.store import chunk_ids, ChunkEntry, chunkfile, ChunkHeader, layout, Manifest, turnlog
from cwm_ros.store.layout import Section
from cwm_ros.store.manifest import MANIFEST_MAGIC, pack_manifest, unpack_manifest
from tests import oracle
from tests.store import makers

PATH = Path('/store/file')
WINDOW_ID = bytes(range(16))


@given(makers.manifests())
def test_a_manifest_comes_back_and_the_oracle_agrees(manifest: Manifest) -> None:
    data = pack_manifest(manifest)
    loaded = unpack_manifest(PATH, data)
    for field in Manifest.__dataclass_fields__:
        if field != 'tokens':
            assert getattr(loaded, field) == getattr(manifest, field)
    assert loaded.tokens.dtype == np.int32
    assert loaded.tokens.tolist() == manifest.tokens.tolist()
    assert pack_manifest(loaded) == data

    seen = oracle.read_manifest(data)
    spec = manifest.spec
    assert seen['spec'] == (spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.max_tokens)
    assert seen['model'] == manifest.identity.model
    assert seen['rendering'] == manifest.identity.rendering
    assert seen['model_name'] == manifest.identity.name
    assert seen['tokens'] == manifest.tokens.tolist()
    assert seen['chunks'] == [
        (e.id, e.start, e.stop, e.codec, e.payload_bytes, e.file_bytes, e.priority)
        for e in manifest.chunks
    ]
    assert tuple(seen['tags']) == manifest.tags  # type: ignore[arg-type]
    assert seen['turn_stops'] == list(manifest.turn_stops)
    assert seen['provisional'] == list(manifest.provisional)
    assert (seen['probe'], seen['samples']) == (manifest.probe, manifest.samples)
    origin = manifest.origin
    assert seen['origin'] == (origin and (origin.kind, origin.revision, origin.parent))
    assert seen['meaning'] == manifest.meaning
    same = ('window', 'codec', 'created_ms', 'updated_ms', 'revision', 'num_turns')
    assert {name: seen[name] for name in same} == {name: getattr(manifest, name) for name in same}


@given(makers.names, st.lists(st.lists(makers.turns, max_size=4), max_size=4))
def test_turns_come_back_and_the_oracle_agrees(window: str, commits: list[list[Turn]]) -> None:
    data = turnlog.pack_header(window, WINDOW_ID)
    turns: list[Turn] = []
    for commit in commits:
        data += turnlog.pack_records(commit, first_sequence=len(turns))
        turns += commit
    log = turnlog.unpack_log(PATH, data)
    assert (log.window, log.window_id, log.valid_bytes) == (window, WINDOW_ID, len(data))
    assert list(log.turns) == turns
    seen = [(t.role.value, t.text, t.time_ms) for t in turns]
    assert oracle.read_log(data) == (window, WINDOW_ID.hex(), seen)


@given(makers.headers(), st.binary(min_size=1, max_size=50))
def test_a_chunk_comes_back_and_the_oracle_agrees(
    made: tuple[ChunkHeader, np.ndarray[tuple[int], np.dtype[np.int32]]], payload: bytes
) -> None:
    header, tokens = made
    data = chunkfile.pack_prefix(header, tokens, memoryview(payload))
    assert len(data) == chunkfile.prefix_bytes(len(tokens))
    assert len(data) % chunkfile.PAYLOAD_ALIGNMENT == 0
    head = chunkfile.unpack_prefix(PATH, data)
    assert head.header == header
    assert head.payload_bytes == len(payload)
    assert head.payload_checksum == layout.checksum(payload)
    assert head.tokens.tolist() == tokens.tolist()
    seen = oracle.read_chunk(data + payload)
    assert (seen['id'], seen['model'], seen['start']) == (header.id, header.model, header.start)
    assert (seen['stop'], seen['codec']) == (header.stop, header.codec)
    assert (seen['tokens'], seen['payload']) == (tokens.tolist(), payload)


def test_the_worked_example_of_the_format_page_is_what_we_write() -> None:
    page = Path(__file__).parents[2] / 'docs' / 'format.md'
    example = (
        page.read_text(encoding='utf-8')
        .partition('## A worked example')[2]
        .partition('### The same')[0]
    )
    dumps = [
        bytes.fromhex(
            ''.join(re.findall(r'^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)', block, re.MULTILINE))
        )
        for block in re.findall(r'```\n(.*?)```', example, re.DOTALL)
    ]
    key = b'k' * 32
    identity = ModelIdentity(model=bytes(range(32)), rendering=bytes(range(32, 64)), name='toy')
    spec = KVSpec(num_layers=1, num_kv_heads=1, head_dim=2, max_tokens=64)
    tokens = np.array([5, 6, 7], dtype=np.int32)
    (chunk_id,) = chunk_ids(key, identity, tokens, 128)
    header = ChunkHeader(
        id=chunk_id, model=identity.model, spec=spec, start=0, stop=3, codec='raw'
    )
    chunk = chunkfile.pack_prefix(header, tokens, memoryview(b'payload!')) + b'payload!'
    entry = ChunkEntry(
        id=chunk_id, start=0, stop=3, codec='raw', payload_bytes=8, file_bytes=len(chunk)
    )
    manifest = Manifest(
        window='w',
        identity=identity,
        spec=spec,
        chunk_tokens=128,
        codec='raw',
        num_turns=1,
        tokens=tokens,
        turn_stops=(3,),
        chunks=(entry,),
        created_ms=1000,
        updated_ms=1000,
        revision=1,
    )
    log = turnlog.pack_header('w', bytes.fromhex(layout.window_id(key, 'w')))
    log += turnlog.pack_records([Turn(role=Role.USER, text='Hi', time_ms=1000)], first_sequence=0)
    assert dumps == [log, pack_manifest(manifest), chunk]


def test_chunk_ids_depend_on_key_model_length_and_every_token_before() -> None:
    tokens = makers.tokens_of(20)
    ids = chunk_ids(b'k', makers.IDENTITY, tokens, 8)
    assert len(set(ids)) == 3
    assert chunk_ids(b'k', makers.IDENTITY, tokens[:16], 8) == ids[:2]
    other = tokens.copy()
    other[0] += 1
    changed = [
        chunk_ids(b'k', makers.IDENTITY, other, 8),
        chunk_ids(b'j', makers.IDENTITY, tokens, 8),
        chunk_ids(b'k', replace(makers.IDENTITY, model=bytes(32)), tokens, 8),
    ]
    for others in changed:
        assert not set(others) & set(ids)
    assert chunk_ids(b'k', makers.IDENTITY, tokens, 16)[0] != ids[1]
    assert chunk_ids(b'k', makers.IDENTITY, tokens[:12], 8)[1] != ids[1]
    assert chunk_ids(b'k', replace(makers.IDENTITY, name='x'), tokens, 8) == ids


@pytest.mark.parametrize('name', ['', '.', '..', 'a/b', '-a', 'a b', 'ä', 'a' * 65, 'a\n', '\0'])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(BadNameError):
        layout.window_id(b'k', name)


def test_an_unknown_critical_section_is_too_new_and_others_are_kept() -> None:
    manifest = makers.manifest_of('w', makers.tokens_of(5), ())
    known = Section(kind=b'PRBE', data=b'later')
    data = pack_manifest(replace(manifest, extra=(known,)))
    assert unpack_manifest(PATH, data).extra == (known,)
    data = pack_manifest(replace(manifest, extra=(replace(known, is_critical=True),)))
    with pytest.raises(FormatTooNewError, match='section PRBE is critical'):
        unpack_manifest(PATH, data)


def test_a_log_record_with_fields_of_a_later_version_is_read() -> None:
    (turn,) = makers.turns_of(1)
    data = bytearray(turnlog.pack_records([turn], first_sequence=0))
    data[-8:] = b'newfield' * 3
    data[:4] = (len(data) + 8).to_bytes(4, 'little')
    data += layout.checksum(data).to_bytes(8, 'little')
    log = turnlog.unpack_log(PATH, turnlog.pack_header('w', WINDOW_ID) + data)
    assert log.turns == (turn,)


@pytest.mark.parametrize(
    ('changes', 'problem'),
    [
        ({'num_turns': 5}, 'turn_stops'),
        ({'turn_stops': (99,)}, 'turn_stops'),
        ({'turn_stops': (3, 2), 'num_turns': 2}, 'turn_stops'),
        ({'segment_start_turn': 2}, 'turns'),
        ({'chunk_tokens': 0}, 'chunk_tokens'),
        ({'chunk_tokens': 5000}, 'chunk_tokens'),
        ({'codec': 'INT8'}, 'codec'),
        ({'provisional': ((3, 2),)}, 'provisional'),
        ({'provisional': ((0, 3), (3, 5))}, 'provisional'),
        ({'provisional': ((0, 99),)}, 'provisional'),
        ({'tags': ('x' * 257,)}, 'tags'),
        ({'tags': ('x',) * 257}, 'tags'),
        ({'tokens': np.array([-1], dtype=np.int32)}, 'tokens'),
        ({'spec': KVSpec(num_layers=0, num_kv_heads=1, head_dim=1, max_tokens=1)}, 'num_layers'),
        ({'identity': ModelIdentity(model=b'', rendering=b'', name='')}, 'model identity'),
    ],
)
def test_a_manifest_that_cannot_be_is_not_written(
    changes: dict[str, object], problem: str
) -> None:
    manifest = makers.manifest_of('w', makers.tokens_of(20), ())
    with pytest.raises(ConfigError, match=problem):
        pack_manifest(replace(manifest, **changes))  # type: ignore[arg-type]


def test_a_turn_beyond_the_text_limit_is_refused() -> None:
    turn = Turn(role=Role.USER, text='x' * (layout.MAX_TEXT_BYTES + 1))
    with pytest.raises(ConfigError, match='text has 1048577 bytes'):
        turnlog.pack_records([turn], first_sequence=0)
    with pytest.raises(ConfigError, match='surrogate'):
        turnlog.pack_records([Turn(role=Role.USER, text='\ud800')], first_sequence=0)


def test_a_longest_turn_is_kept() -> None:
    turn = Turn(role=Role.USER, text='x' * layout.MAX_TEXT_BYTES)
    data = turnlog.pack_header('w', WINDOW_ID) + turnlog.pack_records([turn], first_sequence=0)
    assert turnlog.unpack_log(PATH, data).turns == (turn,)


def test_a_section_of_another_frame_is_refused() -> None:
    with pytest.raises(FormatError, match='section HEAD is missing'):
        unpack_manifest(PATH, layout.pack_frame(MANIFEST_MAGIC, []))


@pytest.mark.parametrize(
    'changes',
    [
        {'id': b'short'},
        {'model': b'short'},
        {'codec': 'INT8'},
        {'codec': '../x'},
        {'start': -8},
        {'stop': 0},
        {'stop': 5000},
        {'start': 1 << 20, 'stop': (1 << 20) + 8},
        {'spec': KVSpec(num_layers=1, num_kv_heads=1, head_dim=0, max_tokens=1)},
    ],
)
def test_a_chunk_header_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    header = ChunkHeader(
        id=ChunkId(bytes(16)), model=bytes(32), spec=makers.SPEC, start=0, stop=8, codec='raw'
    )
    with pytest.raises(ConfigError):
        replace(header, **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='8 positions but'):
        chunkfile.pack_prefix(header, makers.tokens_of(7), memoryview(b'x'))
    with pytest.raises(ConfigError, match='payload has 0 bytes'):
        chunkfile.pack_prefix(header, makers.tokens_of(8), memoryview(b''))


def test_a_section_kind_has_four_letters_or_digits() -> None:
    for kind in (b'ABC', b'A CD'):
        with pytest.raises(ConfigError):
            Section(kind=kind, data=b'')
