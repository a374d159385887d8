# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a drive writes to the flash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import tempfile

from cwm_ros.bench.synthetic_windows import (
    CHUNK_TOKENS,
    manifest_of,
    ROOMY_MIB,
    tokens_of,
    wall_ms,
    write_chunks,
)
from cwm_ros.config import StorageSettings
from cwm_ros.kv import Role, TokenArray, Turn
from cwm_ros.store import files, Store

TOKENS_PER_TURN = 34
DRIVES = {'64 KiB a token': 1 << 16, 'reference': 6 * 2 * 2 * 64}
"""Bytes of encoded KV for each token, by geometry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """
    What a drive with a freeze after each turn wrote.

    Parameters
    ----------
    case
        Which geometry.
    turns, tokens
        What was said; each turn is a prompt and its answer.
    useful_bytes
        Encoded KV, tokens and text, each once.
    system_bytes
        What was handed to the operating system.
    ledger_bytes
        What the store's own ledger says.
    amplification
        ``system_bytes / useful_bytes``.

    """

    case: str
    turns: int
    tokens: int
    useful_bytes: int
    system_bytes: int
    ledger_bytes: int
    amplification: float


def measure_drive(
    folder: Path, case: str, *, turns: int = 120, tokens_per_turn: int = TOKENS_PER_TURN
) -> Drive:
    """
    Simulate a drive: a freeze of the full chunks after each turn, and a final one of the rest.

    Parameters
    ----------
    folder
        Where the store is made; what is written does not depend on the device.
    case
        A key of `DRIVES`.
    turns, tokens_per_turn
        How much is said.

    """
    token_bytes = DRIVES[case]
    tokens = tokens_of(0, turns * tokens_per_turn)
    text = 'x' * (4 * tokens_per_turn // 2)
    with tempfile.TemporaryDirectory(dir=folder) as root:
        settings = StorageSettings(root=Path(root), quota_mib=ROOMY_MIB, free_floor_mib=0)
        before = files.bytes_written_by_thread()
        with Store.open(settings, writable=True, clock=wall_ms) as store:
            for turn in range(1, turns + 1):
                said = [Turn(role=role, text=text) for role in (Role.USER, Role.ASSISTANT)]
                store.commit_turns('drive', said)
                heard = tokens[: turn * tokens_per_turn]
                _freeze(store, heard, 2 * turn, token_bytes, is_final=turn == turns)
        system_bytes = files.bytes_written_by_thread() - before
        with Store.open(settings, writable=False, clock=wall_ms) as store:
            ledger = store.storage().lifetime_bytes
    useful = len(tokens) * (token_bytes + 4) + 2 * turns * len(text)
    return Drive(
        case=case,
        turns=turns,
        tokens=len(tokens),
        useful_bytes=useful,
        system_bytes=system_bytes,
        ledger_bytes=ledger,
        amplification=system_bytes / useful,
    )


def _freeze(
    store: Store, tokens: TokenArray, num_turns: int, token_bytes: int, *, is_final: bool
) -> None:
    full = len(tokens) if is_final else len(tokens) // CHUNK_TOKENS * CHUNK_TOKENS
    entries = write_chunks(
        store, tokens[:full], lambda _, count: memoryview(bytes(count * token_bytes))
    )
    store.commit_window(manifest_of('drive', tokens, entries, num_turns=num_turns))
