# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Make the golden files of the present version that are missing: `python -m tests.golden`.

What is there is never changed: later readers must read it as it is.
"""

from __future__ import annotations

from dataclasses import replace
import hashlib
import itertools
import json
import os
from pathlib import Path
import struct
import sys
from unittest import mock

import numpy as np

from cwm_ros.bundle import header_of, in_order
from cwm_ros.codec import codec_named, CodecId, encode_chunk, Scratch
from cwm_ros.kv import KVSpec, ModelIdentity, Role, Turn
from cwm_ros.proof import pack_samples
from cwm_ros.store import (
    ChunkEntry,
    chunkfile,
    keyring,
    layout,
    Manifest,
    Origin,
    OriginKind,
    turnlog,
)
from cwm_ros.store.frames import BUNDLE_NAMING_KEY, CHUNK, END, FrameWriter, TURNS, WINDOW
from cwm_ros.store.manifest import ids_of, pack_manifest
from cwm_ros.store.seal import FileKind
from cwm_ros.store.segments import BundleWriter

FOLDER = Path(__file__).parent / f'v{layout.FORMAT_VERSION}'
KEY, SECRET, KEY_ID, SALT = b'k' * 32, b's' * 32, b'i' * 16, b'b' * 16
NAME, SIZE, NUM_TOKENS = 'golden', 8, 20
SPEC = KVSpec(num_layers=2, num_kv_heads=1, head_dim=4, max_tokens=64)
IDENTITY = ModelIdentity(model=bytes(range(32)), rendering=bytes(range(32, 64)), name='toy ä')
TOKENS = np.arange(100, 100 + NUM_TOKENS, dtype=np.int32)
MEANING = struct.pack('<HHIIIf4b', 1, 0, 1, 0, 6, 0.5, 1, -2, 3, -127)
PROBE = struct.pack('<HHIQQ', 1, 1, 3, layout.checksum(TOKENS.tobytes()), NUM_TOKENS)
PROBE += struct.pack('<ififif', 7, -0.25, 199, -2.0, 0, -4.5)
TURNS_SAID = (
    Turn(role=Role.SYSTEM, text='You help.', time_ms=0),
    Turn(role=Role.USER, text='Grüß dich', time_ms=1_700_000_000_000),
    Turn(role=Role.ASSISTANT, text='', time_ms=-1),
)


def kv_of(start: int, stop: int) -> np.ndarray:  # type: ignore[type-arg]
    """Return KV, shape (L, 2, H, T, D), of which the values of layer 0 are all the same."""
    kv = np.random.default_rng(start).standard_normal(SPEC.shape(stop - start), dtype=np.float32)
    kv[0, 1] = 1
    return kv


def payload_of(codec: str, start: int, stop: int, compression: str = 'lz4') -> bytes:
    return bytes(encode_chunk(kv_of(start, stop), codec_named(codec), compression, Scratch()))


def window(key: bytes, codec: str = 'int8') -> Manifest:
    """Return a window with something in every section."""
    entries = []
    for index, start in enumerate(range(0, NUM_TOKENS, SIZE)):
        stop = min(start + SIZE, NUM_TOKENS)
        size = len(payload_of(codec, start, stop))
        entries.append(
            ChunkEntry(
                id=bytes(16),  # type: ignore[arg-type]
                start=start, stop=stop, codec=codec, payload_bytes=size,
                file_bytes=chunkfile.prefix_bytes(stop - start) + size,
                priority=int(index == 1),
            )
        )  # fmt: skip
    manifest = Manifest(
        window=NAME, identity=IDENTITY, spec=SPEC, chunk_tokens=SIZE, codec=codec, num_turns=3,
        tokens=TOKENS, turn_stops=(6, 14, 20), chunks=tuple(entries),
        provisional=((3, 5), (9, 20)), meaning=MEANING,
        tags=('work', 'überall'), probe=bytes(range(40)), created_ms=1000, updated_ms=2000,
        revision=7, origin=Origin(OriginKind.CLONE, 'parent', 6),
    )  # fmt: skip
    ids = ids_of(key, manifest)
    named = [
        ChunkEntry(**{**{n: getattr(e, n) for n in e.__slots__}, 'id': i})
        for e, i in zip(entries, ids, strict=True)
    ]
    row = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    samples = pack_samples({ids[0]: row})
    return Manifest(
        **{
            **{n: getattr(manifest, n) for n in manifest.__slots__},
            'chunks': tuple(named),
            'samples': samples,
        }
    )


def log(key: bytes) -> list[bytes]:
    """Return header and records of the window's log, of two commits."""
    header = turnlog.pack_header(NAME, bytes.fromhex(layout.window_id(key, NAME)))
    first = turnlog.pack_each(TURNS_SAID[:1], first_sequence=0)
    return [header, *first, *turnlog.pack_each(TURNS_SAID[1:], first_sequence=1)]


