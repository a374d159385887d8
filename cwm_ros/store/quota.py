# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Room: the quota of the store, and what must stay free on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cwm_ros.config import MIB
from cwm_ros.errors import QuotaError
from cwm_ros.store import files

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.config import StorageSettings

RESERVED_SHARE = 32
"""KV is a cache, turns are not: chunks leave 1/32 of the quota to turns and manifests."""


def chunk_room_bytes(quota_bytes: int) -> int:
    """Return the part of a quota that chunks may take."""
    return quota_bytes - quota_bytes // RESERVED_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageReport:
    """
    Room and wear.

    Parameters
    ----------
    used_bytes, quota_bytes
        Chunks, manifests and logs of all profiles, each chunk counted once, and their limit.
    garbage_bytes
        Part of ``used_bytes`` in chunks that no window needs; collected when room is short.
    device_free_bytes
        What is free on the device.
    written_today_bytes, daily_budget_bytes, lifetime_bytes
        What the store wrote in this profile, what it may write in a day (0: no limit), and what
        it wrote in all.
    evictions
        Chunks that were removed to make room in this profile, in all.
    quarantine_bytes
        Damaged files that were set aside; not part of the quota, for they have a bound.
    can_store
        Whether another full chunk of the size of the largest one may be written without
        evicting any.

    """

    used_bytes: int
    quota_bytes: int
    garbage_bytes: int
    device_free_bytes: int
    written_today_bytes: int
    daily_budget_bytes: int
    lifetime_bytes: int
    evictions: int
    quarantine_bytes: int
    can_store: bool


class Room:
    """
    What may still be written.

    Parameters
    ----------
    settings
        The limits.
    root, folder
        The store, and the profile in it.

    """

    def __init__(self, settings: StorageSettings, root: Path, folder: Path) -> None:
        self.daily_budget_bytes = settings.daily_budget_mib * MIB
        self._root = root
        self._folder = folder
        self._floor_bytes = settings.free_floor_mib * MIB
        self._others_bytes = 0
        self.quota_bytes = settings.quota_mib * MIB

    def measure_others(self) -> int:
        """Measure the other profiles, which share the quota; return their size [bytes]."""
        self._others_bytes = 0
        for profile in files.list_folders(self._root / 'profiles'):
            if profile != self._folder.name:
                for name in ('windows', 'chunks'):
                    sizes = files.list_sizes(self._root / 'profiles' / profile / name)
                    self._others_bytes += sum(sizes.values())
        return self._others_bytes

    def shortage(self, own_bytes: int, new_bytes: int, *, for_chunks: bool) -> tuple[int, str]:
        """
        Say what is in the way of writing.

        Parameters
        ----------
        own_bytes
            What this profile holds.
        new_bytes
            What is to be written.
        for_chunks
            Whether it is KV, for which the free floor and the reserve hold too.

        Returns
        -------
        int, str
            How many bytes have to go, and the figures; 0 and empty when there is room.

        """
        quota = self.quota_bytes
        limit = chunk_room_bytes(quota) if for_chunks else quota
        used = self._others_bytes + own_bytes
        missing, reason = used + new_bytes - limit, ''
        if missing > 0:
            reason = f'{used} bytes are used, {new_bytes} more exceed {limit} of the quota {quota}'
        if for_chunks:
            free = files.free_bytes(self._folder)
            if self._floor_bytes + new_bytes - free > max(missing, 0):
                missing = self._floor_bytes + new_bytes - free
                reason = (
                    f'{free} bytes are free on the device, {new_bytes} more leave less than the '
                    f'floor {self._floor_bytes}'
                )
        return max(missing, 0), reason

    def refusal(self, reason: str) -> QuotaError:
        """Return the error that says so."""
        return QuotaError(
            f'{self._root}: {reason}',
            hint='unpin or delete windows, raise storage.quota_mib, or free room on the device',
        )

    def used(self, own_bytes: int) -> int:
        """Return the bytes of all profiles."""
        return self._others_bytes + own_bytes
