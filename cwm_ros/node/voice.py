# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts and what is said to them: one answer at a time, sentence by sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cwm_interfaces.msg import ResponseEvent
from cwm_ros.answer import Answer, Delta
from cwm_ros.errors import ErrorCode, InterruptedOperation
from cwm_ros.node import convert, jobs
from cwm_ros.node.worker import Urgency
from cwm_ros.review import ReviewVerdict
from cwm_ros.sentences import SentenceCutter
from cwm_ros.session import Fidelity

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.answer import Request
    from cwm_ros.manager import Manager
    from cwm_ros.node.core import Core
    from cwm_ros.node.worker import Job
    from cwm_ros.review import Review

    OnDelta = Callable[[str, Fidelity | None], None]
    OnAnswer = Callable[[Answer | None, BaseException | None], None]


@dataclass(kw_only=True)
class _Talk:
    """One prompt on its way; touched by the engine's thread only, once it was submitted."""

    request_id: str
    on_delta: OnDelta = lambda _text, _fidelity: None
    on_answer: OnAnswer = lambda _answer, _error: None
    cutter: SentenceCutter = field(default_factory=SentenceCutter)
    sequence: int = 0
    said: str = ''
    fidelity: Fidelity | None = None


class Voice:
    """
    Hands prompts to the engine's thread and publishes what comes back.

    Parameters
    ----------
    core
        Who answers.
    speak
        Publishes an event; called in the engine's thread.
    window
        Gives the window that a first prompt opens or begins.
    context
        Gives the vehicle's state now, which the assistant is told once after each thaw.

    """

    def __init__(
        self,
        core: Core,
        speak: Callable[[ResponseEvent], None],
        *,
        window: Callable[[], str],
        context: Callable[[], str],
    ) -> None:
        self._core = core
        self._speak = speak
        self._window = window
        self._context = context
        self._unreviewed: dict[tuple[str, int], _Talk] = {}

    def ask(
        self,
        request_id: str,
        request: Request,
        *,
        timeout_s: float | None = None,
        on_delta: OnDelta = lambda _text, _fidelity: None,
        on_answer: OnAnswer = lambda _answer, _error: None,
    ) -> Job[Manager]:
        """
        Answer a prompt; one that is being answered is cut off first (barge-in).

        Raises
        ------
        EngineError
            There is no engine.

        """
        talk = _Talk(request_id=request_id, on_delta=on_delta, on_answer=on_answer)
        self._core.cancel(Urgency.TALK)
        return self._core.submit(
            'answer a prompt',
            Urgency.TALK,
            partial(
                jobs.answer,
                request=request,
                window=self._window(),
                check_open=self._core.check_memory,
                on_begin=self._core.note_thaw,
                take_entry=self._take_entry,
            ),
            on_value=partial(self._say, talk),
            on_end=partial(self._end, talk),
            deadline_s=timeout_s,
        )

    # --- in the engine's thread ---------------------------------------------------------------

    def _take_entry(self) -> str | None:
        return self._context() if self._core.take_entry() else None

    def _say(self, talk: _Talk, value: object) -> None:
        if isinstance(value, Fidelity):
            talk.fidelity = value
        if not isinstance(value, Delta) or not value.text:
            return
        talk.said += value.text
        talk.on_delta(value.text, talk.fidelity)
        for sentence in talk.cutter.push(value.text):
            self._publish(talk, ResponseEvent(kind=ResponseEvent.SENTENCE, text=sentence))

    def _end(self, talk: _Talk, result: object, error: BaseException | None) -> None:
        answer = None
        if isinstance(result, jobs.Answered):
            answer = result.answer
            if answer.is_provisional:
                self._unreviewed[result.window, result.turn] = talk
        for sentence in talk.cutter.flush():
            self._publish(talk, ResponseEvent(kind=ResponseEvent.SENTENCE, text=sentence))
        self._publish(talk, _last_event(talk, answer, error))
        talk.on_answer(answer, error)

    def tell_review(self, window: str, review: Review) -> None:
        """Publish what became of an answer; of one of an earlier process without its request."""
        talk = self._unreviewed.pop((window, review.turn), None) or _Talk(request_id='')
        is_changed = review.verdict is ReviewVerdict.CHANGED
        event = ResponseEvent(
            kind=ResponseEvent.REVIEW,
            text=review.text if is_changed else '',
            verdict=ResponseEvent.CHANGED if is_changed else ResponseEvent.CONFIRMED,
        )
        self._publish(talk, event)

    def _publish(self, talk: _Talk, event: ResponseEvent) -> None:
        event.request_id, event.sequence = talk.request_id, talk.sequence
        event.fidelity = convert.to_fidelity(talk.fidelity)
        talk.sequence += 1
        self._speak(event)


def refusal(request_id: str, error: Exception) -> ResponseEvent:
    """Return the event that says that a prompt cannot be answered; never silence."""
    code, text = convert.to_error(error)
    return ResponseEvent(
        request_id=request_id, kind=ResponseEvent.ERROR, text=text, error_code=code
    )


def _last_event(talk: _Talk, answer: Answer | None, error: BaseException | None) -> ResponseEvent:
    if answer is None:
        code, text = convert.to_error(error)
        if isinstance(error, InterruptedOperation):
            return ResponseEvent(
                kind=ResponseEvent.CANCELLED,
                text=talk.said,
                finish_reason='cancelled',
                error_code=int(ErrorCode.CANCELLED),
            )
        return ResponseEvent(kind=ResponseEvent.ERROR, text=text, error_code=code)
    is_cancelled = answer.finish_reason == 'cancelled'
    return ResponseEvent(
        kind=ResponseEvent.CANCELLED if is_cancelled else ResponseEvent.END,
        text=answer.text,
        finish_reason=answer.finish_reason,
        provisional=answer.is_provisional,
        error_code=int(ErrorCode.CANCELLED if is_cancelled else ErrorCode.NONE),
    )
