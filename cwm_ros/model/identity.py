# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint is, so that KV and tokens of another one are never taken for its own."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, MISSING
import hashlib
import json
from typing import TYPE_CHECKING

from cwm_ros.errors import ModelError
from cwm_ros.kv import ModelIdentity
from cwm_ros.model.weights import weight_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cwm_ros.model.spec import ModelSpec

KV_LAYOUT = 'L,2,H,T,D keys-after-rope v1'
DIGEST_BYTES = 32
READ_BYTES = 1 << 22
SAMPLE_BYTES = 4096
NUM_SAMPLES = 16
RENDERING_FILES = ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja')
SIDECAR_FOLDER = 'identity'


def model_identity(
    folder: Path, spec: ModelSpec, name: str, cache: Path, coding: str = ''
) -> ModelIdentity:
    """
    Return the identity of a checkpoint.

    Parameters
    ----------
    folder, spec, name
        The checkpoint, its blocks, and what people call it.
    cache
        Where digests are kept.
    coding
        How weights are coded; empty for floating-point numbers, whatever their width. Coded
        weights are other weights, and KV of them is other KV.

    Hashing the weights takes a second for each gigabyte, so the digest is kept in ``cache`` and
    used again while name, size, time and sampled pages of every weight file are the same.

    Raises
    ------
    ModelError
        A file is missing or cannot be read.

    """
    files = weight_files(folder)
    try:
        stamp = _stamp(files)
        sidecar = cache / SIDECAR_FOLDER / f'{_digest([str(folder.resolve())]).hex()[:32]}.json'
        weights = _read_sidecar(sidecar, stamp)
        if weights is None:
            weights = _hash_files(files)
            _write_sidecar(sidecar, stamp, weights)
        rendering = _hash_rendering(folder)
    except OSError as exc:
        raise ModelError(
            f'{exc.filename}: cannot be read: {exc.strerror}', hint='check the drive'
        ) from exc
    described = json.dumps(_described(spec), sort_keys=True)
    parts = [weights.hex(), described, KV_LAYOUT, *([coding] if coding else [])]
    return ModelIdentity(model=_digest(parts), rendering=rendering, name=name)


def _described(value: object) -> object:
    """
    Return a description's fields, without those at their default.

    So a field that a new family brings leaves the identity of all other models as it is.
    """
    if not is_dataclass(value):
        return value
    own = {field.name: (getattr(value, field.name), field.default) for field in fields(value)}
    return {
        name: _described(content)
        for name, (content, default) in own.items()
        if default is MISSING or content != default
    }


def _digest(parts: Sequence[str]) -> bytes:
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        encoded = part.encode('utf-8', 'surrogateescape')
        hasher.update(len(encoded).to_bytes(8, 'little') + encoded)
    return hasher.digest()


def _hash_files(files: Sequence[Path]) -> bytes:
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for path in files:
        hasher.update(path.stat().st_size.to_bytes(8, 'little'))
        with path.open('rb') as file:
            while piece := file.read(READ_BYTES):
                hasher.update(piece)
    return hasher.digest()


def _hash_rendering(folder: Path) -> bytes:
    """Hash what decides the token ids of a conversation; a missing file counts as empty."""
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in RENDERING_FILES:
        path = folder / name
        content = path.read_bytes() if path.exists() else b''
        hasher.update(len(content).to_bytes(8, 'little') + content)
    return hasher.digest()


def _stamp(files: Sequence[Path]) -> str:
    """Describe the files cheaply: name, size, time, and a digest of the header and 16 pages."""
    parts = []
    for path in files:
        status = path.stat()
        hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
        with path.open('rb') as file:
            for index in range(NUM_SAMPLES):
                file.seek(status.st_size * index // NUM_SAMPLES)
                hasher.update(file.read(SAMPLE_BYTES))
        parts.append(f'{path.name} {status.st_size} {status.st_mtime_ns} {hasher.hexdigest()}')
    return '\n'.join(parts)


def _read_sidecar(path: Path, stamp: str) -> bytes | None:
    try:
        stored = json.loads(path.read_text(encoding='utf-8'))
        if stored['stamp'] != stamp:
            return None
        weights = bytes.fromhex(stored['weights'])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return weights if len(weights) == DIGEST_BYTES else None


def _write_sidecar(path: Path, stamp: str, weights: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps({'stamp': stamp, 'weights': weights.hex()}), encoding='utf-8')
    temporary.replace(path)
