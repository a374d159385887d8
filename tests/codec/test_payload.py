# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Everything in a payload is a lie until it is checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
import lz4.block
import numpy as np
from oracle_payload import read_payload
import pytest
import xxhash

from cwm_ros.codec import CodecId, decode_chunk, encode_chunk, Scratch
from cwm_ros.codec.payload import ENTRY, Entry, HEADER, Header, PayloadLayout
from cwm_ros.errors import CwmError, FormatError, FormatTooNewError
from cwm_ros.kv import KVSpec

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = KVSpec(num_layers=1, num_kv_heads=1, head_dim=4, max_tokens=64)
TOKENS = 16
FILE = Path('ab/chunk.int8')
EXAMPLE = bytes.fromhex("""
43 57 4d 50 01 00 02 00 01 00 01 00 01 00 80 00
02 00 00 00 02 00 00 00 04 00 00 00 00 00 00 00
68 00 00 00 00 00 00 00 26 da 81 dd b5 88 cb 69
be 8c 49 bb 64 fc 62 0f 9e f2 01 48 ab 79 3b a2
00 00 00 00 02 00 00 00 55 fd 4e 44 b1 54 a8 f2
00 00 00 00 02 00 00 00 05 55 28 1f 0e 23 25 33
00 3c 00 00 7f c0 00 00
""")


EXAMPLE_INT4 = bytes.fromhex("""
43 57 4d 50 01 00 03 00 01 00 01 00 03 00 40 00
02 00 00 00 02 00 00 00 18 00 00 00 00 00 00 00
80 00 00 00 00 00 00 00 c1 ca 35 ce ff c0 42 86
7a 40 b7 4e ce 99 73 0f 33 6f 48 3d 6a c5 b4 a7
00 00 00 00 04 00 00 00 ab 6d 73 a8 c9 72 04 3f
00 00 00 00 04 00 00 00 3d 19 fc 16 26 c9 b2 48
00 38 00 00 67 32 00 00 00 bc 00 40 00 00 00 00
00 00 00 3c 00 3c 00 3c f0 00 0f 00 00 00 00 00
""")


def make_payload(codec: CodecId = CodecId.INT8) -> bytes:
    """Return a small payload whose V block is compressed, K not."""
    kv = np.random.default_rng(3).standard_normal(SPEC.shape(TOKENS), dtype=np.float32)
    kv[0, 1] = 1
    return bytes(encode_chunk(kv, codec, 'lz4', Scratch()))


def dump_of(first_comment: str, num_lines: int) -> bytes:
    """Return the bytes that a dump of the format page shows."""
    page = Path(__file__).parents[2] / 'docs' / 'format-payload.md'
    lines = page.read_text(encoding='utf-8').splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith(f'   {first_comment}'))
    dumped = lines[start : start + num_lines]
    return bytes.fromhex(' '.join(line[:48].split('  ')[0] for line in dumped))


def decode(payload: bytes, codec: CodecId = CodecId.INT8, **changes: int) -> np.ndarray:  # type: ignore[type-arg]
    """Decode, and see that a refused payload leaves the cache as it was."""
    num_tokens = changes.pop('num_tokens', TOKENS)
    spec = replace(SPEC, **changes)
    out = np.full(spec.shape(num_tokens), 7, dtype=np.float32)
    try:
        decode_chunk(
            memoryview(payload),
            spec=spec,
            num_tokens=num_tokens,
            codec=codec,
            out=out,
            scratch=Scratch(),
            source=FILE,
        )
    except CwmError:
        assert (out == 7).all()
        raise
    return out


def sealed(
    payload: bytes, change: Callable[[list[Entry], Header], Header | None], tail: bytes = b''
) -> bytes:
    """Tell a lie and then make all checksums of header and table right."""
    layout = PayloadLayout.of(SPEC, TOKENS, CodecId(payload[6]))
    data = bytearray(payload + tail)
    table = slice(HEADER.size, layout.scales_start)
    entries = [Entry._make(fields) for fields in ENTRY.iter_unpack(data[table])]
    header = Header._make(HEADER.unpack_from(data))._replace(payload_bytes=len(data))
    header = change(entries, header) or header
    data[table] = b''.join(ENTRY.pack(*entry) for entry in entries)
    scales = xxhash.xxh3_64_intdigest(data[layout.scales_start : layout.blocks_start])
    header = header._replace(
        table_checksum=xxhash.xxh3_64_intdigest(data[table]), scales_checksum=scales
    )
    data[: HEADER.size] = HEADER.pack(*header)
    data[56:64] = xxhash.xxh3_64_digest(data[:56])[::-1]
    return bytes(data)


