# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cwm_ros.config import EngineSettings
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.errors import ContextFullError, InterruptedOperation
from cwm_ros.kv import Role, Turn
from cwm_ros.model import build_graph, Checkpoint
from cwm_ros.session import Fidelity, Session
from tests.fakes import assert_true_kv, HashEngine, STOP_TOKEN, story

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cwm_ros.engine import Engine
    from cwm_ros.kv import FloatArray

SYSTEM = Turn(role=Role.SYSTEM, text='You are the assistant of a car.')
texts = st.text(st.characters(codec='utf-8'), max_size=30)
some_turns = st.lists(
    st.builds(Turn, role=st.sampled_from([Role.USER, Role.ASSISTANT]), text=texts), max_size=6
)


def session_on(engine: Engine, model: Checkpoint) -> Session:
    return Session(engine, model.chat, model.stop_ids)


def fake_session(model: Checkpoint, *, capacity: int = 8192) -> Session:
    return session_on(HashEngine(model.identity, capacity=capacity), model)


def talked(session: Session, num_turns: int, letters: int = 100) -> Session:
    session.add_turn(SYSTEM)
    for index in range(num_turns):
        session.add_turn(
            Turn(role=[Role.USER, Role.ASSISTANT][index % 2], text=story(letters, index))
        )
    return session


def speaks(model: Checkpoint, text: str) -> Callable[[FloatArray], int]:
    """Return a sampler that says ``text`` and then stops."""
    tokens = iter([*model.tokenizer.encode(' ' + text, is_first=False), *model.stop_ids])
    return lambda _: next(tokens)


def state(session: Session) -> tuple[object, ...]:
    return (
        session.tokens.tolist(),
        list(session.turns),
        list(session.turn_stops),
        list(session.engine.resident),
        list(session.provisional),
        str(session.fidelity),
    )


def rendered(model: Checkpoint, turns: Sequence[Turn]) -> list[int]:
    return model.chat.render(turns, add_generation_prompt=False).tolist()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=some_turns)
def test_tokens_turn_by_turn_equal_the_rendering_of_all_turns(
    tiny_model: Checkpoint, turns: list[Turn]
) -> None:
    session = fake_session(tiny_model)
    added = sum(session.add_turn(turn) for turn in [SYSTEM, *turns])

    assert session.tokens.tolist() == rendered(tiny_model, [SYSTEM, *turns])
    assert added == session.num_tokens == session.turn_stops[-1]
    for count, stop in enumerate(session.turn_stops, start=1):
        assert session.tokens[:stop].tolist() == rendered(tiny_model, session.turns[:count])


@pytest.mark.parametrize('max_tokens', [100, 6, 1])
@pytest.mark.parametrize('text', ['Hello there.', 'ä ö', 'x'])
def test_an_answer_has_the_tokens_of_its_rendering(
    tiny_model: Checkpoint, text: str, max_tokens: int
) -> None:
    """After a stop token, and after a cut by length."""
    session = talked(fake_session(tiny_model), 1)
    session.begin_answer(max_tokens)
    said = list(session.generate(speaks(tiny_model, text), max_tokens))
    assert session.is_answer_ended == (len(said) < max_tokens)
    session.end_answer(tiny_model.tokenizer.decode(said), 5)

    assert session.turns[-1].time_ms == 5
    if '\ufffd' not in session.turns[-1].text and session.turns[-1].text.strip():
        assert session.tokens.tolist() == rendered(tiny_model, session.turns)
    assert session.turn_stops[-1] == session.num_tokens


def test_an_answer_that_is_cancelled_has_the_tokens_of_its_rendering(
    tiny_model: Checkpoint,
) -> None:
    session = talked(fake_session(tiny_model), 1)
    cancel = threading.Event()
    session.begin_answer(50)
    tokens = session.generate(speaks(tiny_model, 'Hello there.'), 50, cancel)
    said = [next(tokens) for _ in range(4)]
    cancel.set()
    with pytest.raises(InterruptedOperation):
        next(tokens)
    session.end_answer(tiny_model.tokenizer.decode(said), 0)

    assert session.turns[-1].text.strip() == 'Hel'
    assert session.tokens.tolist() == rendered(tiny_model, session.turns)


