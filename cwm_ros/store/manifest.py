# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The manifest of a window: what it is, its tokens, and which chunks hold their KV."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise
import struct
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import ConfigError, CwmError, FormatError, FormatTooNewError
from cwm_ros.kv import ChunkId, KVSpec, ModelIdentity
from cwm_ros.store import chunkfile, layout
from cwm_ros.store.layout import Section

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.kv import TokenArray

MANIFEST_MAGIC = b'\x93CWMWIN\n'
USABLE_PRIORITY = 0
NORMAL_PRIORITY = 1

_HEAD = struct.Struct('<QQQ32s32sIIIIIIIIQQHHHH')
_CHUNK_DTYPE = np.dtype(
    {
        'names': ['id', 'start', 'stop', 'codec', 'payload_bytes', 'file_bytes', 'priority'],
        'formats': ['V16', '<u4', '<u4', 'S8', '<u8', '<u8', 'u1'],
        'offsets': [0, 16, 20, 24, 32, 40, 48],
        'itemsize': 56,
    }
)
_VERSION_AT = 8
_VERSION = struct.Struct('<H')
_ORIGIN = struct.Struct('<BB6xQ')
_KNOWN = (b'HEAD', b'TOKS', b'STOP', b'CHNK', b'PROV', b'TAGS', b'PROB', b'SAMP', b'MEAN', b'ORIG')


class OriginKind(IntEnum):
    """How a window came to be here."""

    CLONE = 1
    BUNDLE = 2


@dataclass(frozen=True, slots=True)
class Origin:
    """
    What a window goes on from.

    Parameters
    ----------
    kind
        How it came here.
    parent, revision
        The window that it was, by the name there, and which commit of it; 0 when that had turns
        alone.

    """

    kind: OriginKind
    parent: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkEntry:
    """
    A row of a window's chunk table.

    Parameters
    ----------
    id, codec
        Which file; see `chunkfile.file_name`.
    start, stop
        Token positions.
    payload_bytes, file_bytes
        Size of the payload alone, and of the file.
    priority
        0 is needed before generation may begin; 255 matters least.

    """

    id: ChunkId
    start: int
    stop: int
    codec: str
    payload_bytes: int
    file_bytes: int
    priority: int = NORMAL_PRIORITY

    @property
    def file_name(self) -> str:
        """Name of the chunk's file."""
        return chunkfile.file_name(self.id, self.codec)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Manifest:
    """
    A committed window.

    Parameters
    ----------
    window
        Name.
    identity, spec
        The model that made the KV, and the KV's geometry.
    chunk_tokens
        Tokens in a full chunk.
    codec
        Name of the codec for new chunks; entries say their own.
    segment_start_turn
        Number of the log's first turn that the tokens render.
    num_turns
        Number of the log's turns that the window covers; later ones are not rendered yet.
    tokens
        Token ids of the current segment, int32, shape (T,); read-only when loaded.
    turn_stops
        Position after each rendered turn; ``num_turns - segment_start_turn`` of them.
    chunks
        Chunk table by ascending start. A file may have been evicted since.
    provisional
        Half-open token ranges whose KV was computed while context was missing.
    tags
        The user's words about the window.
    probe, samples
        Sections PROB and SAMP, with which a thaw proves itself; empty when there are none. Those
        who use them read them: one that cannot be read proves nothing, and harms nothing.
    meaning
        Section MEAN: what each exchange means to the model; read in the same way.
    created_ms, updated_ms, revision
        Set by the store: wall clock of the first and the last commit [ms since 1970], and the
        number of commits.
    origin
        What it was cloned or imported from; None when it began here.
    extra
        Sections that this version does not know; they are kept.

    """

    window: str
    identity: ModelIdentity
    spec: KVSpec
    chunk_tokens: int
    codec: str
    num_turns: int
    tokens: TokenArray
    turn_stops: tuple[int, ...]
    chunks: tuple[ChunkEntry, ...]
    segment_start_turn: int = 0
    provisional: tuple[tuple[int, int], ...] = ()
    tags: tuple[str, ...] = ()
    probe: bytes = b''
    samples: bytes = b''
    meaning: bytes = b''
    created_ms: int = 0
    updated_ms: int = 0
    revision: int = 0
    origin: Origin | None = None
    extra: tuple[Section, ...] = ()


