# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Windows that go from one store to another as a stream, which may break off anywhere."""

from __future__ import annotations

import os
from pathlib import Path
import random
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cwm_ros.bundle_import import import_window
from cwm_ros.errors import BadNameError, CwmError, ExistsError, FormatError, KeyMissingError
from cwm_ros.kv import Role, Turn
from cwm_ros.store import ChunkHeader, layout, OriginKind, turnlog
from cwm_ros.store.frames import BUNDLE_NAMING_KEY, END, FrameWriter, TURNS
from cwm_ros.store.segments import BundleWriter
from tests import oracle
from tests.store import bundles, makers
from tests.store.bundles import bundle_of, check_payload, fill, frames_of, opened, take_in, WINDOW

if TYPE_CHECKING:
    from cwm_ros.store import Store

SEGMENT = (1 << 16) + 16
READ_WINDOW = """
import sys
from pathlib import Path
from tests.store import bundles, makers
with bundles.opened(Path(sys.argv[1]), writable=False) as store:
    window = store.window('drive')
    there = [e.start for e in window.manifest.chunks if store.has_chunk(e.id, e.codec)]
    print(len(window.turns), *there)
"""


def assert_in_order(store: Store, name: str, *, chunks: int | None = None) -> None:
    """Every byte is right; as many chunks are there as are said."""
    window = store.window(name)
    assert list(window.turns) == makers.turns_of(3)
    assert store.verify(None, check_payload).problems == ()
    if window.manifest is not None:
        assert window.manifest.tokens.tolist() == makers.tokens_of(bundles.NUM_TOKENS).tolist()
        there = [e for e in window.manifest.chunks if store.has_chunk(e.id, e.codec)]
        assert len(there) == len(window.manifest.chunks)
        assert chunks in (None, len(there))


@pytest.mark.parametrize('encrypt', [False, True])
def test_a_window_comes_over_whole(ram_path: Path, *, encrypt: bool) -> None:
    with opened(ram_path / 'a', encrypt=encrypt) as store:
        fill(store)
        before = store.window(WINDOW).manifest
        payloads = {
            entry.start: store.chunk_path(entry.id, entry.codec).stat().st_size
            for entry in before.chunks  # type: ignore[union-attr]
        }
        data = bundle_of(store)
        progress = take_in(store, data, name='copy') if encrypt else None
        if encrypt:
            assert_in_order(store, 'copy', chunks=len(payloads))
            assert progress
            assert (progress.chunks_reused, progress.is_encrypted) == (8, True)
    assert (b'turn 0.1' in data) is not encrypt
    if encrypt:
        return
    with opened(ram_path / 'b') as store:
        progress = take_in(store, data)
        assert (progress.is_whole, progress.problems, progress.chunks_reused) == (True, (), 0)
        assert_in_order(store, WINDOW, chunks=len(payloads))
        after = store.window(WINDOW).manifest
        assert before is not None
        assert after is not None
        assert (after.tags, after.probe, after.num_turns) == (before.tags, b'probe', 2)
        assert after.origin is not None
        assert after.origin.kind is OriginKind.BUNDLE
        assert (after.origin.parent, after.origin.revision) == (WINDOW, 1)
        assert {e.id for e in after.chunks}.isdisjoint(e.id for e in before.chunks)
        assert [e.priority for e in after.chunks] == [e.priority for e in before.chunks]
        assert bundle_of(store)[: frames_of(data)[0][2]] == data[: frames_of(data)[0][2]]


def test_a_plain_bundle_goes_into_an_encrypted_profile(ram_path: Path) -> None:
    with opened(ram_path / 'a') as store:
        fill(store)
        data = bundle_of(store)
    with opened(ram_path / 'b', encrypt=True) as store:
        assert take_in(store, data).is_whole
        assert_in_order(store, WINDOW, chunks=8)
    stored = b''.join(p.read_bytes() for p in (ram_path / 'b').rglob('*') if p.is_file())
    assert b'turn 0.1' not in stored


@pytest.mark.parametrize('encrypt', [False, True])
def test_another_profiles_bundle_is_refused(ram_path: Path, *, encrypt: bool) -> None:
    with opened(ram_path / 'a', encrypt=True) as store:
        fill(store)
        data = bundle_of(store)
    with opened(ram_path / 'b', encrypt=encrypt) as store:
        with pytest.raises(KeyMissingError, match='another profile'):
            take_in(store, data)
        assert store.windows() == []


