# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Talking to the live window: a prompt and its answer, between the steps of a thaw."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cwm_ros.answer import Answer, Delta, Speaker, wait_for, When
from cwm_ros.meaning import read_meanings, value_at
from cwm_ros.model import IncrementalDecoder
from cwm_ros.review import Reviewer, Spoken
from cwm_ros.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from threading import Event

    from cwm_ros.abstention import Abstentions
    from cwm_ros.answer import Request
    from cwm_ros.live import LiveWindow
    from cwm_ros.progress import ThawProgress
    from cwm_ros.review import Review
    from cwm_ros.segment import SegmentStarted


def say(
    live: LiveWindow, request: Request, cancel: Event | None = None
) -> Iterator[SegmentStarted | Delta | ThawProgress | Answer]:
    """Answer a prompt, thawing meanwhile; see `Manager.say`."""
    live.story = _say(live, request, cancel)
    yield from live.story


def _say(
    live: LiveWindow, request: Request, cancel: Event | None
) -> Generator[SegmentStarted | Delta | ThawProgress | Answer, None, None]:
    tools = live.tools
    request = replace(
        request, max_tokens=request.max_tokens or tools.settings.assistant.max_tokens
    )
    began = tools.clock()
    started = live.add_prompt(request.text, request.max_tokens)
    if started is not None:
        yield started
    session = live.session
    start = session.last_turn_start
    yield from _wait(live, request, cancel)
    session.begin_answer(request.max_tokens)
    yield from _answer(live, request, session.num_tokens - start, began, cancel)


def _wait(live: LiveWindow, request: Request, cancel: Event | None) -> Iterator[ThawProgress]:
    """Advance the thaw until the prompt may be answered."""
    if live.thaw is not None:
        count = live.tools.settings.thaw.relevant_chunks
        live.thaw.prioritize(request.text, count)
        yield from wait_for(live.thaw, request.when, cancel)
        # Chunks in flight write into the cache, which the answer may make grow.
        live.thaw.settle()


def _answer(
    live: LiveWindow, request: Request, prompt_tokens: int, began: float, cancel: Event | None
) -> Iterator[Delta | ThawProgress | Answer]:
    """Answer; an abstention while chunks are absent is given up for more of them."""
    tools, num_drafts = live.tools, 0
    while True:
        session, fidelity = live.session, live.session.fidelity
        last_of_prompt = session.num_tokens - 1
        speaker = Speaker(
            session,
            IncrementalDecoder(tools.checkpoint.tokenizer),
            request,
            _unwanted(live, num_drafts),
        )
        first_token_s, closeness = 0.0, None
        live.speaker = speaker
        try:
            for piece in speaker.speak(cancel):
                first_token_s = first_token_s or tools.clock() - began
                yield Delta(text=piece)
                if live.thaw is not None and live.thaw.advance(wait=False):
                    yield live.thaw.progress()
            if speaker.finish_reason == 'abstained' and num_drafts % 2 == 0:
                closeness = _closeness(live, last_of_prompt)
        finally:
            if speaker.is_held:  # nobody heard it
                session.retract_answer()
                session.begin_answer(1)
            if speaker.finish_reason != 'abstained':
                text = _end(live, speaker, is_provisional=fidelity.resident < fidelity.total)
        if speaker.finish_reason != 'abstained':
            break
        num_drafts += 1
        live.speaker = None
        session.retract_answer()
        yield from _load_more(live, closeness, cancel)
        session.begin_answer(request.max_tokens)
    yield Answer(
        text=text,
        finish_reason=speaker.finish_reason,
        prompt_tokens=prompt_tokens,
        new_tokens=speaker.num_tokens,
        time_to_first_token_s=first_token_s,
        fidelity=str(fidelity),
        is_provisional=fidelity.resident < fidelity.total,
        num_drafts=num_drafts,
    )


def _end(live: LiveWindow, speaker: Speaker, *, is_provisional: bool) -> str:
    """Make what was said the assistant's turn, to be reviewed if it has to be."""
    session, thaw = live.session, live.thaw
    said = live.end_answer(session)
    if is_provisional or (thaw is not None and thaw.result().verdict is Verdict.PENDING):
        live.spoken.append(
            Spoken(
                turn=session.num_turns - 1,
                is_cut=speaker.finish_reason != 'stop',
                is_provisional=is_provisional,
            )
        )
    return said.text


def _unwanted(live: LiveWindow, num_drafts: int) -> Abstentions | None:
    """Return which answers are to be given up: abstentions, while there is more to load."""
    is_last = num_drafts >= live.tools.settings.thaw.abstention_retries
    if is_last or live.thaw is None or not live.thaw.want_more(0):
        return None
    return live.abstentions


def _closeness(live: LiveWindow, position: int) -> Callable[[int, int], float] | None:
    """
    Return how close what was said is to the prompt that ends at a position, by its meaning.

    What is close in words was loaded before the first draft; what is close in meaning comes
    before the second, the next in words before the third, and so on.
    """
    meanings = read_meanings(live.manifest) if live.manifest else None
    return meanings.closeness(value_at(live.session, position)) if meanings else None


def _load_more(
    live: LiveWindow, closeness: Callable[[int, int], float] | None, cancel: Event | None
) -> Iterator[ThawProgress]:
    assert live.thaw is not None
    live.thaw.want_more(max(1, live.tools.settings.thaw.relevant_chunks), closeness)
    yield from wait_for(live.thaw, When.USABLE, cancel)
    live.thaw.settle()


def catch_up(live: LiveWindow, cancel: Event | None = None) -> Iterator[int | Review]:
    """Finish the thaw, review answers, make everything sound; see `Manager.catch_up`."""
    while live.thaw is not None and live.thaw.advance(wait=True, cancel=cancel):
        yield len(live.session.unsound())
    thaw = live.thaw
    has_failed = thaw is not None and thaw.result().verdict is Verdict.NOT_EFFECTIVE
    while live.spoken:
        spoken = live.spoken[0]
        if spoken.is_provisional or has_failed:
            yield from _reviewer(live).review(spoken, cancel)
        live.spoken.remove(spoken)
    for _ in live.session.repair(cancel):
        yield len(live.session.unsound())


def _reviewer(live: LiveWindow) -> Reviewer:
    model = live.tools.checkpoint
    return Reviewer(
        session=live.session,
        tokenizer=model.tokenizer,
        stop_ids=model.stop_ids,
        abstentions=live.abstentions,
        max_tokens=live.tools.settings.assistant.max_tokens,
    )