def check_manifest(manifest: Manifest) -> None:
    """Refuse what the format does not allow; the ConfigError begins with the field."""
    layout.check_name('window', manifest.window)
    chunkfile.check_spec(manifest.spec)
    _check_counts(manifest)
    _check_turns(manifest)
    _check_chunks(manifest)
    _check_provisional(manifest)


def _check_counts(manifest: Manifest) -> None:
    identity = manifest.identity
    if {len(identity.model), len(identity.rendering)} != {layout.IDENTITY_BYTES}:
        raise ConfigError('model identity: has 32 bytes for the model and 32 for the rendering')
    if not 1 <= manifest.chunk_tokens <= layout.MAX_CHUNK_TOKENS:
        raise ConfigError(f'chunk_tokens: is {manifest.chunk_tokens}')
    if not layout.is_codec_name(manifest.codec):
        raise ConfigError(f'codec: is {manifest.codec!r}')
    if manifest.tokens.ndim != 1 or len(manifest.tokens) > layout.MAX_TOKENS:
        raise ConfigError(f'tokens: have the shape {manifest.tokens.shape}')
    if len(manifest.tokens) and int(manifest.tokens.min()) < 0:
        raise ConfigError('tokens: one is negative')
    layout.check_tags(manifest.tags)
    if len(identity.name.encode()) > layout.MAX_WORD_BYTES:
        raise ConfigError('model name: is longer than 256 bytes of UTF-8')


def _check_turns(manifest: Manifest) -> None:
    if not 0 <= manifest.segment_start_turn <= manifest.num_turns <= layout.MAX_TURNS:
        raise ConfigError(f'turns: {manifest.segment_start_turn} to {manifest.num_turns}')
    stops = manifest.turn_stops
    if len(stops) != manifest.num_turns - manifest.segment_start_turn:
        raise ConfigError(f'turn_stops: {len(stops)} for {manifest.num_turns} turns')
    if any(a > b for a, b in pairwise((0, *stops, len(manifest.tokens)))):
        raise ConfigError('turn_stops: are not ascending positions of the tokens')


def _check_chunks(manifest: Manifest) -> None:
    size = manifest.chunk_tokens
    next_start = 0
    for entry in manifest.chunks:
        where = f'chunk {entry.start}..{entry.stop}'
        if entry.start % size or entry.start < next_start:
            raise ConfigError(f'{where}: starts where no chunk can, or not after the one before')
        if not entry.start < entry.stop <= min(entry.start + size, len(manifest.tokens)):
            raise ConfigError(f'{where}: stops beyond its room or the tokens')
        payload = entry.payload_bytes
        if not 1 <= payload <= layout.MAX_PAYLOAD_BYTES:
            raise ConfigError(f'{where}: payload size is {payload}')
        if entry.file_bytes != chunkfile.prefix_bytes(entry.stop - entry.start) + payload:
            raise ConfigError(f'{where}: file size is {entry.file_bytes} for payload {payload}')
        if len(entry.id) != layout.ID_BYTES or not layout.is_codec_name(entry.codec):
            raise ConfigError(f'{where}: id or codec name {entry.codec!r} is not allowed')
        if not 0 <= entry.priority <= 255:  # noqa: PLR2004 - one byte
            raise ConfigError(f'{where}: priority is {entry.priority}')
        next_start = entry.start + size


def _check_provisional(manifest: Manifest) -> None:
    before = -1
    for start, stop in manifest.provisional:
        if not before < start < stop <= len(manifest.tokens):
            raise ConfigError(f'provisional: range {start}..{stop} overlaps or leaves the tokens')
        before = stop


