# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benches of freezing and of memory, on little."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from cwm_ros.bench.dialogues import Kind, make_return
from cwm_ros.bench.freeze import as_json, format_freeze, FreezeRow, measure_freeze
from cwm_ros.bench.memory import measure_reentry, measure_segments, MemoryReport
from cwm_ros.bench.recall import Outcome
from cwm_ros.config import Settings
from cwm_ros.reentry import compose

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize('seed', range(5))
def test_a_return_has_a_state_that_its_questions_ask_for(seed: int) -> None:
    dialogue, context = make_return(seed, 2000)
    states = [q for q in dialogue.questions if q.kind is Kind.RE_ENTRY_STATE]

    assert not context.startswith(('Now', 'State', 'Vehicle'))
    assert compose(context, '48 weeks passed.', lambda text: len(text.split())) is not None
    assert len(states) == 5
    assert any(question.stale for question in states)
    assert all(max(q.sources) < len(dialogue.turns) for q in dialogue.questions
               if q.sources and q.kind is not Kind.RE_ENTRY_STATE)  # fmt: skip
    assert make_return(seed, 2000) == (dialogue, context)


def test_reports_are_tables() -> None:
    counts = Counter(
        {('facts, after it', Outcome.EXACT): 3, ('facts, after it', Outcome.STALE): 1}
    )
    report = MemoryReport(counts=counts)
    assert report.rows()['facts, after it']['questions'] == 4
    assert report.as_text().splitlines()[1].split() == [
        'facts,',
        'after',
        'it',
        '4',
        '3',
        '0',
        '1',
        '0',
    ]
    row = FreezeRow(
        tokens=512, final_s=0.2, final_max_s=0.3, final_cpu_s=0.1, final_bytes=2048, whole_s=1.0,
        whole_bytes=4096, commit_s=0.001, commit_max_s=0.002, commits=3, rounds=2,
    )  # fmt: skip
    assert format_freeze([row]).endswith('missed')
    assert as_json([row])['target_s'] == 0.1


@pytest.mark.slow
def test_the_reference_model_answers_from_the_state_now() -> None:
    rows = measure_reentry(Settings(), tokens=1024, dialogues=2).rows()
    assert rows['state, after it']['stale'] == 0
    assert rows['state, after it']['questions'] == 10


@pytest.mark.slow
def test_what_is_carried_over_is_recalled_as_before() -> None:
    rows = measure_segments(Settings(), tokens=2048, context=1536, dialogues=2).rows()
    cut, whole = rows['carried over, new segment'], rows['carried over, never cut']
    assert cut['questions'] == whole['questions'] > 0
    assert cut['exact'] >= whole['exact'] - 1


@pytest.mark.slow
def test_the_last_freeze_is_measured(tmp_path: Path) -> None:
    (row,) = measure_freeze(Settings(), tmp_path, rounds=1, lengths=[1024])
    assert 0 < row.final_bytes < row.whole_bytes
    assert row.commits
