# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the proof of a restore sees and costs: the end probe's divergence under each codec, and time.

The divergences are what the model's card states as `codec_kl`; the probe allows ten times that,
and beside it what engines of different precision differ by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
import tempfile
import time
from typing import TYPE_CHECKING

from cwm_ros.bench.dialogues import make_dialogue
from cwm_ros.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.config import Settings
    from cwm_ros.verdict import ThawResult

CODECS = ('fp16', 'int8', 'int4')
WINDOW, OTHER = 'proven', 'other'
ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofReport:
    """
    Divergences and times.

    Parameters
    ----------
    context, dialogues
        Length of the windows [tokens], and how many.
    divergences
        Of the end probe [nats], by codec, one for each dialogue.
    thaw_s, proven_s
        Processor time until complete without and with its proof, of chunks and end, medians [s].

    """

    context: int
    dialogues: int
    divergences: dict[str, list[float]]
    thaw_s: float
    proven_s: float

    def rows(self) -> dict[str, object]:
        """Return the figures as plain values."""
        return {
            'context': self.context,
            'dialogues': self.dialogues,
            'divergence_mean': {name: mean(v) for name, v in self.divergences.items()},
            'divergence_max': {name: max(v) for name, v in self.divergences.items()},
            'thaw_cpu_s': self.thaw_s,
            'proven_thaw_cpu_s': self.proven_s,
            'proof_fraction': self.proven_s / self.thaw_s - 1,
        }

    def as_text(self) -> str:
        """Return the figures for a person."""
        lines = [f'end probe, {self.dialogues} windows of {self.context} tokens [nats]']
        lines += [
            f'  {name:<5} mean {mean(values):.1e}  largest {max(values):.1e}'
            for name, values in self.divergences.items()
        ]
        share = self.proven_s / self.thaw_s - 1
        lines.append(
            f'processor time of a thaw: {self.thaw_s * 1e3:.1f} ms, with its proof '
            f'{self.proven_s * 1e3:.1f} ms ({share:+.1%})'
        )
        return '\n'.join(lines)


def measure_proof(
    settings: Settings,
    *,
    context: int,
    dialogues: int,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> ProofReport:
    """
    Freeze held-out dialogues with each codec, thaw them, and compare their ends.

    Parameters
    ----------
    settings
        Of the model; the store is one of this bench.
    context, dialogues, seed
        Length of each dialogue [tokens], how many, and which; none of them was trained on.
    note
        Told how far it is.

    """
    divergences: dict[str, list[float]] = {codec: [] for codec in CODECS}
    times: list[tuple[float, float]] = []
    for number in range(dialogues):
        for codec in CODECS:
            note(f'dialogue {number + 1} of {dialogues}, {codec}')
            with tempfile.TemporaryDirectory(prefix='cwm-proof-') as root:
                given = _with_store(settings, root, codec)
                _prepare(given, context, seed + 2 * number)
                divergences[codec].append(_thaw(given)[0].divergence)
                if codec == 'int8' and not number:
                    times = list(_time(given))
    return ProofReport(
        context=context,
        dialogues=dialogues,
        divergences=divergences,
        thaw_s=median(without for without, _ in times),
        proven_s=median(proven for _, proven in times),
    )


def _with_store(settings: Settings, root: str, codec: str) -> Settings:
    return replace(
        settings,
        storage=replace(settings.storage, root=Path(root), quota_mib=4096),
        codec=replace(settings.codec, kind=codec),
        thaw=replace(settings.thaw, strategy='load'),
    )


def _prepare(settings: Settings, context: int, seed: int) -> None:
    with Manager(settings) as manager:
        for name, which in ((WINDOW, seed), (OTHER, seed + 1)):
            turns = make_dialogue(which, context).turns
            manager.create(name, turns[0].text)
            manager.add_turns(turns[1:])
            for _ in manager.idle():
                pass
            for _ in manager.freeze():
                pass


def _thaw(settings: Settings) -> tuple[ThawResult, float]:
    """Thaw in a new engine, after another window; return the result and the processor time."""
    with Manager(settings) as manager:
        manager.warm_up()
        manager.kernels.wait()
        for name in (OTHER, WINDOW):
            began = time.process_time()
            thaw = manager.open_window(name)
            while thaw.advance(wait=True):
                pass
            taken_s = time.process_time() - began
        return thaw.result(), taken_s


def _time(settings: Settings) -> Iterator[tuple[float, float]]:
    without = replace(settings, thaw=replace(settings.thaw, proof_tokens=0))
    for _ in range(ROUNDS):
        yield _thaw(without)[1], _thaw(settings)[1]
