# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The append-only log of a window's turns.

A turn is durable once its record is on the disk. A killed writer may leave a torn tail, which
readers ignore and the next writer cuts; a record that is bad although a later commit follows it
is damage, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import struct
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import ConfigError, FormatError
from cwm_ros.kv import Role, Turn
from cwm_ros.store import layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOG_MAGIC = b'\x93CWMLOG\n'

_HEAD = struct.Struct('<8sHHI16s64s')
_RECORD = struct.Struct('<IIQqBBHI')
_CHECKSUM = struct.Struct('<Q')
_ROLES = (Role.SYSTEM, Role.USER, Role.ASSISTANT)
HEAD_BYTES = _HEAD.size + _CHECKSUM.size
MIN_RECORD_BYTES = _RECORD.size + _CHECKSUM.size
MAX_RECORD_BYTES = 2 * layout.MAX_TEXT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLog:
    """
    What a log file holds.

    Parameters
    ----------
    window, window_id
        Name of the window, and the name of its files.
    turns
        The whole records.
    valid_bytes
        Where the last whole record ends; what lies behind was never acknowledged.
    torn_bytes
        How much lies behind.

    """

    window: str
    window_id: bytes
    turns: tuple[Turn, ...]
    valid_bytes: int
    torn_bytes: int = 0


def pack_header(window: str, window_id: bytes) -> bytes:
    """Return the bytes that begin a log."""
    layout.check_name('window', window)
    head = _HEAD.pack(
        LOG_MAGIC, layout.FORMAT_VERSION, HEAD_BYTES, 0, window_id, window.encode('ascii')
    )
    return head + _CHECKSUM.pack(layout.checksum(head))


def pack_records(turns: Sequence[Turn], *, first_sequence: int) -> bytes:
    """Return the records of turns that are committed together."""
    return b''.join(pack_each(turns, first_sequence=first_sequence))


def pack_each(turns: Sequence[Turn], *, first_sequence: int) -> list[bytes]:
    """Return the records of turns that are committed together, one by one."""
    return [
        _pack_record(turn, sequence=first_sequence + index, place=index)
        for index, turn in enumerate(turns)
    ]


def _pack_record(turn: Turn, *, sequence: int, place: int) -> bytes:
    try:
        text = turn.text.encode()
    except UnicodeEncodeError as exc:
        raise ConfigError(f'turn {sequence}: text has a lone surrogate') from exc
    if len(text) > layout.MAX_TEXT_BYTES:
        raise ConfigError(
            f'turn {sequence}: text has {len(text)} bytes',
            hint=f'use at most {layout.MAX_TEXT_BYTES} bytes in one turn',
        )
    padded = text + bytes(-len(text) % 8)
    size = MIN_RECORD_BYTES + len(padded)
    role = _ROLES.index(turn.role)
    head = _RECORD.pack(size, len(text), sequence, turn.time_ms, role, 0, 0, place)
    return head + padded + _CHECKSUM.pack(layout.checksum(head, padded))


def unpack_log(path: Path, data: bytes) -> TurnLog:
    """
    Read a log file.

    Raises
    ------
    FormatError
        The header is wrong, or a record is damaged although a later commit follows it.

    """
    window, window_id, offset = _unpack_header(path, data)
    turns: list[Turn] = []
    for turn, end in _iterate_records(path, data, offset):
        turns.append(turn)
        offset = end
    _check_tail(path, data, offset, len(turns))
    return TurnLog(
        window=window,
        window_id=window_id,
        turns=tuple(turns),
        valid_bytes=offset,
        torn_bytes=len(data) - offset,
    )


def _unpack_header(path: Path, data: bytes) -> tuple[str, bytes, int]:
    if len(data) < HEAD_BYTES:
        raise FormatError(path, f'size {len(data)} is less than a log header')
    magic, version, size, zero, window_id, name = _HEAD.unpack_from(data)
    layout.check_magic(path, magic, LOG_MAGIC, version)
    if not HEAD_BYTES <= size <= len(data) or size % 8 or zero:
        raise FormatError(path, f'header size is {size}')
    (expected,) = _CHECKSUM.unpack_from(data, size - _CHECKSUM.size)
    if layout.checksum(memoryview(data)[: size - _CHECKSUM.size]) != expected:
        raise FormatError(path, 'header checksum does not match')
    try:
        window = layout.check_name('window', name.rstrip(b'\0').decode('ascii'))
    except (ConfigError, UnicodeDecodeError) as exc:
        raise FormatError(path, f'window name is {name!r}') from exc
    return window, window_id, size


