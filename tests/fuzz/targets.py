# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Every parser as a function of bytes that may only refuse with one of our errors.

Checksums would keep a fuzzer outside: here every checksum is zero, so whatever is behind them is
reached.
"""

from __future__ import annotations

import atexit
from contextlib import closing
from functools import cache
import io
import json
from pathlib import Path
import sqlite3
import struct
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bundle_import import import_window
from cwm_ros.codec import chunks as codec_chunks
from cwm_ros.codec import CodecId, decode_chunk, encode_chunk, Scratch
from cwm_ros.codec import payload as codec_payload
from cwm_ros.config import load_settings
from cwm_ros.kv import ChunkId, KVSpec
from cwm_ros.model.chat import ChatRenderer, load_template
from cwm_ros.model.families import read_spec
from cwm_ros.model.tokenizer import stop_ids, Tokenizer
from cwm_ros.model.weights import Weights
from cwm_ros.store import catalog, chunkfile, layout, state, Store, turnlog
from cwm_ros.store.inventory import WindowInfo
from cwm_ros.store.layout import Section
from cwm_ros.store.listing import Listing, LISTING_MAGIC
from cwm_ros.store.manifest import pack_manifest, unpack_manifest
from cwm_ros.store.seal import Seal
from cwm_ros.template.bounded import ChatTemplate
from tests.fuzz import sealed
from tests.store import bundles, makers

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
TINY = ROOT / 'tests' / 'model' / 'golden' / 'tiny'
PATH = Path('file')
CODEC_SPEC = KVSpec(num_layers=1, num_kv_heads=1, head_dim=4, max_tokens=64)
CODEC_OFFSET, SIZE_OFFSET = 6, 32
SEAL = Seal(bytes(32))
FOLDER = Path(tempfile.mkdtemp(prefix='fuzz-'))


def without_checksums() -> None:
    """Let every checksum of the store's own formats be zero, in this process."""
    for module in (layout, codec_chunks, codec_payload):
        module.checksum = lambda *_parts: 0  # type: ignore[attr-defined]
    sealed.without_authentication()


def _file(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def manifest(data: bytes) -> None:
    unpack_manifest(PATH, data)


def turn_log(data: bytes) -> None:
    log = turnlog.unpack_log(PATH, data)
    assert log.valid_bytes <= len(data)
    turnlog.salvage_turns(data)
    turnlog.salvage_name(data)


def chunk_prefix(data: bytes) -> None:
    chunkfile.unpack_prefix(PATH, data)


def payload(data: bytes) -> None:
    out = np.empty(CODEC_SPEC.shape(16), dtype=np.float32)
    sized = bytearray(data.ljust(SIZE_OFFSET + 8, b'\0'))
    struct.pack_into('<Q', sized, SIZE_OFFSET, len(sized))  # else nearly all ends there
    codec = CodecId(sized[CODEC_OFFSET] % len(CodecId))
    decode_chunk(
        memoryview(sized), spec=CODEC_SPEC, num_tokens=16, codec=codec, out=out,
        scratch=Scratch(), source=PATH,
    )  # fmt: skip


def key(data: bytes) -> None:
    layout.unpack_key(PATH, data)


def listing(data: bytes) -> None:
    (FOLDER / 'windows').mkdir(exist_ok=True)
    (FOLDER / 'chunks').mkdir(exist_ok=True)
    _file('listing', data)
    Listing(FOLDER).load(SEAL)


def catalog_row(data: bytes) -> None:
    path = FOLDER / 'row.sqlite'
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f'PRAGMA user_version = {catalog.CATALOG_VERSION}')
        database.execute('CREATE TABLE windows (id TEXT PRIMARY KEY, record BLOB)')
        database.execute('INSERT INTO windows VALUES (?, ?)', ('a' * 32, data))
    catalog.load_catalog(path, SEAL)


def catalog_file(data: bytes) -> None:
    catalog.load_catalog(_file('catalog.sqlite', data), SEAL)


def state_file(data: bytes) -> None:
    state.load_state(_file('state.sqlite', data), SEAL, writable=False)


def settings(data: bytes) -> None:
    load_settings(_file('settings.yaml', data))


def model_config(data: bytes) -> None:
    _file('config.json', data)
    read_spec(FOLDER)


def weights(data: bytes) -> None:
    folder = FOLDER / 'weights'
    folder.mkdir(exist_ok=True)
    (folder / 'model.safetensors').write_bytes(data)
    with Weights(folder, {'model.norm.weight': (4,)}) as opened:
        opened.get('model.norm.weight')


def tokenizer(data: bytes) -> None:
    folder = FOLDER / 'tokenizer'
    folder.mkdir(exist_ok=True)
    (folder / 'tokenizer.json').write_bytes(data)
    (folder / 'config.json').write_bytes((TINY / 'config.json').read_bytes())
    made = Tokenizer(folder)
    made.decode(made.encode('a turn <|end|>'))


