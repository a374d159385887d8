# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What a bundle and a window have in common; the layout is in docs/format-bundle.md.

`bundle_export` writes one, `bundle_import` makes a window from one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cwm_ros.proof import pack_samples, unpack_samples
from cwm_ros.store import ChunkHeader
from cwm_ros.store.manifest import ids_of, USABLE_PRIORITY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cwm_ros.store import ChunkEntry, Manifest


def with_key(manifest: Manifest, key: bytes) -> Manifest:
    """Return a manifest whose chunks, and their samples, are named under another key."""
    names = dict(zip((e.id for e in manifest.chunks), ids_of(key, manifest), strict=True))
    samples = unpack_samples(manifest.samples, manifest.spec)
    renamed = {names[old]: row for old, row in samples.items() if old in names}
    return replace(
        manifest,
        chunks=tuple(replace(entry, id=names[entry.id]) for entry in manifest.chunks),
        samples=pack_samples(renamed),
    )


def in_order(entries: Sequence[ChunkEntry]) -> list[ChunkEntry]:
    """Return chunks in the order of a bundle: what makes it usable, then the newest first."""
    return sorted(entries, key=lambda e: (e.priority != USABLE_PRIORITY, e.priority, -e.start))


def header_of(manifest: Manifest, entry: ChunkEntry) -> ChunkHeader:
    """Return the header of a chunk's file, as its row and its window say."""
    return ChunkHeader(
        id=entry.id,
        model=manifest.identity.model,
        spec=manifest.spec,
        start=entry.start,
        stop=entry.stop,
        codec=entry.codec,
    )