class _Search:
    """
    Looks for records behind damage, in any place.

    Records that do not overlap have each byte checked once; a file in which nearly every place
    says that it begins a long record was made to keep its reader busy.
    """

    def __init__(self, data: bytes, offset: int) -> None:
        self._data = data
        self._bytes_left = 2 * (len(data) - offset)

    @property
    def is_spent(self) -> bool:
        """Whether more was checked than records that do not overlap can ask for."""
        return self._bytes_left < 0

    def record_end(self, offset: int) -> int:
        """Return what `_record_end` does; 0, too, when the search is spent."""
        self._bytes_left -= _claimed_bytes(self._data, offset)
        return 0 if self.is_spent else _record_end(self._data, offset)


def _claimed_bytes(data: bytes, offset: int) -> int:
    """Return the size of the record that seems to be at ``offset``; 0 when none can be."""
    if offset + MIN_RECORD_BYTES > len(data):
        return 0
    size, text_bytes = struct.unpack_from('<II', data, offset)
    if size % 8 or size > MAX_RECORD_BYTES or text_bytes > size - MIN_RECORD_BYTES:
        return 0
    return int(size) if offset + size <= len(data) else 0


def _record_end(data: bytes, offset: int) -> int:
    """Return where the whole, right record at ``offset`` ends; 0 when there is none."""
    size = _claimed_bytes(data, offset)
    if not size:
        return 0
    end = offset + size
    (expected,) = _CHECKSUM.unpack_from(data, end - _CHECKSUM.size)
    body = memoryview(data)[offset : end - _CHECKSUM.size]
    return end if layout.checksum(body) == expected else 0


def _iterate_records(path: Path, data: bytes, offset: int) -> Iterator[tuple[Turn, int]]:
    sequence = 0
    while end := _record_end(data, offset):
        _, text_bytes, found, time_ms, role, _, _, _ = _RECORD.unpack_from(data, offset)
        if found != sequence:
            raise FormatError(path, f'turn {sequence} has the sequence number {found}')
        if sequence == layout.MAX_TURNS:
            raise FormatError(path, f'holds more than {layout.MAX_TURNS} turns')
        if role >= len(_ROLES) or text_bytes > layout.MAX_TEXT_BYTES:
            raise FormatError(path, f'turn {sequence} has role {role}, {text_bytes} text bytes')
        text_start = offset + _RECORD.size
        try:
            text = data[text_start : text_start + text_bytes].decode()
        except UnicodeDecodeError as exc:
            raise FormatError(path, f'turn {sequence} is not UTF-8') from exc
        yield Turn(role=_ROLES[role], text=text, time_ms=time_ms), end
        offset, sequence = end, sequence + 1


def _check_tail(path: Path, data: bytes, offset: int, sequence: int) -> None:
    """
    Tell a torn tail from damage.

    The last commit may be torn anywhere, for the device orders its pages as it likes; whole
    records of a later commit can only follow when the one before had been durable.
    """
    tail = data[offset:]
    words = np.frombuffer(tail[: len(tail) // 8 * 8], dtype='<u8')
    # A record's second word is its sequence number, and records are aligned to 8 bytes.
    limit = sequence + len(tail) // MIN_RECORD_BYTES + 1
    search = _Search(data, offset)
    for index in np.flatnonzero((words[1:] > sequence) & (words[1:] <= limit)).tolist():
        start = offset + 8 * index
        if search.record_end(start):
            _, _, found, _, _, _, _, place = _RECORD.unpack_from(data, start)
            if found - place > sequence:
                raise FormatError(
                    path,
                    f'turn {sequence} at byte {offset} is damaged, and turn {found} follows it',
                    hint='restore the file from a backup; it is kept as it is',
                )
        if search.is_spent:
            raise FormatError(path, f'records overlap behind byte {offset}')


def salvage_name(data: bytes) -> str:
    """Return the window that a damaged log says it is of; empty when that is damaged, too."""
    try:
        return _unpack_header(Path(), data)[0]
    except FormatError:
        return ''


def salvage_turns(data: bytes) -> dict[int, Turn]:
    """Return all whole records of a damaged log, by number, also those behind the damage."""
    turns: dict[int, Turn] = {}
    offset = HEAD_BYTES
    search = _Search(data, offset)
    while offset + MIN_RECORD_BYTES <= len(data):
        end = 0
        _, text_bytes, number, time_ms, role, _, _, _ = _RECORD.unpack_from(data, offset)
        has_room = number <= (offset - HEAD_BYTES) // MIN_RECORD_BYTES  # for those before it
        if has_room and number < layout.MAX_TURNS and role < len(_ROLES):
            end = search.record_end(offset)
        if end:
            text = data[offset + _RECORD.size : offset + _RECORD.size + text_bytes]
            turn = Turn(role=_ROLES[role], text=text.decode('utf-8', 'replace'), time_ms=time_ms)
            turns.setdefault(number, turn)
        offset = end or offset + 8
    return turns
