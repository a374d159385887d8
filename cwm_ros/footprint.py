# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether what is configured fits together: a full window, the quota and the daily budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cwm_ros.codec import codec_named, max_payload_bytes
from cwm_ros.config import MIB
from cwm_ros.errors import ConfigError
from cwm_ros.store import chunk_room_bytes

if TYPE_CHECKING:
    from cwm_ros.config import Settings
    from cwm_ros.kv import KVSpec

TOKEN_BYTES = 4


def full_window_bytes(settings: Settings, spec: KVSpec) -> int:
    """Return most bytes of chunks and token ids that a window of the whole context takes."""
    num_tokens = settings.engine.context_tokens or spec.max_tokens
    size = settings.codec.chunk_tokens
    num_chunks = -(-num_tokens // size)
    payload = max_payload_bytes(spec, size, codec_named(settings.codec.kind))
    return num_chunks * (payload + TOKEN_BYTES * size) + TOKEN_BYTES * num_tokens


def saved_bytes(settings: Settings, spec: KVSpec, num_tokens: int) -> int:
    """Return most bytes of chunks and token ids that so many tokens take."""
    size = settings.codec.chunk_tokens
    payload = max_payload_bytes(spec, size, codec_named(settings.codec.kind))
    return num_tokens * payload // size + 2 * TOKEN_BYTES * num_tokens


def check_footprint(settings: Settings, spec: KVSpec) -> None:
    """
    Refuse a quota or a daily budget in which not even one full window of the model has room.

    Raises
    ------
    ConfigError
        The parameter, what it is, and what it must be.

    """
    needed = full_window_bytes(settings, spec)
    least = -(-needed // MIB)
    if chunk_room_bytes(settings.storage.quota_mib * MIB) < needed:
        least_quota = needed * 32 // 31 // MIB + 1
        raise ConfigError(
            f'storage.quota_mib is {settings.storage.quota_mib}, a full window of this model '
            f'takes up to {least} MiB',
            hint=f'set it to {least_quota} or more, or lower engine.context_tokens',
        )
    if 0 < settings.storage.daily_budget_mib * MIB < needed:
        raise ConfigError(
            f'storage.daily_budget_mib is {settings.storage.daily_budget_mib}, a full window of '
            f'this model takes up to {least} MiB',
            hint=f'set it to {least} or more, to 0 for no limit, or lower engine.context_tokens',
        )
