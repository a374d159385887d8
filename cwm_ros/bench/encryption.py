# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What encryption and syncing cost: one window frozen and thawed, plain and encrypted."""

from __future__ import annotations

from dataclasses import dataclass, fields
import os
from pathlib import Path
import statistics
import tempfile
import time
from typing import TYPE_CHECKING

from cwm_ros.bench.synthetic_windows import (
    CHUNK_TOKENS,
    manifest_of,
    ROOMY_MIB,
    timed,
    tokens_of,
    wall_ms,
    write_chunks,
)
from cwm_ros.config import MIB, StorageSettings
from cwm_ros.config_privacy import PrivacySettings
from cwm_ros.kv import Role, Turn
from cwm_ros.store import files, Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from cwm_ros.store import Manifest

CASES = {'2 MiB chunks': (32, 2 * MIB), 'reference': (16, 256 * 1536)}
"""Chunks of a window, and bytes of each payload."""
TURNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """
    How fast windows are written and read; medians.

    Parameters
    ----------
    case, is_encrypted
        Which chunks, and whether they are.
    freeze_mb_s
        Writing the chunks and the manifest, durably, to the drive [MB/s].
    freeze_memory_mb_s
        The same in memory, where syncs cost nothing: what is left is our own work [MB/s].
    thaw_cold_mb_s, thaw_warm_mb_s
        Reading the chunks into one buffer from the drive, and from the page cache [MB/s].
    turn_commit_ms
        Committing a turn of 100 letters to a log that is there, on the drive [ms].

    """

    case: str
    is_encrypted: bool
    freeze_mb_s: float
    freeze_memory_mb_s: float
    thaw_cold_mb_s: float
    thaw_warm_mb_s: float
    turn_commit_ms: float


def measure_encryption(
    folder: Path, memory: Path, *, rounds: int = 5, cases: Mapping[str, tuple[int, int]] = CASES
) -> list[Throughput]:
    """
    Measure each case plain and encrypted, in turns, so that both see the same machine.

    Parameters
    ----------
    folder
        On the drive to be measured.
    memory
        On a file system in memory.
    rounds
        Windows written and read for each figure.
    cases
        As `CASES`.

    """
    rows = []
    for case, (count, payload_bytes) in cases.items():
        with (
            tempfile.TemporaryDirectory(dir=folder) as on_drive,
            tempfile.TemporaryDirectory(dir=memory) as in_memory,
        ):
            runs = [
                _Run(Path(on_drive), Path(in_memory), is_encrypted=kind) for kind in (False, True)
            ]
            for number in range(rounds):
                for run in runs:
                    run.measure(number, count, payload_bytes)
            rows += [run.result(case) for run in runs]
    return rows


class _Run:
    """Figures of one case, collected round by round."""

    def __init__(self, on_drive: Path, in_memory: Path, *, is_encrypted: bool) -> None:
        self._is_encrypted = is_encrypted
        self._roots = {'freeze_mb_s': on_drive, 'freeze_memory_mb_s': in_memory}
        self._figures: dict[str, list[float]] = {}

    def _open(self, root: Path) -> AbstractContextManager[Store]:
        name = f'encrypted-{self._is_encrypted}'
        settings = StorageSettings(root=root / name, quota_mib=ROOMY_MIB, free_floor_mib=0)
        privacy = PrivacySettings(encrypt=self._is_encrypted, key_dir=str(root / 'keys'))
        return Store.open(settings, writable=True, clock=wall_ms, privacy=privacy)

    def measure(self, number: int, count: int, payload_bytes: int) -> None:
        """Write one window in each place, read it cold and warm, then commit some turns."""
        payload = memoryview(os.urandom(payload_bytes))
        tokens = tokens_of(number, count * CHUNK_TOKENS)
        megabytes = count * payload_bytes / 1e6
        for figure, root in self._roots.items():
            with self._open(root) as store:
                store.commit_turns('w', [Turn(role=Role.USER, text='w')])
                began = time.perf_counter()
                entries = write_chunks(store, tokens, lambda *_: payload)
                manifest = store.commit_window(manifest_of('w', tokens, entries))
                self._add(figure, megabytes / (time.perf_counter() - began))
                if root is self._roots['freeze_mb_s']:
                    self._read(store, manifest, megabytes)
                    for _ in range(TURNS):
                        turn = Turn(role=Role.USER, text='x' * 100)
                        self._add('turn_commit_ms', timed(lambda: store.commit_turns('w', [turn])))  # noqa: B023
                store.delete_window('w')

    def _read(self, store: Store, manifest: Manifest, megabytes: float) -> None:
        buffer = bytearray(max(entry.payload_bytes for entry in manifest.chunks))
        store.release(manifest.chunks)
        for figure in ('thaw_cold_mb_s', 'thaw_warm_mb_s'):
            began = time.perf_counter()
            for entry in manifest.chunks:
                store.read_chunk(manifest, entry, buffer)
            self._add(figure, megabytes / (time.perf_counter() - began))

    def _add(self, figure: str, value: float) -> None:
        self._figures.setdefault(figure, []).append(value)

    def result(self, case: str) -> Throughput:
        """Return the medians."""
        medians = {name: statistics.median(values) for name, values in self._figures.items()}
        return Throughput(case=case, is_encrypted=self._is_encrypted, **medians)


def measure_sync(folder: Path, *, rounds: int = 30) -> float:
    """Return the median time of appending 64 bytes to a file and syncing it [ms]."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / 'file'
        files.write_file(path, [bytes(64)])
        return statistics.median(
            timed(lambda: files.append(path, bytes(64), offset=64 * number))  # noqa: B023
            for number in range(1, rounds)
        )


def format_throughput(rows: Sequence[Throughput]) -> str:
    """Return a table for people."""
    names = [field.name for field in fields(Throughput)]
    lines = [' '.join(f'{name:>18}' for name in names)]
    for row in rows:
        figures = ' '.join(f'{getattr(row, name):18.2f}' for name in names[2:])
        lines.append(f'{row.case:>18} {row.is_encrypted!s:>18} {figures}')
    return '\n'.join(lines)
