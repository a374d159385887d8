# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.bench.phrases_state import UNKNOWN
from cwm_ros.bench.quality import bench_quality, QualityBench
from cwm_ros.bench.quality_exam import Asked, Examiner, OTHER, Said, SHARED, SYSTEM
from cwm_ros.bench.quality_plot import draw
from cwm_ros.bench.quality_rows import QualityReport, summarize
from cwm_ros.bench.recall import Outcome
from cwm_ros.config import Settings
from cwm_ros.engine import LogitRows
from cwm_ros.errors import ConfigError
from cwm_ros.kv import Role, Turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cwm_ros.bench.quality_exam import ExamContext, Window


@pytest.fixture(scope='module', name='examiner')
def open_examiner() -> Iterator[Examiner]:
    with Examiner.open(Settings()) as examiner:
        yield examiner


def generate(examiner: Examiner, window: Window, prompt: str) -> str:
    """Answer token by token, as an assistant does."""
    engine, checkpoint = examiner.engine, examiner.checkpoint
    turn = Turn(role=Role.USER, text=prompt)
    tokens = checkpoint.chat.render_suffix(window.turns, [turn], add_generation_prompt=True)
    position, said = window.num_tokens, list[int]()
    while len(said) < 64:
        logits = engine.run(tokens, position, rows=LogitRows.LAST)
        position += len(tokens)
        token = int(logits[-1].argmax())
        if token in checkpoint.stop_ids:
            break
        said.append(token)
        tokens = np.array([token], np.int32)
    engine.drop(window.num_tokens, position)
    return checkpoint.tokenizer.decode(said).strip()


def test_an_answer_counts_as_it_would_be_generated(examiner: Examiner) -> None:
    dialogue = examiner.compute(8_100_000, 1792)
    exam: ExamContext = examiner.prepare(dialogue, 1792, 'int8', 6)
    outcomes = set()
    for question in exam.questions:
        for chunks in ([], exam.others):
            asked = exam.ask_one(question, chunks)
            said = generate(examiner, exam.window, question.text)
            assert (asked.outcome is Outcome.EXACT) == (said == question.answer)
            assert asked.is_abstention == (said == UNKNOWN)
            assert (asked.share == 1) == bool(chunks)
            outcomes.add(asked.outcome)
    assert Outcome.EXACT in outcomes
    assert len(outcomes) > 1


def test_the_exact_window_agrees_with_itself(examiner: Examiner) -> None:
    dialogue = examiner.compute(8_100_001, 1280)
    raw = examiner.prepare(dialogue, 1280, 'raw', 1)
    said = raw.listen([*raw.usable, *raw.others])
    assert said.agreement == 1
    assert said.loss == pytest.approx(said.exact_loss)
    short = examiner.prepare(dialogue, 1024, 'int4', 1)
    assert short.window.num_tokens <= 1024
    assert short.listen([*short.usable, *short.others]).agreement > 0.9


@pytest.mark.slow
def test_a_bench_is_measured_and_drawn(tmp_path: Path) -> None:
    bench = QualityBench(
        contexts=(1792,), dialogues=1, questions=2, codecs=('int8', 'fp16'), settings=Settings()
    )
    told: list[str] = []
    report = bench_quality(bench, told.append)
    assert told == ['1 of 1 dialogues']
    assert {row.codec for row in report.rows} == {'int8', 'fp16'}
    assert all(0 < row.share <= 1 for row in report.rows)
    draw(report, tmp_path / 'quality.png')
    assert (tmp_path / 'quality.png').read_bytes().startswith(b'\x89PNG')
    assert report.as_text().count('\n| 1792 |') == len(report.rows)
    with pytest.raises(ConfigError, match='leaves no room'):
        bench_quality(replace(bench, contexts=(1 << 20,)), told.append)


def ask(group: str, *outcomes: Outcome, share: float = 0.25) -> list[Asked]:
    return [Asked(group=group, outcome=o, is_abstention=False, share=share) for o in outcomes]


def test_targets_say_what_is_missed() -> None:
    exact, wrong = Outcome.EXACT, Outcome.WRONG
    said = [Said(agreement=a, loss=1.0, exact_loss=1.0, share=0.1) for a in (0.90, 0.98) * 10]
    rows = (
        summarize(8192, 'int8', 'complete', ask(SHARED, *[exact] * 9, wrong, share=1.0), said),
        summarize(8192, 'int8', 'usable', ask(SYSTEM, exact, wrong), said),
        summarize(8192, 'int8', 'relevant 4', ask(SHARED, *[exact] * 9, wrong), []),
        summarize(8192, 'int8', 'relevant 6', ask(SHARED, *[exact] * 10, share=0.4), []),
    )
    targets = {target.name: target for target in QualityReport(rows=rows).targets()}
    low = targets['8192 int8 usable: agreement, low']
    assert 0.91 < low.measured < 0.94
    assert not low.is_met
    assert targets['8192 int8 usable: system prompt'].measured == 0.5
    assert targets['8192 int8 relevant 4: of recall'].is_met
    assert not any('relevant 6' in name for name in targets)
    assert rows[0].rate(SHARED, wrong) == 0.1
    assert rows[0].rate(OTHER) is None
    assert 'MISSED 8192 int8 usable: system prompt: 50.0%' in QualityReport(rows=rows).as_text()
