# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What any released version wrote is read, and the oracle reads the same."""

from __future__ import annotations

from dataclasses import replace
import hashlib
import io
import json
from pathlib import Path
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.bundle_import import import_window
from cwm_ros.codec import codec_named, CodecId, decode_chunk, Scratch
from cwm_ros.errors import FormatTooNewError
from cwm_ros.meaning import read_meanings
from cwm_ros.probe import Probe, unpack_probe
from cwm_ros.proof import unpack_samples
from cwm_ros.restore import PayloadCheck
from cwm_ros.store import chunkfile, keyring, layout, turnlog
from cwm_ros.store.frames import BUNDLE_NAMING_KEY
from cwm_ros.store.manifest import ids_of, Manifest, pack_manifest, unpack_manifest
from cwm_ros.store.seal import FileKind
from tests import oracle
from tests.codec.oracle_payload import read_payload
from tests.store.bundles import opened

if TYPE_CHECKING:
    from cwm_ros.kv import KVSpec

GOLDEN = Path(__file__).parents[1] / 'golden'
VERSIONS = sorted(path for path in GOLDEN.glob('v*') if path.is_dir())
PATH = Path('golden')
CHUNKS = [f'chunk-{codec.name.lower()}-{how}.bin' for codec in CodecId for how in ('none', 'lz4')]


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def said(folder: Path) -> dict[str, object]:
    described: dict[str, object] = json.loads((folder / 'golden.json').read_text(encoding='utf-8'))
    return described


def keys(said: dict[str, object]) -> tuple[bytes, bytes, bytes]:
    """Return naming key, secret and key id."""
    return tuple(bytes.fromhex(str(said[n])) for n in ('naming_key', 'secret', 'key_id'))  # type: ignore[return-value]


def assert_window(manifest: Manifest, said: dict[str, object], key: bytes) -> None:
    spec, origin = manifest.spec, manifest.origin
    assert origin is not None
    assert {
        'window': manifest.window,
        'model': manifest.identity.model.hex(),
        'rendering': manifest.identity.rendering.hex(),
        'model_name': manifest.identity.name,
        'spec': [spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.max_tokens],
        'chunk_tokens': manifest.chunk_tokens,
        'codec': manifest.codec,
        'tokens': manifest.tokens.tolist(),
        'turn_stops': list(manifest.turn_stops),
        'provisional': [list(pair) for pair in manifest.provisional],
        'tags': list(manifest.tags),
        'probe': manifest.probe.hex(),
        'meaning': manifest.meaning.hex(),
        'origin': [origin.kind, origin.revision, origin.parent],
        'times_and_revision': [manifest.created_ms, manifest.updated_ms, manifest.revision],
        'chunks': [[e.start, e.stop, e.codec, e.priority] for e in manifest.chunks],
    }.items() <= said.items()
    assert [entry.id for entry in manifest.chunks] == ids_of(key, manifest)


def assert_oracle_agrees(manifest: Manifest, data: bytes) -> None:
    seen = oracle.read_manifest(data)
    assert seen['window'] == manifest.window
    assert seen['tokens'] == manifest.tokens.tolist()
    assert seen['model_name'] == manifest.identity.name
    assert seen['tags'] == list(manifest.tags)
    assert seen['turn_stops'] == list(manifest.turn_stops)
    assert seen['provisional'] == list(manifest.provisional)
    assert (seen['probe'], seen['samples']) == (manifest.probe, manifest.samples)
    assert seen['meaning'] == manifest.meaning
    assert_sections_agree(manifest)
    assert manifest.origin is not None
    assert seen['origin'] == (
        manifest.origin.kind,
        manifest.origin.revision,
        manifest.origin.parent,
    )
    assert seen['chunks'] == [
        (e.id, e.start, e.stop, e.codec, e.payload_bytes, e.file_bytes, e.priority)
        for e in manifest.chunks
    ]


def assert_sections_agree(manifest: Manifest) -> None:
    """Compare what proves a thaw, and what exchanges mean, as both read them."""
    spec = manifest.spec
    expected = oracle.read_samples(manifest.samples, spec.num_layers)
    samples = unpack_samples(manifest.samples, spec)
    assert {chunk: row.tolist() for chunk, row in samples.items()} == expected
    assert expected
    meanings = read_meanings(manifest)
    assert meanings is not None
    columns = (meanings.starts, meanings.stops, meanings.vectors)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    assert rows == oracle.read_meaning(manifest.meaning, spec.num_kv_heads * spec.head_dim)