def test_another_stop_token_than_the_template_s_leaves_no_trace(tiny_model: Checkpoint) -> None:
    """Some models stop with a token that their template never writes."""
    other_stop = 5
    engine = HashEngine(tiny_model.identity)
    session = Session(engine, tiny_model.chat, frozenset({STOP_TOKEN, other_stop}))
    talked(session, 1)
    tokens = iter([*tiny_model.tokenizer.encode(' Yes.', is_first=False), other_stop])
    session.begin_answer(20)
    said = list(session.generate(lambda _: next(tokens), 20))
    session.end_answer(tiny_model.tokenizer.decode(said).strip(), 0)

    assert session.tokens.tolist() == rendered(tiny_model, session.turns)
    list(session.repair())
    assert_true_kv(session)


def test_a_stop_token_is_not_yielded(tiny_model: Checkpoint) -> None:
    session = talked(fake_session(tiny_model), 1)
    session.begin_answer(50)

    assert STOP_TOKEN not in list(session.generate(speaks(tiny_model, 'Yes.'), 50))
    assert session.is_answer_ended


@pytest.mark.parametrize('hole', [(0, 1), (40, 60), (150, 151)])
def test_a_hole_before_makes_provisional_and_repair_makes_sound(
    tiny_model: Checkpoint, hole: tuple[int, int]
) -> None:
    session = talked(fake_session(tiny_model), 3)
    list(session.repair())
    start = session.num_tokens
    session.engine.drop(*hole)
    session.add_turn(Turn(role=Role.USER, text='What now?'))
    session.compute(start, session.num_tokens, LogitRows.LAST)

    assert list(session.provisional) == [(start, session.num_tokens)]
    assert list(session.unsound()) == [hole, (start, session.num_tokens)]
    assert str(session.fidelity).startswith('PARTIAL')
    assert_true_kv(session)

    assert sum(session.repair()) == hole[1] - hole[0] + session.num_tokens - start
    assert list(session.provisional) == list(session.unsound()) == []
    assert str(session.fidelity) == 'EXACT'
    assert_true_kv(session)


def test_what_follows_provisional_is_provisional(tiny_model: Checkpoint) -> None:
    """Even when the hole itself is closed meanwhile."""
    session = talked(fake_session(tiny_model), 2)
    list(session.repair())
    middle = session.num_tokens
    session.engine.drop(10, 20)
    session.add_turn(Turn(role=Role.USER, text='one'))
    session.compute(middle, session.num_tokens, LogitRows.NONE)
    session.compute(10, 20, LogitRows.NONE)
    last = session.num_tokens
    session.add_turn(Turn(role=Role.USER, text='two'))
    session.compute(last, session.num_tokens, LogitRows.NONE)

    assert list(session.provisional) == [(middle, session.num_tokens)]
    assert session.fidelity.resident == middle
    assert_true_kv(session)


def test_a_prefill_that_is_cancelled_over_a_hole_leaves_nothing_that_looks_sound(
    tiny_model: Checkpoint,
) -> None:
    session = talked(fake_session(tiny_model), 2)
    list(session.repair())
    start = session.num_tokens
    session.engine.drop(10, 20)
    session.add_turn(Turn(role=Role.USER, text=story(300, 9)))
    cancel = threading.Event()
    engine = session.engine
    assert isinstance(engine, HashEngine)
    engine.before_slice = lambda left: left > start + 100 and cancel.set()
    with pytest.raises(InterruptedOperation):
        session.compute(start, session.num_tokens, LogitRows.LAST, cancel)

    assert engine.resident.covers(start, start + 64)
    assert_true_kv(session)
    engine.before_slice = int
    list(session.repair())
    assert str(session.fidelity) == 'EXACT'
    assert_true_kv(session)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(['drop', 'turn', 'compute', 'cancel', 'repair']), st.integers(0)
        ),
        max_size=14,
    )
)
def test_what_is_not_provisional_is_true_whatever_happens(
    tiny_model: Checkpoint, events: list[tuple[str, int]]
) -> None:
    session = talked(fake_session(tiny_model), 2, letters=60)
    engine = session.engine
    assert isinstance(engine, HashEngine)
    for kind, number in events:
        if kind == 'drop':
            start = number % session.num_tokens
            engine.drop(start, start + 1 + number % 50)
        elif kind == 'turn':
            session.add_turn(Turn(role=Role.USER, text=story(number % 90, number)))
        elif kind == 'compute':
            begin = session._frontier
            if begin < session.num_tokens:
                session.compute(begin, session.num_tokens, LogitRows.LAST)
        else:
            cancel = threading.Event()
            steps = session.repair(cancel)
            for _ in range(number % 3):
                next(steps, None)
            if kind == 'cancel':
                cancel.set()
                with pytest.raises((InterruptedOperation, StopIteration)):
                    next(steps)
        assert_true_kv(session)
    list(session.repair())
    assert list(session.unsound()) == []
    assert_true_kv(session)


