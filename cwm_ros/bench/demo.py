# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The main job end to end: a conversation survives SIGKILL, and is there before it is whole.

One process talks, freezes and is killed; another thaws and answers a question about something
said thousands of tokens earlier. Both are `cwm_ros.bench.demo_parts`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
import json
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, TypedDict

from cwm_ros.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cwm_ros.config import Settings

MIN_TOKENS = 4096
PART_TIMEOUT_S = 300


class Report(TypedDict, total=False):
    """One line of what a process of the story tells; see `cwm_ros.bench.demo_parts`."""

    role: str
    text: str
    answer: str
    tokens: int
    frozen: bool
    chunks: int
    chunks_total: int
    freeze_s: float
    bytes_on_disk: int
    killed: bool
    pid: int
    result: bool
    steps: list[tuple[float, int, bool, bool]]
    question: str
    expected: str
    reused_tokens: int
    distance_tokens: int
    fidelity: str
    time_to_header_s: float
    time_to_usable_s: float
    time_to_first_token_s: float
    time_to_complete_s: float
    recompute_s: float
    first_token_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """
    What the demo showed; times in seconds.

    Parameters
    ----------
    question, answer, expected
        What was asked, said, and right.
    answer_correct
        Whether the answer is right to the letter.
    killed
        Whether the first process ended by SIGKILL.
    tokens, reused_tokens
        Tokens of the window, and tokens whose KV came back from disk.
    distance_tokens
        How many tokens before the question the fact was told.
    fidelity
        Of the context that the answer began from; the window was partial then.
    time_to_header_s, time_to_usable_s, time_to_first_token_s, time_to_complete_s
        From the thaw call, engine and imports ready.
    recompute_s
        Prefilling the same tokens in the same process.
    cold_start_s
        From starting the second process to the first token.
    bytes_on_disk
        Of the store.

    """

    question: str
    answer: str
    expected: str
    answer_correct: bool
    killed: bool
    tokens: int
    reused_tokens: int
    distance_tokens: int
    fidelity: str
    time_to_header_s: float
    time_to_usable_s: float
    time_to_first_token_s: float
    time_to_complete_s: float
    recompute_s: float
    cold_start_s: float
    bytes_on_disk: int

    def problems(self) -> list[str]:
        """Return what did not go as promised; empty when all did."""
        checks = {
            'the first process was not ended by SIGKILL': self.killed,
            f'the answer is {self.answer!r}, not {self.expected!r}': self.answer_correct,
            f'the window has {self.tokens} tokens': self.tokens >= MIN_TOKENS,
            'chunks were recomputed': self.reused_tokens == self.tokens,
            'the answer did not begin while partial': self.fidelity.startswith('PARTIAL'),
            'usable came after complete': self.time_to_usable_s < self.time_to_complete_s,
            'thawing was slower than recomputing': self.time_to_complete_s < self.recompute_s,
        }
        return [problem for problem, is_good in checks.items() if not is_good]


def run_demo(settings: Settings, tell: Callable[[Report], None]) -> DemoResult:
    """
    Run the story in a store of its own, in two child processes.

    Parameters
    ----------
    settings
        Which model runs; its storage settings are not used.
    tell
        Called with what the processes report, as it comes.

    Raises
    ------
    EngineError
        A process failed.

    """
    with tempfile.TemporaryDirectory(prefix='cwm-demo-') as store:
        with _started('talk', store, settings) as talker:
            frozen = _follow(talker, tell, until='frozen')
            talker.send_signal(signal.SIGKILL)
            killed = talker.wait(PART_TIMEOUT_S) == -signal.SIGKILL
        tell({'killed': killed, 'pid': talker.pid})
        began = time.monotonic()
        with _started('ask', store, settings) as asker:
            told = _follow(asker, tell, until='result')
            asker.wait(PART_TIMEOUT_S)
    return DemoResult(
        question=told['question'],
        answer=told['answer'],
        expected=told['expected'],
        answer_correct=told['answer'] == told['expected'],
        killed=killed,
        tokens=told['tokens'],
        reused_tokens=told['reused_tokens'],
        distance_tokens=told['distance_tokens'],
        fidelity=told['fidelity'],
        time_to_header_s=told['time_to_header_s'],
        time_to_usable_s=told['time_to_usable_s'],
        time_to_first_token_s=told['time_to_first_token_s'],
        time_to_complete_s=told['time_to_complete_s'],
        recompute_s=told['recompute_s'],
        cold_start_s=told['first_token_at'] - began,
        bytes_on_disk=frozen['bytes_on_disk'],
    )


@contextmanager
def _started(part: str, store: str, settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """Run one process of the story; it does not outlive the body."""
    module = 'cwm_ros.bench.demo_parts'
    command = [sys.executable, '-m', module, part, store, settings.engine.model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    with process:
        try:
            yield process
        finally:
            process.kill()


def _follow(
    process: subprocess.Popen[str], tell: Callable[[Report], None], *, until: str
) -> Report:
    """Pass on what a process reports until the report that has the key ``until``."""
    assert process.stdout is not None
    for line in process.stdout:
        report: Report = json.loads(line)
        tell(report)
        if until in report:
            return report
    raise EngineError(f'a process of the demo ended early, status {process.wait()}')
