# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The profiles of a store: what they are, how one is made, and how one is erased."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cwm_ros.errors import (
    BadNameError,
    CwmError,
    ExistsError,
    FormatError,
    FormatTooNewError,
    KeyMissingError,
    NotFoundError,
)
from cwm_ros.store import files, keyring, layout
from cwm_ros.store.memory import GUEST
from cwm_ros.store.quarantine import kept
from cwm_ros.store.sealedparts import is_sealed
from cwm_ros.store.state import load_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.config_privacy import PrivacySettings

_PARTS = ('windows', 'chunks', 'quarantine')
_DATABASES = ('catalog.sqlite', 'listing', 'state.sqlite')

_log = logging.getLogger(__name__)


class ProfileState(Enum):
    """Whether a profile can be read."""

    READABLE = 'readable'
    KEY_MISSING = 'key missing'
    ERASED = 'erased'
    DAMAGED = 'damaged'


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileInfo:
    """
    A profile of a store.

    Parameters
    ----------
    name
        Its name.
    is_encrypted, key_provider
        Whether nothing in it can be read without its key, and who has that; else empty.
    state
        Whether it can be read here and now.
    windows, bytes
        Windows, and the size of all its files.

    """

    name: str
    is_encrypted: bool
    key_provider: str
    state: ProfileState
    windows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """
    What erasing a profile destroys, and what it cannot.

    Parameters
    ----------
    name, is_encrypted, key_provider
        See `ProfileInfo`.
    windows, bytes
        What goes.
    quarantine_files
        Damaged files that were set aside; they go, too.
    bundles
        Files that bundles were written to: outside the store, they stay where they are. Those of
        an encrypted profile cannot be read any more, the others can.
    is_key_unseen
        Whether the provider does not have the key of an encrypted profile: it was lost, or lies
        where the provider does not look, and reads copies of the profile and its bundles there.
        Before it is done: whether the key cannot be loaded.
    is_done
        Whether it was done, or only told.

    """

    name: str
    is_encrypted: bool
    key_provider: str
    is_key_unseen: bool
    windows: int
    bytes: int
    quarantine_files: int
    bundles: tuple[str, ...]
    is_done: bool


def _folder(root: Path, name: str) -> Path:
    if name == GUEST:
        raise BadNameError('profile', name, hint='guest lives in memory only, and needs no care')
    return root.resolve() / 'profiles' / layout.check_name('profile', name)


def _files_of(folder: Path) -> Iterator[tuple[Path, int]]:
    for part in ('', *_PARTS):
        for name, size in files.list_sizes(folder / part).items():
            yield folder / part / name, size


def _num_windows(folder: Path) -> int:
    return len({Path(name).stem for name in files.list_sizes(folder / 'windows')})


def list_profiles(root: Path, privacy: PrivacySettings) -> list[ProfileInfo]:
    """Return the profiles of a store by name; the files of none are opened but its key's."""
    folder = root.resolve() / 'profiles'
    return [_describe(folder / name, privacy) for name in files.list_folders(folder)]


def _describe(folder: Path, privacy: PrivacySettings) -> ProfileInfo:
    path = folder / 'key'
    state, found = ProfileState.READABLE, None
    try:
        found = keyring.read_key_file(path)
        keyring.open_seal(path, privacy)
    except FileNotFoundError:
        if _num_windows(folder):
            state = ProfileState.KEY_MISSING
    except KeyMissingError:
        state = ProfileState.KEY_MISSING
    except CwmError as exc:
        _log.warning('path=%s problem=%s', path, exc)
        state = ProfileState.DAMAGED
    reference = found if isinstance(found, keyring.KeyReference) else None
    if reference and reference.is_erased:
        state = ProfileState.ERASED
    return ProfileInfo(
        name=folder.name,
        is_encrypted=reference is not None,
        key_provider=reference.provider if reference else '',
        state=state,
        windows=_num_windows(folder),
        bytes=sum(size for _, size in _files_of(folder)),
    )


