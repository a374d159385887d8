# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a restore came to: proven, unproven, recomputed, or not effective."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
import logging
from typing import TYPE_CHECKING

from cwm_ros.errors import RestoreNotEffectiveError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cwm_ros.probe import EndProbe
    from cwm_ros.session import Session
    from cwm_ros.store import ChunkEntry

log = logging.getLogger(__name__)


class Verdict(Enum):
    """What is known about a restore."""

    PENDING = 'pending'
    """It is not complete."""
    PROVEN = 'proven'
    """Chunks were checked one by one, and the model continues as it did."""
    UNPROVEN = 'unproven'
    """Chunks were checked one by one; there was no end probe to compare with."""
    RECOMPUTED = 'recomputed'
    """No chunk was asked for, none fits, or none is there: all was computed from tokens."""
    NOT_EFFECTIVE = 'not effective'
    """What came back was not what was frozen; all was computed from tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawResult:
    """
    What a restore came to.

    Parameters
    ----------
    verdict, reason
        What is known about it, and why, for people.
    reused_tokens, recomputed_tokens, masked_tokens
        Tokens whose KV came from chunks, tokens computed again, and tokens that are not back.
    rejected_chunks
        Chunks that could not be used, or did not hold what they should.
    divergence, limit
        Of the end probe, and the largest that codec and engines explain [nats]; 0 without one.

    """

    verdict: Verdict
    reason: str
    reused_tokens: int
    recomputed_tokens: int
    masked_tokens: int
    rejected_chunks: int
    divergence: float
    limit: float

    def check(self) -> None:
        """Raise RestoreNotEffectiveError if nothing of what came back could be relied on."""
        if self.verdict is Verdict.NOT_EFFECTIVE:
            raise RestoreNotEffectiveError(
                self.reason, hint='it was computed from its tokens; look at the drive and memory'
            )


class Judge:
    """
    Judges one restore.

    Parameters
    ----------
    probe
        Tells whether the model continues as it did; None for no proof.
    codecs
        Of the window's chunks.
    unfit
        Why none of its chunks fit, for people; empty if some do, or it has none.

    Attributes
    ----------
    loaded
        Chunks that have become resident.
    rejected, absent
        How many could not be used, and how many of these because they were not there.
    verdict, reason
        See `ThawResult`.

    """

    def __init__(self, probe: EndProbe | None, codecs: Iterable[str], unfit: str = '') -> None:
        self._probe = probe
        self._codecs = frozenset(codecs)
        self._unfit = unfit
        self.loaded: list[ChunkEntry] = []
        self.rejected = self.absent = 0
        self.verdict, self.reason = Verdict.PENDING, 'it is not complete'
        self.divergence, self.limit = 0.0, 0.0

    @property
    def is_pending(self) -> bool:
        """Whether there is no verdict yet."""
        return self.verdict is Verdict.PENDING

    def judge(self, session: Session, num_tokens: int, reused_tokens: int) -> bool:
        """
        Judge a window of which every position is there; say whether it may stay.

        What may not is dropped, and what was computed from it becomes provisional.
        """
        probe = self._probe
        if not reused_tokens and self.rejected > self.absent:
            self._find(Verdict.NOT_EFFECTIVE, 'none of the chunks could be used')
        elif not reused_tokens:
            gone = 'none of the chunks is there any more' if self.absent else ''
            self._find(Verdict.RECOMPUTED, self._unfit or gone or 'no chunk was asked for')
        elif probe is None or not probe.can_tell:
            self._find(Verdict.UNPROVEN, probe.problem if probe else 'the end was not probed')
        else:
            self.divergence, self.limit = probe.compare(session.engine, self._codecs)
            figures = f'{self.divergence:.2g} nats from the probe, {self.limit:.2g} allowed'
            if self.divergence > self.limit:
                self._find(Verdict.NOT_EFFECTIVE, f'the restore has no effect: it is {figures}')
                _throw_away(session, num_tokens)
                return False
            self._find(Verdict.PROVEN, f'the end is {figures}')
        return True

    def _find(self, verdict: Verdict, reason: str) -> None:
        self.verdict, self.reason = verdict, reason
        if verdict is Verdict.NOT_EFFECTIVE:
            log.warning('restore is not effective: %s', reason)


def _throw_away(session: Session, num_tokens: int) -> None:
    for start, stop in session.engine.resident.overlap(num_tokens, session.num_tokens):
        session.provisional.add(start, stop)
    session.drop(0, num_tokens)
