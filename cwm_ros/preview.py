# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a thaw of a window would do here, told without an engine and without reading a chunk."""

from __future__ import annotations

from typing import NoReturn, TYPE_CHECKING

import numpy as np

from cwm_ros.deadline import check_deadline
from cwm_ros.engine import Engine
from cwm_ros.engine.cache import slots_for
from cwm_ros.errors import ConfigError, EngineError
from cwm_ros.kv import TokenRanges
from cwm_ros.machine import rate_file
from cwm_ros.rates import RateBook
from cwm_ros.relevance import relevance
from cwm_ros.reopen import restore_session
from cwm_ros.restore import find_chunks
from cwm_ros.schedule import plan_thaw

if TYPE_CHECKING:
    import numpy.typing as npt

    from cwm_ros.config import Settings
    from cwm_ros.model import Checkpoint
    from cwm_ros.rates import Rates
    from cwm_ros.schedule import ThawPlan
    from cwm_ros.session import Session
    from cwm_ros.store import Store


class AbsentEngine(Engine):
    """
    Stands where an engine would be: says what it is for, and computes nothing.

    Parameters
    ----------
    checkpoint
        The model.
    context_tokens
        Longest session; 0 means the trained length.

    """

    def __init__(self, checkpoint: Checkpoint, context_tokens: int) -> None:
        self.spec = checkpoint.kv_spec
        self.identity = checkpoint.identity
        self.capacity = context_tokens or checkpoint.kv_spec.max_tokens
        self.resident = TokenRanges()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise EngineError('there is no engine here', hint='open a manager')

    run = reserve = drop = reset = _refuse

    def close(self) -> None:
        """Do nothing: nothing is held."""


def known_rates(settings: Settings, checkpoint: Checkpoint) -> Rates:
    """Return what is known of how fast this board loads and computes for a model."""
    return RateBook(rate_file(settings, checkpoint.identity.model)).rates


def preview_thaw(
    store: Store,
    checkpoint: Checkpoint,
    settings: Settings,
    name: str,
    *,
    prompt: str = '',
    strategy: str = '',
    deadline_s: float | None = None,
) -> ThawPlan:
    """
    Return what `Manager.open_window` would do now.

    Parameters
    ----------
    store, checkpoint, settings
        The window's store, for reading; the model; what usable means, and which strategy.
    name
        Of the window.
    prompt
        What would be asked, so that the chunks it needs come first; empty for nothing.
    strategy
        'auto', 'load' or 'recompute'; empty means as the settings say.
    deadline_s
        As for `plan_thaw`.

    Raises
    ------
    NotFoundError, FormatError, ContextFullError
        As `Manager.open_window`.
    ConfigError
        ``prompt`` is only white space, or the deadline not a finite number.

    """
    check_deadline(deadline_s)
    if prompt and not prompt.strip():
        raise ConfigError('the prompt is empty', hint='leave it out, or say something')
    window, _ = store.window_or_turns(name)
    engine = AbsentEngine(checkpoint, settings.engine.context_tokens)
    restored = restore_session(
        window,
        engine,
        checkpoint.chat,
        checkpoint.stop_ids,
        carry_over=settings.assistant.carry_over,
    )
    session = restored.session
    window, entries = find_chunks(store, window, session, restored.entries, settings.codec)
    manifest = window.manifest
    chunk_tokens = manifest.chunk_tokens if manifest else settings.codec.chunk_tokens
    return plan_thaw(
        [entry for entry in entries if store.find_chunk(entry.id, entry.codec)],
        num_tokens=session.num_tokens,
        chunk_tokens=chunk_tokens,
        turn_stops=session.turn_stops,
        settings=settings.thaw,
        scores=_scores(prompt, session, chunk_tokens),
        rates=known_rates(settings, checkpoint),
        reach=slots_for(session.num_tokens),
        strategy=strategy,
        deadline_s=deadline_s,
    )


def _scores(prompt: str, session: Session, chunk_tokens: int) -> npt.NDArray[np.float64] | None:
    """Return how relevant each chunk is to a prompt; None without one."""
    if not prompt:
        return None
    scores = np.zeros(-(-session.num_tokens // chunk_tokens))
    found = relevance(prompt, session.turns, session.turn_stops, chunk_tokens)
    scores[: len(found)] = found
    return scores