def test_the_example_of_the_format_page() -> None:
    kv = np.array([127, -64, 0, 0], dtype=np.float32).reshape(1, 2, 1, 2, 1)
    assert bytes(encode_chunk(kv, CodecId.INT8, 'lz4', Scratch())) == EXAMPLE
    np.testing.assert_array_equal(decode(EXAMPLE, num_tokens=2, head_dim=1), kv)
    assert dump_of('CWMP, version 1, int8; L, H, D, group of 128', 7) == EXAMPLE


def test_the_int4_example_of_the_format_page() -> None:
    kv = np.array([0, -1, 5, 7.5, -1, 2, *[1] * 6], dtype=np.float32).reshape(1, 2, 1, 2, 3)
    assert bytes(encode_chunk(kv, CodecId.INT4, 'lz4', Scratch())) == EXAMPLE_INT4
    values = decode(EXAMPLE_INT4, CodecId.INT4, num_tokens=2, head_dim=3)
    np.testing.assert_array_equal(values[0, 0, 0, :, :2], kv[0, 0, 0, :, :2])
    np.testing.assert_allclose(values, kv, atol=0.002)
    assert dump_of('CWMP, version 1, int4; L, H, D, group of 64', 8) == EXAMPLE_INT4


@pytest.mark.parametrize('codec', CodecId)
def test_every_truncation_is_refused(codec: CodecId) -> None:
    payload = make_payload(codec)
    for size in range(len(payload)):
        with pytest.raises(FormatError, match=r'^ab/chunk\.int8: '):
            decode(payload[:size], codec)


@pytest.mark.parametrize('codec', CodecId)
def test_every_flipped_bit_is_refused(codec: CodecId) -> None:
    payload = bytearray(make_payload(codec))
    for position in range(len(payload)):
        for bit in (1, 1 << position % 8, 128, 255):
            payload[position] ^= bit
            with pytest.raises(FormatError):
                decode(bytes(payload), codec)
            payload[position] ^= bit
    decode(bytes(payload), codec)


def test_a_trailing_byte_is_refused() -> None:
    with pytest.raises(FormatError, match='payload_bytes is'):
        decode(make_payload() + b'\0')
    with pytest.raises(FormatError, match='add up to'):
        decode(sealed(make_payload(), lambda _entries, _header: None, tail=b'\0'))


@pytest.mark.parametrize('field', ['num_layers', 'num_kv_heads', 'head_dim', 'num_tokens'])
def test_a_payload_of_another_shape_is_refused(field: str) -> None:
    with pytest.raises(FormatError):
        decode(make_payload(), **{field: 2})
    lie = sealed(make_payload(), lambda _entries, header: header._replace(**{field: 60000}))
    with pytest.raises(FormatError, match=f'{field} is 60000'):
        decode(lie)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        *(('codec', 1), ('codec', 9), ('reserved', 1), ('group_tokens', 64), ('num_blocks', 3)),
        *(('scales_bytes', 1 << 60), ('payload_bytes', 1 << 60), ('payload_bytes', 0)),
    ],
)
def test_every_header_field_is_believed_only_if_it_is_right(field: str, value: int) -> None:
    lie = sealed(make_payload(), lambda _entries, header: header._replace(**{field: value}))
    with pytest.raises(FormatError, match=f'{field} is {value}'):
        decode(lie)


def test_a_later_version_is_not_called_damaged() -> None:
    newer = sealed(make_payload(), lambda _entries, header: header._replace(version=7))
    with pytest.raises(FormatTooNewError, match='version is 7, known is 1'):
        decode(newer)


def test_a_payload_of_another_codec_is_refused() -> None:
    with pytest.raises(FormatError, match='codec is 1, expected 2'):
        decode(make_payload(CodecId.FP16), CodecId.INT8)


@pytest.mark.parametrize(
    ('block', 'change', 'problem'),
    [
        (0, {'compression': 2}, 'block 0: compression 2 is unknown'),
        (1, {'compression': 0}, 'block 1: stored size is'),
        (0, {'compression': 1}, 'block 0: compressed size is 64 of 64'),
        (0, {'stored_bytes': 63}, 'block 0: stored size is 63'),
        (1, {'stored_bytes': 0}, 'block 1: compressed size is 0'),
        (1, {'stored_bytes': 0xFFFFFFFF}, 'block 1: compressed size is 4294967295'),
        (1, {'stored_bytes': 7}, 'add up to'),
        (0, {'checksum': 0}, 'block 0 fails its checksum'),
    ],
)
def test_every_entry_is_believed_only_if_it_can_be(
    block: int, change: dict[str, int], problem: str
) -> None:
    def lie(entries: list[Entry], _header: Header) -> None:
        entries[block] = entries[block]._replace(**change)

    with pytest.raises(FormatError, match=problem):
        decode(sealed(make_payload(), lie))


