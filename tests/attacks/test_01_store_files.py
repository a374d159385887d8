# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every lie that a file of the store can tell is refused by name, or a log's torn tail is cut."""

from __future__ import annotations

from dataclasses import replace
import os
from pathlib import Path
import struct

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.errors import FormatError, FormatTooNewError
from cwm_ros.kv import ChunkId
from cwm_ros.store import ChunkEntry, chunkfile, ChunkHeader, layout, Manifest, Store, turnlog
from cwm_ros.store.layout import Section
from cwm_ros.store.manifest import ids_of, MANIFEST_MAGIC, pack_manifest, unpack_manifest
from cwm_ros.store.seal import Seal
from cwm_ros.store.verify import read_chunk_file
from tests.store import makers

PATH = Path('/store/file')
PLAIN = Seal(bytes(32))
WINDOW_ID = bytes(range(16))


def entry_of(start: int, stop: int, *, payload_bytes: int = 10) -> ChunkEntry:
    return ChunkEntry(
        id=ChunkId(bytes(16)),
        start=start,
        stop=stop,
        codec='int8',
        payload_bytes=payload_bytes,
        file_bytes=chunkfile.prefix_bytes(stop - start) + payload_bytes,
    )


def manifest() -> Manifest:
    tokens = makers.tokens_of(20)
    chunks = (entry_of(0, 8), entry_of(8, 16), entry_of(16, 20))
    made = makers.manifest_of('window', tokens, chunks, num_turns=3)
    return replace(made, provisional=((3, 5),))


def log_of(*commits: int) -> bytes:
    data = turnlog.pack_header('w', WINDOW_ID)
    first = 0
    for count in commits:
        turns = makers.turns_of(first + count)[first:]
        data += turnlog.pack_records(turns, first_sequence=first)
        first += count
    return data


def chunk() -> bytes:
    header = ChunkHeader(
        id=ChunkId(bytes(range(16))),
        model=makers.IDENTITY.model,
        spec=makers.SPEC,
        start=8,
        stop=16,
        codec='int8',
    )
    return chunkfile.pack_prefix(header, makers.tokens_of(8), memoryview(b'payload'))


def flips(data: bytes) -> list[bytes]:
    flipped = []
    for index in range(len(data)):
        for bit in (0x01, 0x80):
            changed = bytearray(data)
            changed[index] ^= bit
            flipped.append(bytes(changed))
    return flipped


def test_every_truncation_of_a_manifest_is_refused() -> None:
    data = pack_manifest(manifest())
    for size in range(len(data)):
        with pytest.raises(FormatError):
            unpack_manifest(PATH, data[:size])
    with pytest.raises(FormatError, match='file size'):
        unpack_manifest(PATH, data + b'\0')


def test_every_flipped_bit_of_a_manifest_is_refused() -> None:
    for data in flips(pack_manifest(manifest())):
        with pytest.raises(FormatError):
            unpack_manifest(PATH, data)


def test_every_truncation_and_flip_of_a_chunk_header_is_refused() -> None:
    data = chunk()
    for size in range(len(data)):
        with pytest.raises(FormatError):
            chunkfile.unpack_prefix(PATH, data[:size])
    for flipped in flips(data):
        with pytest.raises(FormatError):
            chunkfile.unpack_prefix(PATH, flipped)


def test_every_truncation_of_a_log_cuts_its_tail() -> None:
    data = log_of(1, 2, 1)
    whole = turnlog.unpack_log(PATH, data)
    for size in range(turnlog.HEAD_BYTES):
        with pytest.raises(FormatError):
            turnlog.unpack_log(PATH, data[:size])
    counts = set()
    for size in range(turnlog.HEAD_BYTES, len(data) + 1):
        log = turnlog.unpack_log(PATH, data[:size])
        assert log.turns == whole.turns[: len(log.turns)]
        assert log.valid_bytes <= size
        counts.add(len(log.turns))
    assert counts == {0, 1, 2, 3, 4}


def test_every_flip_of_a_log_is_refused_or_cuts_only_the_last_commit() -> None:
    data = log_of(1, 2, 2)
    whole = turnlog.unpack_log(PATH, data)
    last_commit = len(log_of(1, 2))
    for index in range(len(data)):
        changed = bytearray(data)
        changed[index] ^= 0x10
        if index < last_commit:
            with pytest.raises(FormatError):
                turnlog.unpack_log(PATH, bytes(changed))
        else:
            log = turnlog.unpack_log(PATH, bytes(changed))
            assert 3 <= len(log.turns) < 5
            assert log.turns == whole.turns[: len(log.turns)]


