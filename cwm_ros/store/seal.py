# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Files of a profile as they lie on the disk: as they are, or encrypted.

The rest of the store packs and unpacks plain files; a `Seal` stands between it and the disk. This
one changes nothing; `aesseal.AesSeal` encrypts.
"""

from __future__ import annotations

from enum import IntEnum
import hashlib
from typing import TYPE_CHECKING

from cwm_ros.store import files, layout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cwm_ros.store.files import Buffer


class FileKind(IntEnum):
    """What an encrypted file is; part of what is authenticated."""

    MANIFEST = 1
    LOG = 2
    CHUNK = 3
    CATALOG_ROW = 4
    STATE_ROW = 5
    LISTING = 6


class Seal:
    """
    Plain files; and what every profile has.

    Parameters
    ----------
    id_key
        Names windows and chunks, 32 bytes.

    Attributes
    ----------
    file_overhead, chunk_overhead
        How much larger a file of one part, and a chunk, is on the disk than its plain form
        [bytes].
    bundle_key
        Encrypts bundles of this profile, 32 bytes; None when they are not to be encrypted.

    """

    is_encrypted = False
    file_overhead = 0
    chunk_overhead = 0

    def __init__(self, id_key: bytes) -> None:
        self.id_key = id_key
        self.bundle_key: bytes | None = None

    def row_name(self, text: str) -> str:
        """Return an opaque name for a row of a database: 32 hexadecimal digits."""
        digest = hashlib.blake2b(
            text.encode('utf-8', 'surrogateescape'), digest_size=layout.ID_BYTES, key=self.id_key,
            person=b'cwm state',
        )  # fmt: skip
        return digest.hexdigest()

    def wrap(self, kind: FileKind, name: str, data: bytes) -> bytes:
        """
        Return what is to lie on the disk.

        Parameters
        ----------
        kind, name
            What it is, and its id: 32 hexadecimal digits.
        data
            The plain file.

        """
        del kind, name
        return data

    def unwrap(self, path: Path, kind: FileKind, name: str, data: bytes) -> bytes:
        """
        Return the plain file.

        Raises
        ------
        FormatError
            It is not authentic.

        """
        del path, kind, name
        return data

    def wrap_chunk(self, name: str, prefix: bytes, payload: memoryview) -> Sequence[Buffer]:
        """
        Return the buffers of a chunk's file.

        One is reused: they must be written before the next call.
        """
        del name
        return [prefix, payload]

    def unwrap_prefix(self, path: Path, name: str, data: bytearray) -> memoryview:
        """Return what precedes the payload; ``data`` is the beginning of the chunk's file."""
        del path, name
        return memoryview(data)

    def read_chunk(
        self, descriptor: int, path: Path, name: str, prefix: bytearray, payload: memoryview
    ) -> int:
        """
        Fill both buffers from a chunk's file; return how many bytes were read of it.

        Raises
        ------
        FormatError
            It is not authentic; then the buffers must not be used.

        """
        del name
        return files.read_into(descriptor, path, [prefix, payload])

    def begin_log(self, name: str, header: bytes, records: Sequence[bytes]) -> bytes:
        """Return a new turn log."""
        del name
        return header + b''.join(records)

    def extend_log(self, path: Path, name: str, records: Sequence[bytes]) -> bytes:
        """Return what is to be appended to the turn log at ``path``."""
        del path, name
        return b''.join(records)

    def unwrap_log(
        self, path: Path, name: str, data: bytes, *, is_lenient: bool = False
    ) -> tuple[bytes, dict[int, int]]:
        """
        Return a plain log, and where the records of the one on the disk end.

        Parameters
        ----------
        path, name
            Of the log, and of its window.
        data
            What lies on the disk.
        is_lenient
            Whether to go on when the header is damaged, to save records.

        Returns
        -------
        bytes, dict
            Zero bytes stand where nothing authentic does, so that damage is where it was; and
            for each end of a part in it, the end on the disk. What is missing ends at the same
            place.

        """
        del path, name, is_lenient
        return data, {}