def assert_log(data: bytes, said: dict[str, object], window_id: str) -> None:
    log = turnlog.unpack_log(PATH, data)
    turns = [[turn.role.value, turn.text, turn.time_ms] for turn in log.turns]
    assert (log.window, log.window_id.hex(), log.valid_bytes) == (
        said['window'],
        window_id,
        len(data),
    )
    assert turns == said['turns']
    seen = oracle.read_log(data)
    assert seen == (log.window, window_id, [tuple(turn) for turn in turns])


def decoded(payload: bytes, codec: str, spec: KVSpec, num_tokens: int) -> np.ndarray:  # type: ignore[type-arg]
    out = np.empty(spec.shape(num_tokens), np.float32)
    decode_chunk(
        memoryview(payload), spec=spec, num_tokens=num_tokens, codec=codec_named(codec), out=out,
        scratch=Scratch(), source=PATH,
    )  # fmt: skip
    independent = read_payload(
        payload, layers=spec.num_layers, heads=spec.num_kv_heads, tokens=num_tokens,
        dim=spec.head_dim, codec=codec_named(codec),
    )  # fmt: skip
    np.testing.assert_array_equal(out, independent)
    return out


def test_golden_files_are_added_and_never_changed(folder: Path) -> None:
    lines = (folder / 'SHA256SUMS').read_text(encoding='ascii').splitlines()
    listed = dict(reversed(line.split('  ')) for line in lines)
    found = {path.name for path in folder.iterdir()} - {'SHA256SUMS'}
    assert found == listed.keys()
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    git = shutil.which('git')
    if git is None:
        return
    command = [
        git,
        'log',
        '--diff-filter=MDR',
        '--format=',
        '--name-only',
        '--',
        '*.bin',
        '*.json',
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == ''  # also when this is no repository


def test_plain_files_say_what_the_description_says(folder: Path, said: dict[str, object]) -> None:
    key, _, _ = keys(said)
    data = (folder / 'key-plain.bin').read_bytes()
    assert layout.unpack_key(PATH, data) == oracle.read_key(data) == key
    data = (folder / 'manifest-plain.bin').read_bytes()
    manifest = unpack_manifest(PATH, data)
    assert_window(manifest, said, key)
    assert_oracle_agrees(manifest, data)
    if int.from_bytes(data[8:10], 'little') == layout.FORMAT_VERSION:
        assert pack_manifest(manifest) == data
    window_id = layout.window_id(key, str(said['window']))
    assert_log((folder / 'log-plain.bin').read_bytes(), said, window_id)


def test_a_window_that_was_probed_says_what_the_model_expected(
    folder: Path, said: dict[str, object]
) -> None:
    data = (folder / 'manifest-probed.bin').read_bytes()
    manifest = unpack_manifest(PATH, data)
    assert pack_manifest(manifest) == data
    assert_oracle_agrees(manifest, data)
    probe = unpack_probe(manifest.probe, vocab_size=200)
    assert isinstance(probe, Probe)
    digest, stop, rows = oracle.read_probe(manifest.probe)
    assert (digest, stop) == (probe.digest, probe.stop)
    assert digest == layout.checksum(struct.pack('<20i', *said['tokens']))  # type: ignore[misc]
    assert [[token for token, _ in row] for row in rows] == probe.tokens.tolist()
    assert [[p for _, p in row] for row in rows] == probe.log_probs.tolist()
    assert rows == [[(7, -0.25), (199, -2.0), (0, -4.5)]]


def of_version(data: bytes, version: int) -> bytes:
    """Return a manifest that says another version, with the checksum that it then has."""
    changed = bytearray(data)
    struct.pack_into('<H', changed, 8, version)
    table_end = 24 + 24 * struct.unpack_from('<H', data, 10)[0]
    struct.pack_into('<Q', changed, table_end, layout.checksum(changed[:table_end]))
    return bytes(changed)


def test_version_0_is_read_without_samples_and_later_ones_are_refused(folder: Path) -> None:
    data = (folder / 'manifest-plain.bin').read_bytes()
    now, before = unpack_manifest(PATH, data), unpack_manifest(PATH, of_version(data, 0))
    assert (now.samples != b'', before.samples) == (True, b'')
    assert pack_manifest(replace(now, samples=b'')) == pack_manifest(before)
    for version in (2, 256):
        with pytest.raises(FormatTooNewError):
            unpack_manifest(PATH, of_version(data, version))


@pytest.mark.parametrize('name', CHUNKS)
def test_chunks_of_every_codec_hold_the_kv(
    folder: Path, said: dict[str, object], name: str
) -> None:
    data = (folder / name).read_bytes()
    codec = name.split('-')[1]
    head = chunkfile.unpack_prefix(PATH, data)
    seen = oracle.read_chunk(data)
    header = head.header
    assert (seen['id'], seen['codec'], seen['start'], seen['stop']) == (
        header.id, codec, header.start, header.stop,
    )  # fmt: skip
    assert seen['tokens'] == head.tokens.tolist() == said['tokens'][: header.stop]  # type: ignore[index]
    payload = data[chunkfile.prefix_bytes(header.stop) :]
    assert payload == seen['payload']
    assert layout.checksum(payload) == head.payload_checksum
    values = decoded(payload, codec, header.spec, header.stop)
    tolerance = said['tolerance'][codec]  # type: ignore[index]
    expected = np.array(said['kv_of_chunk_0'], np.float32).reshape(values.shape)
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)


