# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A slow, obvious reader of the store's files, written from docs/format.md alone.

It uses `struct`, NumPy and the AES-GCM of `cryptography` and nothing of the package, trusts its
input, and leaves checksums to the real reader, with which it must agree.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


def read_key(data: bytes) -> bytes:
    assert data[:8] == bytes.fromhex('93 43 57 4D 4B 45 59 0A')
    assert len(data) == 56
    return data[16:48]


def read_sections(data: bytes) -> dict[str, bytes]:
    assert data[:8] == bytes.fromhex('93 43 57 4D 57 49 4E 0A')
    version, count, reserved, size = struct.unpack('<HHIQ', data[8:24])
    assert (version, reserved, size) == (1, 0, len(data))
    position = 24 + 24 * count + 8
    sections = {}
    for index in range(count):
        row = data[24 + 24 * index : 48 + 24 * index]
        kind, _flags, length, _checksum = struct.unpack('<4sIQQ', row)
        sections[kind.decode()] = data[position : position + length]
        position += length
        while position % 8:
            assert data[position] == 0
            position += 1
    assert position == len(data)
    return sections


def read_manifest(data: bytes) -> dict[str, object]:
    sections = read_sections(data)
    head = sections['HEAD']
    fields: dict[str, object] = {}
    names = ('created_ms', 'updated_ms', 'revision')
    fields.update(zip(names, struct.unpack('<3Q', head[:24]), strict=True))
    fields['model'], fields['rendering'] = head[24:56], head[56:88]
    fields['spec'] = struct.unpack('<4I', head[88:104])
    chunk_tokens, num_tokens, num_chunks, reserved = struct.unpack('<4I', head[104:120])
    fields['chunk_tokens'] = chunk_tokens
    assert reserved == 0
    start_turn, num_turns = struct.unpack('<2Q', head[120:136])
    fields['segment_start_turn'], fields['num_turns'] = start_turn, num_turns
    position = 144
    lengths = struct.unpack('<3H', head[136:142])
    for name, length in zip(('window', 'model_name', 'codec'), lengths, strict=True):
        fields[name] = head[position : position + length].decode()
        position += length
    assert position == len(head)
    fields['tokens'] = np.frombuffer(sections['TOKS'], dtype='<i4').tolist()
    assert len(sections['TOKS']) == 4 * num_tokens
    fields['turn_stops'] = np.frombuffer(sections['STOP'], dtype='<u4').tolist()
    assert len(sections['STOP']) == 4 * (num_turns - start_turn)
    assert len(sections['CHNK']) == 56 * num_chunks
    rows = (sections['CHNK'][56 * row : 56 * row + 56] for row in range(num_chunks))
    fields['chunks'] = [read_row(row) for row in rows]
    pairs = np.frombuffer(sections.get('PROV', b''), dtype='<u4').reshape(-1, 2)
    fields['provisional'] = [tuple(pair) for pair in pairs.tolist()]
    fields['tags'] = read_tags(sections.get('TAGS', b''))
    fields['probe'], fields['samples'] = sections.get('PROB', b''), sections.get('SAMP', b'')
    fields['origin'] = read_origin(sections['ORIG']) if 'ORIG' in sections else None
    fields['meaning'] = sections.get('MEAN', b'')
    return fields


def read_origin(data: bytes) -> tuple[int, int, str]:
    """Return kind, revision and name of the parent."""
    kind, parent_bytes, revision = struct.unpack('<BB6xQ', data[:16])
    assert data[2:8] == bytes(6)
    assert len(data) == 16 + parent_bytes
    return kind, revision, data[16:].decode('ascii')


def read_row(row: bytes) -> tuple[object, ...]:
    start, stop, codec, payload_bytes, file_bytes, priority = struct.unpack('<II8sQQB', row[16:49])
    assert row[49:] == bytes(7)
    name = codec.rstrip(b'\0').decode()
    return row[:16], start, stop, name, payload_bytes, file_bytes, priority


def read_meaning(data: bytes, dimension: int) -> list[tuple[int, int, list[float]]]:
    version, reserved, count = struct.unpack('<HHI', data[:8])
    assert (version, reserved, len(data)) == (1, 0, 8 + count * (12 + dimension))
    rows = []
    for row in range(count):
        start, stop, scale, *codes = struct.unpack_from(
            f'<IIf{dimension}b', data, 8 + row * (12 + dimension)
        )
        rows.append((start, stop, [code * scale for code in codes]))
    return rows


