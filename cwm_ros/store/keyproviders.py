# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Who keeps the keys of encrypted profiles.

`file` is built in. A package that has a TPM or OP-TEE behind it offers a provider in the entry
point group `cwm_ros.key_providers`: a callable that takes `PrivacySettings` and returns a
`KeyProvider`. See docs/privacy.md.
"""

from __future__ import annotations

from importlib.metadata import entry_points
import os
from typing import cast, Protocol, TYPE_CHECKING

from cwm_ros.errors import ConfigError, KeyMissingError
from cwm_ros.store import files, layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cwm_ros.config_privacy import PrivacySettings

ENTRY_POINTS = 'cwm_ros.key_providers'
MAX_KEY_FILE_BYTES = 4096
MAX_PROVIDER_NAME = 16


class KeyProvider(Protocol):
    """Keeps keys of 32 bytes under ids of 32 hexadecimal digits, outside the store."""

    def create(self, key_id: str) -> bytes:
        """Make a random key and keep it, durably on return."""
        ...

    def load(self, key_id: str) -> bytes:
        """Return a key; raise a `KeyMissingError` that says why not."""
        ...

    def destroy(self, key_id: str) -> bool:
        """Make a key impossible to load again, durably on return; say whether it was there."""
        ...


class FileKeys:
    """
    Keys in files that only the owner may read.

    They lie on a drive like the store: whoever takes both can read the profile. What this gives
    is erasure: without this small file, no copy of the store can be read.

    Parameters
    ----------
    folder
        Outside the store; made when needed.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, key_id: str) -> Path:
        return self._folder / f'{key_id}.key'

    def create(self, key_id: str) -> bytes:
        files.make_folder(self._folder)
        key = os.urandom(layout.KEY_BYTES)
        files.write_file(self._path(key_id), [layout.pack_key(key)])
        return key

    def load(self, key_id: str) -> bytes:
        path = self._path(key_id)
        try:
            if not files.is_private(path):
                raise KeyMissingError(
                    f'{path}: others than its owner may read it, so it is not used',
                    hint='chmod 600 the file, and find out who could read it',
                )
            data = files.read_file(path, limit_bytes=MAX_KEY_FILE_BYTES)
        except FileNotFoundError:
            raise KeyMissingError(
                f'{path}: the key of this profile is not there',
                hint='restore it from a backup, or set privacy.key_dir; if it was erased, '
                'nothing can be read again',
            ) from None
        return layout.unpack_key(path, data)

    def destroy(self, key_id: str) -> bool:
        return files.wipe(self._path(key_id))


def open_provider(name: str, privacy: PrivacySettings, root: Path) -> KeyProvider:
    """
    Return a provider by its name.

    Parameters
    ----------
    name
        'file', or one that an installed package offers.
    privacy
        Where `file` has its keys; given to the others, too.
    root
        The store, in which no key may lie.

    Raises
    ------
    KeyMissingError
        There is no such provider here.
    ConfigError
        ``privacy.key_dir`` lies in the store.

    """
    if name == 'file':
        folder = privacy.key_path.resolve()
        if folder.is_relative_to(root.resolve()):
            raise ConfigError(
                f'privacy.key_dir is {folder}, inside the store {root}',
                hint='keep keys elsewhere: they must not be copied with the store',
            )
        return FileKeys(folder)
    offered = [entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == name]
    if len(name) > MAX_PROVIDER_NAME or not name.isascii() or not offered:
        raise KeyMissingError(
            f'privacy: key provider {name!r} is not available here',
            hint=f'install the package that offers it (entry points {ENTRY_POINTS}), or use file',
        )
    try:
        make = cast('Callable[[PrivacySettings], KeyProvider]', offered[0].load())
        return make(privacy)
    except (ImportError, AttributeError, OSError) as exc:
        raise KeyMissingError(
            f'privacy: key provider {name!r} cannot be used: {exc}',
            hint='check its package and its device',
        ) from exc
