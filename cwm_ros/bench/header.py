# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long a long window's header and chunk table, and its turns, take to load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import statistics
import tempfile
from typing import TYPE_CHECKING

from cwm_ros.bench.chunk_files import drop_cache
from cwm_ros.bench.synthetic_windows import (
    manifest_of,
    PAYLOAD_BYTES,
    payload_of,
    ROOMY_MIB,
    timed,
    tokens_of,
    wall_ms,
    write_chunks,
)
from cwm_ros.config import StorageSettings
from cwm_ros.config_privacy import PrivacySettings
from cwm_ros.kv import Role, Turn
from cwm_ros.store import layout, Store
from cwm_ros.store.catalog import read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.kv import TokenArray

TOKENS = 32_768
TOKENS_OF_TURN = 32
LETTERS_OF_TOKEN = 4
NAME = 'w'


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """
    Loading everything of a window but its KV; medians.

    Parameters
    ----------
    is_encrypted
        Whether the profile is.
    tokens, chunks, turns
        Of the window.
    bytes
        Of its manifest and turn log.
    cold_ms, warm_ms
        Reading and checking the manifest, which is the header and the chunk table, from the
        drive and from the page cache [ms].
    all_cold_ms, all_warm_ms
        The same with all turns [ms].

    """

    is_encrypted: bool
    tokens: int
    chunks: int
    turns: int
    bytes: int
    cold_ms: float
    warm_ms: float
    all_cold_ms: float
    all_warm_ms: float


def measure_header(
    folder: Path, *, is_encrypted: bool, tokens: int = TOKENS, rounds: int = 15
) -> Header:
    """
    Write one window, then load it again and again.

    Parameters
    ----------
    folder
        On the drive to be measured.
    is_encrypted
        Of which kind the profile is.
    tokens
        Of the window.
    rounds
        Loads for each figure.

    """
    with tempfile.TemporaryDirectory(dir=folder) as root:
        settings = StorageSettings(
            root=Path(root) / 'store', quota_mib=ROOMY_MIB, free_floor_mib=0
        )
        privacy = PrivacySettings(encrypt=is_encrypted, key_dir=str(Path(root) / 'keys'))
        with Store.open(settings, writable=True, clock=wall_ms, privacy=privacy) as store:
            _write(store, tokens_of(0, tokens))
        with Store.open(settings, writable=False, clock=wall_ms, privacy=privacy) as store:
            (info,) = store.windows()
            window_id = layout.window_id(store.key, NAME)
            windows = settings.root / 'profiles' / 'default' / 'windows'
            paths = list(windows.iterdir())

            works: dict[str, Callable[[], object]] = {
                '': lambda: read_manifest(windows, window_id, store.seal),
                'all_': lambda: store.window(NAME),
            }
            figures = {
                f'{name}{state}_ms': statistics.median(
                    _load(work, paths if state == 'cold' else []) for _ in range(rounds)
                )
                for name, work in works.items()
                for state in ('cold', 'warm')
            }
        return Header(
            is_encrypted=is_encrypted,
            tokens=info.tokens,
            chunks=info.chunks,
            turns=info.turns,
            bytes=sum(path.stat().st_size for path in paths),
            **figures,
        )


def _load(work: Callable[[], object], cold: Sequence[Path]) -> float:
    """Return how long ``work`` takes without these files in the page cache [ms]."""
    if cold:
        drop_cache([(path, 0) for path in cold])
    return timed(work)


def _write(store: Store, tokens: TokenArray) -> None:
    text = 'x' * (LETTERS_OF_TOKEN * TOKENS_OF_TURN)
    turns = [Turn(role=Role.USER, text=text)] * (len(tokens) // TOKENS_OF_TURN)
    store.commit_turns(NAME, turns)
    entries = write_chunks(
        store, tokens, lambda chunk_id, _: memoryview(payload_of(chunk_id, PAYLOAD_BYTES))
    )
    store.commit_window(manifest_of(NAME, tokens, entries, num_turns=len(turns)))


def format_headers(rows: Sequence[Header]) -> str:
    """Return a line for each."""
    kinds = {False: 'plain', True: 'encrypted'}
    return '\n'.join(
        f'{row.tokens} tokens, {row.chunks} chunks, {kinds[row.is_encrypted]}: header and chunk '
        f'table {row.cold_ms:.2f} ms cold, {row.warm_ms:.2f} ms warm; with {row.turns} turns '
        f'{row.all_cold_ms:.2f} ms cold, {row.all_warm_ms:.2f} ms warm'
        for row in rows
    )
