# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Talking to the live window: a prompt and its answer, between the steps of a thaw."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cwm_ros.answer import Answer, Delta, Speaker, wait_for
from cwm_ros.model import IncrementalDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Event

    from cwm_ros.answer import Request
    from cwm_ros.live import LiveWindow
    from cwm_ros.segment import SegmentStarted
    from cwm_ros.thaw import ThawProgress


def say(
    live: LiveWindow, request: Request, cancel: Event | None = None
) -> Iterator[SegmentStarted | Delta | ThawProgress | Answer]:
    """Answer a prompt, thawing meanwhile; see `Manager.say`."""
    tools = live.tools
    request = replace(
        request, max_tokens=request.max_tokens or tools.settings.assistant.max_tokens
    )
    began = tools.clock()
    live.is_answering = True
    try:
        started = live.add_prompt(request.text, request.max_tokens)
        if started is not None:
            yield started
        session = live.session
        start = session.last_turn_start
        yield from _wait(live, request, cancel)
        session.begin_answer(request.max_tokens)
        yield from _answer(live, request, session.num_tokens - start, began, cancel)
    finally:
        live.is_answering = False


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
    tools, session, fidelity = live.tools, live.session, live.session.fidelity
    speaker = Speaker(session, IncrementalDecoder(tools.checkpoint.tokenizer), request)
    first_token_s = 0.0
    live.speaker = speaker
    try:
        for piece in speaker.speak(cancel):
            first_token_s = first_token_s or tools.clock() - began
            yield Delta(text=piece)
            if live.thaw is not None and live.thaw.advance(wait=False):
                yield live.thaw.progress()
    finally:
        said = live.end_answer(session)
    yield Answer(
        text=said.text,
        finish_reason=speaker.finish_reason,
        prompt_tokens=prompt_tokens,
        new_tokens=speaker.num_tokens,
        time_to_first_token_s=first_token_s,
        fidelity=str(fidelity),
        is_provisional=fidelity.resident < fidelity.total,
    )


def catch_up(live: LiveWindow, cancel: Event | None = None) -> Iterator[int]:
    """Finish the thaw, then make everything sound; see `Manager.catch_up`."""
    while live.thaw is not None and live.thaw.advance(wait=True, cancel=cancel):
        yield len(live.session.unsound())
    for _ in live.session.repair(cancel):
        yield len(live.session.unsound())
