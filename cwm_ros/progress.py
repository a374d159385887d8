# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How far a thaw is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cwm_ros.session import Fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawProgress:
    """
    How far a thaw is.

    Parameters
    ----------
    chunks_done, chunks_total
        Chunks of the window that are resident, of all.
    bytes_loaded, bytes_total
        Bytes read from chunk files, and these with those that are still to be read.
    reused_tokens, recomputed_tokens
        Tokens whose KV came from chunks, and tokens computed again, so far.
    kept_tokens
        Those of the reused that the engine still held when the thaw began.
    is_usable, is_answerable, is_complete
        See `cwm_ros.plan`; answerable concerns the prompt that waits.
    elapsed_s
        Since the thaw began [s].
    remaining_s
        Until it is complete, estimated from the board's rates [s]; None while they are not known.
    fidelity
        Of an answer given now.

    """

    chunks_done: int
    chunks_total: int
    bytes_loaded: int
    bytes_total: int
    reused_tokens: int
    recomputed_tokens: int
    kept_tokens: int
    is_usable: bool
    is_answerable: bool
    is_complete: bool
    elapsed_s: float
    remaining_s: float | None
    fidelity: Fidelity
