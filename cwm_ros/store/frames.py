# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Frames of a bundle: turn log, manifest, chunks, end; the layout is in docs/format-bundle.md.

Each holds a plain file of a profile whose naming key is `BUNDLE_NAMING_KEY`, so that a bundle
does not depend on the keys of the store it comes from or goes to.
"""

from __future__ import annotations

from dataclasses import dataclass
import struct
from typing import TYPE_CHECKING

from cwm_ros.errors import FormatError
from cwm_ros.store import chunkfile, layout
from cwm_ros.store.segments import CUT_HINT, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cwm_ros.store.files import Buffer
    from cwm_ros.store.segments import Source

BUNDLE_NAMING_KEY = bytes(layout.KEY_BYTES)
TURNS, WINDOW, CHUNK, END = b'TURN', b'WIND', b'CHNK', b'ENDS'
_LIMITS = {
    TURNS: layout.MAX_LOG_BYTES,
    WINDOW: layout.MAX_MANIFEST_BYTES,
    CHUNK: layout.MAX_PAYLOAD_BYTES + chunkfile.prefix_bytes(layout.MAX_CHUNK_TOKENS),
    END: 0,
}
_HEAD = struct.Struct('<4sIQQ')
_CHECKSUM = struct.Struct('<Q')
HEAD_BYTES = _HEAD.size + _CHECKSUM.size


@dataclass(frozen=True, slots=True)
class Frame:
    """
    A part of a bundle.

    Parameters
    ----------
    kind
        `TURNS`, `WINDOW`, `CHUNK` or `END`.
    body
        What it holds.
    is_sound
        Whether the body has its checksum.

    """

    kind: bytes
    body: bytes
    is_sound: bool


class FrameWriter:
    """Writes frames one after the other to ``write``."""

    def __init__(self, write: Callable[[Buffer], object]) -> None:
        self._write = write
        self._number = 0

    def put(self, kind: bytes, body: Sequence[Buffer] = ()) -> None:
        """Write a frame whose body is the concatenation of ``body``."""
        size = sum(len(part) for part in body)
        head = _HEAD.pack(kind, self._number, size, layout.checksum(*body))
        self._write(head + _CHECKSUM.pack(layout.checksum(head)))
        for part in body:
            self._write(part)
        self._number += 1


class FrameReader:
    """
    Reads frames.

    Parameters
    ----------
    source
        The bytes of the frames.
    path
        For messages.

    """

    def __init__(self, source: Source, path: Path) -> None:
        self._source = source
        self._path = path
        self._number = 0

    def take(self, *allowed: bytes, limit_bytes: int | None = None) -> Frame:
        """
        Return the next frame.

        Parameters
        ----------
        allowed
            Kinds that may come now.
        limit_bytes
            Of a body; None for what the format allows.

        Raises
        ------
        FormatError
            It is cut off, out of turn, or too large.

        """
        head = read_all(self._source, HEAD_BYTES)
        if len(head) < HEAD_BYTES:
            raise FormatError(self._path, f'ends at frame {self._number}', hint=CUT_HINT)
        kind, number, size, expected = _HEAD.unpack_from(head)
        if _CHECKSUM.unpack_from(head, _HEAD.size)[0] != layout.checksum(head[: _HEAD.size]):
            raise self._error('header checksum does not match')
        if number != self._number or kind not in allowed:
            raise self._error(f'is {kind!a} with number {number}, which cannot come here')
        most = _LIMITS[kind] if limit_bytes is None else min(limit_bytes, _LIMITS[kind])
        if size > most:
            raise self._error(f'size is {size}, more than the limit of {most} bytes')
        body = read_all(self._source, size)
        if len(body) < size:
            raise self._error(f'is cut off after {len(body)} of {size} bytes')
        self._number += 1
        return Frame(kind, body, layout.checksum(body) == expected)

    def _error(self, problem: str) -> FormatError:
        return FormatError(self._path, f'frame {self._number} {problem}', hint=CUT_HINT)
