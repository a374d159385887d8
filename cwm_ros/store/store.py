# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One profile's windows on disk: many readers, one writer."""

from __future__ import annotations

from contextlib import contextmanager, ExitStack
from dataclasses import replace
import threading
from typing import TYPE_CHECKING

from cwm_ros.config_privacy import PrivacySettings
from cwm_ros.errors import (
    BusyError,
    ConfigError,
    ExistsError,
    FormatError,
    KeyMissingError,
    QuotaError,
    StorageError,
)
from cwm_ros.store import chunkfile, files, keyring, layout, turnlog
from cwm_ros.store.catalog import (
    load_catalog,
    LOG_SUFFIX,
    MANIFEST_SUFFIX,
    read_manifest,
    save_catalog,
    scan_window,
    scan_windows,
    WindowRecord,
    with_manifest,
)
from cwm_ros.store.eviction import EvictionOrder
from cwm_ros.store.garbage import finish_deletion, finish_deletions, remove_chunks
from cwm_ros.store.keeper import ProfileKeeper
from cwm_ros.store.manifest import (
    ChunkEntry,
    NORMAL_PRIORITY,
    Origin,
    OriginKind,
    pack_manifest,
)
from cwm_ros.store.memory import GUEST, in_memory
from cwm_ros.store.quarantine import kept
from cwm_ros.store.seal import FileKind
from cwm_ros.store.state import load_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from cwm_ros.config import StorageSettings
    from cwm_ros.kv import ChunkId, TokenArray, Turn
    from cwm_ros.store.chunkfile import ChunkHeader
    from cwm_ros.store.files import Buffer
    from cwm_ros.store.manifest import Manifest


