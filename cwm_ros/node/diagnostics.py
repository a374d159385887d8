# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node's health for /diagnostics: engine, store, thaw, power."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from cwm_ros.node.state import Phase
from cwm_ros.power import Policy

if TYPE_CHECKING:
    from std_msgs.msg import Header

    from cwm_ros.node.state import Snapshot

NEARLY_FULL = 0.95


def diagnose(now: Snapshot, name: str, header: Header) -> DiagnosticArray:
    """Return the status of the four parts."""
    parts = (
        ('Engine', _engine(now)),
        ('Store', _store(now)),
        ('Thaw', _thaw(now)),
        ('Power', _power(now)),
    )
    return DiagnosticArray(
        header=header,
        status=[
            DiagnosticStatus(
                level=level,
                name=f'{name}: {part}',
                hardware_id='cwm_ros',
                message=text,
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
            )
            for part, (level, text, values) in parts
        ],
    )


def _engine(now: Snapshot) -> tuple[bytes, str, dict[str, object]]:
    values: dict[str, object] = {'phase': now.phase.name}
    if now.phase in (Phase.ENGINE_HUNG, Phase.STORE_ONLY):
        return DiagnosticStatus.ERROR, now.reason, values
    text = 'loaded' if now.view.has_engine else 'loading'
    return DiagnosticStatus.OK, text, values


def _store(now: Snapshot) -> tuple[bytes, str, dict[str, object]]:
    report = now.shelf.storage
    if report is None:
        return DiagnosticStatus.STALE, 'not open', {}
    values: dict[str, object] = {
        'windows': len(now.shelf.windows),
        'used_bytes': report.used_bytes,
        'quota_bytes': report.quota_bytes,
        'device_free_bytes': report.device_free_bytes,
        'written_today_bytes': report.written_today_bytes,
        'lifetime_bytes': report.lifetime_bytes,
        'evictions': report.evictions,
        'quarantine_bytes': report.quarantine_bytes,
    }
    damaged = [info.problem for info in now.shelf.windows if info.problem]
    if damaged:
        return DiagnosticStatus.ERROR, f'{len(damaged)} windows cannot be read', values
    if report.quarantine_bytes:
        return DiagnosticStatus.WARN, 'damaged files were set aside', values
    if not report.can_store or report.used_bytes > NEARLY_FULL * report.quota_bytes:
        return DiagnosticStatus.WARN, 'nearly full: old chunks give way', values
    return DiagnosticStatus.OK, 'room is left', values


def _thaw(now: Snapshot) -> tuple[bytes, str, dict[str, object]]:
    progress = now.view.progress
    if progress is None:
        return DiagnosticStatus.OK, 'none', {}
    values: dict[str, object] = {
        'chunks_done': progress.chunks_done,
        'chunks_total': progress.chunks_total,
        'reused_tokens': progress.reused_tokens,
        'recomputed_tokens': progress.recomputed_tokens,
        'elapsed_s': round(progress.elapsed_s, 3),
    }
    if progress.is_complete:
        return DiagnosticStatus.OK, 'complete', values
    return DiagnosticStatus.OK, 'usable' if progress.is_usable else 'thawing', values


def _power(now: Snapshot) -> tuple[bytes, str, dict[str, object]]:
    values: dict[str, object] = {'deferred': len(now.deferred)}
    text = f'{now.power.policy.name.lower()}: {now.power.reason}'
    is_bad = now.power.policy is Policy.CRITICAL
    return (DiagnosticStatus.WARN if is_bad else DiagnosticStatus.OK), text, values
