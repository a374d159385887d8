# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Verbs that measure: bench thaw, freeze, plan, engine, codec, store, node, jitter and so on."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import asdict, replace
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cwm_ros.config import CODECS, FORMULATIONS, PRECISIONS
from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.decorators import FC

    from cwm_ros.bench.engine import Row
    from cwm_ros.cli.app import Options

_plot = click.option(
    '--plot', type=click.Path(path_type=Path), help='Draw the rows into a PNG file.'
)


def _folder(need: str = '') -> Callable[[FC], FC]:
    """Return the option for where to measure; ``need`` says how much room that takes."""
    return click.option(
        '--folder',
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        default='.',
        help='; '.join(filter(None, ('On the drive to be measured', need))) + '.',
    )


def _rounds(default: int) -> Callable[[FC], FC]:
    return click.option('--rounds', type=click.IntRange(1), default=default, show_default=True)


@click.group('bench')
def bench_command() -> None:
    """Measure on this machine."""


@bench_command.command('thaw')
@_rounds(9)
@click.option('--case', 'cases', multiple=True, help='Only this one; may be repeated.')
@_plot
@_folder('needs 1.2 GB for a while')
@click.pass_obj
def thaw_command(
    options: Options, *, rounds: int, cases: tuple[str, ...], plot: Path | None, folder: Path
) -> None:
    """Time thaws until header, usable and complete, against peers and limits."""
    from cwm_ros.bench.thaw import bench_thaw, case_names, ThawBench

    known = case_names(options.settings)
    for case in cases:
        if case not in known:
            raise ConfigError(f'case {case!r} is unknown', hint='use one of ' + ', '.join(known))
    bench = ThawBench(folder=folder, rounds=rounds, cases=cases, settings=options.settings)
    report = bench_thaw(bench, options.note)
    if plot:
        from cwm_ros.bench.thaw_plot import draw

        draw(report, plot)
    options.show(report.as_json(), report.as_text())


@bench_command.command('freeze')
@_rounds(9)
@click.option(
    '--tokens', 'lengths', multiple=True, type=click.IntRange(1024), help='Only this length.'
)
@_folder()
@click.pass_obj
def freeze_command(
    options: Options, *, rounds: int, lengths: tuple[int, ...], folder: Path
) -> None:
    """Time the last freeze of a drive, by the length of the conversation."""
    from cwm_ros.bench.freeze import as_json, format_freeze, measure_freeze
    from cwm_ros.bench.tables import describe_machine

    rows = measure_freeze(
        options.settings, folder, rounds=rounds, lengths=lengths, note=options.note
    )
    options.show({'machine': describe_machine(folder), **as_json(rows)}, format_freeze(rows))


@bench_command.command('engine')
@_rounds(7)
@click.option('--seconds', type=click.FloatRange(0), help='No further round begins after so long.')
@click.option('--tokens', type=click.IntRange(512), default=4096, show_default=True)
@click.option('--threads', type=click.IntRange(0), help='0 means all cores.')
@click.option('--geometry', default='', help='Random weights of a published size.')
@click.option(
    '--keep', type=click.Path(path_type=Path, file_okay=False),
    help='Folder where random weights and graphs stay for the next run.',
)  # fmt: skip
@click.option(
    '--weights', type=click.Choice(PRECISIONS[1:]), multiple=True, default=('fp32',),
    show_default=True, help='May be repeated.',
)  # fmt: skip
@click.option(
    '--formulation', 'formulations', type=click.Choice(FORMULATIONS[1:]), multiple=True,
    default=FORMULATIONS[1:], show_default=True, help='May be repeated.',
)  # fmt: skip
@click.option('--plot', type=click.Path(path_type=Path), help='TensorRT: draw into a PNG file.')
@click.option(
    '--folder',
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default='.',
    help='TensorRT: on the drive to be measured.',
)
@click.pass_obj
def engine_command(
    options: Options,
    *,
    rounds: int,
    seconds: float | None,
    tokens: int,
    threads: int | None,
    geometry: str,
    keep: Path | None,
    weights: tuple[str, ...],
    formulations: tuple[str, ...],
    plot: Path | None,
    folder: Path,
) -> None:
    """
    Time prefill and decode of each formulation, beside llama.cpp when it is installed.

    With engine.kind tensorrt: the engine that was built; prefill, decode, freeze and thaw from
    memory and from a drive, against recomputing in the same run.
    """
    if options.settings.engine.kind == 'tensorrt':
        _bench_gpu(options, tokens, plot, folder)
        return
    from cwm_ros.bench.engine import EngineBench, format_rows, format_turn, summarize, take_turns
    from cwm_ros.bench.tables import describe_machine

    settings = options.settings.engine
    threads = (settings.threads if threads is None else threads) or os.cpu_count() or 1
    machine = describe_machine(Path())
    bench = EngineBench(
        settings=replace(settings, threads=threads),
        context_tokens=tokens,
        rounds=rounds,
        seconds=seconds or 0.0,
        geometry=geometry,
        keep=keep,
        weights=weights,
        formulations=formulations,
    )
    taken = []
    with suppress(KeyboardInterrupt), closing(take_turns(bench, options.note)) as turns:
        for turn in turns:
            options.note(format_turn(turn))
            taken.append(turn)
    rows = summarize(taken)
    values = {
        'machine': machine,
        'context_tokens': tokens,
        'threads': threads,
        'rows': [_row_values(row) for row in rows],
    }
    options.show(values, format_rows(rows, tokens, threads))


