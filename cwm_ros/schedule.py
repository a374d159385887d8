# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What a thaw would do, how long it takes and why: a pure function.

It lets the decisions of `cwm_ros.balance` fall in imagined time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast, TYPE_CHECKING

from cwm_ros.balance import Balance
from cwm_ros.plan import order_chunks, prioritize, Way
from cwm_ros.rates import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from cwm_ros.config import ThawSettings
    from cwm_ros.plan import ThawStep
    from cwm_ros.rates import Rates
    from cwm_ros.store import ChunkEntry

AUTO, LOAD, RECOMPUTE = 'auto', 'load', 'recompute'
SOONER = 'sooner computed than loaded'
REPAIR_WEIGHT = 0.25
"""What a second of repair later counts against a second until usable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawPlan:
    """
    What a thaw would do; all times are estimates, None while a rate is not known.

    Parameters
    ----------
    steps
        Each chunk once, those that make the window usable first, then those relevant to the
        prompt, then the others as they become resident.
    num_wanted
        How many steps at the beginning make the prompt answerable.
    load_s, compute_s
        How long the lanes work [s].
    repair_s
        How long it takes afterwards to compute again what was computed too early to be sound [s].
    deadline_s
        When the caller needs to know what is there, from the beginning [s]; None for no matter.

    """

    steps: tuple[ThawStep, ...]
    num_wanted: int
    load_s: float | None
    compute_s: float | None
    repair_s: float | None
    deadline_s: float | None = None

    @property
    def usable_s(self) -> float | None:
        """When the window is usable [s]."""
        return _latest(step for step in self.steps if step.is_usable_part)

    @property
    def answerable_s(self) -> float | None:
        """When the prompt may be answered [s]."""
        return _latest(self.steps[: self.num_wanted])

    @property
    def complete_s(self) -> float | None:
        """When the window is complete [s]."""
        done_s = _latest(self.steps)
        return None if done_s is None or self.repair_s is None else done_s + self.repair_s

    def in_time(self) -> tuple[ThawStep, ...] | None:
        """Return the steps that the deadline leaves time for; None when that cannot be told."""
        if self.deadline_s is None:
            return self.steps
        if self.deadline_s <= 0:
            return ()
        if any(step.done_s is None for step in self.steps):
            return None
        return tuple(s for s in self.steps if s.done_s is not None and s.done_s <= self.deadline_s)


def plan_thaw(
    entries: Sequence[ChunkEntry],
    *,
    num_tokens: int,
    chunk_tokens: int,
    turn_stops: Sequence[int],
    settings: ThawSettings,
    scores: npt.NDArray[np.float64] | None = None,
    rates: Rates = UNKNOWN,
    reach: int = 0,
    strategy: str = '',
    deadline_s: float | None = None,
) -> ThawPlan:
    """
    Decide how a window comes back; a pure function.

    Parameters
    ----------
    entries, num_tokens, chunk_tokens, turn_stops, settings
        As for `order_chunks`; also how many chunks a prompt pulls ahead, how many are loaded
        ahead, and the strategy unless ``strategy`` says another.
    scores
        Relevance of each chunk to the prompt that waits; None when none does.
    rates
        Of the board.
    reach
        How many positions a computed token attends to; 0 means ``num_tokens``.
    strategy
        'auto', 'load' or 'recompute'.
    deadline_s
        When the caller needs to know what is there, from now [s]; one in the past leaves time
        for nothing.

    """
    steps: Sequence[ThawStep] = order_chunks(
        entries,
        num_tokens=num_tokens,
        chunk_tokens=chunk_tokens,
        turn_stops=turn_stops,
        settings=settings,
    )
    strategy, reach = strategy or settings.strategy, reach or num_tokens
    if strategy == RECOMPUTE:
        steps = sorted(
            (s.computed(s.reason.partition(';')[0] + '; to be recomputed') for s in steps),
            key=lambda s: (not s.is_usable_part, s.start),
        )
    elif strategy == AUTO and rates.is_known:
        steps = _split_usable(steps, rates, reach)
    num_wanted = sum(step.is_usable_part for step in steps)
    if scores is not None:
        steps, num_wanted = prioritize(
            steps, scores, chunk_tokens=chunk_tokens, count=settings.relevant_chunks
        )
    lanes = _Lanes(rates, reach, settings)
    return lanes.run(steps, num_wanted, is_mixed=strategy == AUTO, deadline_s=deadline_s)


def _split_usable(steps: Sequence[ThawStep], rates: Rates, reach: int) -> list[ThawStep]:
    """
    Have the engine compute the usable part's beginning where that makes it usable sooner.

    Behind a gap what is computed is provisional and will be computed again, which counts too.
    """
    usable = [step for step in steps if step.is_usable_part]
    gap = next((n for n, s in enumerate(usable) if n and s.start != usable[n - 1].stop), None)

    def cost_s(count: int) -> float:
        computed = [s for n, s in enumerate(usable) if n < count or s.entry is None]
        loads = [s.entry.file_bytes for s in usable[count:] if s.entry]
        loaded_s = rates.load_s(sum(loads)) + rates.decode_s(max(loads, default=0))
        # Until something is loaded the cache grows as it is needed.
        reaches = [min(reach, s.stop) if count == len(usable) else reach for s in computed]
        computed_s = sum(_compute_s(s, rates, r) for s, r in zip(computed, reaches, strict=True))
        again = [s for s in usable[gap:count] if s.entry] if gap is not None else []
        repair_s = sum(_compute_s(s, rates, reach) for s in again)
        if not loaded_s:
            return computed_s + REPAIR_WEIGHT * repair_s
        lost_s = computed_s * rates.load_loss if count else 0.0
        return max(computed_s * rates.drag, loaded_s + lost_s) + REPAIR_WEIGHT * repair_s

    count = min(range(len(usable) + 1), key=cost_s)
    reasons = [f'{step.reason}; {SOONER}' if step.entry else step.reason for step in usable]
    computed = [s.computed(r) for s, r in zip(usable[:count], reasons, strict=False)]
    return [*usable[count:], *computed, *(s for s in steps if not s.is_usable_part)]


def remaining_s(
    absent: Iterable[ThawStep], num_unsound: int, rates: Rates, reach: int
) -> float | None:
    """
    Return how long the rest of a thaw takes at most [s]; None while a rate is not known.

    What makes the window usable is computed while chunks are loaded, all else after that. A thaw
    that also computes chunks which could be loaded is sooner done.

    Parameters
    ----------
    absent
        Steps whose tokens are not all resident.
    num_unsound
        Tokens of the window that are not sound, those of ``absent`` included.
    rates, reach
        As for `plan_thaw`.

    """
    absent = list(absent)
    loads = [step for step in absent if step.entry]
    urgent = sum(s.stop - s.start for s in absent if s.is_usable_part and not s.entry)
    others = max(0, num_unsound - urgent - sum(s.stop - s.start for s in loads))
    if (loads and not rates.can_load) or ((urgent or others) and not rates.can_compute):
        return None
    load_s = sum(_load_s(step, rates) for step in loads)
    return max(load_s, rates.compute_s(urgent, reach)) + rates.compute_s(others, reach)


class _Lanes:
    """The two lanes in imagined time."""

    def __init__(self, rates: Rates, reach: int, settings: ThawSettings) -> None:
        self._rates = rates
        self._reach = reach
        self._ahead = settings.max_in_flight
        self._load_s = 0.0
        self._compute_s = 0.0

    def run(
        self,
        steps: Sequence[ThawStep],
        num_wanted: int,
        *,
        is_mixed: bool,
        deadline_s: float | None,
    ) -> ThawPlan:
        usable = [self._done(step) for step in steps if step.is_usable_part]
        repair_s = self._repair_s(usable)
        wanted = [self._done(s) for s in steps[len(usable) : num_wanted] if s.entry]
        others = [s for s in steps[len(usable) :] if s.start not in {w.start for w in wanted}]
        self._compute_s = max(
            self._compute_s,
            *(0.0 if s.done_s is None else s.done_s for s in (*usable, *wanted)),
            0.0,
        )
        rest = list(self._meet([s for s in others if s.entry], is_mixed=is_mixed))
        self._compute_s = max(self._compute_s, self._load_s)
        rest += [self._done(step) for step in others if not step.entry]
        rest.sort(key=lambda step: 0.0 if step.done_s is None else step.done_s)
        planned = (*usable, *wanted, *rest)
        return ThawPlan(
            steps=planned,
            num_wanted=len(usable) + len(wanted),
            load_s=_total(planned, Way.LOAD),
            compute_s=_total(planned, Way.COMPUTE),
            repair_s=repair_s,
            deadline_s=deadline_s,
        )

    def _meet(self, steps: Sequence[ThawStep], *, is_mixed: bool) -> Iterator[ThawStep]:
        """Let both lanes take what they are sooner with."""
        balance = Balance(steps, lambda: self._rates, reach=self._reach, ahead=self._ahead)
        while balance:
            loading_s = max(0.0, self._load_s - self._compute_s)
            computing_s = max(0.0, self._compute_s - self._load_s)
            step = None
            if is_mixed and loading_s:  # the lane that is idle asks first
                step = self._compute_one(balance, loading_s)
            if is_mixed and step is None:
                step = balance.take_load(loading_s, computing_s)
                step = step or self._compute_one(balance, loading_s)
            yield self._done(step or cast('ThawStep', balance.force_load()))

    def _compute_one(self, balance: Balance, loading_s: float) -> ThawStep | None:
        step = balance.take_compute(None, loading_s)
        if step is None:
            return None
        return replace(step, way=Way.COMPUTE, reason=f'{step.reason}; {SOONER}')

    def _done(self, step: ThawStep) -> ThawStep:
        """Let the step's lane work on it, and return it with the times."""
        rates = self._rates
        if step.way is Way.LOAD:
            if not rates.can_load:
                return step
            cost_s = _load_s(step, rates)
            self._load_s += cost_s
            return replace(step, cost_s=cost_s, done_s=self._load_s)
        if not rates.can_compute:
            return step
        cost_s = _compute_s(step, rates, self._reach)
        self._compute_s += cost_s
        return replace(step, cost_s=cost_s, done_s=self._compute_s)

    def _repair_s(self, usable: Sequence[ThawStep]) -> float | None:
        """Return how long it takes to compute again what is computed behind a gap."""
        if not self._rates.can_compute:
            return None if any(step.way is Way.COMPUTE for step in usable) else 0.0
        spans = sorted((step.start, step.stop) for step in usable)
        sound = 0
        for start, stop in spans:
            sound = stop if start == sound else sound
        late = (s for s in usable if s.way is Way.COMPUTE and s.start >= sound)
        return sum(_compute_s(step, self._rates, self._reach) for step in late)


def _load_s(step: ThawStep, rates: Rates) -> float:
    return rates.load_s(step.entry.file_bytes) if step.entry else 0.0


def _compute_s(step: ThawStep, rates: Rates, reach: int) -> float:
    return rates.compute_s(step.stop - step.start, reach)


def _latest(steps: Iterable[ThawStep]) -> float | None:
    latest_s = 0.0
    for step in steps:
        if step.done_s is None:
            return None
        latest_s = max(latest_s, step.done_s)
    return latest_s


def _total(steps: Sequence[ThawStep], way: Way) -> float | None:
    """Return the sum of the costs of one lane, None while one is not known."""
    costs = [step.cost_s for step in steps if step.way is way]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None
