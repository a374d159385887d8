# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a freeze writes down so that the next thaw can prove itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.probe import digest_of, end_of, pack_probe, take_probe, unpack_probe
from cwm_ros.proof import mixing_weights, pack_samples, sample, sample_positions, unpack_samples

if TYPE_CHECKING:
    from cwm_ros.kv import ChunkId, FloatArray, TokenRanges
    from cwm_ros.session import Session
    from cwm_ros.store import Manifest


def testify(manifest: Manifest, session: Session, known: Manifest | None, count: int) -> Manifest:
    """
    Return a manifest with samples of its chunks and a probe of its end.

    What an earlier manifest says of the same chunks and the same end is kept; the rest is taken
    from the engine, as far as it is sound there.

    Parameters
    ----------
    manifest
        About to be committed.
    session
        What it is made of.
    known
        The window's manifest as it was committed last.
    count
        How many tokens of each chunk; 0 for no proof.

    """
    if not count:
        return manifest
    unsound = session.unsound()
    samples = unpack_samples(known.samples, known.spec) if known else {}
    return replace(
        manifest,
        samples=pack_samples(_samples(manifest, session, samples, unsound, count)),
        probe=_probe(manifest, session, known, unsound),
    )


def _samples(
    manifest: Manifest,
    session: Session,
    known: dict[ChunkId, FloatArray],
    unsound: TokenRanges,
    count: int,
) -> dict[ChunkId, FloatArray]:
    engine, weights = session.engine, mixing_weights(manifest.spec)
    samples = {}
    for entry in manifest.chunks:
        if entry.id in known:
            samples[entry.id] = known[entry.id]
        elif not any(unsound.overlap(entry.start, entry.stop)):
            local = sample_positions(entry.start, entry.stop, count) - entry.start
            kv = engine.export_kv(entry.start, entry.stop).kv
            samples[entry.id] = sample(kv[:, :, :, local].astype(np.float32), weights)
    return samples


def _probe(
    manifest: Manifest, session: Session, known: Manifest | None, unsound: TokenRanges
) -> bytes:
    stop = end_of(manifest.chunks)
    if not stop:
        return b''
    if known is not None and known.identity.model == manifest.identity.model:
        before = unpack_probe(known.probe, session.engine.vocab_size)
        same = digest_of(manifest.tokens[:stop])
        if not isinstance(before, str) and (before.stop, before.digest) == (stop, same):
            return known.probe
    if any(unsound.overlap(0, stop)):
        return b''
    return pack_probe(take_probe(session.engine, manifest.tokens, stop))


def foresee(session: Session, known: Manifest | None, count: int) -> bytes:
    """
    Return the probe that the next final freeze will ask for; empty when it cannot be taken now.

    It costs a step of the model over the whole context, which the end of a drive has no time for.
    """
    stop = session.num_tokens
    if not count or not stop or any(session.unsound().overlap(0, stop)):
        return b''
    if known is not None and known.identity.model == session.engine.identity.model:
        before = unpack_probe(known.probe, session.engine.vocab_size)
        same = digest_of(session.tokens[:stop])
        if not isinstance(before, str) and (before.stop, before.digest) == (stop, same):
            return known.probe
    return pack_probe(take_probe(session.engine, session.tokens, stop))
