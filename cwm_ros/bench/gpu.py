# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
An engine on a GPU: prefill, decode, freeze and thaw, against recomputing in the same run.

``cwm bench engine`` calls it with the configured model when that runs in TensorRT. As a program,
``python -m cwm_ros.bench.gpu``, it measures a model of Llama-3.1-8B's geometry, see `gpu_model`.
"""

from __future__ import annotations

from argparse import ArgumentParser
from contextlib import closing
from dataclasses import replace
import json
from pathlib import Path
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from cwm_ros.bench.gpu_measure import GpuBench, USABLE_TOKENS
from cwm_ros.bench.gpu_model import (
    build_parts,
    CacheOnly,
    CHUNK,
    LLAMA_8B,
    open_model,
    Shape,
)
from cwm_ros.bench.gpu_report import draw, GpuReport, machine_facts, smi_facts
from cwm_ros.engine.cuda import Device
from cwm_ros.engine.gpu_open import open_gpu_engine
from cwm_ros.engine.trt import Dialect, import_tensorrt
from cwm_ros.engine_build import compile_kernels
from cwm_ros.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cwm_ros.config import EngineSettings
    from cwm_ros.engine.gpu import GpuEngine
    from cwm_ros.model import Checkpoint


def _say(text: str) -> None:
    sys.stderr.write(f'{text}\n')
    sys.stderr.flush()


def bench_gpu(shape: Shape, folder: Path, sizes: Sequence[int]) -> GpuReport:
    """
    Build a model of random weights, and measure all.

    Raises
    ------
    EngineError
        There is no GPU or TensorRT, or a part cannot be built.

    """
    report = GpuReport(note=_say)
    device, dialect = Device(), Dialect(import_tensorrt())
    spec = shape.spec
    report.facts = machine_facts(device, dialect) | {
        'model': f'{spec.num_layers} layers of {spec.hidden_size}, random weights, fp16',
        'parts': f'{shape.group_layers} layers each, level {shape.level}',
    }
    build_parts(shape, folder, report, '.'.join(map(str, device.info.capability)))
    began = time.perf_counter()
    with closing(open_model(shape, folder, device, dialect)) as engine:
        report.add('load engine', time.perf_counter() - began, 's')
        _measure(engine, device, report, folder, sizes)
    return report


def bench_configured(
    checkpoint: Checkpoint,
    settings: EngineSettings,
    folder: Path,
    sizes: Sequence[int],
    note: Callable[[str], None],
) -> GpuReport:
    """
    Measure the engine that was built for a model; chunks go into ``folder`` for a while.

    Raises
    ------
    ConfigError
        A number of tokens does not go into the engine, or is no multiple of a chunk.
    EngineError
        There is no GPU or TensorRT, or the engine does not fit them.
    NotFoundError
        There is no engine.

    """
    report = GpuReport(note=note)
    began = time.perf_counter()
    with open_gpu_engine(checkpoint.kv_spec, checkpoint.identity, settings) as engine:
        device = Device()
        report.facts = machine_facts(device, Dialect(import_tensorrt())) | {
            'model': checkpoint.identity.name,
            'precision': settings.gpu_precision,
        }
        report.add('load engine', time.perf_counter() - began, 's')
        for size in sizes:
            if size % CHUNK or not USABLE_TOKENS < size <= engine.capacity:
                raise ConfigError(
                    f'tokens is {size}: not in {USABLE_TOKENS + CHUNK} to {engine.capacity}, or '
                    f'no multiple of {CHUNK}'
                )
        _measure(engine, device, report, folder, sizes)
    return report


def _measure(
    engine: GpuEngine, device: Device, report: GpuReport, folder: Path, sizes: Sequence[int]
) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix='chunks-') as chunks:
        bench = GpuBench(engine, device, report, Path(chunks))
        bench.measure_all(sizes, bench.measure_link())
    report.facts |= {f'{name} at the end': value for name, value in smi_facts().items()}


def bench_transfer(shape: Shape, folder: Path, sizes: Sequence[int]) -> GpuReport:
    """Measure what needs no model: the link, freeze and thaw."""
    report, device = GpuReport(note=_say), Device()
    folder.mkdir(parents=True, exist_ok=True)
    report.facts = machine_facts(device, Dialect(import_tensorrt()))
    capability = '.'.join(map(str, device.info.capability))
    compile_kernels(capability, folder / 'kernels.cubin', is_half=True)
    with (
        closing(CacheOnly(shape, device, folder)) as engine,
        tempfile.TemporaryDirectory(dir=folder, prefix='chunks-') as chunks,
    ):
        bench = GpuBench(engine, device, report, Path(chunks))
        link = bench.measure_link()
        for size in sizes:
            engine.fill(size)
            bench.measure_thaw(size, link)
    return report


def main() -> None:
    """Run as a program."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path, help='for engine files and chunks; needs 12 GB')
    parser.add_argument('--layers', type=int, default=32)
    parser.add_argument('--group-layers', type=int, default=1)
    parser.add_argument('--level', type=int, default=0)
    parser.add_argument('--context', type=int, default=33024)
    parser.add_argument('--slice', type=int, default=512)
    parser.add_argument('--tokens', type=int, nargs='+', default=[4096, 16384, 32768])
    parser.add_argument('--json', type=Path)
    parser.add_argument('--plot', type=Path)
    parser.add_argument('--build-only', action='store_true')
    parser.add_argument('--transfer-only', action='store_true')
    options = parser.parse_args()
    shape = Shape(
        spec=replace(LLAMA_8B, num_layers=options.layers),
        group_layers=options.group_layers,
        level=options.level,
        context=options.context,
        slice_tokens=options.slice,
    )
    try:
        if options.build_only:
            capability = '.'.join(map(str, Device().info.capability))
            build_parts(shape, options.folder, GpuReport(note=_say), capability)
            return
        measure = bench_transfer if options.transfer_only else bench_gpu
        report = measure(shape, options.folder, options.tokens)
    except EngineError as exc:
        parser.error(str(exc))
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1), encoding='utf-8')
    if options.plot:
        draw(report, options.plot)
    sys.stdout.write(f'{report.as_text()}\n')


if __name__ == '__main__':
    main()