@given(st.binary(max_size=400))
def test_garbage_is_refused_and_garbage_behind_a_log_is_cut(data: bytes) -> None:
    for unpack in (
        unpack_manifest,
        turnlog.unpack_log,
        chunkfile.unpack_prefix,
        layout.unpack_key,
    ):
        with pytest.raises(FormatError):
            unpack(PATH, data)
    for begin in (MANIFEST_MAGIC, turnlog.LOG_MAGIC, chunkfile.CHUNK_MAGIC):
        for unpack in (unpack_manifest, turnlog.unpack_log, chunkfile.unpack_prefix):
            with pytest.raises(FormatError):
                unpack(PATH, begin + bytes(2) + data)
    assert len(turnlog.unpack_log(PATH, log_of(2) + data).turns) == 2


def repack(changes: dict[bytes, bytes]) -> bytes:
    """Return a manifest with sections replaced and all checksums right."""
    sections = layout.unpack_frame(PATH, pack_manifest(manifest()), MANIFEST_MAGIC)
    return layout.pack_frame(
        MANIFEST_MAGIC,
        [replace(s, data=changes.get(bytes(s.kind), bytes(s.data))) for s in sections],
    )


def section(kind: bytes) -> bytearray:
    sections = layout.unpack_frame(PATH, pack_manifest(manifest()), MANIFEST_MAGIC)
    return bytearray(next(s.data for s in sections if s.kind == kind))


@pytest.mark.parametrize(
    ('offset', 'fmt', 'value', 'problem'),
    [
        (88, '<I', 0, 'num_layers'),
        (88, '<I', 0xFFFFFFFF, 'num_layers'),
        (96, '<I', 5000, 'head_dim'),
        (104, '<I', 0, 'chunk_tokens'),
        (104, '<I', 0xFFFFFFFF, 'chunk_tokens'),
        (108, '<I', 0xFFFFFFFF, 'section TOKS'),
        (108, '<I', 19, 'section TOKS'),
        (112, '<I', 0xFFFFFFFF, 'section CHNK'),
        (116, '<I', 1, 'reserved'),
        (120, '<Q', 1 << 63, 'section STOP'),
        (128, '<Q', 1 << 63, 'section STOP'),
        (136, '<H', 0xFFFF, 'section HEAD'),
        (142, '<H', 1, 'reserved'),
    ],
)
def test_a_lie_in_the_head_is_named(offset: int, fmt: str, value: int, problem: str) -> None:
    head = section(b'HEAD')
    struct.pack_into(fmt, head, offset, value)
    with pytest.raises(FormatError, match=problem):
        unpack_manifest(PATH, repack({b'HEAD': bytes(head)}))


@pytest.mark.parametrize(
    ('offset', 'fmt', 'value', 'problem'),
    [
        (56 + 16, '<I', 0, 'chunk 0..16: starts'),
        (56 + 16, '<I', 9, 'chunk 9..16: starts'),
        (56 + 16, '<I', 0xFFFFFFF8, 'stops beyond'),
        (56 + 20, '<I', 8, 'stops beyond'),
        (56 + 20, '<I', 17, 'stops beyond'),
        (112 + 20, '<I', 21, 'stops beyond'),
        (24, '<8s', b'\xff', 'codec'),
        (24, '<8s', b'../x', 'codec'),
        (24, '<8s', b'a\0b', 'codec'),
        (24, '<8s', b'', 'codec'),
        (32, '<Q', 0, 'payload size'),
        (32, '<Q', 1 << 40, 'payload size'),
        (40, '<Q', 1 << 40, 'file size'),
        (49, '<B', 1, 'reserved'),
    ],
)
def test_a_lie_in_the_chunk_table_is_named(
    offset: int, fmt: str, value: object, problem: str
) -> None:
    table = section(b'CHNK')
    struct.pack_into(fmt, table, offset, value)
    with pytest.raises(FormatError, match=problem):
        unpack_manifest(PATH, repack({b'CHNK': bytes(table)}))