def test_a_pipe_that_is_cut_leaves_a_window_in_order_or_nothing(ram_path: Path) -> None:
    with opened(ram_path / 'a') as store:
        fill(store)
        data = bundle_of(store)
    frames = frames_of(data)
    edges = {
        edge + near for _, start, end in frames for edge in (start, end) for near in (-1, 0, 1)
    }
    cuts = {*edges, *random.Random(1).sample(range(len(data)), 30), 0, 1, 8, 55, 56}
    turns_end, window_end = frames[0][2], frames[1][2]
    with opened(ram_path / 'b') as store:
        for cut in sorted(cut for cut in cuts if 0 <= cut < len(data)):
            name = f'cut-{cut}'
            if cut < turns_end:
                with pytest.raises(FormatError):
                    take_in(store, data[:cut], name=name)
                assert not store.has_window(name)
                continue
            progress = take_in(store, data[:cut], name=name)
            assert progress.problems
            assert not progress.is_whole
            chunks = sum(kind == b'CHNK' and end <= cut for kind, _, end in frames)
            assert progress.chunks_done == chunks
            assert_in_order(store, name, chunks=chunks)
            assert (store.window(name).manifest is not None) == (cut >= window_end)
            store.delete_window(name)
        assert take_in(store, data).is_whole
    assert not list(ram_path.rglob('*.tmp'))


def test_an_encrypted_pipe_that_is_cut_does_too(ram_path: Path) -> None:
    with opened(ram_path / 'a', encrypt=True) as store:
        fill(store, num_tokens=4000)
        data = bundle_of(store)
        assert len(data) > 2 * SEGMENT
        names = 0
        for cut in (0, 56, 57, 56 + SEGMENT - 1, 56 + SEGMENT, 56 + 2 * SEGMENT, len(data) - 1):
            name = f'cut-{cut}'
            try:
                progress = take_in(store, data[:cut], name=name)
            except FormatError:
                assert not store.has_window(name)
                continue
            names += 1
            assert not progress.is_whole
            assert store.verify(name, check_payload).problems == ()
        assert names == 3


def test_segments_cannot_be_moved_left_out_or_added(ram_path: Path) -> None:
    with opened(ram_path / 'a', encrypt=True) as store:
        fill(store, num_tokens=4000)
        data, other = bundle_of(store), bundle_of(store)
        head, body = data[:56], data[56:]
        parts = [body[i : i + SEGMENT] for i in range(0, len(body), SEGMENT)]
        wrong = {
            'swapped': [parts[1], parts[0], *parts[2:]],
            'left out': [parts[0], *parts[2:]],
            'without the last': parts[:-1],
            'twice': [parts[0], parts[0], *parts[1:]],
            'of another bundle': [parts[0], other[56 + SEGMENT :][:SEGMENT], *parts[2:]],
            'more': [*parts, b'more'],
        }
        for what, pieces in wrong.items():
            name = what.replace(' ', '-')
            try:
                progress = take_in(store, head + b''.join(pieces), name=name)
            except FormatError:
                continue
            assert not progress.is_whole, what
            assert store.verify(name, check_payload).problems == ()


def test_no_flipped_byte_brings_anything_wrong(ram_path: Path) -> None:
    with opened(ram_path / 'a') as store:
        fill(store, num_tokens=20)
        data = bundle_of(store)
    with opened(ram_path / 'b') as store:
        for index in range(0, len(data), 7):
            flipped = bytearray(data)
            flipped[index] ^= 0x10
            try:
                progress = take_in(store, bytes(flipped))
            except CwmError:
                assert not store.has_window(WINDOW)
                continue
            assert progress.problems, index
            assert list(store.window(WINDOW).turns) == makers.turns_of(3)
            assert store.verify(None, check_payload).problems == ()
            store.delete_window(WINDOW)


def test_it_is_usable_before_the_rest_has_arrived(ram_path: Path) -> None:
    with opened(ram_path / 'a') as store:
        fill(store)
        data = bundle_of(store)
    frames = frames_of(data)
    assert [kind for kind, _, _ in frames[:4]] == [b'TURN', b'WIND', b'CHNK', b'CHNK']
    usable_at = frames[3][2]
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, 'rb', buffering=0) as source,
        os.fdopen(writer, 'wb', buffering=0) as pipe,
        opened(ram_path / 'b') as store,
    ):
        pipe.write(data[:usable_at])
        events = import_window(store, source, check_payload, chunk_tokens=makers.SIZE)
        assert [next(events).is_visible for _ in range(3)] == [False, False, True]
        command = [sys.executable, '-c', READ_WINDOW, str(ram_path / 'b')]
        seen = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert seen.split() == ['3', '0', '56']  # turns, and the first and the last chunk
        pipe.write(data[usable_at:])
        pipe.close()
        *_, progress = events
        assert progress.is_whole
        assert_in_order(store, WINDOW, chunks=8)
        manifest = store.window(WINDOW).manifest
        assert manifest is not None
        assert manifest.revision == 1  # what came later needed no other commit


