# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a window that stayed in memory is still what was frozen, as after a suspend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cwm_ros.errors import RestoreNotEffectiveError
from cwm_ros.probe import end_of, EndProbe

if TYPE_CHECKING:
    from cwm_ros.live import LiveWindow
    from cwm_ros.loaded import LoadedModel


def recheck(live: LiveWindow, model: LoadedModel) -> str:
    """
    Compare the end of a live window with the probe of its last freeze; see `Manager.recheck`.

    It is the proof that ends a thaw, with the same limit: one step of the model.
    """
    manifest, session, engine = live.manifest, live.session, model.engine
    if manifest is None or manifest.identity.model != engine.identity.model:
        return 'it cannot be checked: this model has not frozen it'
    tokens = session.tokens
    probe = EndProbe(manifest.probe, tokens, engine.vocab_size, model.checkpoint.card.codec_kl)
    if not probe.can_tell:
        return f'it cannot be checked: {probe.problem}'
    if any(session.unsound().overlap(0, end_of(manifest.chunks))):
        return 'it cannot be checked before all of it is there'
    codecs = frozenset(entry.codec for entry in manifest.chunks)
    divergence, limit = probe.compare(engine, codecs)
    figures = f'{divergence:.2g} nats from the probe, {limit:.2g} allowed'
    if divergence > limit:
        session.drop(0, session.num_tokens)
        raise RestoreNotEffectiveError(
            f'what memory kept of window {live.name!r} has no effect: it is {figures}',
            hint='it is thawed anew; look at the memory',
        )
    return f'the end is {figures}'
