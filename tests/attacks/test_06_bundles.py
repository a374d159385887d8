# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every lie that a bundle can tell is refused, or costs the chunk that it is about."""

from __future__ import annotations

from dataclasses import replace
import io
from pathlib import Path
import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from cwm_ros.bundle_import import import_window, ImportProgress
from cwm_ros.errors import FormatError, FormatTooNewError
from cwm_ros.store import chunkfile, layout, Store, turnlog
from cwm_ros.store.frames import BUNDLE_NAMING_KEY
from cwm_ros.store.manifest import ids_of, pack_manifest, unpack_manifest
from tests.store import bundles, makers
from tests.store.bundles import check_payload, frame, frames_of, opened, WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.store import Manifest

PATH = Path('bundle')
HEAD = bundles.FRAME_HEAD


@pytest.fixture(scope='module')
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with opened(tmp_path_factory.mktemp('good')) as store:
        bundles.fill(store, num_tokens=20)
        return bundles.bundle_of(store)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / 'store') as store:
        yield store


def take(store: Store, data: bytes) -> ImportProgress:
    *_, progress = import_window(store, io.BytesIO(data), check_payload, chunk_tokens=makers.SIZE)
    return progress


def bodies(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(kind, data[start + HEAD : end]) for kind, start, end in frames_of(data)]


def rebuilt(head: bytes, parts: list[tuple[bytes, bytes]]) -> bytes:
    """Return a bundle of these bodies whose frames are right."""
    return head[:56] + b''.join(frame(kind, n, body) for n, (kind, body) in enumerate(parts))


def assert_nothing_came(store: Store) -> None:
    assert store.windows() == []
    folder = store.chunk_path(bytes(16), 'x').parent
    assert list(folder.iterdir()) == []
    assert list(folder.parent.rglob('*.tmp')) == []


def with_manifest(good: bytes, **changes: object) -> bytes:
    parts = bodies(good)
    manifest = replace(unpack_manifest(PATH, parts[1][1]), **changes)  # type: ignore[arg-type]
    parts[1] = b'WIND', pack_manifest(manifest)
    return rebuilt(good, parts)


def manifest_in(good: bytes) -> Manifest:
    return unpack_manifest(PATH, bodies(good)[1][1])


@pytest.mark.parametrize(
    'name',
    ['../../away', '/etc/passwd', '..', 'a/b', 'a\\b', '', '.hidden', 'nul\0l', 'a' * 64 + 'b'],
)
def test_01_a_name_that_leads_elsewhere(store: Store, good: bytes, name: str) -> None:
    parts = bodies(good)
    head = bytearray(parts[0][1])
    head[32:96] = name.encode()[:64].ljust(64, b'\0')
    head[96:104] = struct.pack('<Q', layout.checksum(bytes(head[:96])))
    parts[0] = b'TURN', bytes(head)
    with pytest.raises(FormatError):
        take(store, rebuilt(good, parts))
    assert_nothing_came(store)


def test_02_sizes_that_promise_more_than_comes(store: Store, good: bytes) -> None:
    """Memory is taken as bytes arrive."""
    for kind, size in ((b'TURN', 1 << 28), (b'TURN', 1 << 63), (b'CHNK', 1 << 30)):
        number, before = (0, good[:56]) if kind == b'TURN' else (2, good[: frames_of(good)[2][1]])
        head = struct.pack('<4sIQQ', kind, number, size, 0)
        lie = before + head + struct.pack('<Q', layout.checksum(head)) + b'few bytes'
        tracemalloc.start()
        try:
            take(store, lie)
        except FormatError:
            assert kind == b'TURN'
        else:
            assert kind == b'CHNK'
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20


def test_03_a_manifest_that_promises_huge_payloads(store: Store, good: bytes) -> None:
    manifest = manifest_in(good)
    first = manifest.chunks[0]
    huge = replace(
        first, payload_bytes=1 << 30, file_bytes=first.file_bytes - first.payload_bytes + (1 << 30)
    )
    progress = take(store, with_manifest(good, chunks=(huge, *manifest.chunks[1:])))
    assert 'more than its KV can have' in progress.problems[0]
    assert store.window(WINDOW).manifest is None
    assert list(store.window(WINDOW).turns) == makers.turns_of(3)


def test_04_frames_out_of_turn(store: Store, good: bytes) -> None:
    parts = bodies(good)
    for wrong in (parts[1:], [parts[1], parts[0], *parts[2:]], [parts[2], *parts], parts[-1:], []):
        with pytest.raises(FormatError):
            take(store, rebuilt(good, wrong))
    assert_nothing_came(store)


def test_05_a_second_manifest_or_log_changes_nothing(store: Store, good: bytes) -> None:
    parts = bodies(good)
    for index, second in enumerate((parts[1], parts[0])):
        progress = take(store, rebuilt(good, [*parts[:3], second, *parts[3:]]))
        assert 'cannot come here' in progress.problems[0]
        assert progress.chunks_done == 1
        assert store.verify(None, check_payload).ok
        store.delete_window(WINDOW)
        assert index < 2


def test_06_a_chunk_that_comes_twice(store: Store, good: bytes) -> None:
    parts = bodies(good)
    progress = take(store, rebuilt(good, [*parts[:3], parts[2], *parts[3:]]))
    assert 'or twice' in progress.problems[0]
    assert progress.chunks_done == 2  # more frames than rows are not read
    assert store.verify(None, check_payload).ok


