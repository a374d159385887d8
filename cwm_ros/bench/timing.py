# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One prompt, from the thaw to the last token, with the times that users feel."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from cwm_ros.answer import Answer, Delta
from cwm_ros.progress import ThawProgress
from cwm_ros.review import Review

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.answer import Request
    from cwm_ros.manager import Manager
    from cwm_ros.verdict import ThawResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """
    An answer and its times, counted from the thaw call, engine and imports ready [s].

    Parameters
    ----------
    text
        The answer.
    new_tokens, prompt_tokens
        Tokens of the answer, and tokens that the prompt added.
    time_to_header_s, time_to_usable_s, time_to_first_token_s, time_to_complete_s
        Manifest read; usable; first token of the answer; all of the window resident. 0 for a
        window that was not thawed.
    reused_tokens, recomputed_tokens
        Tokens of the window whose KV came from chunks, and that were computed again.
    fidelity
        Of the context that the answer began from.
    provisional
        Whether context was missing then.
    warnings
        What could not be loaded, and why.
    num_drafts
        Answers that were given up before this one, for more context.
    restore
        What is known about the restore; None for a window that was not thawed.
    reviews
        Which of the answers that were given without all context hold.
    steps
        How the thaw went.

    """

    text: str
    new_tokens: int
    prompt_tokens: int
    time_to_header_s: float
    time_to_usable_s: float
    time_to_first_token_s: float
    time_to_complete_s: float
    reused_tokens: int
    recomputed_tokens: int
    fidelity: str
    provisional: bool
    warnings: tuple[str, ...]
    num_drafts: int
    restore: ThawResult | None
    reviews: tuple[Review, ...]
    steps: tuple[ThawProgress, ...] = field(repr=False)

    def as_json(self) -> dict[str, object]:
        """Return the fields for ``--json``, without the steps."""
        values = asdict(self)
        del values['steps']
        values['reviews'] = [
            {**asdict(review), 'verdict': review.verdict.value} for review in self.reviews
        ]
        if self.restore is not None:
            values['restore'] = {**asdict(self.restore), 'verdict': self.restore.verdict.value}
        return values


def say_timed(
    manager: Manager, request: Request, on_text: Callable[[str], None] = lambda _: None
) -> Told:
    """
    Answer a prompt, then let the thaw complete and repair what was provisional.

    Parameters
    ----------
    manager
        With an open window, whose thaw has just begun.
    request
        The prompt.
    on_text
        Called with each piece of the answer.

    """
    steps: list[ThawProgress] = []
    answer: Answer | None = None
    before_prompt_s = manager.thaw.progress().elapsed_s if manager.thaw else 0.0
    for event in manager.say(request):
        if isinstance(event, Delta):
            on_text(event.text)
        elif isinstance(event, ThawProgress):
            steps.append(event)
        elif isinstance(event, Answer):
            answer = event
    assert answer is not None
    thaw = manager.thaw
    while thaw is not None and thaw.advance(wait=True):
        steps.append(thaw.progress())
    reviews = [event for event in manager.catch_up() if isinstance(event, Review)]
    last = thaw.progress() if thaw is not None else None
    return Told(
        text=answer.text,
        new_tokens=answer.new_tokens,
        prompt_tokens=answer.prompt_tokens,
        time_to_header_s=manager.time_to_header_s,
        time_to_usable_s=_first(steps, lambda step: step.is_usable),
        time_to_first_token_s=before_prompt_s + answer.time_to_first_token_s,
        time_to_complete_s=_first(steps, lambda step: step.is_complete),
        reused_tokens=last.reused_tokens if last else 0,
        recomputed_tokens=last.recomputed_tokens if last else 0,
        fidelity=answer.fidelity,
        provisional=answer.is_provisional,
        warnings=manager.warnings,
        num_drafts=answer.num_drafts,
        restore=thaw.result() if thaw is not None else None,
        reviews=tuple(reviews),
        steps=tuple(steps),
    )


def _first(steps: list[ThawProgress], reached: Callable[[ThawProgress], bool]) -> float:
    return next((step.elapsed_s for step in steps if reached(step)), 0.0)