def pack_manifest(manifest: Manifest) -> bytes:
    """Return the manifest's file; the same manifest gives the same bytes."""
    check_manifest(manifest)
    spec, identity = manifest.spec, manifest.identity
    words = (manifest.window, identity.name, manifest.codec)
    names = [word.encode() for word in words]
    head = _HEAD.pack(
        manifest.created_ms, manifest.updated_ms, manifest.revision,
        identity.model, identity.rendering,
        spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.max_tokens,
        manifest.chunk_tokens, len(manifest.tokens), len(manifest.chunks), 0,
        manifest.segment_start_turn, manifest.num_turns,
        len(names[0]), len(names[1]), len(names[2]), 0,
    )  # fmt: skip
    sections = [
        Section(kind=b'HEAD', data=head + b''.join(names), is_critical=True),
        Section(kind=b'TOKS', data=manifest.tokens.astype('<i4').tobytes(), is_critical=True),
        Section(kind=b'STOP', data=_pack_u32(manifest.turn_stops), is_critical=True),
        Section(kind=b'CHNK', data=_pack_chunks(manifest.chunks), is_critical=True),
    ]
    if manifest.provisional:
        pairs = [position for pair in manifest.provisional for position in pair]
        sections.append(Section(kind=b'PROV', data=_pack_u32(pairs), is_critical=True))
    if manifest.tags:
        tags = b''.join(struct.pack('<H', len(t.encode())) + t.encode() for t in manifest.tags)
        sections.append(Section(kind=b'TAGS', data=tags))
    others = (
        (b'PROB', manifest.probe),
        (b'SAMP', manifest.samples),
        (b'MEAN', manifest.meaning),
        (b'ORIG', _pack_origin(manifest.origin)),
    )
    for kind, part in others:
        if part:
            sections.append(Section(kind=kind, data=part))
    data = layout.pack_frame(MANIFEST_MAGIC, [*sections, *manifest.extra])
    if len(data) > layout.MAX_MANIFEST_BYTES:
        raise ConfigError(f'manifest has {len(data)} bytes')
    return data


def _pack_origin(origin: Origin | None) -> bytes:
    if origin is None:
        return b''
    parent = layout.check_name('window', origin.parent).encode('ascii')
    return _ORIGIN.pack(origin.kind, len(parent), origin.revision) + parent


def _unpack_origin(data: bytes) -> Origin | None:
    if not data:
        return None
    if len(data) < _ORIGIN.size or any(data[2:8]) or len(data) != _ORIGIN.size + data[1]:
        raise ConfigError(f'section ORIG: has {len(data)} bytes, or reserved ones are not zero')
    kind, _, revision = _ORIGIN.unpack_from(data)
    if kind not in list(OriginKind):
        raise ConfigError(f'section ORIG: kind is {kind}')
    parent = layout.check_name('window', data[_ORIGIN.size :].decode('ascii'))
    return Origin(OriginKind(kind), parent, revision)


def _pack_u32(values: tuple[int, ...] | list[int]) -> bytes:
    return np.asarray(values, dtype='<u4').tobytes()


def _pack_chunks(chunks: tuple[ChunkEntry, ...]) -> bytes:
    rows = np.zeros(len(chunks), dtype=_CHUNK_DTYPE)
    for index, entry in enumerate(chunks):
        rows[index] = (
            entry.id, entry.start, entry.stop, entry.codec.encode('ascii'),
            entry.payload_bytes, entry.file_bytes, entry.priority,
        )  # fmt: skip
    return rows.tobytes()


def unpack_manifest(path: Path, data: bytes) -> Manifest:
    """
    Read a manifest's file.

    Raises
    ------
    FormatError
        It is damaged, or says what cannot be; the problem begins with the field.
    FormatTooNewError
        It has a critical section that this version does not know.

    """
    sections = layout.unpack_frame(path, data, MANIFEST_MAGIC)
    found = {bytes(section.kind): bytes(section.data) for section in sections}
    for section in sections:
        if section.is_critical and section.kind not in _KNOWN:
            raise FormatTooNewError(
                path, f'section {section.kind.decode()} is critical and not known here'
            )
    for kind in (b'HEAD', b'TOKS', b'STOP', b'CHNK'):
        if kind not in found:
            raise FormatError(path, f'section {kind.decode()} is missing')
    extra = tuple(
        Section(kind=bytes(s.kind), data=bytes(s.data)) for s in sections if s.kind not in _KNOWN
    )
    try:
        manifest = _build_manifest(found, extra)
        if _VERSION.unpack_from(data, _VERSION_AT) == (0,):  # its samples were of other tokens
            manifest = replace(manifest, samples=b'')
        check_manifest(manifest)
    except CwmError as exc:
        raise FormatError(path, exc.message) from exc
    except UnicodeDecodeError as exc:
        raise FormatError(path, 'a text is not UTF-8') from exc
    return manifest


