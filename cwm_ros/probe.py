# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The end probe: whether the model continues a restored window as it did when it was frozen.

At freeze the likeliest continuations of the last token are stored. After the thaw that token
is computed again over what came back. It sees what no look at single chunks can: that KV is not
where attention reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
import struct
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cwm_ros.store.layout import checksum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cwm_ros.engine import Engine
    from cwm_ros.kv import FloatArray, TokenArray
    from cwm_ros.store import ChunkEntry

PROBE_VERSION = 1
NUM_TOP = 16
KL_FACTOR = 10.0
"""A restore may diverge so many times as far as its codec was measured to."""
CODEC_KL = {'raw': 1e-6, 'fp16': 1e-5, 'int8': 1e-3}
"""Divergence that codecs cost a model whose card does not say [nats]; generous."""
UNKNOWN_KL = 1e-2
HALF_ROUNDOFF = 2.0**-11
"""Of float16, which engines on a GPU compute in [relative]."""
_HEAD = struct.Struct('<HHIQ')
_CELL = np.dtype([('token', '<i4'), ('log_prob', '<f4')])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """
    What the model expected at the end of a window.

    Parameters
    ----------
    stop
        Position after the last token that was computed.
    digest
        xxh3_64 of the token ids before ``stop``.
    tokens, log_probs
        The likeliest next tokens after the last position, int32 and float32, shape (1, K).

    """

    stop: int
    digest: int
    tokens: TokenArray
    log_probs: FloatArray

    def divergence(self, logits: FloatArray) -> float:
        """
        Return how far other logits (1, V) are from the stored ones.

        Kullback-Leibler divergence [nats], all tokens but the stored ones taken as one.
        """
        now = np.take_along_axis(log_softmax(logits), self.tokens.astype(np.int64), axis=1)
        old = self.log_probs.astype(np.float64)
        rest_old, rest_now = (_rest(old), _rest(now))
        rest = np.exp(rest_old) * (rest_old - rest_now)
        return float(((np.exp(old) * (old - now)).sum(axis=1) + rest).mean())