def _row_values(row: Row) -> dict[str, object]:
    ratios = row.ratios._asdict() if row.ratios else None
    return {**asdict(row), 'rates': row.rates._asdict(), 'ratios': ratios}


def _bench_gpu(options: Options, tokens: int, plot: Path | None, folder: Path) -> None:
    from cwm_ros.bench.gpu import bench_configured
    from cwm_ros.bench.gpu_report import draw
    from cwm_ros.bench.tables import describe_machine
    from cwm_ros.model import Checkpoint

    settings = options.settings.engine
    lengths = sorted({tokens, max(1024, tokens // 4 // 256 * 256)})
    report = bench_configured(
        Checkpoint.configured(settings), settings, folder, lengths, options.note
    )
    if plot:
        draw(report, plot)
    machine = describe_machine(folder)
    options.show({**report.as_json(), 'host': machine}, report.as_text())


@bench_command.command('codec')
@click.option('--kv', type=click.Path(path_type=Path), help='.npy (L, 2, H, T, D) for quality.')
@click.pass_obj
def codec_command(options: Options, *, kv: Path | None) -> None:
    """Time the codec against copying the same bytes, and measure size and error."""
    from cwm_ros.bench.codec import main as bench_codec

    arguments = ['--json'] if options.is_json else []
    bench_codec([*arguments, *(['--kv', str(kv)] if kv else [])])


@bench_command.command('store')
@click.option('--windows', type=click.IntRange(10), default=10_000, show_default=True)
@_folder()
@click.pass_obj
def store_command(options: Options, *, windows: int, folder: Path) -> None:
    """Time a store of many WINDOWS (in memory), headers, encryption; count what is written."""
    from cwm_ros.bench.drive import DRIVES, measure_drive
    from cwm_ros.bench.encryption import format_throughput, measure_encryption, measure_sync
    from cwm_ros.bench.header import format_headers, measure_header
    from cwm_ros.bench.store import format_scaling, measure_scaling
    from cwm_ros.bench.tables import describe_machine
    from cwm_ros.store.memory import is_in_memory, SHARED_MEMORY

    counts = [10**power for power in range(1, 8) if 10**power < windows]
    memory = SHARED_MEMORY if is_in_memory(SHARED_MEMORY) else folder
    scaling = measure_scaling(memory, [*counts, windows])
    drives = [measure_drive(folder, case) for case in DRIVES]
    encryption = measure_encryption(folder, memory)
    sync_ms = measure_sync(folder)
    headers = [measure_header(folder, is_encrypted=kind) for kind in (False, True)]
    values = {
        'machine': describe_machine(folder),
        'scaling': [asdict(row) for row in scaling],
        'drives': [asdict(drive) for drive in drives],
        'encryption': [asdict(row) for row in encryption],
        'sync_ms': sync_ms,
        'headers': [asdict(row) for row in headers],
    }
    lines = [
        f'{drive.case}: {drive.turns} turns wrote {drive.system_bytes} bytes, '
        f'{drive.amplification:.3f} x what is kept; the ledger says {drive.ledger_bytes}'
        for drive in drives
    ]
    lines += [format_throughput(encryption), f'appending 64 bytes and syncing: {sync_ms:.2f} ms']
    lines.append(format_headers(headers))
    options.show(values, '\n'.join([format_scaling(scaling), *lines]))


@bench_command.command('quality')
@click.option(
    '--context', 'contexts', type=click.IntRange(1024), multiple=True, default=(4096, 8192),
    show_default=True, help='Length of the windows [tokens]; may be repeated.',
)  # fmt: skip
@click.option('--dialogues', type=click.IntRange(1), default=20, show_default=True)
@click.option('--minutes', type=click.FloatRange(0), default=0, help='Begin no dialogue after.')
@click.option(
    '--questions', type=click.IntRange(0), default=4, show_default=True,
    help='Drawn for each; 0 for agreement alone.',
)  # fmt: skip
@click.option(
    '--codec', 'codecs', type=click.Choice(CODECS), multiple=True, default=('int8', 'int4'),
    show_default=True, help='May be repeated; the first one in all detail.',
)  # fmt: skip
@click.option(
    '--log', 'file', type=click.Path(path_type=Path),
    help='Keep each dialogue in this file, and measure none again that it holds.',
)  # fmt: skip
@_plot
@click.pass_obj
def quality_command(
    options: Options,
    *,
    contexts: tuple[int, ...],
    dialogues: int,
    minutes: float,
    questions: int,
    codecs: tuple[str, ...],
    file: Path | None,
    plot: Path | None,
) -> None:
    """Say how good answers are from a part of a window, by the order in which it came back."""
    from cwm_ros.bench.quality import bench_quality, QualityBench
    from cwm_ros.bench.quality_text import format_quality
    from cwm_ros.bench.tables import describe_machine

    bench = QualityBench(
        contexts=contexts,
        dialogues=dialogues,
        questions=questions,
        codecs=codecs,
        settings=options.settings,
        minutes=minutes,
        file=file,
    )
    report = bench_quality(bench, options.note)
    if plot:
        from cwm_ros.bench.quality_plot import draw

        draw(report, plot)
    values = {'machine': describe_machine(Path()), **report.as_json()}
    options.show(values, format_quality(report))


@bench_command.command('node')
@click.option('--tokens', type=click.IntRange(512), default=4096, show_default=True)
@click.option('--starts', type=click.IntRange(1), default=5, show_default=True)
@_rounds(20)
@_folder()
@click.pass_obj
def node_command(options: Options, *, tokens: int, starts: int, rounds: int, folder: Path) -> None:
    """Time the ROS node's start, and what it adds to answers; weigh it, also idle."""
    from cwm_ros.bench.node import bench_node

    report = bench_node(
        options.settings, folder, tokens=tokens, starts=starts, rounds=rounds, note=options.note
    )
    options.show(report.as_json(), report.as_text())


@bench_command.command('jitter')
@click.option('--tokens', type=click.IntRange(512), default=8192, show_default=True)
@_rounds(3)
@click.option('--seconds', type=click.FloatRange(0.5), default=3.0, show_default=True)
@_folder()
@click.pass_obj
def jitter_command(
    options: Options, *, tokens: int, rounds: int, seconds: float, folder: Path
) -> None:
    """Time a 100 Hz process beside thaws, with runtime.* and without."""
    from cwm_ros.bench.jitter import as_json, format_jitter, measure_jitter

    rows = measure_jitter(
        options.settings, folder, tokens=tokens, rounds=rounds, seconds=seconds, note=options.note
    )
    options.show(as_json(rows, folder), format_jitter(rows))


@bench_command.command('targets')
@_rounds(3)
@_folder('needs 1 GB for a while')
@click.pass_obj
def targets_command(options: Options, *, rounds: int, folder: Path) -> None:
    """Measure all that is promised, and say what is kept."""
    from cwm_ros.bench.targets import measure_targets

    table = measure_targets(options.settings, folder, rounds=rounds, note=options.note)
    options.show(table.as_json(), table.as_text())


@bench_command.command('plan')
@click.option('--tokens', type=click.IntRange(512), default=4096, show_default=True)
@click.option('--rounds', type=click.IntRange(0), default=3, show_default=True)
@_folder()
@click.pass_obj
def plan_command(options: Options, *, tokens: int, rounds: int, folder: Path) -> None:
    """Hold the choice between loading and recomputing against either, simulated and here."""
    from cwm_ros.bench.plan import format_plan_rows, measured_row, simulated_rows
    from cwm_ros.bench.tables import describe_machine

    simulated = simulated_rows()
    texts, values = [format_plan_rows(simulated)], [row.as_json() for row in simulated]
    if rounds:
        row = measured_row(
            options.settings, folder, num_tokens=tokens, rounds=rounds, note=options.note
        )
        texts.append(format_plan_rows([row]))
        values.append(row.as_json())
    options.show({'machine': describe_machine(folder), 'rows': values}, '\n\n'.join(texts))