def test_a_name_that_is_taken_is_kept(ram_path: Path) -> None:
    with opened(ram_path / 'a') as store:
        fill(store)
        data = bundle_of(store)
        for name in ('', WINDOW):
            with pytest.raises(ExistsError, match='--as'):
                take_in(store, data, name=name)
        with pytest.raises(BadNameError):
            take_in(store, data, name='../away')
        assert take_in(store, data, name='other').chunks_reused == 8
        assert_in_order(store, 'other', chunks=8)


def test_chunks_that_are_here_already_stay_as_they_are(ram_path: Path) -> None:
    with opened(ram_path / 'a') as store:
        fill(store)
        data = bundle_of(store)
    with opened(ram_path / 'b') as store:
        tokens = makers.tokens_of(bundles.NUM_TOKENS)
        first = store.chunk_ids(makers.IDENTITY, tokens, makers.SIZE)[0]
        header = ChunkHeader(
            id=first, model=makers.IDENTITY.model, spec=makers.SPEC, start=0, stop=8, codec='int8'
        )
        own = bundles.marked(b'encoded on another board')
        entry = store.write_chunk(header, tokens[:8], memoryview(own))
        assert take_in(store, data).is_whole
        manifest = store.window(WINDOW).manifest
        assert manifest is not None
        assert manifest.chunks[0].payload_bytes == len(own)
        buffer = bytearray(1000)
        assert store.read_chunk(manifest, manifest.chunks[0], buffer) == own
        assert entry.id == first
        assert_in_order(store, WINDOW, chunks=8)


def test_chunks_of_another_size_are_left_out(ram_path: Path) -> None:
    with opened(ram_path / 'a') as store:
        fill(store)
        data = bundle_of(store)
    with opened(ram_path / 'b') as store:
        progress = take_in(store, data, chunk_tokens=16)
        assert len(progress.problems) == 1
        assert 'left out' in progress.problems[0]
        assert store.storage().garbage_bytes == 0
        store.check_chunk_tokens(16)
        assert_in_order(store, WINDOW, chunks=0)


def test_what_is_damaged_or_gone_is_left_out_of_a_bundle(ram_path: Path) -> None:
    with opened(ram_path / 'a') as store:
        fill(store)
        manifest = store.window(WINDOW).manifest
        assert manifest is not None
        paths = [store.chunk_path(entry.id, entry.codec) for entry in manifest.chunks]
        paths[2].unlink()
        paths[4].write_bytes(paths[4].read_bytes()[:-1] + b'?')
        data = bundle_of(store)
    with opened(ram_path / 'b') as store:
        progress = take_in(store, data)
        assert (progress.chunks_done, progress.chunks_total) == (6, 7)
        assert_in_order(store, WINDOW, chunks=6)


def test_turns_alone_make_a_bundle(ram_path: Path) -> None:
    with opened(ram_path / 'a') as store:
        store.commit_turns(WINDOW, makers.turns_of(3))
        data = bundle_of(store)
        assert [kind for kind, _, _ in frames_of(data)] == [b'TURN', b'ENDS']
        assert take_in(store, data, name='copy').is_whole
        assert_in_order(store, 'copy')


def test_the_worked_examples_of_the_format_page_are_what_we_write() -> None:
    page = Path(__file__).parents[2] / 'docs' / 'format-bundle.md'
    example = page.read_text(encoding='utf-8').partition('## Worked examples')[2]
    dumps = [
        bytes.fromhex(
            ''.join(re.findall(r'^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)', block, re.MULTILINE))
        )
        for block in re.findall(r'```\n(.*?)```', example, re.DOTALL)
    ]
    log = turnlog.pack_header('w', bytes.fromhex(layout.window_id(BUNDLE_NAMING_KEY, 'w')))
    log += turnlog.pack_records([Turn(role=Role.USER, text='Hi', time_ms=1000)], first_sequence=0)
    for dump, key in zip(dumps, (None, b's' * 32), strict=True):
        written = bytearray()
        stream = BundleWriter(written.extend, key, b'b' * 16)
        frames = FrameWriter(stream.write)
        frames.put(TURNS, [log])
        frames.put(END)
        stream.finish()
        assert written == dump
        assert oracle.read_bundle(dump, key or b'') == [('TURN', log), ('ENDS', b'')]