def _rest(log_probs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the log probability of all other tokens; float32 leaves it a floor."""
    log_rest: npt.NDArray[np.float64] = np.log(np.maximum(1 - np.exp(log_probs).sum(axis=1), 1e-7))
    return log_rest


def log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Return log probabilities along the last axis, float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def end_of(entries: Sequence[ChunkEntry]) -> int:
    """Return up to where chunks cover a window without a gap."""
    stop = 0
    for entry in entries:
        if entry.start != stop:
            break
        stop = entry.stop
    return stop


def engine_kl(logits: FloatArray, num_layers: int) -> float:
    """
    Return how far engines of different precision may end up apart, by these logits (R, V) [nats].

    A window may go from an engine in float16 to one in float32 and back. Rounding errors of any
    sign grow with the square root of their number (Higham and Mary, 2019): those of attention and
    MLP in each layer and of the logits move a logit by ``d``, a share sqrt(2 L + 1) 2^-11 of the
    largest. By Hoeffding's lemma, distributions whose logits are at most ``d`` apart diverge by at
    most d^2 / 2, and by less when tokens are taken together.
    """
    distance = math.sqrt(2 * num_layers + 1) * HALF_ROUNDOFF * float(np.abs(logits).max())
    return distance**2 / 2


def digest_of(tokens: TokenArray) -> int:
    """Return the digest of a probe's tokens."""
    return checksum(tokens.astype('<i4').tobytes())


def compute_last(engine: Engine, tokens: TokenArray, stop: int) -> FloatArray:
    """
    Return logits (1, V) of the last token before ``stop``, computed over what is there.

    Its KV stays what it was: a step rounds otherwise than the slice that computed it.
    """
    kept = engine.export_kv(stop - 1, stop).kv.copy()
    logits = engine.run(tokens[stop - 1 : stop], stop - 1)
    engine.drop(stop - 1, stop)
    engine.import_view(stop - 1, stop)[...] = kept
    engine.mark_resident(stop - 1, stop)
    return logits


def take_probe(engine: Engine, tokens: TokenArray, stop: int) -> Probe:
    """Compute the last token before ``stop`` again, over the KV that is there, and note it."""
    logits = log_softmax(compute_last(engine, tokens, stop))
    num_top = min(NUM_TOP, logits.shape[1])
    top = np.argsort(-logits, axis=1, kind='stable')[:, :num_top]
    return Probe(
        stop=stop,
        digest=digest_of(tokens[:stop]),
        tokens=top.astype(np.int32),
        log_probs=np.take_along_axis(logits, top, axis=1).astype(np.float32),
    )


def pack_probe(probe: Probe) -> bytes:
    """Return the manifest's section PROB."""
    rows, columns = probe.tokens.shape
    cells = np.zeros((rows, columns), _CELL)
    cells['token'], cells['log_prob'] = probe.tokens, probe.log_probs
    head = _HEAD.pack(PROBE_VERSION, rows, columns, probe.digest)
    return head + struct.pack('<Q', probe.stop) + cells.tobytes()


def unpack_probe(data: bytes, vocab_size: int) -> Probe | str:
    """Return a section's probe, of several tokens the last, or why it cannot be used."""
    if not data:
        return 'the window has no end probe'
    if len(data) < _HEAD.size + 8:
        return 'the end probe is too short'
    version, rows, columns, digest = _HEAD.unpack_from(data)
    (stop,) = struct.unpack_from('<Q', data, _HEAD.size)
    if version != PROBE_VERSION:
        return f'the end probe is of version {version}, not {PROBE_VERSION}'
    body = data[_HEAD.size + 8 :]
    if not 1 <= rows <= stop or not columns or len(body) != rows * columns * _CELL.itemsize:
        return 'the end probe has a wrong size'
    cells = np.frombuffer(body, _CELL).reshape(rows, columns)
    tokens, log_probs = cells['token'], cells['log_prob']
    is_sane = np.isfinite(log_probs).all() and (log_probs <= 1e-3).all()  # noqa: PLR2004
    if not is_sane or tokens.min() < 0 or tokens.max() >= vocab_size:
        return 'the end probe holds what no model gives'
    return Probe(stop=stop, digest=digest, tokens=tokens[-1:], log_probs=log_probs[-1:])


class EndProbe:
    """
    Compares the end of a restored window with the probe of its freeze.

    Parameters
    ----------
    data
        The manifest's section PROB.
    tokens
        Of the window, int32, shape (T,).
    vocab_size
        V of the engine.
    codec_kl
        What codecs cost this model, as its card says; `CODEC_KL` holds what it does not say.

    """

    def __init__(
        self, data: bytes, tokens: TokenArray, vocab_size: int, codec_kl: Mapping[str, float]
    ) -> None:
        found = unpack_probe(data, vocab_size)
        self.problem = found if isinstance(found, str) else ''
        self._probe = None if isinstance(found, str) else found
        self._tokens = tokens
        self._codec_kl = {**CODEC_KL, **codec_kl}
        if self._probe is not None:
            stop = self._probe.stop
            if stop > len(tokens) or digest_of(tokens[:stop]) != self._probe.digest:
                self._probe, self.problem = None, 'the end probe is of other tokens'

    @property
    def can_tell(self) -> bool:
        """Whether there is a probe to compare with; else ``problem`` says why not."""
        return self._probe is not None

    def compare(self, engine: Engine, codecs: Iterable[str]) -> tuple[float, float]:
        """
        Compute the probe's token again.

        Returns
        -------
        float, float
            How far it is from the probe, and how far it may be: as far as these codecs and
            engines of other precisions explain [nats].

        """
        assert self._probe is not None
        logits = compute_last(engine, self._tokens, self._probe.stop)
        kls = [self._codec_kl.get(codec, UNKNOWN_KL) for codec in codecs]
        limit = KL_FACTOR * max(kls, default=0.0) + engine_kl(logits, engine.spec.num_layers)
        return self._probe.divergence(logits), limit