def _build_manifest(found: dict[bytes, bytes], extra: tuple[Section, ...]) -> Manifest:
    head = found[b'HEAD']
    if len(head) < _HEAD.size:
        raise ConfigError(f'section HEAD: has {len(head)} bytes')
    fields = _HEAD.unpack_from(head)
    window, model_name, codec = _split_names(head[_HEAD.size :], fields[15:18])
    if fields[12] or fields[18]:
        raise ConfigError('section HEAD: reserved fields are not zero')
    tokens = np.frombuffer(_sized(found, b'TOKS', 4 * fields[10]), dtype='<i4')
    num_stops = max(0, fields[14] - fields[13])
    chunk_data = _sized(found, b'CHNK', _CHUNK_DTYPE.itemsize * fields[11])
    pairs = _unpack_u32(b'PROV', found.get(b'PROV', b''))
    return Manifest(
        window=window,
        identity=ModelIdentity(model=fields[3], rendering=fields[4], name=model_name),
        spec=KVSpec(
            num_layers=fields[5], num_kv_heads=fields[6], head_dim=fields[7], max_tokens=fields[8]
        ),
        chunk_tokens=fields[9],
        codec=codec,
        num_turns=fields[14],
        tokens=tokens,
        turn_stops=_unpack_u32(b'STOP', _sized(found, b'STOP', 4 * num_stops)),
        chunks=_unpack_chunks(chunk_data),
        segment_start_turn=fields[13],
        provisional=tuple(zip(pairs[::2], pairs[1::2], strict=True)),
        tags=_unpack_tags(found.get(b'TAGS', b'')),
        probe=found.get(b'PROB', b''),
        samples=found.get(b'SAMP', b''),
        meaning=found.get(b'MEAN', b''),
        created_ms=fields[0],
        updated_ms=fields[1],
        revision=fields[2],
        origin=_unpack_origin(found.get(b'ORIG', b'')),
        extra=extra,
    )


def _sized(found: dict[bytes, bytes], kind: bytes, size: int) -> bytes:
    data = found[kind]
    if len(data) != size:
        raise ConfigError(f'section {kind.decode()}: has {len(data)} bytes, not {size}')
    return data


def _split_names(data: bytes, lengths: tuple[int, int, int]) -> list[str]:
    if sum(lengths) != len(data):
        raise ConfigError(f'section HEAD: names have {len(data)} bytes, not {sum(lengths)}')
    names = []
    for length in lengths:
        names.append(data[:length].decode())
        data = data[length:]
    return names


def _unpack_u32(kind: bytes, data: bytes) -> tuple[int, ...]:
    size = 8 if kind == b'PROV' else 4
    # Ranges do not touch, and a window has no more turns than tokens: neither can be longer.
    if len(data) % size or len(data) > 4 * (layout.MAX_TOKENS + 1):
        raise ConfigError(f'section {kind.decode()}: has {len(data)} bytes')
    return tuple(np.frombuffer(data, dtype='<u4').tolist())


def _unpack_chunks(data: bytes) -> tuple[ChunkEntry, ...]:
    padding = np.frombuffer(data, dtype=np.uint8).reshape(-1, _CHUNK_DTYPE.itemsize)[:, 49:]
    if padding.any():
        raise ConfigError('section CHNK: reserved bytes are not zero')
    rows = np.frombuffer(data, dtype=_CHUNK_DTYPE)
    return tuple(
        ChunkEntry(
            id=ChunkId(chunk_id), start=start, stop=stop, codec=codec.decode('ascii', 'replace'),
            payload_bytes=payload_bytes, file_bytes=file_bytes, priority=priority,
        )
        for chunk_id, start, stop, codec, payload_bytes, file_bytes, priority in rows.tolist()
    )  # fmt: skip


def _unpack_tags(data: bytes) -> tuple[str, ...]:
    tags: list[str] = []
    start = 0
    while start < len(data):
        if len(tags) == layout.MAX_TAGS:
            raise ConfigError(f'tags: more than {layout.MAX_TAGS}')
        stop = start + 2 + int.from_bytes(data[start : start + 2], 'little')
        if len(data) < max(stop, start + 2):
            raise ConfigError('section TAGS: ends in the middle of a tag')
        tags.append(data[start + 2 : stop].decode())
        start = stop
    return tuple(tags)


def ids_of(key: bytes, manifest: Manifest) -> list[ChunkId]:
    """Return the ids that a window's chunks have under a naming key, in the order of its table."""
    size = manifest.chunk_tokens
    tokens = np.ascontiguousarray(manifest.tokens, dtype=np.int32)
    before = chunkfile.first_link(key, manifest.identity.model, size)
    links = [before, *chunkfile.chunk_ids(key, manifest.identity, tokens, size)]
    ids = []
    for entry in manifest.chunks:
        index = entry.start // size
        if entry.stop == min(entry.start + size, len(tokens)):
            ids.append(links[index + 1])
        else:  # a partial chunk that tokens followed later
            ids.append(chunkfile.next_id(key, links[index], tokens[entry.start : entry.stop]))
    return ids