def chunk(key: bytes, index: int, codec: str, compression: str = 'lz4') -> tuple[bytes, bytes]:
    """Return what precedes a chunk's payload, and the payload."""
    entry = window(key, codec).chunks[index]
    payload = payload_of(codec, entry.start, entry.stop, compression)
    header = header_of(window(key, codec), entry)
    tokens = TOKENS[entry.start : entry.stop]
    return chunkfile.pack_prefix(header, tokens, memoryview(payload)), payload


def bundle(bundle_key: bytes | None) -> bytes:
    out = bytearray()
    stream = BundleWriter(out.extend, bundle_key, SALT)
    frames = FrameWriter(stream.write)
    manifest = window(BUNDLE_NAMING_KEY)
    frames.put(TURNS, log(BUNDLE_NAMING_KEY))
    frames.put(WINDOW, [pack_manifest(manifest)])
    for entry in in_order(manifest.chunks):
        frames.put(CHUNK, chunk(BUNDLE_NAMING_KEY, manifest.chunks.index(entry), 'int8'))
    frames.put(END)
    stream.finish()
    return bytes(out)


def make() -> dict[str, bytes]:
    """Return all golden files by name."""
    seal = keyring._seal_of(SECRET, KEY_ID)
    numbers = itertools.count(1)
    nonces = mock.patch.object(os, 'urandom', lambda n: next(numbers).to_bytes(n, 'little'))
    made = {
        'key-plain.bin': layout.pack_key(KEY),
        'key-encrypted.bin': keyring.pack_reference(
            keyring.KeyReference(
                key_id=KEY_ID, check=keyring._check_of(SECRET, KEY_ID), provider='file'
            )
        ),
        'log-plain.bin': b''.join(log(KEY)),
        'manifest-plain.bin': pack_manifest(window(KEY)),
        'manifest-probed.bin': pack_manifest(replace(window(KEY), probe=PROBE)),
        'bundle-plain.bin': bundle(None),
        'bundle-encrypted.bin': bundle(seal.bundle_key),
    }
    for codec in CodecId:
        name = codec.name.lower()
        for compression in ('none', 'lz4'):
            made[f'chunk-{name}-{compression}.bin'] = b''.join(chunk(KEY, 0, name, compression))
    with nonces:
        window_id = layout.window_id(seal.id_key, NAME)
        header, *records = log(seal.id_key)
        made['log-encrypted.bin'] = seal.begin_log(window_id, header, records)
        data = pack_manifest(window(seal.id_key))
        made['manifest-encrypted.bin'] = seal.wrap(FileKind.MANIFEST, window_id, data)
        chunk_id = window(seal.id_key).chunks[0].id.hex()
        prefix, payload = chunk(seal.id_key, 0, 'int8')
        parts = seal.wrap_chunk(chunk_id, prefix, memoryview(payload))
        made['chunk-encrypted.bin'] = b''.join(bytes(part) for part in parts)
    return made


def described() -> dict[str, object]:
    """Return what the files say, for readers in any language."""
    manifest = window(KEY)
    return {
        'naming_key': KEY.hex(),
        'secret': SECRET.hex(),
        'key_id': KEY_ID.hex(),
        'window': NAME,
        'model': IDENTITY.model.hex(),
        'rendering': IDENTITY.rendering.hex(),
        'model_name': IDENTITY.name,
        'spec': [SPEC.num_layers, SPEC.num_kv_heads, SPEC.head_dim, SPEC.max_tokens],
        'chunk_tokens': SIZE,
        'codec': manifest.codec,
        'tokens': TOKENS.tolist(),
        'turn_stops': list(manifest.turn_stops),
        'provisional': [list(pair) for pair in manifest.provisional],
        'tags': list(manifest.tags),
        'probe': manifest.probe.hex(),
        'meaning': MEANING.hex(),
        'origin': [1, 6, 'parent'],
        'times_and_revision': [1000, 2000, 7],
        'turns': [[turn.role.value, turn.text, turn.time_ms] for turn in TURNS_SAID],
        'chunks': [[e.start, e.stop, e.codec, e.priority] for e in manifest.chunks],
        'kv_of_chunk_0': kv_of(0, SIZE).ravel().tolist(),
        'tolerance': {'raw': 0.0, 'fp16': 0.002, 'int8': 0.02, 'int4': 0.2},
    }


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    for name, data in make().items():
        path = FOLDER / name
        if not path.exists():
            path.write_bytes(data)
    description = FOLDER / 'golden.json'
    if not description.exists():
        text = json.dumps(described(), indent=1, ensure_ascii=False)
        description.write_text(text + '\n', encoding='utf-8')
    sums = FOLDER / 'SHA256SUMS'
    known = sums.read_text(encoding='ascii') if sums.exists() else ''
    for path in sorted(FOLDER.iterdir()):
        if path != sums and f' {path.name}\n' not in known:
            known += f'{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n'
    sums.write_text(known, encoding='ascii')
    return 0


if __name__ == '__main__':
    sys.exit(main())
