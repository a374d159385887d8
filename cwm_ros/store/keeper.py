# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the writer of a profile keeps it: room, uses, pins and deletions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cwm_ros.config import MIB
from cwm_ros.errors import (
    FormatError,
    FormatTooNewError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from cwm_ros.store import chunkfile, files, layout
from cwm_ros.store.catalog import scan_window
from cwm_ros.store.doctor import Doctor, DoctorReport
from cwm_ros.store.eviction import Eviction, EvictionOrder
from cwm_ros.store.garbage import delete_window_files, remove_chunks
from cwm_ros.store.quarantine import set_aside
from cwm_ros.store.reader import ProfileReader
from cwm_ros.store.retention import expired_windows
from cwm_ros.store.state import CLOCK_IS_SET_MS, save_state
from cwm_ros.store.verify import check_chunk_file, PayloadChecker, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from cwm_ros.config import StorageSettings
    from cwm_ros.config_privacy import PrivacySettings
    from cwm_ros.store.manifest import ChunkEntry

SCRUB_SAVE_BYTES = 256 * MIB
SCRUB_DIGITS = 15
"""Of a chunk's name; a number of 60 bits."""

_log = logging.getLogger(__name__)


class ProfileKeeper(ProfileReader):
    """
    The windows of one profile, for the one writer, without what is written into windows.

    Parameters
    ----------
    settings, profile, clock, privacy
        See `Store.open`.

    """

    def __init__(
        self,
        settings: StorageSettings,
        profile: str,
        clock: Callable[[], int],
        privacy: PrivacySettings,
    ) -> None:
        super().__init__(settings, profile, clock, privacy)
        self._settings = settings
        self._order = EvictionOrder(self._inventory, self._state, settings.keep_recent)
        self._evictions: list[Eviction] = []
        self._written_before = 0
        self._unsaved_scrub_bytes = 0

    def _need_writable(self) -> None:
        if not self._is_writable:
            raise ReadOnlyError(f'{self._folder}: was opened for reading')
        self._listing.break_once()

    def _existing_id(self, name: str) -> str:
        self._need_writable()
        if not self.has_window(name):
            raise NotFoundError(f'window {name!r} does not exist', hint='see cwm list')
        return layout.window_id(self.key, name)

    def _save_state(self) -> bool:
        before = files.bytes_written_by_thread()
        is_saved = save_state(self._folder / 'state.sqlite', self._state, self.seal)
        cost = files.bytes_written_by_thread() - before
        self._state.add_overhead(self._clock(), cost)
        return is_saved

    def budget_problem(self) -> str:
        """
        Say why nothing but turns and final saves shall be written today; empty when it may.

        Before the clock is set, what counts is what was written since the store was opened.
        """
        budget = self._settings.daily_budget_mib * MIB
        now = self._clock()
        with self._mutex:
            written = self._state.written_today(now)
            if now < CLOCK_IS_SET_MS:
                written -= self._written_before
        if not budget or written < budget:
            return ''
        return f'{written} bytes were written today, the daily budget is {budget}'

    # --- room ---------------------------------------------------------------------------------

    def reserve_room(self, num_bytes: int) -> None:
        """
        See to it that ``num_bytes`` of chunks may be written; evict if need be.

        Raises
        ------
        QuotaError
            There is no room and nothing was evicted in vain; figures and remedy are in the
            message.

        """
        with self._mutex:
            self._reserve(num_bytes, for_chunks=True)

    def _reserve(self, num_bytes: int, *, for_chunks: bool) -> None:
        missing, _ = self._shortage(num_bytes, for_chunks=for_chunks)
        if not missing:
            return
        self._collect()
        missing, _ = self._shortage(num_bytes, for_chunks=for_chunks)
        if missing:
            self._evict(self._order.choose(missing, keep=self._fresh))
            missing, _ = self._shortage(num_bytes, for_chunks=for_chunks)
        if missing and self._settings.remove_cold_windows:
            self._remove_windows(self._order.choose_windows(missing))
        missing, reason = self._shortage(num_bytes, for_chunks=for_chunks)
        if missing:
            raise self._room.refusal(reason)

    def _shortage(self, num_bytes: int, *, for_chunks: bool) -> tuple[int, str]:
        return self._room.shortage(self._inventory.num_bytes, num_bytes, for_chunks=for_chunks)

    def _evict(self, chosen: Mapping[str, str]) -> None:
        """Remove chunks, given with the window whose they were, and keep note of it."""
        counts: dict[str, tuple[int, int]] = {}
        for name, window_id in chosen.items():
            won = remove_chunks(self._chunks, [name], self._inventory)
            chunks, num_bytes = counts.get(window_id, (0, 0))
            counts[window_id] = chunks + bool(won), num_bytes + won
        for window_id, (chunks, num_bytes) in counts.items():
            window = self._inventory.window(window_id).name
            self._note(Eviction(window=window, chunks=chunks, bytes=num_bytes))

    def _note(self, eviction: Eviction) -> None:
        self._state.add_evictions(eviction.chunks)
        self._evictions.append(eviction)
        _log.info(
            'evicted chunks=%d bytes=%d is_removed=%s',
            eviction.chunks, eviction.bytes, eviction.is_removed,
        )  # fmt: skip

    def _remove_windows(self, window_ids: Iterable[str], *, is_expired: bool = False) -> None:
        """Remove whole windows, with their turns."""
        for window_id in window_ids:
            name, before = self._inventory.window(window_id).name, self._inventory.num_bytes
            chunks = len(self._inventory.sizes)
            self._delete(window_id)
            won, chunks = before - self._inventory.num_bytes, chunks - len(self._inventory.sizes)
            self._note(
                Eviction(
                    window=name,
                    chunks=chunks,
                    bytes=won,
                    is_removed=True,
                    is_expired=is_expired,
                )
            )
        self._sync_deletions()

    def expire_windows(self) -> int:
        """
        Delete the windows that were not used for ``privacy.retention_days``; return how many.

        `take_evictions` names them. Those that are open, or pinned, stay.
        """
        with self._mutex:
            days = self._privacy.retention_days
            records = self._inventory.records
            expired = expired_windows(records, self._state, self._clock(), days)
            chosen = [w for w in expired if not self._order.is_protected(w)]
            if chosen:
                self._need_writable()
                self._remove_windows(chosen, is_expired=True)
                _log.warning('deleted windows=%d unused for more than days=%d', len(chosen), days)
                self._save_state()
            return len(chosen)

    def note_export(self, path: Path) -> None:
        """Keep in mind where a bundle was written, for who erases the profile some day."""
        with self._mutex:
            self._need_writable()
            self._state.add_export(str(path).encode('utf-8', 'backslashreplace').decode())
            self._save_state()

    @property
    def exports(self) -> tuple[str, ...]:
        """Where bundles of the profile were written."""
        with self._mutex:
            return tuple(sorted(self._state.exports))

    def take_evictions(self) -> tuple[Eviction, ...]:
        """Return what was evicted since the last call, so that somebody can be told."""
        with self._mutex:
            taken = tuple(self._evictions)
            self._evictions.clear()
            return taken

    def collect_garbage(self) -> int:
        """Remove the chunks that no window needs; return the bytes won."""
        with self._mutex:
            self._need_writable()
            return self._collect()

    def _collect(self) -> int:
        return remove_chunks(
            self._chunks, self._inventory.orphans(keep=self._fresh), self._inventory
        )

    def _remove_if_unreferenced(self, names: Iterable[str]) -> None:
        orphans = set(self._inventory.orphans(keep=self._fresh))
        remove_chunks(self._chunks, orphans & set(names), self._inventory)

    # --- damage -------------------------------------------------------------------------------

    def discard_chunk(self, entry: ChunkEntry) -> bool:
        """Set a chunk aside that proved damaged, so that it is written again; say if it was."""
        with self._mutex:
            self._need_writable()
            return self._discard(entry.file_name)

    def _discard(self, name: str) -> bool:
        self._inventory.drop_chunk(name)
        self._fresh.discard(name)
        return self._set_aside(self._chunks / name)

    def _set_aside(self, path: Path) -> bool:
        return set_aside(path, self._quarantine, self._settings.quarantine_mib * MIB)

    def mend(self, check_payload: PayloadChecker) -> DoctorReport:
        """
        Rebuild what can be rebuilt, set aside what is damaged, and say what was lost.

        Parameters
        ----------
        check_payload
            Checks a payload's inside; raises a `CwmError` that names the path.

        """
        with self._mutex:
            self._need_writable()
            limit = self._settings.quarantine_mib * MIB
            doctor = Doctor(self._windows, self._quarantine, self.seal, limit)
            for window_id, record in list(self._inventory.records.items()):
                if record.problem:
                    doctor.mend_window(window_id)
                    mended = scan_window(self._windows, window_id, self.seal)
                    self._inventory.put_window(window_id, mended)
            verifier = Verifier(self._windows, self._chunks, self.seal, check_payload)
            for window_id in self._inventory.records:
                verifier.check_window(window_id)
            for name in verifier.damaged:
                self._discard(name)
                doctor.recovered.append(f'chunk {name}: was set aside, to be computed from tokens')
            if self._state.problem:
                doctor.lost.append(f'pins, order of use and ledger: {self._state.problem}')
                self._state.mark_all()
                self._state.is_dirty = True
            return doctor.report()

    # --- scrub --------------------------------------------------------------------------------

    def chunks_to_scrub(self) -> list[str]:
        """Return the chunks that this round of scrubbing has not read yet, in its order."""
        with self._mutex:
            self._need_writable()
            names = sorted(filter(chunkfile.is_chunk_name, self._inventory.sizes))
            position = self._state.scrub_position
            return [name for name in names if _scrub_number(name) >= position]

    def scrub_chunk(self, name: str, check_payload: PayloadChecker) -> tuple[int, str]:
        """
        Read one chunk and check it; set it aside if it is damaged.

        Returns
        -------
        int, str
            Bytes read, and what is wrong; empty when nothing is.

        """
        path = self._chunks / name
        size, problem = self._inventory.sizes.get(name, 0), ''
        try:
            check_chunk_file(path, check_payload, self.seal)
            files.drop_pages(path)
        except FileNotFoundError:
            return 0, ''  # evicted meanwhile
        except FormatTooNewError:
            pass
        except FormatError as exc:
            problem = str(exc)
        with self._mutex:
            if problem:
                self._discard(name)
            self._state.scrub_position = _scrub_number(name) + 1
            self._unsaved_scrub_bytes += size
            if self._unsaved_scrub_bytes > SCRUB_SAVE_BYTES:
                self.keep_scrub_position()
        return size, problem

    def keep_scrub_position(self) -> None:
        """Let the next scrub go on here, also after a power cut."""
        with self._mutex:
            self._unsaved_scrub_bytes = 0
            self._save_state()

    def end_scrub(self) -> None:
        """Let the next scrub begin a new round."""
        self._state.scrub_position = 0
        self.keep_scrub_position()

    # --- use ----------------------------------------------------------------------------------

    def hold(self, name: str) -> None:
        """Count a use of a window, and protect its chunks from eviction until `let_go`."""
        with self._mutex:
            window_id = layout.window_id(self.key, name)
            self._order.hold(window_id)
            if window_id in self._inventory.records:
                self._use(window_id)

    def let_go(self, name: str) -> None:
        """End a `hold`."""
        with self._mutex:
            self._order.let_go(layout.window_id(self.key, name))

    def touch(self, name: str) -> None:
        """Record that a window is used, for eviction; stored with the next commit."""
        with self._mutex:
            if self._is_writable:
                self._use(layout.window_id(self.key, name))

    def _use(self, window_id: str) -> None:
        self._state.touch(window_id, self._clock())
        self._order.use(window_id)

    def set_pinned(self, name: str, *, is_pinned: bool) -> None:
        """
        Protect a window from eviction, or no longer.

        Raises
        ------
        StorageError
            It holds for now, but could not be stored.

        """
        with self._mutex:
            self._state.set_pinned(self._existing_id(name), is_pinned=is_pinned)
            is_saved = self._save_state()
            self._order.rebuild()
        if not is_saved:
            raise StorageError(
                f'{self._folder / "state.sqlite"}: the pin of window {name!r} is not stored',
                hint='free room on the device and pin it again; the log says what failed',
            )

    def delete_window(self, name: str) -> None:
        """Remove a window, and the chunks that no other needs; damaged ones too."""
        with self._mutex:
            self._delete(self._existing_id(name))
            self._sync_deletions()
            self._save_state()

    def _sync_deletions(self) -> None:
        """Let what was deleted stay so: a power cut must not bring back what somebody said."""
        for folder in (self._windows, self._chunks):
            files.sync_folder(folder)

    def _delete(self, window_id: str) -> None:
        delete_window_files(self._windows, window_id)
        record = self._inventory.drop_window(window_id)
        self._remove_if_unreferenced(record.chunks)
        self._state.forget(window_id)
        self._order.forget(window_id)


def _scrub_number(name: str) -> int:
    return int(name[:SCRUB_DIGITS], 16)
