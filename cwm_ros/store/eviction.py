# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Which chunks go when room is short; the reasons are in docs/decisions/eviction-order.md.

First the middle chunks of the coldest windows, which stay usable, then their other chunks; the
windows used last come after all others. Turns, pinned windows, open windows and chunks of a
freeze in progress are never touched.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from cwm_ros.store.inventory import Inventory
    from cwm_ros.store.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """
    What a window lost to make room.

    Parameters
    ----------
    window
        Its name.
    chunks, bytes
        Chunk files removed, and the room they took; they can be computed again from tokens.
    is_removed
        Whether the window is gone with its turns, which only a setting allows.
    is_expired
        Whether it is gone because it was kept for as long as a setting says.

    """

    window: str
    chunks: int
    bytes: int
    is_removed: bool = False
    is_expired: bool = False


class EvictionOrder:
    """
    The windows by coldness, of which those in front are taken first.

    A window leaves a queue when it has nothing more to give and comes back when it is used, so
    that choosing costs as much as is chosen, whatever the number of windows.

    Parameters
    ----------
    inventory, state
        Windows with their chunks, and their uses and pins.
    num_recent
        How many windows, of those used last, keep all chunks while any other has one.

    """

    def __init__(self, inventory: Inventory, state: State, num_recent: int) -> None:
        self._inventory = inventory
        self._state = state
        self._num_recent = num_recent
        self._held: dict[str, int] = {}
        self._middle: OrderedDict[str, None] = OrderedDict()
        self._rest: OrderedDict[str, None] = OrderedDict()
        self.rebuild()

    def rebuild(self) -> None:
        """Sort all windows anew."""
        windows = sorted(self._inventory.records, key=self._warmth)
        self._middle = OrderedDict.fromkeys(windows)
        self._rest = OrderedDict.fromkeys(windows)

    def _warmth(self, window_id: str) -> tuple[int, str]:
        return self._state.last_use.get(window_id, 0), window_id

    def use(self, window_id: str) -> None:
        """Let a window be the warmest; its use is counted already."""
        for queue in (self._middle, self._rest):
            queue[window_id] = None
            queue.move_to_end(window_id)

    def hold(self, window_id: str) -> None:
        """Protect a window while it is open."""
        self._held[window_id] = self._held.get(window_id, 0) + 1

    def let_go(self, window_id: str) -> None:
        """End one `hold`."""
        left = self._held.pop(window_id, 1) - 1
        if left:
            self._held[window_id] = left

    def is_held(self, window_id: str) -> bool:
        """Say whether a window is open."""
        return window_id in self._held

    def forget(self, window_id: str) -> None:
        """Drop a deleted window."""
        self._middle.pop(window_id, None)
        self._rest.pop(window_id, None)
        self._held.pop(window_id, None)

    def is_protected(self, window_id: str) -> bool:
        """Say whether a window is pinned or open."""
        return window_id in self._held or window_id in self._state.pins

    def choose(self, num_bytes: int, *, keep: AbstractSet[str]) -> dict[str, str]:
        """
        Return the chunks whose removal wins ``num_bytes``, or none when all would not do.

        Parameters
        ----------
        num_bytes
            To be won.
        keep
            Names of chunks that a freeze in progress needs.

        Returns
        -------
        dict
            Of chunk names: the window, by id, whose chunk it was.

        """
        for _ in range(2):
            chosen: dict[str, str] = {}
            won = 0
            for window_id, name in self._candidates():
                if name not in chosen and name not in keep:
                    chosen[name] = window_id
                    won += self._inventory.sizes[name]
                    if won >= num_bytes:
                        return chosen
            # The queues are empty now; some windows may have left them for the sake of another.
            self.rebuild()
        return {}

    def _candidates(self) -> Iterator[tuple[str, str]]:
        recent = set(islice(reversed(self._state.last_use), self._num_recent))
        for spared in (recent, set[str]()):
            yield from self._take(self._middle, spared, is_middle=True)
            yield from self._take(self._rest, spared, is_middle=False)

    def _take(
        self, queue: OrderedDict[str, None], spared: AbstractSet[str], *, is_middle: bool
    ) -> Iterator[tuple[str, str]]:
        while queue:
            window_id = next(iter(queue))
            if window_id in spared:
                return  # those behind it are warmer still
            if not self.is_protected(window_id):
                record = self._inventory.window(window_id)
                names = record.middle_chunks if is_middle else record.chunks
                for name in names:
                    if self._may_go(name, window_id, is_middle=is_middle):
                        yield window_id, name
            del queue[window_id]

    def _may_go(self, name: str, window_id: str, *, is_middle: bool) -> bool:
        """Say whether no window that is warmer, or needs the chunk more, shares it."""
        if name not in self._inventory.sizes:
            return False
        warmth = self._warmth(window_id)
        for user in self._inventory.users(name):
            if self._warmth(user) > warmth or self.is_protected(user):
                return False
            if is_middle and name in self._inventory.window(user).usable_chunks:
                return False
        return True

    def choose_windows(self, num_bytes: int) -> list[str]:
        """Return the coldest windows whose removal wins ``num_bytes``, or none."""
        recent = set(islice(reversed(self._state.last_use), self._num_recent))
        chosen: list[str] = []
        won = 0
        for window_id in sorted(self._inventory.records, key=self._warmth):
            if not self.is_protected(window_id) and window_id not in recent:
                chosen.append(window_id)
                won += self._inventory.won_with(window_id, set(chosen))
                if won >= num_bytes:
                    return chosen
        return []
