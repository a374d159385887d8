# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What every engine must do; a test file of an engine subclasses `EngineContract`."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.engine import LogitRows
from cwm_ros.errors import ContextFullError, EngineError, InterruptedOperation

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.engine import Engine
    from cwm_ros.kv import FloatArray, TokenArray

    MakeEngine = Callable[[], Engine]


def random_tokens(engine: Engine, num_tokens: int, seed: int = 0) -> TokenArray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, engine.vocab_size, num_tokens).astype(np.int32)


class EngineContract:
    """
    Tests of an engine with capacity >= 1024 that a fixture ``make_engine`` opens.

    The engine's slices must be shorter than 128 tokens.
    """

    tolerance = 2e-5
    """Most difference of logits and KV that were summed in another order."""

    def assert_close(self, actual: FloatArray, expected: FloatArray) -> None:
        np.testing.assert_allclose(actual, expected, rtol=self.tolerance, atol=self.tolerance)

    def test_steps_equal_a_prefill(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        tokens = random_tokens(engine, 40)
        whole = engine.run(tokens, 0, rows=LogitRows.ALL)
        engine.reset()
        steps = [engine.run(tokens[i : i + 1], i)[0] for i in range(40)]

        assert whole.shape == (40, engine.vocab_size)
        self.assert_close(np.array(steps), whole)

    def test_slices_equal_one_another(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        tokens = random_tokens(engine, 300)
        whole = engine.run(tokens, 0, rows=LogitRows.ALL)
        engine.reset()
        parts = [engine.run(tokens[i : i + 37], i, rows=LogitRows.ALL) for i in range(0, 300, 37)]

        self.assert_close(np.concatenate(parts), whole)

    def test_rows_choose_what_is_returned(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        tokens = random_tokens(engine, 150)
        whole = engine.run(tokens, 0, rows=LogitRows.ALL)
        last = engine.run(tokens, 0, rows=LogitRows.LAST)
        none = engine.run(tokens, 0, rows=LogitRows.NONE)
        one = engine.run(tokens[-1:], 149, rows=LogitRows.NONE)

        assert last.shape == (1, engine.vocab_size)
        self.assert_close(last, whole[-1:])
        assert none.shape == one.shape == (0, engine.vocab_size)
        assert whole.dtype == last.dtype == np.float32

    def test_no_tokens_change_nothing(self, make_engine: MakeEngine) -> None:
        engine = make_engine()

        assert engine.run(random_tokens(engine, 0), 0).shape == (0, engine.vocab_size)
        assert list(engine.resident) == []

    def test_logits_belong_to_the_caller(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        first = engine.run(random_tokens(engine, 1), 0)
        copy = first.copy()
        engine.run(random_tokens(engine, 1, seed=1), 1)

        np.testing.assert_array_equal(first, copy)

    def test_the_same_calls_give_the_same_bits(self, make_engine: MakeEngine) -> None:
        results = []
        for _ in range(2):
            engine = make_engine()
            tokens = random_tokens(engine, 200)
            engine.run(tokens[:150], 0)
            steps = [engine.run(tokens[i : i + 1], i)[0] for i in range(150, 200)]
            results.append(np.array(steps))

        np.testing.assert_array_equal(results[0], results[1])

    def test_holes_are_not_seen(self, make_engine: MakeEngine) -> None:
        """What lies in a hole changes nothing; that it is gone does."""
        engine = make_engine()
        tokens = random_tokens(engine, 96)
        engine.run(tokens[:64], 0)
        seen = engine.run(tokens[64:], 64)
        outcomes = []
        for seed in (1, 2):
            engine.reset()
            engine.run(tokens[:16], 0)
            engine.run(random_tokens(engine, 16, seed), 16)
            engine.drop(16, 32)
            engine.run(tokens[32:64], 32)
            engine.drop(40, 41)
            outcomes.append(engine.run(tokens[64:], 64))

        np.testing.assert_array_equal(outcomes[0], outcomes[1])
        assert np.abs(outcomes[0] - seen).max() > 1e-3
        assert list(engine.resident) == [(0, 16), (32, 40), (41, 96)]

    def test_holes_are_not_seen_by_steps(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        tokens = random_tokens(engine, 64)
        engine.run(tokens[:60], 0)
        engine.drop(8, 24)
        whole = engine.run(tokens[60:], 60, rows=LogitRows.ALL)
        engine.drop(60, 64)
        steps = [engine.run(tokens[i : i + 1], i)[0] for i in range(60, 64)]

        self.assert_close(np.array(steps), whole)

    def test_later_positions_are_not_seen(self, make_engine: MakeEngine) -> None:
        """A chunk in the middle is computed again while later ones are resident."""
        engine = make_engine()
        tokens = random_tokens(engine, 250)
        expected = engine.run(tokens[:130], 0, rows=LogitRows.ALL)
        engine.run(tokens[130:], 130)
        kv = engine.export_kv(0, 250).kv.copy() if engine.supports_kv else None
        engine.drop(20, 130)
        again = engine.run(tokens[20:129], 20, rows=LogitRows.ALL)
        step = engine.run(tokens[129:130], 129)

        self.assert_close(np.concatenate([again, step]), expected[20:])
        assert engine.resident.covers(0, 250)
        if kv is not None:
            self.assert_close(engine.export_kv(0, 250).kv, kv)

    def test_steps_in_the_middle_leave_later_positions_alone(
        self, make_engine: MakeEngine
    ) -> None:
        engine = make_engine()
        tokens = random_tokens(engine, 64)
        engine.run(tokens[:60], 0)
        expected = engine.run(tokens[60:61], 60)
        engine.run(tokens[30:31], 30)

        self.assert_close(engine.run(tokens[60:61], 60), expected)

    def test_dropped_positions_can_be_computed_again(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        tokens = random_tokens(engine, 64)
        expected = engine.run(tokens, 0)
        engine.drop(32, 64)
        engine.run(random_tokens(engine, 32, seed=3), 32)
        engine.drop(32, 64)

        assert list(engine.resident) == [(0, 32)]
        self.assert_close(engine.run(tokens[32:], 32), expected)

    def test_growth_keeps_what_is_resident(self, make_engine: MakeEngine) -> None:
        grown, roomy = make_engine(), make_engine()
        roomy.reserve(1000)
        tokens = random_tokens(grown, 1000)
        for start in range(0, 1000, 100):
            self.assert_close(
                grown.run(tokens[start : start + 100], start),
                roomy.run(tokens[start : start + 100], start),
            )

    def test_a_full_context_is_refused_before_anything_is_computed(
        self, make_engine: MakeEngine
    ) -> None:
        engine = make_engine()
        engine.run(random_tokens(engine, 3), engine.capacity - 3)
        with pytest.raises(ContextFullError):
            engine.run(random_tokens(engine, 1), engine.capacity)
        with pytest.raises(ContextFullError):
            engine.run(random_tokens(engine, 200), engine.capacity - 199)
        with pytest.raises(ContextFullError):
            engine.reserve(engine.capacity + 1)

        assert list(engine.resident) == [(engine.capacity - 3, engine.capacity)]

    @pytest.mark.parametrize('token', [-1, 1 << 30])
    def test_ids_of_another_model_are_refused(self, make_engine: MakeEngine, token: int) -> None:
        engine = make_engine()
        with pytest.raises(EngineError, match='token id'):
            engine.run(np.array([1, token], np.int32), 0)
        with pytest.raises(EngineError):
            engine.run(np.array([1, 2], np.int64), 0)  # type: ignore[arg-type]
        with pytest.raises(EngineError):
            engine.run(np.array([1, 2], np.int32), -1)

        assert list(engine.resident) == []

    def test_cancelled_before_the_start_computes_nothing(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        cancel = threading.Event()
        cancel.set()
        for num_tokens in (1, 10, 300):
            with pytest.raises(InterruptedOperation):
                engine.run(random_tokens(engine, num_tokens), 0, cancel=cancel)

        assert list(engine.resident) == []

    def test_cancelled_underway_keeps_whole_slices(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        tokens = random_tokens(engine, 1000)
        cancel = threading.Event()
        begun = time.monotonic()
        engine.run(tokens, 0)
        timer = threading.Timer((time.monotonic() - begun) / 2, cancel.set)
        engine.drop(0, 1000)
        timer.start()
        try:
            with pytest.raises(InterruptedOperation):
                self._run_again_and_again(engine, tokens, cancel)
        finally:
            timer.join()
        (stop,) = [b for a, b in engine.resident if a == 0] or [0]
        assert stop < 1000 or list(engine.resident) == [(0, 1000)]

        rest = engine.run(tokens[stop:], stop) if stop < 1000 else engine.run(tokens, 0)
        self.assert_close(rest, make_engine().run(tokens, 0))

    def test_kv_moves_to_another_engine(self, make_engine: MakeEngine) -> None:
        first, second = make_engine(), make_engine()
        self._needs_kv(first)
        tokens = random_tokens(first, 300)
        first.run(tokens[:299], 0)
        second.reserve(299)
        for start, stop in ((256, 299), (0, 128), (128, 256)):
            second.import_view(start, stop)[:] = first.export_kv(start, stop).kv
            second.mark_resident(start, stop)

        assert list(second.resident) == [(0, 299)]
        np.testing.assert_array_equal(second.run(tokens[299:], 299), first.run(tokens[299:], 299))

    def test_export_is_a_view_that_cannot_be_written(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        self._needs_kv(engine)
        engine.run(random_tokens(engine, 20), 0)
        chunk = engine.export_kv(4, 12)

        assert (chunk.start, chunk.stop) == (4, 12)
        assert chunk.kv.shape == engine.spec.shape(8)
        assert chunk.kv.base is not None
        with pytest.raises(ValueError, match='read-only'):
            chunk.kv[:] = 0

    def test_export_of_what_is_not_resident_is_refused(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        self._needs_kv(engine)
        engine.run(random_tokens(engine, 20), 0)
        engine.drop(8, 9)
        with pytest.raises(EngineError, match='not resident'):
            engine.export_kv(4, 12)

    def test_import_over_resident_positions_is_refused(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        self._needs_kv(engine)
        engine.run(random_tokens(engine, 20), 0)
        with pytest.raises(EngineError, match='is resident'):
            engine.import_view(19, 30)
        with pytest.raises(ContextFullError):
            engine.import_view(engine.capacity - 1, engine.capacity + 1)

    def test_marking_beyond_the_reserved_room_is_refused(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        self._needs_kv(engine)
        with pytest.raises(EngineError, match='outside'):
            engine.mark_resident(0, engine.capacity + 1)
        with pytest.raises(EngineError, match='outside'):
            engine.mark_resident(-1, 3)

    def test_an_import_may_be_written_while_steps_run(self, make_engine: MakeEngine) -> None:
        engine, quiet = make_engine(), make_engine()
        self._needs_kv(engine)
        tokens = random_tokens(engine, 700)
        for each in (engine, quiet):
            each.reserve(700)
            each.run(tokens[:64], 0)
        view = engine.import_view(64, 600)
        is_over = threading.Event()

        def write() -> None:
            rng = np.random.default_rng(0)
            while not is_over.is_set():
                view[:] = rng.normal(scale=30, size=(1, 1, 1, view.shape[3], 1))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for i in range(600, 700):
                np.testing.assert_array_equal(
                    engine.run(tokens[i : i + 1], i), quiet.run(tokens[i : i + 1], i)
                )
        finally:
            is_over.set()
            writer.join()

    def test_reset_forgets_and_close_twice_is_harmless(self, make_engine: MakeEngine) -> None:
        engine = make_engine()
        tokens = random_tokens(engine, 100)
        with engine:
            first = engine.run(tokens, 0)
            engine.reset()
            assert list(engine.resident) == []
            np.testing.assert_array_equal(engine.run(tokens, 0), first)
        engine.close()

    @staticmethod
    def _run_again_and_again(engine: Engine, tokens: TokenArray, cancel: threading.Event) -> None:
        while True:
            engine.run(tokens, 0, cancel=cancel)

    @staticmethod
    def _needs_kv(engine: Engine) -> None:
        if not engine.supports_kv:
            pytest.skip('this engine keeps its KV to itself')
