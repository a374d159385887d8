# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is read of an encrypted profile by somebody who has its key."""

from __future__ import annotations

from contextlib import closing
import json
from pathlib import Path
import sqlite3
import tempfile

from cwm_ros.errors import FormatError
from cwm_ros.kv import ChunkId
from cwm_ros.store import catalog, chunkfile, state, staterows, turnlog
from cwm_ros.store.aesseal import AesSeal
from cwm_ros.store.crypto import Aead, Bytes, Sealed, TAG_BYTES
from cwm_ros.store.manifest import pack_manifest, unpack_manifest
from cwm_ros.store.seal import FileKind
from cwm_ros.store.verify import check_chunk_file
from tests.store import makers

FOLDER = Path(tempfile.mkdtemp(prefix='fuzz-sealed-'))
PATH = Path('file')
ID = '00112233445566778899aabbccddeeff'
BUNDLE_KEY = b'b' * 32
SEAL = AesSeal(b'i' * 32, b'f' * 32, BUNDLE_KEY)
STATE_ROW = staterows.Row('windows', ID, (3, 1))
STATE_ROW_ID = staterows._sealed_id(STATE_ROW, SEAL)


def without_authentication() -> None:
    """Let any bytes be authentic and be their own plaintext, in this process."""

    no_tag = bytes(TAG_BYTES)

    def copy_into(_aead: Aead, _nonce: bytes, data: Bytes, _: bytes, out: memoryview) -> bytes:
        out[:] = data
        return no_tag

    replacements = {
        'seal': lambda _aead, _nonce, data, _: Sealed(no_tag, bytes(data)),
        'open': lambda _aead, _nonce, sealed, _: bytes(sealed.data),
        'seal_into': copy_into,
        'open_in_place': lambda *_: True,
    }
    for name, replacement in replacements.items():
        setattr(Aead, name, replacement)


def sealed_manifest(data: bytes) -> None:
    unpack_manifest(PATH, SEAL.unwrap(PATH, FileKind.MANIFEST, ID, data))


def sealed_turn_log(data: bytes) -> None:
    for is_lenient in (False, True):
        try:
            plain, ends = SEAL.unwrap_log(PATH, ID, data, is_lenient=is_lenient)
        except FormatError:
            if is_lenient:
                raise
            continue
        assert is_lenient or max(ends.values()) <= len(data)
        plain = plain[: len(data)]  # a lie about sizes leaves megabytes of zeros, slow to search
        turnlog.salvage_turns(plain)
        turnlog.unpack_log(PATH, plain)


def sealed_chunk(data: bytes) -> None:
    path = FOLDER / f'{ID}.int8'
    path.write_bytes(data)
    SEAL.unwrap_prefix(path, ID, bytearray(data))
    check_chunk_file(path, lambda *_: None, SEAL)


def sealed_catalog_row(data: bytes) -> None:
    path = FOLDER / 'catalog.sqlite'
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f'PRAGMA user_version = {catalog.CATALOG_VERSION}')
        database.execute('CREATE TABLE windows (id TEXT PRIMARY KEY, record BLOB)')
        database.execute('INSERT INTO windows VALUES (?, ?)', (ID, data))
    catalog.load_catalog(path, SEAL)


def sealed_state_row(data: bytes) -> None:
    path = FOLDER / 'state.sqlite'
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        (table,) = staterows._SEALED
        database.execute(table.sql)
        database.execute('INSERT INTO sealed VALUES (?, ?)', (STATE_ROW_ID, data))
    state.load_state(path, SEAL, writable=False)


TARGETS = {
    function.__name__: function
    for function in (
        sealed_manifest, sealed_turn_log, sealed_chunk, sealed_catalog_row, sealed_state_row,
    )
}  # fmt: skip


def seeds() -> dict[str, list[bytes]]:
    """Return right inputs by target."""
    tokens = makers.tokens_of(20)
    record = catalog.WindowRecord(name='w', chunks=('a.int8',), usable_chunks=('a.int8',))
    header = chunkfile.ChunkHeader(
        id=ChunkId(bytes.fromhex(ID)), model=bytes(32), spec=makers.SPEC, start=0, stop=8,
        codec='int8',
    )  # fmt: skip
    payload = memoryview(b'payload')
    prefix = chunkfile.pack_prefix(header, tokens[:8], payload)
    chunk = b''.join(bytes(part) for part in SEAL.wrap_chunk(ID, prefix, payload))
    log = turnlog.pack_header('w', bytes.fromhex(ID))
    records = turnlog.pack_each(makers.turns_of(3), first_sequence=0)
    row = json.dumps([STATE_ROW.table, STATE_ROW.name, *STATE_ROW.numbers]).encode()
    manifest = pack_manifest(makers.manifest_of('w', tokens, (), num_turns=2))
    return {
        'sealed_manifest': [SEAL.wrap(FileKind.MANIFEST, ID, manifest)],
        'sealed_turn_log': [SEAL.begin_log(ID, log, records)],
        'sealed_chunk': [chunk],
        'sealed_catalog_row': [SEAL.wrap(FileKind.CATALOG_ROW, ID, catalog.pack_record(record))],
        'sealed_state_row': [SEAL.wrap(FileKind.STATE_ROW, STATE_ROW_ID, row)],
    }
