# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The store's one door to cryptography: AES-256-GCM (NIST SP 800-38D) and HKDF-SHA256 (RFC 5869).

What the bytes mean is in docs/format.md; nothing here knows of files.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16

Bytes = bytes | bytearray | memoryview


def derive_key(secret: bytes, salt: bytes, purpose: str) -> bytes:
    """
    Return a key of 32 bytes for one purpose.

    Parameters
    ----------
    secret
        The profile's key, 32 bytes, of which this reveals nothing.
    salt
        The profile's key id, 16 bytes.
    purpose
        ASCII; another purpose gives an unrelated key.

    """
    info = f'cwm {purpose}'.encode('ascii')
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)


@dataclass(frozen=True, slots=True)
class Sealed:
    """
    A ciphertext.

    Parameters
    ----------
    tag
        16 bytes that prove nonce, ciphertext and associated data.
    data
        As long as the plaintext.

    """

    tag: bytes
    data: Bytes


class Aead:
    """
    AES-256-GCM under one key.

    Parameters
    ----------
    key
        32 bytes. No two messages may have the same nonce under it: with random ones, it may
        serve 2^32 messages (SP 800-38D, 8.3).

    """

    def __init__(self, key: bytes) -> None:
        self._aes = AES(key)
        self._small = AESGCM(key)

    def seal(self, nonce: bytes, data: Bytes, associated: bytes) -> Sealed:
        """Encrypt a small message into memory of its own."""
        both = self._small.encrypt(nonce, data, associated)
        return Sealed(both[-TAG_BYTES:], both[:-TAG_BYTES])

    def open(self, nonce: bytes, sealed: Sealed, associated: bytes) -> bytes | None:
        """Decrypt a small message; None when anything about it is not as it was sealed."""
        try:
            return self._small.decrypt(nonce, bytes(sealed.data) + sealed.tag, associated)
        except InvalidTag:
            return None

    def seal_into(self, nonce: bytes, data: Bytes, associated: bytes, out: memoryview) -> bytes:
        """Encrypt a large message into ``out``, of its size; return the tag."""
        context = Cipher(self._aes, GCM(nonce)).encryptor()
        context.authenticate_additional_data(associated)
        _update(context, data, out)
        context.finalize()
        return context.tag

    def open_in_place(self, nonce: bytes, tag: bytes, associated: bytes, data: memoryview) -> bool:
        """
        Decrypt a large message where it lies.

        Returns
        -------
        bool
            Whether it is authentic; if not, ``data`` holds nothing that may be used.

        """
        context = Cipher(self._aes, GCM(nonce, tag)).decryptor()
        context.authenticate_additional_data(associated)
        _update(context, data, data)
        try:
            context.finalize()
        except InvalidTag:
            return False
        return True


def _update(context: CipherContext, data: Bytes, out: memoryview) -> None:
    count = context.update_into(data, out)
    assert count == len(data)