def test_encrypted_files_open_with_the_key(folder: Path, said: dict[str, object]) -> None:
    _, secret, key_id = keys(said)
    reference = keyring.read_key_file(folder / 'key-encrypted.bin')
    assert isinstance(reference, keyring.KeyReference)
    data = (folder / 'key-encrypted.bin').read_bytes()
    assert oracle.read_key_reference(data) == (1, key_id, reference.check, reference.provider)
    assert reference.check == oracle.subkey(secret, key_id, 'check')[:16]
    seal = keyring._seal_of(secret, key_id)
    file_key = oracle.subkey(secret, key_id, 'files')
    window_id = layout.window_id(seal.id_key, str(said['window']))
    data = (folder / 'manifest-encrypted.bin').read_bytes()
    plain = seal.unwrap(PATH, FileKind.MANIFEST, window_id, data)
    manifest = unpack_manifest(PATH, plain)
    assert_window(manifest, said, seal.id_key)
    assert oracle.unseal(data, file_key, 1, window_id) == [plain]
    data = (folder / 'log-encrypted.bin').read_bytes()
    log, _ = seal.unwrap_log(PATH, window_id, data)
    assert_log(log, said, window_id)
    assert b''.join(oracle.unseal(data, file_key, 2, window_id)) == log
    data = (folder / 'chunk-encrypted.bin').read_bytes()
    chunk_id = manifest.chunks[0].id.hex()
    plain = seal.unwrap(PATH, FileKind.CHUNK, chunk_id, data)
    assert b''.join(oracle.unseal(data, file_key, 3, chunk_id)) == plain
    assert plain[128:] == (folder / 'chunk-int8-lz4.bin').read_bytes()[128:]


@pytest.mark.parametrize('name', ['bundle-plain.bin', 'bundle-encrypted.bin'])
def test_bundles_become_windows(
    folder: Path, said: dict[str, object], name: str, tmp_path: Path
) -> None:
    _, secret, key_id = keys(said)
    data = (folder / name).read_bytes()
    bundle_key = oracle.subkey(secret, key_id, 'bundles')
    frames = oracle.read_bundle(data, bundle_key)
    assert [kind for kind, _ in frames] == ['TURN', 'WIND', 'CHNK', 'CHNK', 'CHNK', 'ENDS']
    window_id = layout.window_id(BUNDLE_NAMING_KEY, str(said['window']))
    assert_log(frames[0][1], said, window_id)
    outer = unpack_manifest(PATH, frames[1][1])
    assert_window(outer, said, BUNDLE_NAMING_KEY)
    with opened(tmp_path / 'store') as store:
        store.seal.bundle_key = bundle_key if 'encrypted' in name else None
        *_, progress = import_window(
            store, io.BytesIO(data), PayloadCheck(), chunk_tokens=int(str(said['chunk_tokens']))
        )
        assert (progress.is_whole, progress.chunks_done) == (True, 3)
        assert store.verify(None, PayloadCheck()).problems == ()
        manifest = store.window(str(said['window'])).manifest
        assert manifest is not None
        assert manifest.tokens.tolist() == said['tokens']
        buffer = bytearray(4096)
        for (_, body), outer_row in zip(
            frames[2:5], (outer.chunks[2], outer.chunks[0], outer.chunks[1]), strict=True
        ):
            seen = oracle.read_chunk(body)
            assert seen['id'] == outer_row.id
            row = next(e for e in manifest.chunks if e.start == seen['start'])
            assert store.read_chunk(manifest, row, buffer) == seen['payload']
