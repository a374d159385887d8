# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The report of `tests.hil.report` as Markdown, and what machine it is about."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import distributions
import json
from pathlib import Path
import subprocess
from typing import TYPE_CHECKING

from cwm_ros.bench.gpu_report import draw, Figure, GpuReport, smi_facts
from cwm_ros.bench.tables import describe_machine
from cwm_ros.errors import CwmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PACKAGES = ('numpy', 'onnxruntime', 'onnx', 'tokenizers', 'numba', 'pytest')
BOARD_FILES = (Path('/proc/device-tree/model'), Path('/etc/nv_tegra_release'))
COMMANDS = (('nvcc', '--version'), ('nvpmodel', '-q'))


def describe_hardware(file: Path) -> None:
    """Write down what machine this is, and what its clocks are now; keep those of before."""
    known = json.loads(file.read_text(encoding='utf-8')) if file.exists() else {}
    clocks = known.get('clocks', [])
    facts: dict[str, object] = {**describe_machine(file.parent), **_software(), **_gpu()}
    for path in BOARD_FILES:
        if path.exists():
            facts[path.name] = path.read_text(encoding='utf-8', errors='replace').strip('\0\n ')
    for command in COMMANDS:
        facts[command[0]] = _said(command)
    now = smi_facts()
    if now:
        clocks.append(', '.join(f'{name} {value}' for name, value in now.items()))
    file.write_text(json.dumps({'facts': facts, 'clocks': clocks}, indent=1), encoding='utf-8')


def _software() -> dict[str, object]:
    found = {package.metadata['Name']: package.version for package in distributions()}
    return {name: found.get(name, 'not installed') for name in PACKAGES}


def _gpu() -> dict[str, object]:
    from cwm_ros.engine.cuda import Device
    from cwm_ros.engine.trt import import_tensorrt

    facts: dict[str, object] = {}
    try:
        info = Device().info
        facts['gpu'] = f'{info.name}, compute capability {".".join(map(str, info.capability))}'
        facts['gpu_memory'] = f'{info.memory_bytes / 2**30:.0f} GiB, '
        facts['gpu_memory'] += 'shared' if info.is_integrated else 'its own'
        facts['cuda_driver'] = info.driver
    except CwmError as exc:
        facts['gpu'] = exc.message
    try:
        facts['tensorrt'] = str(import_tensorrt().__version__)
    except CwmError as exc:
        facts['tensorrt'] = exc.message
    return facts


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 'not here'
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ''


def write_page(work: Path, names: Sequence[str]) -> dict[str, str]:
    """Write report.md of all results in a folder, and return each part's status."""
    results, statuses = work / 'results', {}
    found = []
    for name in names:
        path = results / f'{name}.json'
        if path.exists():
            found.append(json.loads(path.read_text(encoding='utf-8')))
            statuses[name] = found[-1]['status']
        else:
            statuses[name] = 'not run'
    hardware = results / 'hardware.json'
    if not hardware.exists():
        describe_hardware(hardware)
    machine = json.loads(hardware.read_text(encoding='utf-8'))
    lines = ['# What ran on this GPU', '', '## The machine', '']
    lines += [f'- {name}: {value}' for name, value in machine['facts'].items()]
    lines += [f'- clocks after each part: {"; ".join(dict.fromkeys(machine["clocks"]))}', '']
    lines += [
        '## Parts',
        '',
        '| part | what | result | tests | seconds |',
        '|---|---|---|---|---|',
    ]
    for result in found:
        counts = ', '.join(f'{n} {kind}' for kind, n in result['counts'].items() if n)
        lines.append(
            f'| {result["name"]} | {result["about"]} | {result["status"]} | {counts} '
            f'| {result["seconds"]} |'
        )
    absent = [name for name, status in statuses.items() if status == 'not run']
    lines += ['', f'Not run: {", ".join(absent) or "nothing"}.', '']
    for result in found:
        lines += _details(results, result)
    (work / 'report.md').write_text('\n'.join(lines).rstrip() + '\n', encoding='utf-8')
    return statuses


def _details(results: Path, result: dict[str, object]) -> Iterator[str]:
    name = str(result['name'])
    figures, plot = results / f'{name}.figures.json', results / f'{name}.png'
    body: list[str] = []
    if result['reason']:
        body.append(f'- {result["status"]}: {result["reason"]}')
    failures, said = result['failures'], result['said']
    assert isinstance(failures, dict)
    assert isinstance(said, list)
    body += [f'- FAILED {test}: {message}' for test, message in failures.items()]
    body += [f'- {line}' for line in said]
    if figures.exists():
        document = json.loads(figures.read_text(encoding='utf-8'))
        rows = [Figure(**row) for row in document['rows']]
        report = GpuReport(facts=document['machine'], rows=rows)
        body += ['', report.as_text()]
        with suppress(ImportError):  # what draws need not be here
            draw(report, plot)
    if plot.exists():
        body += ['', f'![{result["about"]}]({plot.name})']
    if body:
        yield from (f'## {name}: {result["about"]}', '', *body, '')