@pytest.mark.parametrize(
    ('kind', 'data', 'problem'),
    [
        (b'TOKS', b'\xff' * 80, 'tokens'),
        (b'STOP', struct.pack('<3I', 9, 8, 20), 'turn_stops'),
        (b'STOP', struct.pack('<3I', 9, 9, 21), 'turn_stops'),
        (b'PROV', struct.pack('<3I', 1, 2, 3), 'section PROV'),
        (b'PROV', struct.pack('<4I', 1, 3, 2, 4), 'provisional'),
        (b'PROV', struct.pack('<2I', 1, 21), 'provisional'),
        (b'TAGS', b'\xff\xffab', 'section TAGS'),
        (b'TAGS', b'\x02', 'section TAGS'),
        (b'TAGS', b'\x01\x00\xff', 'UTF-8'),
        (b'TAGS', b'\x00\x00' * 257, 'tags'),
        (b'TAGS', b'\x01\x00a' * (4 << 20), 'tags'),
        (b'PROV', bytes(8) * (4 << 20), 'section PROV'),
        (b'HEAD', b'', 'section HEAD'),
    ],
)
def test_a_lie_in_another_section_is_named(kind: bytes, data: bytes, problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        unpack_manifest(PATH, repack({kind: data}))


def test_ids_cost_a_few_digests_for_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is a partial chunk, whose name is not that of the full chunk in its place."""
    count, calls = 500, []
    digest = chunkfile._digest

    def counting(key: bytes, *parts: bytes | memoryview) -> bytes:
        calls.append(parts)
        return digest(key, *parts)

    tokens = makers.tokens_of(2 * count)
    lying = replace(
        manifest(),
        tokens=tokens,
        chunk_tokens=2,
        chunks=tuple(entry_of(start, start + 1) for start in range(0, 2 * count, 2)),
    )
    monkeypatch.setattr(chunkfile, '_digest', counting)
    ids = ids_of(bytes(32), lying)
    assert len(calls) == 2 * count + 2
    heads = (tokens[: 2 * number + 1] for number in (0, 1, 7, count - 1))
    found = [ids[number] for number in (0, 1, 7, count - 1)]
    identity = lying.identity
    assert found == [chunkfile.chunk_ids(bytes(32), identity, head, 2)[-1] for head in heads]


def test_sections_must_be_there_once_and_not_too_many() -> None:
    sections = layout.unpack_frame(PATH, pack_manifest(manifest()), MANIFEST_MAGIC)
    with pytest.raises(FormatError, match='TOKS is named, flagged or repeated'):
        unpack_manifest(PATH, layout.pack_frame(MANIFEST_MAGIC, [*sections, sections[1]]))
    rest = [s for s in sections if s.kind != b'STOP']
    with pytest.raises(FormatError, match='section STOP is missing'):
        unpack_manifest(PATH, layout.pack_frame(MANIFEST_MAGIC, rest))
    many = [Section(kind=f'{index:04}'.encode(), data=b'') for index in range(300)]
    with pytest.raises(FormatError, match='number of sections is 300'):
        layout.unpack_frame(PATH, layout.pack_frame(MANIFEST_MAGIC, many), MANIFEST_MAGIC)


def reseal_frame(data: bytearray) -> bytes:
    (count,) = struct.unpack_from('<H', data, 10)
    end = 24 + 24 * count
    struct.pack_into('<Q', data, end, layout.checksum(data[:end]))
    return bytes(data)


@pytest.mark.parametrize(
    ('offset', 'fmt', 'value', 'error', 'problem'),
    [
        (0, '<8s', b'\x93CWMLOG\n', FormatError, 'magic'),
        (8, '<H', 2, FormatTooNewError, 'format_version is 2'),
        (12, '<I', 1, FormatError, 'file size'),
        (16, '<Q', 1 << 60, FormatError, 'file size'),
        (24, '<4s', b'A B!', FormatError, 'named, flagged'),
        (28, '<I', 3, FormatError, 'named, flagged'),
        (32, '<Q', 1 << 63, FormatError, 'beyond the file'),
        (32, '<Q', 0, FormatError, 'HEAD'),
    ],
)
def test_a_lie_in_the_frame_is_named(
    offset: int, fmt: str, value: object, error: type[FormatError], problem: str
) -> None:
    data = bytearray(pack_manifest(manifest()))
    struct.pack_into(fmt, data, offset, value)
    with pytest.raises(error, match=problem):
        unpack_manifest(PATH, reseal_frame(data))


@pytest.mark.parametrize(
    ('offset', 'fmt', 'value', 'problem'),
    [
        (8, '<H', 2, 'format_version'),
        (10, '<H', 1, 'reserved'),
        (12, '<I', 0, 'number of tokens'),
        (12, '<I', 0xFFFFFFFF, 'number of tokens'),
        (64, '<I', 0, 'num_layers'),
        (76, '<I', 1 << 30, 'max_tokens'),
        (80, '<I', 9, 'positions'),
        (84, '<I', 0xFFFFFFFF, 'positions'),
        (88, '<8s', b'../../x', 'codec'),
        (88, '<8s', b'\xff', 'not allowed'),
        (96, '<Q', 0, 'payload size'),
        (96, '<Q', 1 << 62, 'payload size'),
        (112, '<Q', 1, 'reserved'),
        (188, '<I', 1, 'reserved'),
    ],
)
def test_a_lie_in_a_chunk_header_is_named(
    offset: int, fmt: str, value: object, problem: str
) -> None:
    data = bytearray(chunk())
    struct.pack_into(fmt, data, offset, value)
    struct.pack_into('<Q', data, 120, layout.checksum(data[:120], data[128:]))
    with pytest.raises(FormatError, match=problem):
        chunkfile.unpack_prefix(PATH, data)


@pytest.mark.parametrize(
    ('offset', 'fmt', 'value', 'problem'),
    [
        (8, '<Q', 7, 'sequence number 7'),
        (24, '<B', 3, 'role 3'),
        (32, '<1s', b'\xff', 'not UTF-8'),
    ],
)
def test_a_lie_in_a_turn_is_named(offset: int, fmt: str, value: object, problem: str) -> None:
    record = bytearray(turnlog.pack_records(makers.turns_of(1), first_sequence=0))
    struct.pack_into(fmt, record, offset, value)
    struct.pack_into('<Q', record, len(record) - 8, layout.checksum(record[:-8]))
    with pytest.raises(FormatError, match=problem):
        turnlog.unpack_log(PATH, turnlog.pack_header('w', WINDOW_ID) + record)


def test_more_turns_than_a_window_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = log_of(2, 2)
    monkeypatch.setattr(layout, 'MAX_TURNS', 4)
    assert len(turnlog.unpack_log(PATH, data).turns) == 4
    monkeypatch.setattr(layout, 'MAX_TURNS', 3)
    with pytest.raises(FormatError, match='more than 3 turns'):
        turnlog.unpack_log(PATH, data)


def test_records_that_overlap_do_not_keep_a_reader_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place says that it begins a record as long as what follows may be."""
    checked = []
    checksum = layout.checksum

    def counting(*parts: bytes) -> int:
        checked.append(sum(len(part) for part in parts))
        return checksum(*parts)

    whole = log_of(2)
    size = 1 << 18
    data = whole + struct.pack('<Q', size // turnlog.MIN_RECORD_BYTES // 8 * 8) * (size // 8)
    monkeypatch.setattr(layout, 'checksum', counting)
    with pytest.raises(FormatError, match='overlap'):
        turnlog.unpack_log(PATH, data)
    assert sum(checked) < 3 * len(data)
    checked.clear()
    assert len(turnlog.salvage_turns(data)) == 2
    assert sum(checked) < 3 * len(data)


def test_a_record_says_a_number_that_no_room_is_for() -> None:
    data = log_of(2) + turnlog.pack_records(makers.turns_of(1), first_sequence=1_000_000)
    assert list(turnlog.salvage_turns(data)) == [0, 1]


@pytest.mark.parametrize(
    ('offset', 'fmt', 'value', 'problem'),
    [
        (8, '<H', 2, 'format_version'),
        (10, '<H', 0, 'header size'),
        (10, '<H', 0xFFFF, 'header size'),
        (12, '<I', 1, 'header size'),
        (32, '<8s', b'../x', 'window name'),
        (32, '<8s', b'\xff', 'window name'),
    ],
)
def test_a_lie_in_a_log_header_is_named(
    offset: int, fmt: str, value: object, problem: str
) -> None:
    data = bytearray(turnlog.pack_header('w', WINDOW_ID))
    struct.pack_into(fmt, data, offset, value)
    struct.pack_into('<Q', data, 96, layout.checksum(data[:96]))
    with pytest.raises(FormatError, match=problem):
        turnlog.unpack_log(PATH, bytes(data))


@pytest.fixture
def window(tmp_path: Path) -> Manifest:
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        return makers.commit(store, 'w')


def chunk_path(tmp_path: Path, entry: ChunkEntry) -> Path:
    return tmp_path / 'profiles' / 'default' / 'chunks' / entry.file_name


@pytest.mark.parametrize(
    ('changes', 'problem'),
    [
        ({'id': ChunkId(bytes(16))}, 'chunk id'),
        ({'codec': 'fp16'}, 'codec'),
        ({'start': 8, 'stop': 16}, 'start'),
        ({'payload_bytes': 101}, 'payload size'),
        ({'file_bytes': 7}, 'size is 292, not 7'),
    ],
)
def test_a_chunk_that_is_not_the_rows_is_refused(
    tmp_path: Path, window: Manifest, changes: dict[str, object], problem: str
) -> None:
    path = chunk_path(tmp_path, window.chunks[0])
    entry = replace(window.chunks[0], **changes)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=problem):
        read_chunk_file(path, window, entry, bytearray(1000), PLAIN)


def test_a_chunk_of_another_model_geometry_or_text_is_refused(
    tmp_path: Path, window: Manifest
) -> None:
    entry = window.chunks[1]
    path = chunk_path(tmp_path, entry)
    others = {
        'model identity': replace(window, identity=replace(window.identity, model=bytes(32))),
        'geometry': replace(window, spec=replace(window.spec, head_dim=4)),
        'token ids': replace(window, tokens=window.tokens + np.int32(1)),
    }
    for problem, manifest in others.items():
        with pytest.raises(FormatError, match=problem):
            read_chunk_file(path, manifest, entry, bytearray(1000), PLAIN)


def test_links_and_devices_are_not_read(tmp_path: Path, window: Manifest) -> None:
    path = chunk_path(tmp_path, window.chunks[0])
    moved = path.rename(tmp_path / 'elsewhere')
    path.symlink_to(moved)
    with pytest.raises(FormatError, match='symbolic link'):
        read_chunk_file(path, window, window.chunks[0], bytearray(1000), PLAIN)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FormatError, match='not a plain file'):
        read_chunk_file(path, window, window.chunks[0], bytearray(1000), PLAIN)
    path.unlink()
    path.mkdir()
    with pytest.raises(FormatError, match='not a plain file'):
        read_chunk_file(path, window, window.chunks[0], bytearray(1000), PLAIN)


