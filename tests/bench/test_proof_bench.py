# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the proof of a restore costs, and how far codecs move the end of a window."""

from __future__ import annotations

import pytest

from cwm_ros.bench.proof import CODECS, measure_proof, ProofReport
from cwm_ros.config import Settings
from cwm_ros.model import Checkpoint
from cwm_ros.probe import KL_FACTOR


def test_a_report_says_what_the_proof_adds() -> None:
    report = ProofReport(
        context=512,
        dialogues=2,
        divergences={'fp16': [1e-9, 3e-9], 'int8': [1e-7, 1e-7]},
        thaw_s=0.010,
        proven_s=0.015,
    )
    rows = report.rows()

    assert rows['proof_fraction'] == pytest.approx(0.5)
    assert rows['divergence_mean'] == pytest.approx({'fp16': 2e-9, 'int8': 1e-7})
    assert rows['divergence_max'] == pytest.approx({'fp16': 3e-9, 'int8': 1e-7})
    assert '10.0 ms, with its proof 15.0 ms (+50.0%)' in report.as_text()


@pytest.mark.slow
def test_ends_are_no_further_from_the_probe_than_it_allows() -> None:
    settings = Settings()
    report = measure_proof(settings, context=512, dialogues=1)

    assert set(report.divergences) == set(CODECS)
    assert report.thaw_s > 0
    assert report.proven_s > 0
    stated = Checkpoint.configured(settings.engine).card.codec_kl
    for codec, divergences in report.divergences.items():
        assert abs(divergences[0]) <= KL_FACTOR * stated[codec], codec
