# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
From a profile's `key` file to its `Seal`.

A profile that is not encrypted keeps its key there; an encrypted one keeps only what the key is
called and who has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import hmac
import os
import struct
from typing import TYPE_CHECKING

from cwm_ros.errors import FormatError, FormatTooNewError, KeyMissingError
from cwm_ros.store import crypto, files, layout
from cwm_ros.store.aesseal import AesSeal
from cwm_ros.store.coredump import forbid_core_dumps
from cwm_ros.store.keyproviders import open_provider
from cwm_ros.store.seal import Seal

if TYPE_CHECKING:
    from pathlib import Path

    from cwm_ros.config_privacy import PrivacySettings

MAX_KEY_FILE_BYTES = 4096
PROVIDER_BYTES = 16

_KEY = struct.Struct('<8sHHI16s16s16s')
_CHECKSUM = struct.Struct('<Q')
_PLAIN, _REFERENCE, _ERASED = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReference:
    """
    Who has the key of an encrypted profile.

    Parameters
    ----------
    key_id
        What the provider calls it: 16 random bytes, also the salt of all subkeys.
    check
        16 bytes that the right key gives again.
    provider
        Name of the provider.
    is_erased
        Whether the key was destroyed on purpose.

    """

    key_id: bytes
    check: bytes
    provider: str
    is_erased: bool = False


def pack_reference(reference: KeyReference) -> bytes:
    """Return the content of an encrypted profile's key file."""
    kind = _ERASED if reference.is_erased else _REFERENCE
    body = _KEY.pack(
        layout.KEY_MAGIC, layout.FORMAT_VERSION, kind, 0,
        reference.key_id, reference.check, reference.provider.encode('ascii'),
    )  # fmt: skip
    return body + _CHECKSUM.pack(layout.checksum(body))


def read_key_file(path: Path) -> bytes | KeyReference:
    """
    Return a profile's key, or who has it.

    Raises
    ------
    FileNotFoundError
        There is none.
    FormatError
        It is damaged.

    """
    data = files.read_file(path, limit_bytes=MAX_KEY_FILE_BYTES)
    kind = int.from_bytes(data[10:12], 'little')
    if len(data) != _KEY.size + _CHECKSUM.size or kind == _PLAIN:
        return layout.unpack_key(path, data)
    magic, version, kind, zero, key_id, check, provider = _KEY.unpack_from(data)
    layout.check_magic(path, magic, layout.KEY_MAGIC, version)
    if _CHECKSUM.unpack_from(data, _KEY.size)[0] != layout.checksum(data[: _KEY.size]):
        raise FormatError(path, 'checksum does not match', hint='restore the file from a backup')
    if zero or kind not in (_REFERENCE, _ERASED):
        raise FormatTooNewError(path, f'kind of key is {kind}, this package reads 0 to 2')
    try:
        name = provider.rstrip(b'\0').decode('ascii')
    except UnicodeDecodeError as exc:
        raise FormatError(path, 'provider is not ASCII') from exc
    return KeyReference(key_id=key_id, check=check, provider=name, is_erased=kind == _ERASED)


def open_seal(path: Path, privacy: PrivacySettings) -> Seal:
    """
    Return the seal of the profile whose key file is at ``path``.

    Raises
    ------
    FileNotFoundError
        There is no key file.
    KeyMissingError
        The profile is encrypted, and its key was erased, is not there, or is another's.

    """
    found = read_key_file(path)
    if isinstance(found, bytes):
        return Seal(found)
    if found.is_erased:
        raise KeyMissingError(
            f'{path.parent}: the key of this profile was erased; nothing in it can be read again',
            hint='begin it anew with cwm profile create',
        )
    provider = open_provider(found.provider, privacy, path.parent.parent.parent)
    secret = provider.load(found.key_id.hex())
    if not hmac.compare_digest(_check_of(secret, found.key_id), found.check):
        raise KeyMissingError(
            f'{path.parent}: what {found.provider!r} holds is not the key of this profile',
            hint='restore the key of this profile from a backup',
        )
    return _seal_of(secret, found.key_id)


def create_seal(path: Path, privacy: PrivacySettings) -> Seal:
    """Make a profile's key, and the key file at ``path``; encrypted as the settings say."""
    if not privacy.encrypt:
        key = os.urandom(layout.KEY_BYTES)
        files.write_file(path, [layout.pack_key(key)])
        return Seal(key)
    provider = open_provider(privacy.key_provider, privacy, path.parent.parent.parent)
    key_id = os.urandom(layout.ID_BYTES)
    secret = provider.create(key_id.hex())
    reference = KeyReference(
        key_id=key_id, check=_check_of(secret, key_id), provider=privacy.key_provider
    )
    files.write_file(path, [pack_reference(reference)])
    return _seal_of(secret, key_id)


def passing_seal() -> Seal:
    """Return the seal of a profile whose key is kept nowhere but in this process."""
    return _seal_of(os.urandom(crypto.KEY_BYTES), os.urandom(layout.ID_BYTES))


def destroy_key(path: Path, privacy: PrivacySettings) -> bool:
    """
    Destroy the key of the encrypted profile whose key file is at ``path``, for good.

    Returns
    -------
    bool
        Whether it is gone for certain, now or by an erasure before. False where the provider did
        not have it: it was lost, or lies where the provider does not look.

    """
    found = read_key_file(path)
    assert isinstance(found, KeyReference)
    if found.is_erased:
        return True
    provider = open_provider(found.provider, privacy, path.parent.parent.parent)
    was_there = provider.destroy(found.key_id.hex())
    files.write_file(path, [pack_reference(replace(found, is_erased=True))])
    return was_there


def _check_of(secret: bytes, key_id: bytes) -> bytes:
    return crypto.derive_key(secret, key_id, 'check')[: layout.ID_BYTES]


def _seal_of(secret: bytes, key_id: bytes) -> Seal:
    forbid_core_dumps()
    ids, contents, bundles = (
        crypto.derive_key(secret, key_id, purpose) for purpose in ('ids', 'files', 'bundles')
    )
    return AesSeal(ids, contents, bundles)