def read_probe(data: bytes) -> tuple[int, int, list[list[tuple[int, float]]]]:
    """Return digest, stop, and for each position the (token id, log probability) of PROB."""
    version, num_rows, num_top, digest, stop = struct.unpack('<HHIQQ', data[:24])
    assert version == 1
    assert len(data) == 24 + 8 * num_rows * num_top
    cells = list(struct.iter_unpack('<if', data[24:]))
    rows = [cells[row * num_top : (row + 1) * num_top] for row in range(num_rows)]
    return digest, stop, [[(int(token), float(p)) for token, p in row] for row in rows]


def read_samples(data: bytes, num_layers: int) -> dict[bytes, list[list[list[float]]]]:
    """Return of each chunk in SAMP, by id: for each layer the samples of keys, then of values."""
    samples = {}
    while data:
        chunk_id, count = data[:16], struct.unpack('<I', data[16:20])[0]
        assert 1 <= count <= 16
        size = 20 + 4 * num_layers * 2 * count
        values = struct.unpack(f'<{num_layers * 2 * count}f', data[20:size])
        parts = [list(values[at : at + count]) for at in range(0, len(values), count)]
        samples[chunk_id] = [parts[2 * layer : 2 * layer + 2] for layer in range(num_layers)]
        data = data[size:]
    return samples


def read_tags(data: bytes) -> list[str]:
    tags = []
    while data:
        (length,) = struct.unpack('<H', data[:2])
        tags.append(data[2 : 2 + length].decode())
        data = data[2 + length :]
    return tags


def read_log(data: bytes) -> tuple[str, str, list[tuple[str, str, int]]]:
    """Return window, window id, and (role, text, time_ms) of the turns of an untorn log."""
    assert data[:8] == bytes.fromhex('93 43 57 4D 4C 4F 47 0A')
    version, position = struct.unpack('<HH', data[8:12])
    assert version == 1
    window_id, window = data[16:32].hex(), data[32:96].rstrip(b'\0').decode()
    turns: list[tuple[str, str, int]] = []
    while position < len(data):
        size, text_bytes, sequence, time_ms, role = struct.unpack('<IIQqB', data[position:][:25])
        assert sequence == len(turns)
        text = data[position + 32 :][:text_bytes].decode()
        turns.append((('system', 'user', 'assistant')[role], text, time_ms))
        position += size
    return window, window_id, turns


def read_chunk(data: bytes) -> dict[str, object]:
    assert data[:8] == bytes.fromhex('93 43 57 4D 43 48 4B 0A')
    version, reserved, num_tokens = struct.unpack('<HHI', data[8:16])
    assert (version, reserved) == (1, 0)
    start, stop, codec, payload_bytes = struct.unpack('<II8sQ', data[80:104])
    position = 128 + 4 * num_tokens
    tokens = np.frombuffer(data[128:position], dtype='<i4').tolist()
    position += -position % 64
    assert position + payload_bytes == len(data)
    return {
        'id': data[16:32],
        'model': data[32:64],
        'spec': struct.unpack('<4I', data[64:80]),
        'start': start,
        'stop': stop,
        'codec': codec.rstrip(b'\0').decode(),
        'tokens': tokens,
        'payload': data[position:],
    }


def read_profile(folder: Path) -> dict[str, tuple[dict[str, object] | None, list[object]]]:
    """Return the manifest (or None) and the turns of each window by name."""
    found: dict[str, tuple[dict[str, object] | None, list[object]]] = {}
    for path in (folder / 'windows').glob('*.log'):
        window, window_id, turns = read_log(path.read_bytes())
        assert path.stem == window_id
        manifest_path = path.with_suffix('.cwm')
        manifest = read_manifest(manifest_path.read_bytes()) if manifest_path.exists() else None
        found[window] = (manifest, list(turns))
    return found


# --- encrypted profiles -------------------------------------------------------------------------


def read_key_reference(data: bytes) -> tuple[int, bytes, bytes, str]:
    """Return kind, key id, check and provider."""
    assert data[:8] == bytes.fromhex('93 43 57 4D 4B 45 59 0A')
    assert len(data) == 72
    version, kind, reserved = struct.unpack('<HHI', data[8:16])
    assert (version, reserved) == (1, 0)
    return kind, data[16:32], data[32:48], data[48:64].rstrip(b'\0').decode()


