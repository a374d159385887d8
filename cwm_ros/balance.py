# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Load or compute: two lanes that bring a window back at the same time.

Loading threads take chunks in the plan's order, the newest first; the engine, when nothing waits
for it, computes from the front, where everything before is there and what it computes is sound.
They meet. Each takes a chunk only if it will be sooner than the other, so that beside a slow lane
the other does it all. Computing from the front while loading from the back is Cake's idea (Jin
et al. 2025, arXiv:2410.03065); computing a part while the rest travels also KVPR's (Jiang et al.
2024, arXiv:2411.17089).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import TYPE_CHECKING

from cwm_ros.plan import Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cwm_ros.plan import ThawStep
    from cwm_ros.rates import Rates

HEDGE = 1.1
"""How much sooner a lane must be: what is estimated is not known."""


class Balance:
    """
    Steps that nobody has taken yet, and who takes which.

    What makes the window usable comes first and each step in the way that it says; the others
    are loaded or computed as the rates are when a lane asks.

    Parameters
    ----------
    steps
        In the order of a plan; of those that are not usable parts, only the ones with an entry.
    rates
        Gives what is known of the board by now; while a rate is missing all is loaded.
    reach
        How many positions a computed token attends to, see `Engine.reach`.
    ahead
        Most chunks that are loaded while the engine is too busy to take any.

    """

    def __init__(
        self,
        steps: Iterable[ThawStep],
        rates: Callable[[], Rates],
        *,
        reach: int,
        ahead: int,
    ) -> None:
        self._rates = rates
        self._reach = reach
        self._ahead = ahead
        self._urgent_loads: deque[ThawStep] = deque()
        self._urgent: list[tuple[int, ThawStep]] = []
        self._left: dict[int, ThawStep] = {}
        self._order: deque[int] = deque()
        self._bytes = self._tokens = 0
        others = []
        for step in steps:
            if not step.is_usable_part:
                others.append(step)
            elif step.way is Way.LOAD:
                self._urgent_loads.append(step)
            else:
                self._urgent.append((step.start, step))
        self._urgent.sort(key=lambda pair: pair[0])
        # What a plan expects to be computed is loaded last, the newest first.
        loads = [step for step in others if step.way is Way.LOAD]
        spare = [step for step in others if step.way is Way.COMPUTE and step.entry]
        for step in (*loads, *sorted(spare, key=lambda step: -step.start)):
            self._add(step)
            self._order.append(step.start)
        self._front = deque(sorted(self._left))

    def __len__(self) -> int:
        return len(self._left) + len(self._urgent_loads) + len(self._urgent)

    @property
    def has_urgent(self) -> bool:
        """Whether a usable part is left to be computed."""
        return bool(self._urgent)

    @property
    def next_load(self) -> ThawStep | None:
        """The chunk that is to be loaded next, if it is to be loaded."""
        if self._urgent_loads:
            return self._urgent_loads[0]
        while self._order and self._order[0] not in self._left:
            self._order.popleft()
        return self._left[self._order[0]] if self._order else None

    def reorder(self, steps: Sequence[ThawStep]) -> None:
        """Load what is left in the order in which it stands in ``steps``."""
        self._order = deque(step.start for step in steps if step.start in self._left)

    def clear(self) -> None:
        """Let nothing be taken any more."""
        self._left.clear()
        self._urgent_loads.clear()
        self._urgent.clear()

    def put_back(self, step: ThawStep) -> None:
        """Let a step that was taken to be loaded be taken again, before all others."""
        if step.is_usable_part:
            self._urgent_loads.appendleft(step)
            return
        self._add(step)
        self._order.appendleft(step.start)
        self._front = deque(sorted(self._left))

    def must_compute(self, step: ThawStep) -> None:
        """Have a usable part computed that could not be loaded."""
        insort(self._urgent, (step.start, step), key=lambda pair: pair[0])

    def take_urgent(self, loading: set[int]) -> ThawStep | None:
        """
        Return the next usable part to compute; None while one before it is still to be loaded.

        Parameters
        ----------
        loading
            First positions of the usable parts that are being loaded.

        """
        if not self._urgent:
            return None
        start = self._urgent[0][0]
        is_early = any(step.start < start for step in self._urgent_loads)
        if is_early or any(other < start for other in loading):
            return None
        return self._urgent.pop(0)[1]

    def take_load(self, loading_s: float, computing_s: float) -> ThawStep | None:
        """
        Return the next chunk to load; None when the engine will sooner have computed it.

        Parameters
        ----------
        loading_s, computing_s
            How long the lanes are busy with what they have taken [s].

        """
        if self._urgent_loads:
            return self._urgent_loads.popleft()
        step, rates = self.next_load, self._rates()
        if step is not None and rates.is_known:
            loaded_s = loading_s + rates.load_s(_file_bytes(step))
            if loaded_s * HEDGE > computing_s + rates.compute_s(self._tokens, self._reach):
                return None
        return step and self._take(step.start)

    def force_load(self) -> ThawStep | None:
        """Return the next chunk to load, whatever the rates say."""
        step = self.next_load
        return step and self._take(step.start)

    def take_compute(self, start: int | None, loading_s: float) -> ThawStep | None:
        """
        Return the chunk to compute now; None when it will sooner be loaded.

        Parameters
        ----------
        start
            Where computing is sound; None means the first chunk that is left.
        loading_s
            How long loading is busy with what it has taken [s].

        """
        while self._front and self._front[0] not in self._left:
            self._front.popleft()
        rates = self._rates()
        if not self._front or start not in (None, self._front[0]) or not rates.is_known:
            return None
        step = self._left[self._front[0]]
        cost_s = rates.compute_s(step.stop - step.start, self._reach) * rates.drag
        load_s = rates.load_s(_file_bytes(step))
        # Loading loses processor time, and stands still when nobody takes what it has loaded.
        lost_s = max(cost_s * rates.load_loss, cost_s - self._ahead * load_s)
        left_s = loading_s + rates.load_s(self._bytes)
        if cost_s * HEDGE >= left_s or lost_s * HEDGE >= load_s:
            return None
        return self._take(self._front[0])

    def _add(self, step: ThawStep) -> None:
        self._left[step.start] = step
        self._bytes += _file_bytes(step)
        self._tokens += step.stop - step.start

    def _take(self, start: int) -> ThawStep:
        step = self._left.pop(start)
        self._bytes -= _file_bytes(step)
        self._tokens -= step.stop - step.start
        return step


def _file_bytes(step: ThawStep) -> int:
    assert step.entry is not None
    return step.entry.file_bytes
