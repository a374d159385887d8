# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node tells of itself: frozen values that the engine's thread makes; knows no ROS."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
import time
from typing import TYPE_CHECKING

from cwm_ros.errors import CwmError
from cwm_ros.footprint import saved_bytes
from cwm_ros.store import Store

if TYPE_CHECKING:
    from cwm_ros.config import Settings
    from cwm_ros.manager import Manager
    from cwm_ros.power import PolicyChoice
    from cwm_ros.progress import ThawProgress
    from cwm_ros.session import Fidelity
    from cwm_ros.store import StorageReport, WindowInfo


class Phase(IntEnum):
    """The numbers of cwm_interfaces/Usability."""

    NO_WINDOW = 0
    LOADING_ENGINE = 1
    THAWING = 2
    USABLE = 3
    COMPLETE = 4
    FREEZING = 5
    ENGINE_HUNG = 6
    STORE_ONLY = 7
    INACTIVE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """
    The engine's thread, as it last saw itself.

    Parameters
    ----------
    has_engine
        Whether the model is loaded.
    window
        Name of the open window, else empty.
    generation
        Counts thaws of the process.
    fidelity
        Of an answer given now; None without a window.
    is_usable, is_complete
        Of the open window.
    committed_turns
        Turns of the open window that are durable.
    progress
        Of the thaw; None without one.
    unsaved_bytes
        What a save of the open window would write, at most.

    """

    has_engine: bool = False
    window: str = ''
    generation: int = 0
    fidelity: Fidelity | None = None
    is_usable: bool = False
    is_complete: bool = False
    committed_turns: int = 0
    progress: ThawProgress | None = None
    unsaved_bytes: int = 0

    @property
    def phase(self) -> Phase:
        """What it comes to, while the node is active and nothing hangs."""
        if not self.has_engine:
            return Phase.LOADING_ENGINE
        if not self.window:
            return Phase.NO_WINDOW
        if self.is_complete:
            return Phase.COMPLETE
        return Phase.USABLE if self.is_usable else Phase.THAWING


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """
    What the manifest of a window says beyond the inventory.

    Parameters
    ----------
    tags, codec
        The user's words about it, and the codec of new chunks.
    created_ms
        Wall clock of its first commit [ms since 1970]; 0 when unknown.
    provisional_tokens
        Tokens whose KV waits to be computed again.

    """

    tags: tuple[str, ...] = ()
    codec: str = ''
    created_ms: int = 0
    provisional_tokens: int = 0


def read_details(store: Store, name: str) -> Details:
    """Read the manifest of a window; without one, or with a damaged one, nothing is known."""
    try:
        manifest = store.window(name).manifest
    except CwmError:
        return Details()
    if manifest is None:
        return Details()
    return Details(
        tags=manifest.tags,
        codec=manifest.codec,
        created_ms=manifest.created_ms,
        provisional_tokens=sum(stop - start for start, stop in manifest.provisional),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """
    What the store holds, as the engine's thread last saw it.

    Parameters
    ----------
    windows
        The inventory.
    storage
        Room and wear; None before the store was opened.
    details
        By window and revision.

    """

    windows: tuple[WindowInfo, ...] = ()
    details: dict[tuple[str, int], Details] = field(default_factory=dict)

    def find(self, name: str) -> WindowInfo | None:
        """Return the line of a window; None when there is none of this name."""
        return next((info for info in self.windows if info.name == name), None)

    def details_of(self, info: WindowInfo) -> Details:
        """Return what is known of a window beyond its line."""
        return self.details.get((info.name, info.revision), Details())

    storage: StorageReport | None = None


def read_shelf(settings: Settings, profile: str) -> Shelf:
    """Read what the store of a profile holds; see `Store.open` for what it raises."""
    with Store.open(
        settings.storage,
        profile=profile,
        writable=False,
        clock=lambda: time.time_ns() // 1_000_000,
        privacy=settings.privacy,
    ) as store:
        return see_shelf(store, Shelf())


def see_shelf(store: Store, before: Shelf) -> Shelf:
    """Return what a store holds; manifests are read of windows that changed since."""
    windows = tuple(store.windows())
    keys = [(info.name, info.revision) for info in windows]
    details = {key: before.details.get(key) or read_details(store, key[0]) for key in keys}
    return Shelf(windows=windows, storage=store.storage(), details=details)


def look(manager: Manager, generation: int) -> View:
    """Return what a manager looks like now; called in the engine's thread."""
    if not manager.window:
        return View(has_engine=manager.has_engine, generation=generation)
    session, thaw = manager.session, manager.thaw
    fidelity = session.fidelity
    progress = thaw.progress() if thaw is not None else None
    saved = sum(entry.stop - entry.start for entry in manager.live.entries)
    unsaved = max(0, session.num_tokens - saved)
    return View(
        has_engine=True,
        window=manager.window,
        generation=generation,
        fidelity=fidelity,
        is_usable=progress is None or progress.is_usable,
        is_complete=fidelity.resident >= fidelity.total
        and (progress is None or progress.is_complete),
        committed_turns=manager.live.num_durable_turns,
        progress=progress,
        unsaved_bytes=saved_bytes(manager.settings, manager.engine.spec, unsaved),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """
    An operation that waits for better power.

    Parameters
    ----------
    operation, window
        What it does, and to which window.
    num_bytes
        What it would read or write, estimated.
    reason
        Why it waits, for people.
    retry_s
        When it is tried again at the latest, from when it was deferred [s].

    """

    operation: str
    window: str
    num_bytes: int
    reason: str
    retry_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """
    Everything the node publishes as state, at one moment.

    Parameters
    ----------
    phase, reason
        What the assistant is doing, and why, for people.
    view, shelf
        What the engine's thread last saw.
    profile
        Whose windows; empty before configure.
    is_late
        Whether the engine has been at one step for so long that nobody should rely on it.
    is_read_only
        Whether nothing is stored now.
    power, override_left_s, deferred
        The policy in force, how long it was set by hand for [s], and what waits for a better one.

    """

    phase: Phase
    reason: str
    view: View
    shelf: Shelf
    profile: str
    power: PolicyChoice
    is_late: bool = False
    is_read_only: bool = False
    override_left_s: float = 0.0
    deferred: tuple[Deferred, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Whether an answer may be asked for."""
        return self.phase in (Phase.USABLE, Phase.COMPLETE)

    @property
    def usability(self) -> tuple[object, ...]:
        """What makes an edge of usability when it changes."""
        view = self.view
        return (self.phase, self.reason, view.window, view.generation, view.committed_turns)