def create_profile(root: Path, name: str, privacy: PrivacySettings) -> ProfileInfo:
    """
    Make a profile, encrypted as ``privacy.encrypt`` says; an erased one begins anew.

    Raises
    ------
    ExistsError
        There is one of this name.
    BadNameError
        The name is not allowed, or is the guest's.
    KeyMissingError
        There is no such key provider here.

    """
    folder = _folder(root, name)
    for place in (root.resolve(), folder.parent, folder):
        files.make_folder(place)
    with files.writer_lock(folder / 'lock', timeout_s=0):
        try:
            found = keyring.read_key_file(folder / 'key')
        except FileNotFoundError:
            found = None
        is_erased = isinstance(found, keyring.KeyReference) and found.is_erased
        if (found is not None and not is_erased) or _num_windows(folder):
            raise ExistsError(f'profile {name!r} exists', hint='choose another name, or erase it')
        keyring.create_seal(folder / 'key', privacy)
    return _describe(folder, privacy)


def erase_profile(
    root: Path, name: str, privacy: PrivacySettings, *, is_confirmed: bool, lock_timeout_s: float
) -> Erasure:
    """
    Say what erasing a profile means, or do it.

    First the key is destroyed: from then on no copy of the profile can be read, wherever it is.
    Then its files are removed. Of a profile that is not encrypted, files are all there is, and
    what a drive keeps of them is its maker's secret.

    Parameters
    ----------
    root, name, privacy
        Which profile, and where its key is.
    is_confirmed
        Whether to do it.
    lock_timeout_s
        How long to wait for a writer [s].

    Raises
    ------
    NotFoundError
        There is no such profile.
    BusyError
        A process is writing to it.
    KeyMissingError
        The provider of its key is not available here, or the file that says which key it is:
        the key cannot be destroyed, and nothing was.
    FormatTooNewError
        A later version made it.

    """
    folder = _folder(root, name)
    if not files.check_folder(folder):
        raise NotFoundError(f'profile {name!r} does not exist', hint='see cwm profile list')
    with files.writer_lock(folder / 'lock', timeout_s=lock_timeout_s):
        _check_key_is_known(folder)
        info = _describe(folder, privacy)
        erasure = Erasure(
            name=name,
            is_encrypted=info.is_encrypted,
            key_provider=info.key_provider,
            is_key_unseen=info.is_encrypted and info.state is ProfileState.KEY_MISSING,
            windows=info.windows,
            bytes=info.bytes,
            quarantine_files=len(kept(folder / 'quarantine')),
            bundles=_known_bundles(folder, privacy),
            is_done=is_confirmed,
        )
        if is_confirmed:
            is_gone = _erase(folder, privacy, is_encrypted=info.is_encrypted)
            erasure = replace(erasure, is_key_unseen=info.is_encrypted and not is_gone)
    return erasure


def _check_key_is_known(folder: Path) -> None:
    """Refuse an encrypted profile of whose key nobody knows which it is: copies can be read."""
    path = folder / 'key'
    try:
        keyring.read_key_file(path)
    except FormatTooNewError:
        raise
    except (FileNotFoundError, FormatError) as exc:
        if any(is_sealed(file) for file, _ in _files_of(folder)):
            raise KeyMissingError(
                f'{path}: is missing or damaged, and says which key is to be destroyed',
                hint='restore it from a backup, or destroy the key where it is kept and remove '
                'the folder',
            ) from exc


def _known_bundles(folder: Path, privacy: PrivacySettings) -> tuple[str, ...]:
    try:
        seal = keyring.open_seal(folder / 'key', privacy)
    except (FileNotFoundError, CwmError):
        return ()
    state = load_state(folder / 'state.sqlite', seal, writable=False)
    return tuple(sorted(state.exports))


def _erase(folder: Path, privacy: PrivacySettings, *, is_encrypted: bool) -> bool:
    """Remove the key, then the files; say whether the key is gone for certain."""
    if is_encrypted:
        is_gone = keyring.destroy_key(folder / 'key', privacy)
    else:
        is_gone = files.wipe(folder / 'key')
    for part in _PARTS:
        files.remove_tree(folder / part)
    for name in files.list_sizes(folder):
        if name.startswith(_DATABASES):
            files.unlink(folder / name)
    files.sync_folder(folder)
    if not is_encrypted:
        files.remove_tree(folder)
    return is_gone