@pytest.mark.parametrize('content', [bytes(1 << 20), bytes(63), b'', None])
def test_a_block_that_unpacks_to_another_size_is_refused(content: bytes | None) -> None:
    layout = PayloadLayout.of(SPEC, TOKENS, CodecId.INT8)
    bomb = b'\xff' * 20 if content is None else lz4.block.compress(content, store_size=False)
    bomb = bomb[:63]  # the longest that is allowed: cut, it is damaged as well

    def lie(entries: list[Entry], header: Header) -> Header:
        entries[1] = Entry(1, len(bomb), xxhash.xxh3_64_intdigest(bomb))
        return header

    payload = make_payload()[: layout.blocks_start + layout.block_bytes]
    with pytest.raises(FormatError, match='block 1: LZ4 does not give its size'):
        decode(sealed(payload, lie, tail=bomb))


@pytest.mark.parametrize('bits', [0x7C00, 0x7E00, 0xFC00, 0x8000, 0xBC00])
def test_scales_that_are_not_finite_or_negative_are_refused(bits: int) -> None:
    payload = bytearray(make_payload())
    start = PayloadLayout.of(SPEC, TOKENS, CodecId.INT8).scales_start
    payload[start : start + 2] = bits.to_bytes(2, 'little')
    with pytest.raises(FormatError, match='scales: one is negative or not finite'):
        decode(sealed(bytes(payload), lambda _entries, _header: None))


@pytest.mark.parametrize(
    ('kind', 'bits', 'problem'),
    [
        *((0, bits, 'one is negative or not finite') for bits in (0x7C00, 0x7E00, 0x8000, 0xBC00)),
        *((1, bits, 'a minimum is not finite') for bits in (0x7C00, 0xFC00, 0x7E01, 0xFE00)),
    ],
)
def test_int4_scales_and_minima_that_cannot_be_are_refused(
    kind: int, bits: int, problem: str
) -> None:
    payload = bytearray(make_payload(CodecId.INT4))
    start = PayloadLayout.of(SPEC, TOKENS, CodecId.INT4).scales_start + kind * SPEC.head_dim * 2
    payload[start : start + 2] = bits.to_bytes(2, 'little')
    with pytest.raises(FormatError, match=f'scales: {problem}'):
        decode(sealed(bytes(payload), lambda _entries, _header: None), CodecId.INT4)


@pytest.mark.parametrize('codec', [CodecId.RAW, CodecId.FP16])
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_codes_that_are_not_finite_are_refused(codec: CodecId, bad: float) -> None:
    layout = PayloadLayout.of(SPEC, TOKENS, codec)
    payload = bytearray(make_payload(codec))
    block = slice(layout.blocks_start, layout.blocks_start + layout.block_bytes)
    last = np.array(bad, dtype='<f4' if codec is CodecId.RAW else '<f2').tobytes()
    payload[block.stop - len(last) : block.stop] = last

    def lie(entries: list[Entry], _header: Header) -> None:
        entries[0] = entries[0]._replace(checksum=xxhash.xxh3_64_intdigest(payload[block]))

    with pytest.raises(FormatError, match='blocks: a value is not finite'):
        decode(sealed(bytes(payload), lie), codec)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(min_size=1, max_size=63))
def test_lz4_that_anyone_made_up_is_refused_or_read_as_the_oracle_does(data: bytes) -> None:
    layout = PayloadLayout.of(SPEC, TOKENS, CodecId.INT8)

    def lie(entries: list[Entry], _header: Header) -> None:
        entries[1] = Entry(1, len(data), xxhash.xxh3_64_intdigest(data))

    head = make_payload()[: layout.blocks_start + layout.block_bytes]
    payload = sealed(head, lie, tail=data)
    try:
        expected = read_payload(payload, layers=1, heads=1, tokens=TOKENS, dim=4, codec=2)
    except ValueError:
        with pytest.raises(FormatError):
            decode(payload)
    else:
        np.testing.assert_array_equal(decode(payload), expected)