def test_a_store_does_not_follow_a_linked_folder(tmp_path: Path, window: Manifest) -> None:
    assert window.revision == 1
    chunks = tmp_path / 'profiles' / 'default' / 'chunks'
    chunks.rename(tmp_path / 'elsewhere')
    chunks.symlink_to(tmp_path / 'elsewhere')
    with (
        pytest.raises(FormatError, match='not a folder'),
        Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock),
    ):
        pass


def test_a_linked_root_is_the_owners_choice(tmp_path: Path) -> None:
    (tmp_path / 'data').mkdir()
    root = tmp_path / 'store'
    root.symlink_to(tmp_path / 'data')
    for writable in (True, False):
        with Store.open(makers.settings(root), writable=writable, clock=makers.clock) as store:
            if writable:
                makers.commit(store, 'w')
            assert store.verify('w', makers.check_payload).ok


def test_swapped_window_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / 'profiles' / 'default' / 'windows'
    with Store.open(makers.settings(tmp_path), writable=True, clock=makers.clock) as store:
        makers.commit(store, 'a', seed=1)
        makers.commit(store, 'b', seed=2)
        a, b = (folder / layout.window_id(store.key, name) for name in 'ab')
        a.with_suffix('.cwm').write_bytes(b.with_suffix('.cwm').read_bytes())
        with pytest.raises(FormatError, match="of window 'b'"):
            store.window('a')
        a.with_suffix('.log').write_bytes(b.with_suffix('.log').read_bytes())
        with pytest.raises(FormatError, match='log of another window'):
            store.window('a')
        assert len(store.verify(None, makers.check_payload).problems) == 1


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path, window: Manifest) -> None:
    assert window.revision == 1
    with Store.open(makers.settings(tmp_path), writable=False, clock=makers.clock) as store:
        folder = tmp_path / 'profiles' / 'default' / 'windows'
        path = folder / (layout.window_id(store.key, 'w') + '.cwm')
        with path.open('r+b') as file:
            file.truncate(1 << 40)
        with pytest.raises(FormatError, match='more than the limit'):
            store.window('w')
