# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Verbs about engine files: build, check, list."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from cwm_ros.errors import EngineError

if TYPE_CHECKING:
    from cwm_ros.cli.app import Options


@click.group('engine')
def engine_command() -> None:
    """Build, check and list engines for the GPU of this machine."""


@engine_command.command('build')
@click.option('--group-layers', type=click.IntRange(1), default=2, show_default=True)
@click.option('--level', type=click.IntRange(0, 5), default=2, show_default=True)
@click.pass_obj
def build_command(options: Options, *, group_layers: int, level: int) -> None:
    """
    Build the engine of the configured model; what an interrupted build has done is used.

    More layers in a group run a little faster and take far longer to build; a higher level looks
    longer for fast code.
    """
    from cwm_ros.engine_build import build_engine
    from cwm_ros.model import Checkpoint

    settings = replace(options.settings.engine, kind='tensorrt')
    checkpoint = Checkpoint.configured(settings)
    last = None
    for last in build_engine(checkpoint, settings, group_layers=group_layers, level=level):
        note = ' (from an earlier build)' if last.is_reused else ''
        options.note(f'part {last.done} of {last.total}, {last.elapsed_s:.0f} s{note}')
    assert last is not None
    options.show(asdict(last), f'{last.folder}: built in {last.elapsed_s:.0f} s')


@engine_command.command('check')
@click.pass_obj
def check_command(options: Options) -> None:
    """Say whether the configured model's engine fits this machine, and why not."""
    from cwm_ros.engine.cuda import Device
    from cwm_ros.engine.gpu_open import check_engine, this_machine
    from cwm_ros.engine.plans import BUILD_HINT, engine_folder
    from cwm_ros.engine.trt import Dialect, import_tensorrt
    from cwm_ros.model import Checkpoint

    settings = replace(options.settings.engine, kind='tensorrt')
    checkpoint = Checkpoint.configured(settings)
    folder = engine_folder(settings.cache_path, checkpoint.identity, settings.gpu_precision)
    machine = this_machine(Device(), Dialect(import_tensorrt()))
    sidecar, problems = check_engine(
        checkpoint.kv_spec, checkpoint.identity, settings, machine, folder
    )
    if problems:
        raise EngineError(f'{folder}: ' + '; '.join(problems), hint=BUILD_HINT)
    values = {'folder': str(folder), **asdict(sidecar)}
    options.show(values, f'{folder}: fits {machine.gpu}, TensorRT {machine.tensorrt}')


@engine_command.command('list')
@click.pass_obj
def list_command(options: Options) -> None:
    """List the engines that were built, on this machine or another; needs no GPU."""
    from cwm_ros.engine.plans import list_engines

    rows, lines = [], []
    for folder, sidecar in list_engines(options.settings.engine.cache_path):
        if isinstance(sidecar, str):
            rows.append({'folder': str(folder), 'problem': sidecar})
            lines.append(f'{folder.name}: {sidecar}')
            continue
        rows.append({'folder': str(folder), **asdict(sidecar)})
        recipe, machine = sidecar.recipe, sidecar.machine
        lines.append(
            f'{recipe.name} {recipe.precision}, {recipe.context_tokens} tokens, for '
            f'{machine.gpu}, TensorRT {machine.tensorrt}: {sum(sidecar.files.values()) >> 20} MiB'
        )
    options.show({'engines': rows}, '\n'.join(lines) or 'no engine was built')