class Store(ProfileKeeper):
    """
    The windows of one profile; use `Store.open`.

    Reading methods may be called from any thread at any time. Writing methods exclude each
    other, but for the bytes of a chunk: turns are committed while another thread writes one.
    """

    def __init__(
        self,
        settings: StorageSettings,
        profile: str,
        clock: Callable[[], int],
        privacy: PrivacySettings,
    ) -> None:
        super().__init__(settings, profile, clock, privacy)
        # What a killed writer left may be in the page cache only: the first commit syncs it.
        self._has_unsynced_names = True
        self._synced_logs: set[str] = set()
        self._chunk_mutex = threading.Lock()

    @classmethod
    @contextmanager
    def open(
        cls,
        settings: StorageSettings,
        *,
        profile: str = 'default',
        writable: bool,
        clock: Callable[[], int],
        privacy: PrivacySettings | None = None,
    ) -> Iterator[Store]:
        """
        Open a profile.

        Parameters
        ----------
        settings
            Where, how much, and how long to wait for another writer.
        profile
            Which driver's windows; those of 'guest' are in memory only, and gone afterwards.
        writable
            Whether to become the one writer. Readers need neither lock nor write access; a
            profile that does not exist is empty for them.
        clock
            Wall clock [ms since 1970].
        privacy
            Whether a new profile is encrypted, where keys are, and for how long windows stay.

        Raises
        ------
        BusyError
            Another process is the writer; its pid is named.
        ReadOnlyError
            The device or the folder does not allow writing.
        KeyMissingError
            The profile's key is not there, or is another's.

        """
        with ExitStack() as closing:
            if profile == GUEST:
                settings = closing.enter_context(in_memory(settings))
            store = cls(settings, profile, clock, privacy or PrivacySettings())
            if profile == GUEST:
                store._seal = keyring.passing_seal()
            if writable:
                store._open_for_writing(closing, settings.lock_timeout_s)
            else:
                store._load_key()
            yield store

    def _open_for_writing(self, closing: ExitStack, timeout_s: float) -> None:
        root = self._folder.parent.parent
        for folder in (root, root / 'profiles', self._folder, self._windows, self._chunks):
            files.make_folder(folder)
        closing.enter_context(files.writer_lock(self._folder / 'lock', timeout_s=timeout_s))
        for folder in (self._folder, self._windows, self._chunks):
            files.remove_leftovers(folder)
        self._load_key()
        if self._seal is None:
            self._seal = keyring.create_seal(self._folder / 'key', self._privacy)
        finish_deletions(self._windows)
        known = load_catalog(self._folder / 'catalog.sqlite', self._seal)
        records = scan_windows(self._windows, known, self._seal)
        self._check_key(records)
        self._state = load_state(self._folder / 'state.sqlite', self._seal, writable=True)
        self._state.is_ledger_kept = self._folder.name != GUEST
        self._written_before = self._state.written_today(self._clock())
        self._inventory.update(records, files.list_sizes(self._chunks))
        self._cut_torn_tails()
        self._order = EvictionOrder(self._inventory, self._state, self._settings.keep_recent)
        self._room.measure_others()
        self._is_writable = True
        closing.callback(self._close, dict(known))
        self.expire_windows()

    def _check_key(self, records: Mapping[str, WindowRecord]) -> None:
        """Refuse another profile's key, under which no window of this one could be found."""
        for window_id, record in records.items():
            if record.name and layout.window_id(self.key, record.name) == window_id:
                return
        if self.is_encrypted:
            path = self._folder / 'state.sqlite'
            is_foreign = bool(records and load_state(path, self.seal, writable=False).problem)
        else:
            is_foreign = any(record.name and not record.problem for record in records.values())
        if is_foreign:
            raise KeyMissingError(
                f'{self._folder / "key"}: is not the key of the windows that are there',
                hint='restore the key of this profile from a backup',
            )

    def check_chunk_tokens(self, chunk_tokens: int) -> None:
        """
        Refuse another size of chunks than the profile has: none of its chunks would be found.

        Raises
        ------
        ConfigError
            The size that the profile has is in the message.

        """
        for window_id, record in self._inventory.records.items():
            if record.revision and not record.problem:
                manifest = read_manifest(self._windows, window_id, self.seal)
                if manifest and manifest.chunk_tokens != chunk_tokens:
                    raise ConfigError(
                        f'codec.chunk_tokens is {chunk_tokens}, the chunks of this store have '
                        f'{manifest.chunk_tokens} tokens',
                        hint=f'set it to {manifest.chunk_tokens}, or begin another profile',
                    )
                return

    def _cut_torn_tails(self) -> None:
        for window_id, record in list(self._inventory.records.items()):
            if not record.problem and record.log_stamp[0] > record.log_bytes:
                # Turns are cut by what the log says itself, not by what a cache says of it.
                found = scan_window(self._windows, window_id, self.seal)
                if not found.problem and found.log_stamp[0] > found.log_bytes:
                    path = self._windows / (window_id + LOG_SUFFIX)
                    files.cut(path, found.log_bytes)
                    found = replace(found, log_stamp=files.stamp(path))
                self._inventory.put_window(window_id, found)

    def _close(self, known: dict[str, WindowRecord]) -> None:
        self._is_writable = False
        if self._inventory.records != known:
            before = files.bytes_written_by_thread()
            path = self._folder / 'catalog.sqlite'
            save_catalog(path, self._inventory.records, known, self.seal)
            cost = files.bytes_written_by_thread() - before
            self._state.add_written(self._clock(), cost)
        self._renew_infos()
        written = self._listing.save(self._infos, self.seal)
        if written:
            self._state.add_written(self._clock(), written)
        if self._state.is_dirty:
            self._save_state()

    def _record_to_write(self, name: str) -> tuple[str, WindowRecord]:
        """Return id and record of a window that may be written: new, or its turns are whole."""
        self._need_writable()
        window_id = layout.window_id(self.key, name)
        record = self._inventory.window(window_id)
        if record.problem and not record.is_log_whole:
            raise FormatError(
                self._windows / window_id,
                f'window {name!r} cannot be read, so it is not written: {record.problem}',
                hint='restore its files from a backup, or delete the window',
            )
        return window_id, record

    def commit_turns(self, window: str, turns: Sequence[Turn]) -> int:
        """
        Make turns durable; the window is made when it does not exist.

        Returns
        -------
        int
            Number of durable turns of the window.

        """
        with self._mutex:
            window_id, record = self._record_to_write(window)
            if not turns:
                return record.log_turns
            records = turnlog.pack_each(turns, first_sequence=record.log_turns)
            path = self._windows / (window_id + LOG_SUFFIX)
            num_bytes = record.log_bytes
            if num_bytes:
                data = self.seal.extend_log(path, window_id, records)
            else:
                header = turnlog.pack_header(window, bytes.fromhex(window_id))
                data = self.seal.begin_log(window_id, header, records)
            self._check_log_size(num_bytes + len(data), record.log_turns + len(turns))
            self._reserve(len(data), for_chunks=False)
            if num_bytes:
                files.append(path, data, offset=num_bytes)
            else:
                finish_deletion(self._windows, window_id)
                files.write_file(path, [data])
            grown = replace(
                record,
                name=window,
                log_turns=record.log_turns + len(turns),
                log_bytes=num_bytes + len(data),
                log_stamp=files.stamp(path),
            )
            self._inventory.put_window(window_id, grown)
            self._synced_logs.add(window_id)
            self._state.add_written(self._clock(), len(data))
            return record.log_turns + len(turns)

    def _check_log_size(self, num_bytes: int, num_turns: int) -> None:
        if num_bytes > layout.MAX_LOG_BYTES or num_turns > layout.MAX_TURNS:
            raise QuotaError(
                f'a turn log of {num_bytes} bytes and {num_turns} turns is beyond the format',
                hint='continue in a new window',
            )

    def write_chunk(
        self,
        header: ChunkHeader,
        tokens: TokenArray,
        payload: memoryview,
        *,
        priority: int = NORMAL_PRIORITY,
    ) -> ChunkEntry:
        """
        Store a chunk, unless it is there.

        It survives a power cut once a manifest that refers to it is committed.

        Parameters
        ----------
        header
            What the payload is.
        tokens
            Token ids of the chunk, shape (stop - start,).
        payload
            Only read.
        priority
            For the returned table row.

        """
        self._need_writable()
        payload = memoryview(payload).cast('B')
        prefix = chunkfile.pack_prefix(header, tokens, payload)
        file_bytes = len(prefix) + len(payload)
        num_bytes = file_bytes + self.seal.chunk_overhead
        name = header.file_name
        with self._chunk_mutex:
            with self._mutex:
                entry = self.find_chunk(header.id, header.codec)
                if entry is not None:
                    self._inventory.put_chunk(name, entry.file_bytes + self.seal.chunk_overhead)
                    return replace(entry, priority=priority)
                if files.exists(self._chunks / name):
                    self._discard(name)
                self._reserve(num_bytes, for_chunks=True)
                # From here on it counts as there, so that nobody else takes its room.
                self._inventory.put_chunk(name, num_bytes)
                self._fresh.add(name)
                self._has_unsynced_names = True
            buffers = self.seal.wrap_chunk(header.id.hex(), prefix, payload)
            self._write_chunk_file(name, buffers, num_bytes)
        return ChunkEntry(
            id=header.id,
            start=header.start,
            stop=header.stop,
            codec=header.codec,
            payload_bytes=len(payload),
            file_bytes=file_bytes,
            priority=priority,
        )

    def _write_chunk_file(self, name: str, buffers: Sequence[Buffer], num_bytes: int) -> None:
        """Write while others may commit turns: a slow drive must not make them wait."""
        try:
            files.write_file(self._chunks / name, buffers, sync_parent=False)
        except BaseException:
            with self._mutex:
                self._inventory.drop_chunk(name)
                self._fresh.discard(name)
            raise
        with self._mutex:
            self._has_unsynced_names = True  # a commit in between may have seen another folder
            self._state.add_written(self._clock(), num_bytes)

    def find_chunk(self, chunk_id: ChunkId, codec: str) -> ChunkEntry | None:
        """Return the table row of a chunk on the disk, which then stays until the next commit."""
        entry = super().find_chunk(chunk_id, codec)
        if entry is not None and self._is_writable:
            self._fresh.add(entry.file_name)
        return entry

    def commit_window(self, manifest: Manifest) -> Manifest:
        """
        Make a window's new state durable, then remove chunks that only the old one needed.

        Parameters
        ----------
        manifest
            Its turns and chunks are written. Times and revision in it are not used.

        Returns
        -------
        Manifest
            What was stored, with times and revision.

        Raises
        ------
        ConfigError
            It is not allowed, or covers turns that are not committed.

        """
        with self._mutex:
            window_id, record = self._record_to_write(manifest.window)
            if manifest.num_turns > record.log_turns:
                raise ConfigError(
                    f'window {manifest.window!r}: {manifest.num_turns} turns are covered, '
                    f'{record.log_turns} committed',
                    hint='commit the turns first',
                )
            now = self._clock()
            stored = replace(
                manifest,
                created_ms=record.created_ms if record.revision else now,
                updated_ms=now,
                revision=record.revision + 1,
            )
            data = self.seal.wrap(FileKind.MANIFEST, window_id, pack_manifest(stored))
            self._reserve(len(data), for_chunks=False)
            self._sync_what_it_needs(window_id, record)
            path = self._windows / (window_id + MANIFEST_SUFFIX)
            if record.problem:
                self._set_aside(path)
            files.write_file(path, [data])
            committed = replace(with_manifest(record, stored), manifest_stamp=files.stamp(path))
            self._inventory.put_window(window_id, committed)
            self._finish_commit(window_id, record, len(data))
            return stored

    def _sync_what_it_needs(self, window_id: str, record: WindowRecord) -> None:
        if record.log_bytes and window_id not in self._synced_logs:
            files.cut(self._windows / (window_id + LOG_SUFFIX), record.log_bytes)
            self._synced_logs.add(window_id)
        self.sync_chunks()

    def sync_chunks(self) -> None:
        """Let the chunks written so far survive a power cut, also without a commit behind them."""
        with self._mutex:
            if self._has_unsynced_names:
                files.sync_folder(self._chunks)
                self._has_unsynced_names = False

    def _finish_commit(self, window_id: str, before: WindowRecord, num_bytes: int) -> None:
        current = set(self._inventory.window(window_id).chunks)
        self._fresh -= current
        self._remove_if_unreferenced(set(before.chunks) - current)
        self._state.add_written(self._clock(), num_bytes)
        self._use(window_id)
        self._save_state()

    def clone_window(self, name: str, new: str) -> None:
        """Make a window that shares the chunks of another."""
        with self._mutex:
            self._existing_id(name)
            if self.has_window(new):
                raise ExistsError(f'window {new!r} exists', hint='choose another name')
            window = self.window(name)
            self.commit_turns(new, window.turns)
            if window.manifest:
                origin = Origin(OriginKind.CLONE, name, window.manifest.revision)
                self.commit_window(replace(window.manifest, window=new, origin=origin))

    # --- forgetting ---------------------------------------------------------------------------

    def forget_turns(self, name: str, gone: AbstractSet[int], manifest: Manifest | None) -> None:
        """
        Remove turns for good, and what was made of them; see `cwm_ros.forget`.

        Whatever instant the power goes, the window has all of the turns or none.

        Parameters
        ----------
        name
            The window, which must not be open.
        gone
            Numbers of the turns; the others are numbered anew.
        manifest
            The window's new state, which covers turns before the first of ``gone`` only, and so
            fits the window before and after; None leaves what is there.

        Raises
        ------
        BusyError
            The window is open.
        FormatError
            It is damaged: to be mended first.
        StorageError
            Something of it could not be removed; the turns are still there.

        """
        with self._mutex:
            window_id = self._existing_id(name)
            record = self._inventory.window(window_id)
            if record.problem:
                raise FormatError(self._windows / window_id, record.problem)
            if self._order.is_held(window_id):
                raise BusyError(f'window {name!r} is open', hint='leave it first')
            before = self.window(name)
            assert manifest is None or manifest.num_turns <= min(gone)
            if manifest is not None:
                self.commit_window(manifest)
            self._remove_traces(window_id, before.manifest)
            turns = [turn for number, turn in enumerate(before.turns) if number not in gone]
            self._rewrite_log(window_id, name, turns)
            self._save_state()

    def _remove_traces(self, window_id: str, before: Manifest | None) -> None:
        """Remove what is left of KV and tokens that the window does not have any more."""
        current = self._inventory.window(window_id).chunks
        dropped = {entry.file_name for entry in before.chunks} if before else set()
        if before is not None:  # also what a freeze wrote that was cut off
            ids = self.chunk_ids(before.identity, before.tokens, before.chunk_tokens)
            named = {chunk_id.hex() for chunk_id in ids}
            dropped |= {n for n in self._inventory.sizes if n.partition('.')[0] in named}
        dropped -= set(current)
        unused = {chunk for chunk in dropped if not self._inventory.users(chunk)}
        self._fresh -= unused
        unused |= set(self._inventory.orphans(keep=self._fresh))
        remove_chunks(self._chunks, unused, self._inventory)
        left = [chunk for chunk in unused if files.exists(self._chunks / chunk)]
        if left:
            raise StorageError(f'{self._chunks / left[0]}: cannot be removed', hint='see the log')
        for kept_name in kept(self._quarantine):
            chunk = kept_name.partition('-')[2]
            if chunk.startswith(window_id) or (
                chunkfile.is_chunk_name(chunk) and not self._inventory.users(chunk)
            ):
                files.unlink(self._quarantine / kept_name)
        # Its rows name chunks, and so do rows that it does not hold any more.
        files.unlink(self._folder / 'catalog.sqlite')
        # Durably, and before the log decides: a power cut must not bring back what it forgets.
        for folder in (self._chunks, self._quarantine, self._folder):
            if files.check_folder(folder):
                files.sync_folder(folder)

    def _rewrite_log(self, window_id: str, name: str, turns: Sequence[Turn]) -> None:
        header = turnlog.pack_header(name, bytes.fromhex(window_id))
        records = turnlog.pack_each(turns, first_sequence=0)
        data = self.seal.begin_log(window_id, header, records)
        path = self._windows / (window_id + LOG_SUFFIX)
        files.write_file(path, [data])
        record = replace(
            self._inventory.window(window_id),
            log_turns=len(turns),
            log_bytes=len(data),
            log_stamp=files.stamp(path),
        )
        self._inventory.put_window(window_id, record)
        self._synced_logs.add(window_id)
        self._state.add_written(self._clock(), len(data))