def subkey(secret: bytes, key_id: bytes, purpose: str) -> bytes:
    """HKDF-SHA256 (RFC 5869) with one block of output, by hand."""
    pseudo_random_key = hmac.digest(key_id, secret, 'sha256')
    return hmac.digest(pseudo_random_key, b'cwm ' + purpose.encode() + b'\x01', 'sha256')


def window_id(id_key: bytes, name: str) -> str:
    return hashlib.blake2b(
        name.encode(), digest_size=16, key=id_key, person=b'cwm window'
    ).hexdigest()


def unseal(data: bytes, file_key: bytes, kind: int, name: str) -> list[bytes]:
    """Return the plain parts of an encrypted file that is whole."""
    assert data[:8] == bytes.fromhex('93 43 57 4D 53 45 43 0A')
    assert struct.unpack('<HHI', data[8:16]) == (1, kind, 0)
    assert data[16:32].hex() == name
    head, position = data[:32], 32
    parts: list[bytes] = []
    bond = b''
    while position < len(data):
        nonce = data[position : position + 12]
        (size,) = struct.unpack('<I', data[position + 12 : position + 16])
        tag = data[position + 16 : position + 32]
        position += 40
        associated = head + struct.pack('<I', size) + bond
        sealed = data[position : position + size] + tag
        parts.append(AESGCM(file_key).decrypt(nonce, sealed, associated))
        bond = bond or nonce + tag
        position += size
    assert position == len(data)
    return parts


def read_encrypted_profile(
    folder: Path, secret: bytes
) -> dict[str, tuple[dict[str, object] | None, list[object]]]:
    """Return what `read_profile` does, and check the chunks of each window on the way."""
    kind, key_id, check, _ = read_key_reference((folder / 'key').read_bytes())
    assert kind == 1
    assert check == subkey(secret, key_id, 'check')[:16]
    id_key, file_key = subkey(secret, key_id, 'ids'), subkey(secret, key_id, 'files')
    found: dict[str, tuple[dict[str, object] | None, list[object]]] = {}
    for path in (folder / 'windows').glob('*.log'):
        log = b''.join(unseal(path.read_bytes(), file_key, 2, path.stem))
        window, inner_id, turns = read_log(log)
        assert path.stem == inner_id == window_id(id_key, window)
        manifest_path = path.with_suffix('.cwm')
        manifest = None
        if manifest_path.exists():
            (data,) = unseal(manifest_path.read_bytes(), file_key, 1, path.stem)
            manifest = read_manifest(data)
        found[window] = (manifest, list(turns))
    for path in (folder / 'chunks').iterdir():
        parts = unseal(path.read_bytes(), file_key, 3, path.stem)
        assert len(parts) == 2
        chunk = read_chunk(b''.join(parts))
        assert path.name == f'{chunk["id"].hex()}.{chunk["codec"]}'  # type: ignore[attr-defined]
    return found


# --- bundles ------------------------------------------------------------------------------------


def read_bundle(data: bytes, bundle_key: bytes = b'') -> list[tuple[str, bytes]]:
    """Return kind and body of each frame of a bundle that is whole."""
    assert data[:8] == bytes.fromhex('93 43 57 4D 42 44 4C 0A')
    version, kind, reserved = struct.unpack('<HHI', data[8:16])
    assert (version, reserved) == (1, 0)
    head, rest = data[:56], data[56:]
    if kind == 1:
        assert head[32:48] == subkey(bundle_key, head[16:32], 'bundle check')[:16]
        key = subkey(bundle_key, head[16:32], 'bundle stream')
        pieces = [rest[at : at + 65536 + 16] for at in range(0, len(rest), 65536 + 16)]
        rest = b''
        for number, piece in enumerate(pieces):
            is_last = number == len(pieces) - 1
            nonce = number.to_bytes(11, 'little') + bytes([is_last])
            rest += AESGCM(key).decrypt(nonce, piece, head)
    else:
        assert head[16:48] == bytes(32)
    frames: list[tuple[str, bytes]] = []
    while rest:
        name, number, size = struct.unpack('<4sIQ', rest[:16])
        assert number == len(frames)
        frames.append((name.decode(), rest[32 : 32 + size]))
        rest = rest[32 + size :]
    assert frames[-1] == ('ENDS', b'')
    return frames
