# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What readers of a profile can do: they need neither a lock nor write access."""

from __future__ import annotations

from dataclasses import dataclass
import logging
from operator import attrgetter
import threading
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import (
    ConfigError,
    FormatError,
    FormatTooNewError,
    KeyMissingError,
    NotFoundError,
)
from cwm_ros.store import chunkfile, files, keyring, layout
from cwm_ros.store.catalog import (
    check_pair,
    GONE_SUFFIX,
    load_catalog,
    LOG_SUFFIX,
    MANIFEST_SUFFIX,
    read_log,
    read_manifest,
    scan_windows,
)
from cwm_ros.store.inventory import Inventory, WindowInfo
from cwm_ros.store.listing import Listing
from cwm_ros.store.quarantine import kept
from cwm_ros.store.quota import Room, StorageReport
from cwm_ros.store.state import load_state, State
from cwm_ros.store.verify import (
    PayloadChecker,
    read_chunk_file,
    read_entry,
    Verifier,
    VerifyReport,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import numpy.typing as npt

    from cwm_ros.config import StorageSettings
    from cwm_ros.config_privacy import PrivacySettings
    from cwm_ros.kv import ChunkId, ModelIdentity, TokenArray, Turn
    from cwm_ros.store.manifest import ChunkEntry, Manifest
    from cwm_ros.store.seal import Seal

READ_ATTEMPTS = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """
    A window as it was committed last.

    Parameters
    ----------
    name
        Its name.
    manifest
        None when there are only turns.
    turns
        All turns of the log; the manifest covers the first ``manifest.num_turns``.

    """

    name: str
    manifest: Manifest | None
    turns: tuple[Turn, ...]


class ProfileReader:
    """
    The windows of one profile, for reading.

    Methods may be called from any thread.

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
        # A linked root is the owner's choice; below it no link is followed.
        root = settings.root.resolve()
        if files.is_other_than_folder(root) or files.is_other_than_folder(root.parent):
            raise ConfigError(f'{root}: is not a folder', hint='name a folder with --store')
        self._folder = root / 'profiles' / layout.check_name('profile', profile)
        self._windows = self._folder / 'windows'
        self._chunks = self._folder / 'chunks'
        self._quarantine = self._folder / 'quarantine'
        self._clock = clock
        self._is_writable = False
        self._mutex = threading.RLock()
        self._privacy = privacy
        self._seal: Seal | None = None
        self._state = State()
        self._inventory = Inventory()
        self._listing = Listing(self._folder)
        self._info_of: dict[str, WindowInfo] = {}
        self._infos: list[WindowInfo] = []
        self._pins_listed: set[str] = set()
        self._fresh: set[str] = set()
        self._room = Room(settings, root, self._folder)

    def _load_key(self) -> None:
        for folder in (self._folder, self._windows, self._chunks):
            files.check_folder(folder)
        if self._seal is not None:
            return
        path = self._folder / 'key'
        try:
            self._seal = keyring.open_seal(path, self._privacy)
        except FileNotFoundError:
            self._seal = None
            if files.list_sizes(self._windows):
                raise KeyMissingError(
                    f'{path}: is missing, and names the windows that are there',
                    hint='restore it from a backup; a new key would hide them',
                ) from None

    @property
    def key(self) -> bytes:
        """The profile's key that names windows and chunks."""
        return self.seal.id_key

    @property
    def seal(self) -> Seal:
        """What stands between the profile's files and the disk."""
        if self._seal is None:
            raise NotFoundError(f'{self._folder}: has no key', hint='open it once for writing')
        return self._seal

    @property
    def is_encrypted(self) -> bool:
        """Whether nothing of the profile can be read without its key."""
        return self._seal is not None and self._seal.is_encrypted

    @property
    def bundle_key(self) -> bytes | None:
        """What encrypts bundles of the profile, 32 bytes; None when it is not encrypted."""
        return self.seal.bundle_key

    def chunk_ids(
        self, identity: ModelIdentity, tokens: TokenArray, chunk_tokens: int
    ) -> list[ChunkId]:
        """Name the chunks of a token sequence in this profile; see `chunkfile.chunk_ids`."""
        return chunkfile.chunk_ids(self.key, identity, tokens, chunk_tokens)

    def chunk_path(self, chunk_id: bytes, codec: str) -> Path:
        """Return where a chunk is, or would be."""
        return self._chunks / chunkfile.file_name(chunk_id, codec)

    def windows(self) -> list[WindowInfo]:
        """Return the inventory by name; what cannot be read is in it, with the reason."""
        with self._mutex:
            if not self._is_writable:
                is_new = self._seal is not None and not self._inventory.records
                listed = self._listing.load(self.seal) if is_new else None
                if listed is not None:
                    return listed
                self._refresh()
            self._renew_infos()
            return list(self._infos)

    def _renew_infos(self) -> None:
        """Make anew only the lines of windows that changed."""
        inventory, pins = self._inventory, self._state.pins
        changed = inventory.changed | (pins ^ self._pins_listed)
        if not changed:
            return
        for window_id in changed:
            self._info_of.pop(window_id, None)
            if window_id in inventory.records:
                is_pinned = window_id in pins
                self._info_of[window_id] = inventory.info(window_id, is_pinned=is_pinned)
        inventory.changed.clear()
        self._pins_listed = set(pins)
        self._infos = sorted(self._info_of.values(), key=attrgetter('name'))

    def _refresh(self) -> None:
        if self._seal is None:
            return
        catalog = self._folder / 'catalog.sqlite'
        known = self._inventory.records or load_catalog(catalog, self._seal)
        records = scan_windows(self._windows, known, self._seal)
        self._inventory.update(records, files.list_sizes(self._chunks))
        self._state = load_state(self._folder / 'state.sqlite', self._seal, writable=False)

    def has_window(self, name: str) -> bool:
        """Say whether a window has turns or a manifest."""
        layout.check_name('window', name)
        if self._seal is None:
            return False
        path = self._windows / layout.window_id(self.key, name)
        if files.exists(path.with_name(path.name + GONE_SUFFIX)):
            return False
        return any(
            files.exists(path.with_name(path.name + s)) for s in (MANIFEST_SUFFIX, LOG_SUFFIX)
        )

    def window(self, name: str) -> Window:
        """
        Read a window.

        Raises
        ------
        NotFoundError
            There is none of this name.
        FormatError
            Its files are damaged, or do not belong together.

        """
        if not self.has_window(name):
            raise NotFoundError(f'window {name!r} does not exist', hint='see cwm list')
        window_id = layout.window_id(self.key, name)
        for attempt in range(READ_ATTEMPTS):
            # The manifest first: a writer makes turns durable before the manifest that covers
            # them. A window deleted and made again between the two reads is read again.
            manifest = read_manifest(self._windows, window_id, self.seal)
            log = read_log(self._windows, window_id, self.seal)
            try:
                if manifest:
                    check_pair(self._windows, window_id, manifest, log)
                break
            except FormatError:
                if attempt == READ_ATTEMPTS - 1:
                    raise
        found = manifest.window if manifest else log.window if log else ''
        if not found:
            raise NotFoundError(f'window {name!r} was deleted just now')
        if found != name:
            raise FormatError(self._windows / window_id, f'is of window {found!r}, not {name!r}')
        return Window(name=name, manifest=manifest, turns=log.turns if log else ())

    def window_or_turns(self, name: str) -> tuple[Window, str]:
        """
        Read a window, or only its turns when its manifest is damaged.

        Returns
        -------
        Window, str
            The window, without a manifest in that case; and what is wrong with that.

        Raises
        ------
        NotFoundError, FormatError
            As `window`; also when turns that the manifest covers are missing.

        """
        try:
            return self.window(name), ''
        except FormatTooNewError:
            raise
        except FormatError:
            problem = self._manifest_problem(name)
            if not problem or not (turns := self.turns(name)):
                raise
        _log.warning('a window is opened from its turns: %s', problem)
        return Window(name=name, manifest=None, turns=turns), problem

    def _manifest_problem(self, name: str) -> str:
        try:
            read_manifest(self._windows, layout.window_id(self.key, name), self.seal)
        except FormatError as exc:
            return str(exc)
        return ''

    def turns(self, name: str) -> tuple[Turn, ...]:
        """Return the turns of a window, whatever has become of its manifest."""
        if not self.has_window(name):
            raise NotFoundError(f'window {name!r} does not exist', hint='see cwm list')
        log = read_log(self._windows, layout.window_id(self.key, name), self.seal)
        return log.turns if log else ()

    def has_chunk(self, chunk_id: ChunkId, codec: str) -> bool:
        """Say whether a chunk is on the disk."""
        return files.exists(self.chunk_path(chunk_id, codec))

    def find_chunk(self, chunk_id: ChunkId, codec: str) -> ChunkEntry | None:
        """Return the table row of a chunk on the disk; None when absent or damaged."""
        try:
            return read_entry(self.chunk_path(chunk_id, codec), chunk_id, codec, self.seal)
        except (FileNotFoundError, FormatError):
            return None

    def read_chunk(
        self,
        manifest: Manifest,
        entry: ChunkEntry,
        buffer: bytearray | memoryview | npt.NDArray[np.uint8],
    ) -> memoryview | None:
        """
        Read a chunk of a window into a buffer that the caller reuses.

        Parameters
        ----------
        manifest, entry
            The window and a row of its table.
        buffer
            Writable, contiguous, at least ``entry.payload_bytes``.

        Returns
        -------
        memoryview or None
            The payload, a view of ``buffer``; None when the chunk was evicted. The payload's
            own checksums are its codec's to check.

        Raises
        ------
        FormatError
            The file is not what the manifest says: the message names the field.

        """
        data = buffer.data if isinstance(buffer, np.ndarray) else buffer
        view = memoryview(data).cast('B')
        if view.readonly or len(view) < entry.payload_bytes:
            raise ConfigError(f'buffer of {len(view)} bytes cannot take {entry.payload_bytes}')
        read = read_chunk_file(self._chunks / entry.file_name, manifest, entry, view, self.seal)
        return None if read is None else read[1]

    def release(self, entries: Iterable[ChunkEntry]) -> None:
        """Let the page cache drop chunks that were read, for the sake of other processes."""
        for entry in entries:
            files.drop_pages(self._chunks / entry.file_name)

    def verify(self, name: str | None, check_payload: PayloadChecker) -> VerifyReport:
        """
        Read every byte of a window, or of all.

        Parameters
        ----------
        name
            The window; None for all of the profile.
        check_payload
            Checks a payload's inside; raises a `CwmError` that names the path.

        """
        if name is not None and not self.has_window(name):
            raise NotFoundError(f'window {name!r} does not exist', hint='see cwm list')
        if self._seal is None:
            return VerifyReport.of_nothing()
        verifier = Verifier(self._windows, self._chunks, self._seal, check_payload)
        if name is None:
            window_ids = list(scan_windows(self._windows, self._inventory.records, self._seal))
        else:
            window_ids = [layout.window_id(self.key, name)]
        for window_id in window_ids:
            verifier.check_window(window_id)
        return verifier.report()

    def storage(self) -> StorageReport:
        """Return room and wear."""
        with self._mutex:
            if not self._is_writable:
                self._refresh()
                self._room.measure_others()
            now = self._clock()
            inventory = self._inventory
            largest = max(inventory.sizes.values(), default=0)
            garbage = inventory.orphans(keep=self._fresh)
            garbage_bytes = sum(inventory.sizes[chunk] for chunk in garbage)
            own = inventory.num_bytes
            missing, _ = self._room.shortage(own - garbage_bytes, largest, for_chunks=True)
            return StorageReport(
                used_bytes=self._room.used(own),
                quota_bytes=self._room.quota_bytes,
                garbage_bytes=garbage_bytes,
                device_free_bytes=files.free_bytes(self._folder),
                written_today_bytes=self._state.written_today(now),
                daily_budget_bytes=self._room.daily_budget_bytes,
                lifetime_bytes=sum(self._state.written.values()),
                evictions=self._state.evictions,
                quarantine_bytes=sum(kept(self._quarantine).values()),
                can_store=not missing,
            )