def tokenizer_config(data: bytes) -> None:
    folder = FOLDER / 'tokenizer-config'
    folder.mkdir(exist_ok=True)
    for name in ('tokenizer.json', 'config.json', 'chat_template.jinja'):
        (folder / name).write_bytes((TINY / name).read_bytes())
    (folder / 'tokenizer_config.json').write_bytes(data)
    (folder / 'generation_config.json').write_bytes(data)
    ChatRenderer(Tokenizer(folder), load_template(folder))
    stop_ids(folder)


def template(data: bytes) -> None:
    made = ChatTemplate(data.decode('utf-8', 'replace'), {'bos_token': '<s>'})
    made.render([{'role': 'user', 'content': 'hello'}], add_generation_prompt=True)


@cache
def _store() -> Store:
    opened = Store.open(makers.settings(FOLDER / 'store'), writable=True, clock=makers.clock)
    atexit.register(opened.__exit__, None, None, None)
    return opened.__enter__()


def bundle(data: bytes) -> None:
    _import(data, None)


def sealed_bundle(data: bytes) -> None:
    _import(data, sealed.BUNDLE_KEY)


def _import(data: bytes, bundle_key: bytes | None) -> None:
    store = _store()
    store.seal.bundle_key = bundle_key
    try:
        source = io.BytesIO(data)
        for _ in import_window(
            store, source, lambda *_: None, chunk_tokens=makers.SIZE, name='fuzzed'
        ):
            pass
    finally:
        if store.has_window('fuzzed'):
            assert store.window('fuzzed').turns
            store.delete_window('fuzzed')
        store.collect_garbage()


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (
        manifest, turn_log, chunk_prefix, payload, key, listing, catalog_row, catalog_file,
        state_file, bundle, sealed_bundle, settings, model_config, weights, tokenizer,
        tokenizer_config, template,
    )
} | sealed.TARGETS  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """Return right inputs for a target, from which the fuzzer starts."""
    made = (_store_seeds() | sealed.seeds()).get(name)
    if made is not None:
        return made
    files = {
        'settings': sorted((ROOT / 'config').glob('*.yaml')),
        'model_config': sorted((ROOT / 'tests' / 'model').rglob('config.json')),
        'weights': [TINY / 'model.safetensors'],
        'tokenizer': [TINY / 'tokenizer.json'],
        'tokenizer_config': [TINY / 'tokenizer_config.json', TINY / 'generation_config.json'],
        'template': [TINY / 'chat_template.jinja'],
    }
    return [path.read_bytes() for path in files[name]]


def _store_seeds() -> dict[str, list[bytes]]:
    tokens = makers.tokens_of(20)
    entry = catalog.WindowRecord(name='w', chunks=('a.int8',), usable_chunks=('a.int8',))
    header = chunkfile.ChunkHeader(
        id=ChunkId(bytes(16)), model=bytes(32), spec=makers.SPEC, start=0, stop=8, codec='int8'
    )
    kv = np.random.default_rng(3).standard_normal(CODEC_SPEC.shape(16), dtype=np.float32)
    kv[0, 1] = 1
    info = WindowInfo('w', 1, 1, 1, 1, 1, False, 'm', 1, 1)
    columns = {'version': 1, 'stamps': [], 'columns': list(zip(info, strict=False))}
    section = Section(kind=b'JSON', data=json.dumps(columns).encode())
    log = turnlog.pack_header('w', bytes(16))
    log += b''.join(_records(makers.turns_of(3)))
    return {
        'manifest': [pack_manifest(makers.manifest_of('w', tokens, (), num_turns=2))],
        'turn_log': [log],
        'chunk_prefix': [chunkfile.pack_prefix(header, tokens[:8], memoryview(b'payload'))],
        'payload': [bytes(encode_chunk(kv, codec, 'lz4', Scratch())) for codec in CodecId],
        'key': [layout.pack_key(bytes(32))],
        'listing': [layout.pack_frame(LISTING_MAGIC, [section])],
        'bundle': [_bundle(None)],
        'sealed_bundle': [_bundle(sealed.BUNDLE_KEY)],
        'catalog_row': [catalog.pack_record(entry)],
        'catalog_file': [_database('CREATE TABLE windows (id TEXT PRIMARY KEY, record BLOB)')],
        'state_file': [_database('CREATE TABLE written (day INTEGER, bytes INTEGER)')],
    }


def _bundle(bundle_key: bytes | None) -> bytes:
    _store().seal.bundle_key = bundle_key
    bundles.fill(_store(), num_tokens=20)
    try:
        return bundles.bundle_of(_store())
    finally:
        _store().delete_window(bundles.WINDOW)


def _records(turns: object) -> list[bytes]:
    packed = turnlog.pack_records(turns, first_sequence=0)  # type: ignore[arg-type]
    return [packed] if isinstance(packed, bytes) else list(packed)


def _database(schema: str) -> bytes:
    with closing(sqlite3.connect(':memory:')) as database:
        database.execute(schema)
        return bytes(database.serialize())
