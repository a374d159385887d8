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
from cwm_ros.bench.quality_log import Place, QualityLog
from cwm_ros.bench.quality_plot import draw
from cwm_ros.bench.quality_rows import QualityReport, summarize, Verdict
from cwm_ros.bench.quality_text import format_quality
from cwm_ros.bench.recall import Outcome
from cwm_ros.config import Settings
from cwm_ros.engine import LogitRows
from cwm_ros.errors import ConfigError
from cwm_ros.kv import Role, Turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cwm_ros.bench.quality_exam import ExamContext, Window
    from cwm_ros.bench.quality_rows import QualityRow


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
def test_a_bench_is_measured_kept_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = QualityBench(
        contexts=(1792,),
        dialogues=1,
        questions=2,
        codecs=('int8', 'fp16'),
        settings=Settings(),
        file=tmp_path / 'quality.jsonl',
    )
    told: list[str] = []
    report = bench_quality(bench, told.append)
    assert told == ['1 of 1 dialogues']
    assert {row.codec for row in report.rows} == {'int8', 'fp16'}
    assert all(0 < row.share <= 1 for row in report.rows)
    draw(report, tmp_path / 'quality.png')
    assert (tmp_path / 'quality.png').read_bytes().startswith(b'\x89PNG')
    assert format_quality(report).count('\n| int8 |') == len(report.rows) - 4
    with pytest.raises(ConfigError, match='leaves no room'):
        bench_quality(replace(bench, contexts=(1 << 20,)), told.append)

    monkeypatch.setattr(Examiner, 'compute', None)  # what is kept is not computed again
    assert bench_quality(bench, told.append) == report
    (only,) = {
        row.codec for row in bench_quality(replace(bench, codecs=('int8',)), told.append).rows
    }
    assert only == 'int8'
    with pytest.raises(ConfigError, match='other settings'):
        bench_quality(replace(bench, questions=3), told.append)


PLACE = Place(dialogue=0, context=8192, codec='int8', is_brief=False)


def ask(group: str, *outcomes: Outcome, share: float = 0.25) -> list[Asked]:
    return [Asked(group=group, outcome=o, is_abstention=False, share=share) for o in outcomes]


def listen(*agreements: float) -> list[Said]:
    return [Said(agreement=a, loss=1.0, exact_loss=0.5, share=0.1) for a in agreements]


def test_a_log_is_taken_up_where_it_was_ended(tmp_path: Path) -> None:
    file, head = tmp_path / 'log', {'model': 'a', 'usable_tokens': [256, 512]}
    cases = {'usable': (ask(SHARED, Outcome.WRONG), listen(0.5)), 'complete': ([], [])}
    log = QualityLog(head, file)
    log.add(PLACE, cases)
    second = replace(PLACE, dialogue=1)
    log.add(second, cases)
    assert QualityLog(head, file).found == {PLACE: cases, second: cases}
    assert QualityLog(head, file).of([second]) == {second: cases}

    file.write_bytes(file.read_bytes()[:-9])  # killed while it wrote
    log = QualityLog(head, file)
    assert log.found == {PLACE: cases}
    log.add(second, cases)
    assert QualityLog(head, file).found == {PLACE: cases, second: cases}


@pytest.mark.parametrize(
    ('content', 'told'),
    [
        (b'{"model": "b"}\n', 'other settings'),
        (b'[]\n', 'other settings'),
        (b'no JSON\n', 'not a log'),
        (b'{"model": "a"}\n[]\n', 'not a log'),
        (b'{"model": "a"}\n{"place": {}}\n', 'not a log'),
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / 'log'
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        QualityLog({'model': 'a'}, file)
    assert file.read_bytes() == content


def report_of(*rows: QualityRow) -> QualityReport:
    return QualityReport(rows=rows, relevant_chunks=4)


def test_targets_say_what_is_missed() -> None:
    exact, wrong = Outcome.EXACT, Outcome.WRONG
    answers = [*[exact] * 9, wrong]
    rows = (
        summarize(8192, 'int8', 'complete', [(ask(SHARED, *answers, share=1.0), listen(1))]),
        summarize(
            8192, 'int8', 'usable', [(ask(SYSTEM, exact), listen(0.9, 0.98))] * 19 + [([], [])]
        ),
        summarize(8192, 'int8', 'relevant 4', [(ask(SHARED, *answers), [])]),
        summarize(8192, 'int8', 'relevant 6', [(ask(SHARED, *[exact] * 10, share=0.4), [])]),
    )
    report = report_of(*rows)
    targets = {target.name: target for target in report.targets()}
    low = targets['8192 int8 usable: agreement, low']
    assert low.measured is not None
    assert 0.91 < low.measured < 0.94
    assert low.verdict is Verdict.MISSED
    assert targets['8192 int8 usable: system prompt'].verdict is Verdict.MET
    assert targets['8192 int8 relevant 4: of recall'].verdict is Verdict.MET
    assert targets['8192 int8 relevant 6: of recall'].verdict is Verdict.MISSED
    assert rows[0].rate(SHARED, wrong) == 0.1
    assert rows[0].rate(OTHER) is None
    told = format_quality(report)
    assert 'MISSED  8192 int8 relevant 6: of recall: 111.1% (>= 95%), 10 questions, 40.0%' in told
    assert '1 dialogues; questions: 0 system prompt, 10 shared word, 0 paraphrase' in told


def test_a_promise_of_which_too_little_was_measured_is_not_kept() -> None:
    rows = (
        summarize(4096, 'int8', 'complete', [([], listen(1))] * 19),
        summarize(4096, 'int8', 'usable', [([], listen(1))] * 19),
    )
    report = report_of(*rows)
    assert [target.verdict for target in report.targets()] == [Verdict.TOO_FEW] * 3
    assert [target.measured for target in report.targets()] == [1, None, None]
    assert format_quality(report).count('\ntoo few') == 3
    verdicts = [target['verdict'] for target in report.as_json()['targets']]  # type: ignore[attr-defined]
    assert verdicts == ['too few'] * 3