def test_a_full_context_leaves_nothing_changed(tiny_model: Checkpoint) -> None:
    session = talked(fake_session(tiny_model, capacity=300), 2)
    before = state(session)
    with pytest.raises(ContextFullError, match=r'context holds 300'):
        session.add_turn(Turn(role=Role.USER, text=story(100)))
    assert state(session) == before

    session.add_turn(Turn(role=Role.USER, text='x' * (300 - session.num_tokens - 5)))
    before = state(session)
    for refused in (lambda: session.add_prompt('x', 0), lambda: session.begin_answer(10)):
        with pytest.raises(ContextFullError):
            refused()
        assert state(session) == before


def test_an_answer_ends_where_the_context_does(tiny_model: Checkpoint) -> None:
    session = talked(fake_session(tiny_model, capacity=300), 2)
    session.begin_answer(1000)
    said = list(session.generate(lambda _: 80, 1000))
    session.end_answer('text', 0)

    assert len(said) > 20
    assert session.num_tokens == 300
    list(session.repair())
    assert_true_kv(session)


def test_turns_that_are_taken_back_leave_no_trace(tiny_model: Checkpoint) -> None:
    session = talked(fake_session(tiny_model), 2)
    list(session.repair())
    before = state(session)
    session.add_turn(Turn(role=Role.USER, text='one'))
    session.add_turn(Turn(role=Role.USER, text='two'))
    session.take_back(3)

    assert state(session) == before


def test_a_repair_may_be_stopped_and_begun_again(tiny_model: Checkpoint) -> None:
    session = talked(fake_session(tiny_model), 6)
    steps = session.repair()
    next(steps)
    steps.close()

    assert 0 < len(session.engine.resident) < session.num_tokens
    assert_true_kv(session)
    list(session.repair())
    assert_true_kv(session)


@pytest.mark.parametrize(
    ('codec', 'resident', 'text'),
    [('', 9, 'EXACT'), ('int8', 9, 'LOSSY(int8)'), ('int8', 4, 'PARTIAL(4 of 9)')],
)
def test_fidelity_says_the_worst_that_holds(codec: str, resident: int, text: str) -> None:
    assert str(Fidelity(codec=codec, resident=resident, total=9)) == text


@pytest.fixture
def ort_engine(tiny_model: Checkpoint, model_cache: Path) -> Iterator[Callable[[], Engine]]:
    opened = []

    def make() -> Engine:
        opened.append(
            open_engine(
                lambda name: build_graph(tiny_model, name, model_cache),
                tiny_model.kv_spec,
                tiny_model.identity,
                EngineSettings(threads=1, prefill_slice=64),
            )
        )
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


def test_a_repaired_session_of_a_real_model_equals_one_that_had_no_holes(
    tiny_model: Checkpoint, ort_engine: Callable[[], Engine]
) -> None:
    whole, holed = (talked(session_on(ort_engine(), tiny_model), 4) for _ in range(2))
    for session in (whole, holed):
        list(session.repair())
    holed.engine.drop(30, 130)
    logits = []
    for session in (whole, holed):
        start = session.num_tokens
        session.add_turn(Turn(role=Role.USER, text='What did I say first?'))
        logits.append(session.compute(start, session.num_tokens, LogitRows.LAST))
    assert np.abs(logits[0] - logits[1]).max() > 1e-3, 'the hole had no effect'
    list(holed.repair())
    again = [
        session.compute(session.num_tokens - 1, session.num_tokens, LogitRows.LAST)
        for session in (whole, holed)
    ]

    np.testing.assert_allclose(again[1], again[0], rtol=2e-5, atol=2e-5)
    stop = whole.num_tokens
    np.testing.assert_allclose(
        holed.engine.export_kv(0, stop).kv, whole.engine.export_kv(0, stop).kv, atol=2e-5
    )
