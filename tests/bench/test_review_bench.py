# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reviews of planted late facts: what is absent, and what counts as what."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cwm_ros.bench.dialogues import Kind, Question
from cwm_ros.bench.review import _left_out, ABSENT, Judged, measure_reviews, MIDDLE, SOURCE
from cwm_ros.config import Settings
from cwm_ros.review import Review, ReviewVerdict

STOPS = [30, *range(50, 2000, 50), 2000]
SESSION = SimpleNamespace(num_tokens=2000, turn_stops=STOPS)


def review(verdict: ReviewVerdict, said: str, text: str) -> Review:
    return Review(turn=1, verdict=verdict, said=said, text=text, gap=0.0)


def question(*sources: int) -> Question:
    return Question(text='?', answer='!', kind=Kind.FACT, sources=sources)


def left_out(absent: str, *sources: int) -> list[tuple[int, int]]:
    return _left_out(SESSION, question(*sources), Settings(), absent)  # type: ignore[arg-type]


def test_a_change_counts_and_a_right_change_twice() -> None:
    judged = Judged()
    judged.add(review(ReviewVerdict.CHANGED, 'one', 'two'), 'two')
    judged.add(review(ReviewVerdict.CHANGED, 'one', 'three'), 'two')
    judged.add(review(ReviewVerdict.CONFIRMED, 'one', 'two'), 'two')
    assert (judged.total, judged.changed, judged.corrected) == (3, 2, 1)
    assert judged.as_text('wrong') == 'wrong: 2 of 3 changed (66.7%), 1 then right'
    assert Judged().as_text('right') == 'right: 0 of 0 changed, 0 then right'


def test_what_is_absent_leaves_the_window_usable() -> None:
    assert left_out(MIDDLE, 12) == [(256, 1488)]
    assert left_out(SOURCE, 12) == [(512, 768)]  # tokens 550 to 600
    assert left_out(SOURCE, 11, 12) == [(256, 512), (512, 768)]  # 500 to 600
    assert left_out(SOURCE, 6) == [(256, 512)]  # 250 to 300; the first chunk is usable's
    assert left_out(SOURCE, 5) == left_out(SOURCE, 39) == left_out(SOURCE) == []


@pytest.mark.slow
@pytest.mark.parametrize('absent', ABSENT)
def test_what_is_wrong_is_changed_and_what_is_right_is_not(absent: str) -> None:
    asked = list[int]()
    count = measure_reviews(
        Settings(), context=1536, questions=8, seed=5, absent=absent, on_question=asked.append
    )
    sorts = (count.wrong, count.abstained, count.right)
    assert asked == list(range(1, 9))
    assert sum(sort.total for sort in sorts) == 8
    assert count.wrong.total + count.abstained.total > 0
    assert count.wrong.changed == count.wrong.total
    assert count.abstained.changed == count.abstained.total
    assert count.right.changed == 0
    assert f'8 questions at 1536 tokens, without {absent}' in count.as_text()
