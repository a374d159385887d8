# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Make readable again what can be, from what is whole; and say what was lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cwm_ros.errors import CwmError, FormatError, FormatTooNewError
from cwm_ros.kv import Role, Turn
from cwm_ros.store import files, layout, quarantine, turnlog
from cwm_ros.store.catalog import (
    LOG_SUFFIX,
    MANIFEST_SUFFIX,
    read_log,
    read_manifest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.store.manifest import Manifest
    from cwm_ros.store.seal import Seal

LOST_TEXT = '(this turn was lost: its record was damaged)'


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """
    What was done, in sentences that begin with a window's name, a file or a thing.

    Parameters
    ----------
    recovered
        What can be used again, and from what it was made.
    lost
        What could not be recovered.
    kept
        What was left as it is because this version may not judge it.

    """

    recovered: tuple[str, ...]
    lost: tuple[str, ...]
    kept: tuple[str, ...]


class Doctor:
    """
    Mends the files of windows; a power cut at any instant leaves what a later run mends.

    Parameters
    ----------
    windows, quarantine_folder
        Where they are, and where damaged files go.
    seal
        Between files and disk; a window's name is checked by its key.
    limit_bytes
        Bound of the quarantine.

    """

    def __init__(
        self, windows: Path, quarantine_folder: Path, seal: Seal, limit_bytes: int
    ) -> None:
        self._windows = windows
        self._quarantine = quarantine_folder
        self._seal = seal
        self._limit_bytes = limit_bytes
        self.recovered: list[str] = []
        self.lost: list[str] = []
        self.kept: list[str] = []

    def report(self) -> DoctorReport:
        """Return what was done so far."""
        return DoctorReport(
            recovered=tuple(self.recovered), lost=tuple(self.lost), kept=tuple(self.kept)
        )

    def mend_window(self, window_id: str) -> None:
        """Mend one window that cannot be read."""
        try:
            manifest = self._manifest(window_id)
            name = self._mend_log(window_id, manifest)
        except FormatTooNewError as exc:
            self.kept.append(f'{window_id}: is of a later version and stays as it is: {exc}')
            return
        except CwmError as exc:
            self.lost.append(f'{window_id}: {exc}')
            return
        if manifest is None and files.exists(self._windows / (window_id + MANIFEST_SUFFIX)):
            path = self._windows / (window_id + MANIFEST_SUFFIX)
            quarantine.set_aside(path, self._quarantine, self._limit_bytes)
            self.recovered.append(
                f'{name}: its turns; tokens are rendered from them, and chunks that are whole '
                'are found again when it is opened'
            )
            self.lost.append(f'{name}: tags, and which tokens were provisional')

    def _manifest(self, window_id: str) -> Manifest | None:
        try:
            return read_manifest(self._windows, window_id, self._seal)
        except FormatTooNewError:
            raise
        except FormatError:
            return None

    def _mend_log(self, window_id: str, manifest: Manifest | None) -> str:
        """Rebuild the log from its whole records if need be; return the window's name."""
        num_turns = manifest.num_turns if manifest else 0
        path = self._windows / (window_id + LOG_SUFFIX)
        try:
            log = read_log(self._windows, window_id, self._seal)
            if (
                log
                and len(log.turns) >= num_turns
                and (not manifest or log.window == manifest.window)
            ):
                return log.window
        except FormatTooNewError:
            raise
        except FormatError:
            pass
        data = self._log_bytes(path)
        plain = self._plain_log(path, window_id, data)
        name = manifest.window if manifest else turnlog.salvage_name(plain)
        if not name or layout.window_id(self._seal.id_key, name) != window_id:
            raise FormatError(path, 'neither log nor manifest says which window it is')
        self._keep_copy(path, data)
        self._rebuild(path, name, turnlog.salvage_turns(plain), num_turns)
        return name

    def _plain_log(self, path: Path, window_id: str, data: bytes) -> bytes:
        try:
            return self._seal.unwrap_log(path, window_id, data, is_lenient=True)[0]
        except FormatTooNewError:
            raise
        except FormatError:
            return b''

    def _keep_copy(self, path: Path, data: bytes) -> None:
        """Keep what a log was, as it lies on the disk."""
        if data:
            files.make_folder(self._quarantine)
            copy = self._quarantine / quarantine.next_name(self._quarantine, path.name)
            files.write_file(copy, [data])
            quarantine.trim(self._quarantine, self._limit_bytes)

    def _log_bytes(self, path: Path) -> bytes:
        try:
            return files.read_file(path, limit_bytes=layout.MAX_LOG_BYTES)
        except FileNotFoundError:
            return b''

    def _rebuild(self, path: Path, name: str, found: dict[int, Turn], num_turns: int) -> None:
        count = max(num_turns, max(found, default=-1) + 1)
        turns = [found.get(number) or _placeholder(number, found) for number in range(count)]
        header = turnlog.pack_header(name, bytes.fromhex(path.stem))
        records = turnlog.pack_each(turns, first_sequence=0)
        files.write_file(path, [self._seal.begin_log(path.stem, header, records)])
        self.recovered.append(f'{name}: {len(found)} of {count} turns')
        gone = [number for number in range(count) if number not in found]
        if gone:
            self.lost.append(
                f'{name}: the text of turns {", ".join(map(str, gone))}; their tokens are there '
                'if the window was frozen after them'
            )


def _placeholder(number: int, found: dict[int, Turn]) -> Turn:
    before, after = found.get(number - 1), found.get(number + 1)
    if number == 0:
        role = Role.SYSTEM
    elif before:
        role = Role.ASSISTANT if before.role is Role.USER else Role.USER
    elif after:
        role = Role.USER if after.role is Role.ASSISTANT else Role.ASSISTANT
    else:
        role = Role.USER if number % 2 else Role.ASSISTANT
    return Turn(role=role, text=LOST_TEXT)
