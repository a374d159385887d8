# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Verbs that show what the package can do: demo, eval, models."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cwm_ros.cli.picture import BAR_CELLS, show_bar
from cwm_ros.config import CODECS, MIB

if TYPE_CHECKING:
    from cwm_ros.bench.demo import DemoResult, Report
    from cwm_ros.cli.app import Options

SHOWN_TURNS = 6
FAILED = 1


@click.command('demo')
@click.pass_obj
def demo_command(options: Options) -> None:
    """
    Show the main job: a conversation that survives SIGKILL.

    One process talks for 4,000 tokens, freezes and is killed. Another thaws the window, answers a
    question about something said in the beginning while the window is still partial, and
    completes it. Fails if anything of that does not happen.
    """
    from cwm_ros.bench.demo import run_demo

    narrator = Narrator(options)
    result = run_demo(options.settings, narrator.tell)
    problems = result.problems()
    options.show(asdict(result), summary(result))
    for problem in problems:
        options.note(f'FAILED: {problem}')
    if problems:
        raise SystemExit(FAILED)


class Narrator:
    """
    Tells a person what the demo's processes report; on stderr when stdout is for a program.

    Parameters
    ----------
    options
        Where to.

    """

    def __init__(self, options: Options) -> None:
        self._is_err = options.is_json
        self._num_turns = 0

    def tell(self, report: Report) -> None:
        """Show one report."""
        if 'answer' in report and 'result' not in report:
            self._num_turns += 1
            if self._num_turns <= SHOWN_TURNS or '4821' in report['text']:
                self._say(f'  {report["tokens"]:5}  driver     {report["text"]}')
                self._say(f'         assistant  {report["answer"]}')
            elif self._num_turns % 50 == 0:
                self._say(f'  {report["tokens"]:5}  … {self._num_turns} exchanges')
        elif 'role' in report:
            self._say('process 1 talks')
        elif 'frozen' in report:
            self._say(
                f'process 1 froze {report["tokens"]} tokens in {report["freeze_s"] * 1e3:.0f} ms: '
                f'{report["chunks"]} chunks, {report["bytes_on_disk"] / MIB:.1f} MiB on disk'
            )
        elif 'killed' in report:
            self._say(f'process 1 (pid {report["pid"]}) was ended by SIGKILL')
        elif 'result' in report:
            self._show_thaw(report)

    def _show_thaw(self, report: Report) -> None:
        self._say(f'process 2 thaws and is asked: {report["question"]}')
        first_token_ms = report['time_to_first_token_s'] * 1e3
        is_answering = False
        for elapsed_s, done, is_usable, is_complete in report['steps']:
            if elapsed_s * 1e3 > first_token_ms and not is_answering:
                is_answering = True
                self._say(f'  {first_token_ms:8.1f} ms  the answer begins: {report["answer"]}')
            filled = BAR_CELLS * done // report['chunks_total']
            bar = '█' * filled + '·' * (BAR_CELLS - filled)
            state = 'complete' if is_complete else 'usable' * is_usable
            self._say(f'  {elapsed_s * 1e3:8.1f} ms  {bar} {done:3} chunks  {state}')

    def _say(self, text: str) -> None:
        click.echo(text, err=self._is_err)


def summary(result: DemoResult) -> str:
    """Return the picture in words: what was asked, and how long everything took."""
    return (
        f'\nasked {result.distance_tokens} tokens later: {result.question} — {result.answer} '
        f'({"right" if result.answer_correct else "WRONG"}, from {result.fidelity})\n'
        f'usable after {result.time_to_usable_s * 1e3:.0f} ms, complete after '
        f'{result.time_to_complete_s * 1e3:.0f} ms; recomputing takes '
        f'{result.recompute_s * 1e3:.0f} ms\n'
        f'from starting the process to the first token: {result.cold_start_s:.2f} s'
    )


@click.command('models')
@click.argument('names', nargs=-1)
@click.option('--tokens', type=click.IntRange(1), help='Length of the window.  [default: 16384]')
@click.option('--memory-gib', type=click.FloatRange(0.1), help='Memory for weights and KV.')
@click.option('--drive-mib-s', type=click.FloatRange(1), help='Reading from the drive.')
@click.option('--decode-mib-s', type=click.FloatRange(1), help='Decoding into float32.')
@click.option('--gflops', type=click.FloatRange(0.1), help='Matrix products in float32.')
@click.option('--measure-drive', is_flag=True, help='Write and read 64 MiB in the store.')
@click.pass_obj
def models_command(
    options: Options,
    *,
    names: tuple[str, ...],
    tokens: int | None,
    memory_gib: float | None,
    drive_mib_s: float | None,
    decode_mib_s: float | None,
    gflops: float | None,
    measure_drive: bool,
) -> None:
    """
    Say what models need of a board, and how soon their windows come back.

    NAMES are entries of the table of published models, checkpoint folders, 'reference', or 'all';
    without any, the configured model. What is not given about the board is measured here. Times
    are estimates: reading and decoding side by side, computing at the speed of matrix products.
    """
    from cwm_ros.bench.board import find_board, Given
    from cwm_ros.bench.models import DEFAULT_TOKENS, report_models, show_reports

    given = Given(
        memory_gib=memory_gib, drive_mib_s=drive_mib_s, decode_mib_s=decode_mib_s, gflops=gflops
    )
    board, source = find_board(options.settings, given, is_drive_measured=measure_drive)
    reports = report_models(
        names or [options.settings.engine.model], board, options.settings, tokens or DEFAULT_TOKENS
    )
    values = {
        'board': asdict(board),
        'board_source': source,
        'models': [report.as_json() for report in reports],
    }
    options.show(values, f'{show_reports(reports, options.settings)}\n\n{source}')