def test_07_a_chunk_of_another_window(store: Store, good: bytes, tmp_path: Path) -> None:
    with opened(tmp_path / 'other') as other:
        bundles.fill(other, num_tokens=20, seed=5)
        foreign = bodies(bundles.bundle_of(other))[2]
    parts = bodies(good)
    progress = take(store, rebuilt(good, [*parts[:2], foreign, *parts[3:]]))
    assert 'not of the window' in progress.problems[0]
    assert progress.chunks_done == 2
    assert store.verify(None, check_payload).ok


def test_08_ids_of_other_tokens(store: Store, good: bytes) -> None:
    """An id stands for tokens: a lie would put KV under the name of what others said."""
    manifest = manifest_in(good)
    a, b, c = manifest.chunks
    for chunks in ((replace(a, id=b.id), b, c), (replace(a, id=bytes(16)), b, c)):
        progress = take(store, with_manifest(good, chunks=chunks))
        assert 'id of other tokens' in progress.problems[0]
        assert store.window(WINDOW).manifest is None
        store.delete_window(WINDOW)
    tokens = manifest.tokens.copy()
    tokens[3] += 1
    moved = replace(manifest, tokens=tokens)
    names = ids_of(BUNDLE_NAMING_KEY, moved)
    chunks = tuple(replace(e, id=i) for e, i in zip(manifest.chunks, names, strict=True))
    progress = take(store, with_manifest(good, tokens=tokens, chunks=chunks))
    assert progress.chunks_done == 0  # the chunks are named after other tokens


def test_09_a_chunk_that_says_other_than_its_row(store: Store, good: bytes) -> None:
    parts = bodies(good)
    body = parts[2][1]
    head = chunkfile.unpack_prefix(PATH, body)
    prefix = chunkfile.prefix_bytes(len(head.tokens))
    payload = memoryview(body)[prefix:]
    spec = replace(head.header.spec, head_dim=4)
    lies = [
        (replace(head.header, spec=spec), head.tokens, payload),
        (replace(head.header, model=bytes(32)), head.tokens, payload),
        (replace(head.header, start=head.header.start + 8, stop=head.header.stop + 8), head.tokens,
         payload),
        (head.header, head.tokens + 1, payload),
        (head.header, head.tokens, payload[:-1]),
    ]  # fmt: skip
    for header, tokens, data in lies:
        lie = chunkfile.pack_prefix(header, tokens, data) + bytes(data)
        progress = take(store, rebuilt(good, [*parts[:2], (b'CHNK', lie), *parts[3:]]))
        assert len(progress.problems) == 1
        assert progress.chunks_done == 2
        assert store.verify(None, check_payload).ok
        store.delete_window(WINDOW)


def test_10_right_checksums_over_a_payload_that_is_not_one(store: Store, good: bytes) -> None:
    parts = bodies(good)
    head = chunkfile.unpack_prefix(PATH, parts[2][1])
    size = len(parts[2][1]) - chunkfile.prefix_bytes(len(head.tokens))
    fake = memoryview(bytes(size))
    lie = chunkfile.pack_prefix(head.header, head.tokens, fake) + bytes(fake)
    progress = take(store, rebuilt(good, [*parts[:2], (b'CHNK', lie), *parts[3:]]))
    assert 'not one of ours' in progress.problems[0]
    assert progress.chunks_done == 2
    assert store.verify(None, check_payload).ok


def test_11_a_log_with_a_torn_tail_or_of_no_turn(store: Store, good: bytes) -> None:
    parts = bodies(good)
    window_id = bytes.fromhex(layout.window_id(BUNDLE_NAMING_KEY, WINDOW))
    for log in (parts[0][1] + bytes(8), parts[0][1][:-8], turnlog.pack_header(WINDOW, window_id)):
        with pytest.raises(FormatError):
            take(store, rebuilt(good, [(b'TURN', log), *parts[1:]]))
    assert_nothing_came(store)


def test_12_a_log_and_a_manifest_of_two_windows(store: Store, good: bytes) -> None:
    progress = take(store, with_manifest(good, window='other'))
    assert 'do not belong together' in progress.problems[0]
    assert [info.name for info in store.windows()] == [WINDOW]
    assert store.window(WINDOW).manifest is None


def test_13_a_manifest_that_covers_turns_that_did_not_come(store: Store, good: bytes) -> None:
    progress = take(store, with_manifest(good, num_turns=9, turn_stops=(0,) * 9))
    assert 'do not belong together' in progress.problems[0]
    assert store.window(WINDOW).manifest is None


def test_14_bytes_behind_the_end(store: Store, good: bytes) -> None:
    progress = take(store, good + b'x')
    assert 'behind the end' in progress.problems[0]
    assert not progress.is_whole
    assert store.verify(None, check_payload).ok


def test_15_a_later_version_and_an_unknown_kind(store: Store, good: bytes) -> None:
    for offset, value in ((8, 99), (10, 2)):
        head = bytearray(good[:48])
        head[offset] = value
        with pytest.raises(FormatTooNewError):
            take(store, bytes(head) + struct.pack('<Q', layout.checksum(bytes(head))) + good[56:])
    assert_nothing_came(store)


def test_16_reserved_bytes_and_a_salt_where_none_is(store: Store, good: bytes) -> None:
    for offset in (12, 16, 32):
        head = bytearray(good[:48])
        head[offset] = 1
        with pytest.raises(FormatError):
            take(store, bytes(head) + struct.pack('<Q', layout.checksum(bytes(head))) + good[56:])
    assert_nothing_came(store)


def test_17_endless_chunks(store: Store, good: bytes) -> None:
    """A stream that repeats itself ends with an error or adds nothing."""
    parts = bodies(good)
    progress = take(store, rebuilt(good, [*parts[:-1], *[parts[2]] * 50]))
    assert progress.chunks_done == 3
    assert len(progress.problems) == 1
    assert store.storage().used_bytes < 10_000
