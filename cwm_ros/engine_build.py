# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Build an engine for this machine's GPU from a checkpoint: part by part, resumable.

Parts are compiled by processes of their own, which end with this one. What one finds out about
its layers the next takes over, so parts behind the first of a structure are compiled faster.
"""

from __future__ import annotations

from dataclasses import dataclass
import fcntl
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from cwm_ros.engine.cache import slots_for
from cwm_ros.engine.compile_part import options_json
from cwm_ros.engine.cuda import Device
from cwm_ros.engine.gpu import MAX_ROWS
from cwm_ros.engine.gpu_open import this_machine
from cwm_ros.engine.plans import (
    engine_folder,
    KERNELS_FILE,
    Machine,
    part_file,
    PARTS_VERSION,
    Recipe,
    Sidecar,
    SIDECAR_FILE,
)
from cwm_ros.engine.sliced import capacity_of
from cwm_ros.engine.trt import Dialect, import_tensorrt
from cwm_ros.errors import BusyError, EngineError
from cwm_ros.model.graph_parts import part_layers, write_part
from cwm_ros.model.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.config import EngineSettings
    from cwm_ros.model import Checkpoint

RECIPE_FILE = 'recipe.json'
LIKELY_TOKENS = 4096
"""Tokens in the cache that code is chosen for."""
KERNELS_SOURCE = Path(__file__).parent / 'engine' / 'kernels.cu'
COMPILER_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """
    How far a build is.

    Parameters
    ----------
    done, total
        Parts.
    elapsed_s
        Since the build began [s].
    is_reused
        Whether the last part was there from an earlier build.
    folder
        The engine; empty until it is complete.

    """

    done: int
    total: int
    elapsed_s: float
    is_reused: bool = False
    folder: str = ''


def profiles(context_tokens: int, slice_tokens: int) -> list[dict[str, tuple[int, int, int]]]:
    """Return the sizes of steps and of slices, as `cwm_ros.engine.gpu` asks for them."""
    largest = slots_for(context_tokens)
    slots = (slots_for(0), slots_for(min(context_tokens, LIKELY_TOKENS)), largest)
    rows = min(MAX_ROWS, slice_tokens)
    return [
        {'T': (1, 1, 1), 'R': (1, 1, 1), 'S': slots},
        {'T': (1, slice_tokens, slice_tokens), 'R': (1, 1, rows), 'S': slots},
    ]


def compile_kernels(capability: str, target: Path, *, is_half: bool) -> None:
    """
    Compile our kernels with CUDA's compiler.

    Raises
    ------
    EngineError
        There is no compiler, or it refuses.

    """
    compiler = shutil.which('nvcc') or '/usr/local/cuda/bin/nvcc'
    command = [compiler, '-cubin', f'-arch=sm_{capability.replace(".", "")}', '-o', str(target)]
    command += [f'-DCWM_HALF={int(is_half)}', str(KERNELS_SOURCE)]
    try:
        subprocess.run(  # noqa: S603 - our own arguments
            command, check=True, capture_output=True, text=True, timeout=COMPILER_SECONDS
        )
    except FileNotFoundError as exc:
        raise EngineError(
            'nvcc is not installed', hint='install the CUDA toolkit; JetPack has it'
        ) from exc
    except subprocess.SubprocessError as exc:
        said = getattr(exc, 'stderr', '') or str(exc)
        raise EngineError(f'kernels.cu: cannot be compiled for {capability}: {said}') from exc


def build_engine(
    checkpoint: Checkpoint, settings: EngineSettings, *, group_layers: int = 2, level: int = 2
) -> Iterator[BuildProgress]:
    """
    Build an engine, and put it in the place of the one that was there.

    Parameters
    ----------
    checkpoint
        The model.
    settings
        Precision, context and slice; the engine goes into their cache folder.
    group_layers
        Layers that are compiled together: more run a little faster and take far longer to build.
    level
        How long the compiler looks for fast code, 0 to 5.

    Yields
    ------
    BuildProgress
        After each part; the last one names the engine's folder.

    Raises
    ------
    BusyError
        Another process builds the same engine.
    EngineError
        There is no GPU or TensorRT, or a part cannot be built. What is done is kept.
    ModelError
        The weights are damaged, or do not fit the precision.

    """
    device, dialect = Device(), Dialect(import_tensorrt())
    capacity = capacity_of(checkpoint.kv_spec, checkpoint.identity, settings)
    recipe = Recipe(
        model=checkpoint.identity.model.hex(),
        name=checkpoint.identity.name,
        precision=settings.gpu_precision,
        context_tokens=capacity,
        slice_tokens=settings.prefill_slice,
        group_layers=group_layers,
        level=level,
        parts_version=PARTS_VERSION,
    )
    machine = this_machine(device, dialect)
    device.close()
    target = engine_folder(settings.cache_path, checkpoint.identity, settings.gpu_precision)
    staging = target.with_name(f'{target.name}.building')
    staging.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f'{target.name}.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise BusyError(f'{target}: another process builds this engine') from exc
        yield from _build(checkpoint, recipe, machine, staging, target)


def _build(
    checkpoint: Checkpoint, recipe: Recipe, machine: Machine, staging: Path, target: Path
) -> Iterator[BuildProgress]:
    began = time.monotonic()
    spent = _prepare(staging, recipe, machine)
    compile_kernels(machine.capability, staging / KERNELS_FILE, is_half=recipe.precision != 'fp32')
    parts = part_layers(checkpoint.spec.num_layers, recipe.group_layers)
    names = [KERNELS_FILE]
    for index, layers in enumerate(parts):
        plan = staging / part_file(index)
        names.append(plan.name)
        is_reused = plan.exists()
        if not is_reused:
            _build_part(checkpoint, recipe, layers, plan)
        elapsed = time.monotonic() - began
        (staging / 'seconds').write_text(str(spent + elapsed), encoding='ascii')
        yield BuildProgress(
            done=index + 1, total=len(parts), elapsed_s=elapsed, is_reused=is_reused
        )
    elapsed = time.monotonic() - began
    sizes = {name: (staging / name).stat().st_size for name in names}
    sidecar = Sidecar(recipe=recipe, machine=machine, files=sizes, build_s=spent + elapsed)
    _publish(staging, target, sidecar)
    yield BuildProgress(done=len(parts), total=len(parts), elapsed_s=elapsed, folder=str(target))


def _prepare(staging: Path, recipe: Recipe, machine: Machine) -> float:
    """Keep what an interrupted build of the same left; return how long that took [s]."""
    wanted = Sidecar(recipe=recipe, machine=machine, files={}, build_s=0).to_json()
    marker = staging / RECIPE_FILE
    if marker.exists() and marker.read_text(encoding='utf-8') == wanted:
        try:
            return float((staging / 'seconds').read_text(encoding='ascii'))
        except (OSError, ValueError):
            return 0.0
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    marker.write_text(wanted, encoding='utf-8')
    return 0.0


def _build_part(checkpoint: Checkpoint, recipe: Recipe, layers: range, plan: Path) -> None:
    spec = checkpoint.spec
    timings = plan.parent / 'timings.bin'
    options = options_json(
        precision=recipe.precision,
        level=recipe.level,
        profiles=profiles(recipe.context_tokens, recipe.slice_tokens),
    )
    with tempfile.TemporaryDirectory(prefix='graph-', dir=plan.parent) as folder:
        with Weights(checkpoint.folder, spec.tensor_shapes()) as weights:
            graph = write_part(Path(folder), spec, weights, layers, recipe.precision)
        run_compiler(graph, plan, timings, options)


def run_compiler(graph: Path, plan: Path, timings: Path, options: str) -> None:
    """
    Compile a part in a process of its own, which ends with this one's interest in it.

    Raises
    ------
    EngineError
        It cannot be compiled.

    """
    command = [sys.executable, '-m', 'cwm_ros.engine.compile_part']
    command += [str(graph), str(plan), str(timings), options]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, 'PYTHONPATH': f'{root}:{os.environ.get("PYTHONPATH", "")}'}
    process = subprocess.Popen(  # noqa: S603 - our own arguments
        command, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        _, said = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        lines = said.strip().splitlines() or [f'status {process.returncode}']
        raise EngineError(
            f'{plan.name}: cannot be compiled: {lines[-1]}', hint='try fewer layers in a group'
        )


def _publish(staging: Path, target: Path, sidecar: Sidecar) -> None:
    """Make a complete folder the engine."""
    for name in (RECIPE_FILE, 'seconds', 'timings.bin'):
        (staging / name).unlink(missing_ok=True)
    document = json.dumps(json.loads(sidecar.to_json()), indent=1)
    with (staging / SIDECAR_FILE).open('w', encoding='utf-8') as file:
        file.write(document)
        file.flush()
        os.fsync(file.fileno())
    old = target.with_name(f'{target.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)