@click.group('eval')
def eval_command() -> None:
    """Evaluate the model's memory."""


@eval_command.command('recall')
@click.option('--context', type=click.IntRange(512), default=4096, show_default=True)
@click.option('--questions', type=click.IntRange(1), default=100, show_default=True)
@click.option('--seed', type=click.IntRange(0), default=0, show_default=True)
@click.option('--codec', type=click.Choice(CODECS), help='Send the KV through this codec first.')
@click.option('--resident', type=click.FloatRange(0, 1), default=1.0, show_default=True)
@click.pass_obj
def recall_command(
    options: Options,
    *,
    context: int,
    questions: int,
    seed: int,
    codec: str | None,
    resident: float,
) -> None:
    """Ask questions about held-out dialogues of CONTEXT tokens and score whole answers."""
    from cwm_ros.bench.recall import measure_recall, RecallTask

    task = RecallTask(
        context=context, questions=questions, seed=seed, codec=codec or '', resident=resident
    )
    with show_bar('asking', questions) as update:
        report = measure_recall(options.settings, task, update)
    options.show(report.as_json(), report.as_text())


@eval_command.command('perplexity')
@click.option('--context', type=click.IntRange(512), default=2048, show_default=True)
@click.option('--dialogues', type=click.IntRange(1), default=20, show_default=True)
@click.option('--seed', type=click.IntRange(0), default=0, show_default=True)
@click.pass_obj
def perplexity_command(options: Options, *, context: int, dialogues: int, seed: int) -> None:
    """Say how well held-out dialogues of CONTEXT tokens are foretold."""
    from cwm_ros.bench.perplexity import measure_perplexity

    with show_bar('reading', dialogues) as update:
        found = measure_perplexity(
            options.settings, context=context, dialogues=dialogues, seed=seed, on_dialogue=update
        )
    options.show({**asdict(found), 'perplexity': found.perplexity}, found.as_text())


@eval_command.command('reentry')
@click.option('--context', type=click.IntRange(512), default=3072, show_default=True)
@click.option('--dialogues', type=click.IntRange(1), default=10, show_default=True)
@click.option('--seed', type=click.IntRange(0), default=0, show_default=True)
@click.pass_obj
def reentry_command(options: Options, *, context: int, dialogues: int, seed: int) -> None:
    """Ask for facts and the vehicle's state after a break, windows thawed by the manager."""
    from cwm_ros.bench.memory import measure_reentry

    report = measure_reentry(
        options.settings, tokens=context, dialogues=dialogues, seed=seed, note=options.note
    )
    options.show(report.rows(), report.as_text())


@eval_command.command('segments')
@click.option('--tokens', type=click.IntRange(1024), default=6144, show_default=True)
@click.option('--context', type=click.IntRange(512), default=4096, show_default=True)
@click.option('--dialogues', type=click.IntRange(1), default=10, show_default=True)
@click.option('--seed', type=click.IntRange(0), default=0, show_default=True)
@click.pass_obj
def segments_command(
    options: Options, *, tokens: int, context: int, dialogues: int, seed: int
) -> None:
    """Ask dialogues of TOKENS about what was said, with a context of CONTEXT and of all."""
    from cwm_ros.bench.memory import measure_segments

    report = measure_segments(
        options.settings,
        tokens=tokens,
        context=context,
        dialogues=dialogues,
        seed=seed,
        note=options.note,
    )
    options.show(report.rows(), report.as_text())


@eval_command.command('proof')
@click.option('--context', type=click.IntRange(512), default=4096, show_default=True)
@click.option('--dialogues', type=click.IntRange(1), default=8, show_default=True)
@click.option('--seed', type=click.IntRange(0), default=0, show_default=True)
@click.pass_obj
def proof_command(options: Options, *, context: int, dialogues: int, seed: int) -> None:
    """Measure what the proof of a restore sees of each codec, and what it costs."""
    from cwm_ros.bench.proof import measure_proof

    report = measure_proof(
        options.settings, context=context, dialogues=dialogues, seed=seed, note=options.note
    )
    options.show(report.rows(), report.as_text())


@eval_command.command('forget')
@click.option('--context', type=click.IntRange(512), default=2048, show_default=True)
@click.option('--dialogues', type=click.IntRange(1), default=12, show_default=True)
@click.option('--seed', type=click.IntRange(0), default=0, show_default=True)
@click.pass_obj
def forget_command(options: Options, *, context: int, dialogues: int, seed: int) -> None:
    """Forget a fact in each dialogue, and ask for it and for all others before and after."""
    from cwm_ros.bench.forget import measure_forgetting

    with show_bar('asking', dialogues) as update:
        count = measure_forgetting(
            options.settings, context=context, dialogues=dialogues, seed=seed, on_dialogue=update
        )
    options.show(asdict(count), count.as_text())


@eval_command.command('review')
@click.option('--context', type=click.IntRange(512), default=4096, show_default=True)
@click.option('--questions', type=click.IntRange(1), default=100, show_default=True)
@click.option('--seed', type=click.IntRange(0), default=0, show_default=True)
@click.option(
    '--absent', type=click.Choice(('middle', 'source')), default='middle', show_default=True,
    help='All but the usable part, or only the chunks that hold the answer.',
)  # fmt: skip
@click.pass_obj
def review_command(
    options: Options, *, context: int, questions: int, seed: int, absent: str
) -> None:
    """Answer while chunks are absent, review with all, and count what is changed."""
    from cwm_ros.bench.review import measure_reviews

    with show_bar('asking', questions) as update:
        count = measure_reviews(
            options.settings,
            context=context,
            questions=questions,
            seed=seed,
            absent=absent,
            on_question=update,
        )
    options.show(asdict(count), count.as_text())
