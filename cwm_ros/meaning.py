# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What was said, by what it means to the model: one small vector for each exchange of a window.

The vector is the mean of the values that the last layer keeps of the exchange's tokens. Where a
prompt's last token has a value like it, the exchange is likely what the prompt asks for, also
when they share no word. It is noted at freeze; see docs/decisions/meaning.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import struct
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cwm_ros.relevance import exchanges
from cwm_ros.session import common_length

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.kv import FloatArray, KVSpec
    from cwm_ros.session import Session
    from cwm_ros.store import Manifest

MEANING_VERSION = 1
MAX_BYTES = 8 << 20
"""Most bytes in a manifest; of a window with more exchanges the newest are noted."""
INT8_MAX = 127
_HEAD = struct.Struct('<HHI')


def _row_type(dimension: int) -> np.dtype[np.void]:
    fields = [('start', '<u4'), ('stop', '<u4'), ('scale', '<f4'), ('codes', 'i1', (dimension,))]
    return np.dtype(fields)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Meanings:
    """
    Exchanges and what they mean.

    Parameters
    ----------
    starts, stops
        Token positions of each, half-open, int64, shape (E,).
    vectors
        float32, shape (E, KV heads * head dimension).

    """

    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    vectors: FloatArray

    def closeness(self, query: FloatArray) -> Callable[[int, int], float]:
        """
        Return a function that says how close a range of tokens is to a query.

        It is the cosine of the closest exchange in the range, all vectors taken from their mean;
        -1 for a range without any.

        Parameters
        ----------
        query
            Value of the last layer at a prompt's last token, shape of a vector.

        """
        mean = self.vectors.mean(axis=0)
        cosines = _directions(self.vectors - mean) @ _directions(query - mean)

        def of_range(start: int, stop: int) -> float:
            inside = cosines[(self.starts < stop) & (self.stops > start)]
            return float(inside.max(initial=-1.0))

        return of_range


def _directions(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: FloatArray = vectors / np.maximum(lengths, np.float32(1e-12))
    return found


def value_at(session: Session, position: int) -> FloatArray:
    """Return the value that the last layer keeps of a token, shape (KV heads * head dimension)."""
    return _mean_value(session, position, position + 1)


def _mean_value(session: Session, start: int, stop: int) -> FloatArray:
    values = session.engine.export_kv(start, stop).kv[-1, 1]
    mean: FloatArray = values.mean(axis=1, dtype=np.float32).reshape(-1)
    return mean


def note_meanings(
    manifest: Manifest, session: Session, known: Manifest | None, *, has_time: bool
) -> Manifest:
    """
    Return a manifest with what its exchanges mean.

    Parameters
    ----------
    manifest
        About to be committed.
    session
        What it is made of; exchanges whose KV is not sound are left out until it is.
    known
        The window's manifest as it was committed last; what it says of the same tokens is kept.
    has_time
        Whether exchanges that are not in it are noted, too.

    """
    rows, unsound = _known_rows(manifest, known), session.unsound()
    noted = []
    for said in exchanges(session.turns, session.turn_stops):
        place = (said.start, said.stop)
        if place in rows:
            noted.append(rows[place])
        elif has_time and said.start < said.stop and not any(unsound.overlap(*place)):
            noted.append(row_of(*place, _mean_value(session, *place)))
    return replace(manifest, meaning=_pack(noted))


def cut_meanings(manifest: Manifest, num_tokens: int) -> bytes:
    """Return a manifest's section of the exchanges that end within its first tokens."""
    return _pack(list(_read_table(manifest.meaning, manifest.spec, num_tokens)))


def _pack(rows: Sequence[npt.NDArray[np.void]]) -> bytes:
    if not rows:
        return b''
    table = np.stack(rows)[-(MAX_BYTES // rows[0].itemsize) :]
    return _HEAD.pack(MEANING_VERSION, 0, len(table)) + table.tobytes()


def row_of(start: int, stop: int, mean: FloatArray) -> npt.NDArray[np.void]:
    """Return a row of the section: an exchange's range, and the mean of its values in int8."""
    scale = max(float(np.abs(mean).max()), 1e-30) / INT8_MAX
    row = np.zeros((), _row_type(len(mean)))
    row['start'], row['stop'], row['scale'] = start, stop, scale
    row['codes'] = np.rint(mean / scale)
    return row


def _known_rows(
    manifest: Manifest, known: Manifest | None
) -> dict[tuple[int, int], npt.NDArray[np.void]]:
    """Return rows by range that are of the same model and tokens."""
    if known is None or known.identity.model != manifest.identity.model:
        return {}
    same = common_length(known.tokens, manifest.tokens)
    table = _read_table(known.meaning, known.spec, same)
    return {(int(row['start']), int(row['stop'])): row for row in table}


def _read_table(data: bytes, spec: KVSpec, num_tokens: int) -> npt.NDArray[np.void]:
    """Return the rows of a section that lie in the tokens; none if it cannot be read."""
    row_type = _row_type(spec.num_kv_heads * spec.head_dim)
    none = np.zeros(0, row_type)
    if len(data) < _HEAD.size:
        return none
    version, reserved, count = _HEAD.unpack_from(data)
    is_known = version == MEANING_VERSION and not reserved
    if not is_known or len(data) != _HEAD.size + count * row_type.itemsize:
        return none
    table = np.frombuffer(data, row_type, offset=_HEAD.size)
    is_sane = (table['start'] < table['stop']) & (table['stop'] <= num_tokens)
    sane: npt.NDArray[np.void] = table[
        is_sane & np.isfinite(table['scale']) & (table['scale'] > 0)
    ]
    return sane


def read_meanings(manifest: Manifest) -> Meanings | None:
    """Return what a manifest says that its exchanges mean; None if that is nothing."""
    table = _read_table(manifest.meaning, manifest.spec, len(manifest.tokens))
    return meanings_of(table) if len(table) else None


def meanings_of(table: npt.NDArray[np.void]) -> Meanings:
    """Return what rows say, at least one."""
    return Meanings(
        starts=table['start'].astype(np.int64),
        stops=table['stop'].astype(np.int64),
        vectors=table['codes'].astype(np.float32) * table['scale'][:, np.newaxis],
    )
