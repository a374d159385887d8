# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Everything that a machine with an NVIDIA GPU can tell, in one report; a Jetson too.

``python3 -m tests.hil.report FOLDER`` runs part by part, each in a process of its own and for a
bounded time, and keeps engines and results in FOLDER. A part that fails, hangs or is absent does
not keep others from running. Called again it goes on with what has no result yet; ``--part`` runs
parts again, ``--limit-s`` ends a call in time. The report covers all parts that ever ran there.
"""

from __future__ import annotations

from argparse import ArgumentParser
import contextlib
from dataclasses import asdict, dataclass, field
import io
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from tests.hil.page import describe_hardware, write_page

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
LOG_BYTES = 64 << 10
"""Of each log, its end, goes to the folder for results."""
RESERVE_S = 10
"""Time of a call that is kept for the report."""
PLOTTED = ('reference', 'transfer', '8b')
"""Parts whose plots lie beside the report."""
LINE_CHARACTERS = 300
SKIPPED_WORD = 'ROS tests skipped'


@dataclass(frozen=True, kw_only=True)
class Part:
    """
    One thing to run.

    Parameters
    ----------
    name, about
        Short, and for people.
    command
        Program and arguments; '{work}' is the folder, '{name}' the part's.
    seconds
        Most time.
    needs
        A program without which it is skipped.
    environment
        Beside that of the caller.

    """

    name: str
    about: str
    command: Sequence[str]
    seconds: float
    needs: str = ''
    environment: dict[str, str] = field(default_factory=dict)


def tests(name: str, about: str, seconds: float, *arguments: str) -> Part:
    """Return a part that runs tests."""
    return Part(
        name=name,
        about=about,
        seconds=seconds,
        command=(*_PYTEST, *arguments),
    )


_PYTEST = (
    *(PYTHON, '-m', 'pytest', '-q', '-o', 'junit_logging=system-out'),
    '--junitxml={work}/results/{name}.xml',
)
_BENCH = (PYTHON, '-m', 'cwm_ros.bench.gpu')
_FIGURES = ('--json', '{work}/results/{name}.figures.json')
_REFERENCE = f"""cd '{{work}}/results' && {PYTHON} -m cwm_ros.cli --config ../cwm.yaml --json \\
bench engine --tokens 4096 --folder .. > figures.tmp && mv figures.tmp {{name}}.figures.json ||
{{{{ cat figures.tmp; exit 1; }}}}"""
_ENGINE_TESTS, _KERNEL_TESTS = 'tests/hil/test_hil_engine.py', 'tests/hil/test_hil_kernels.py'


def sanitizer(tool: str) -> Part:
    """Return a part that runs our kernels under a tool of compute-sanitizer."""
    return Part(
        name=tool,
        about=f'compute-sanitizer {tool} on our kernels',
        seconds=240,
        needs='compute-sanitizer',
        command=('compute-sanitizer', '--tool', tool, '--error-exitcode', '9', *_PYTEST,
                 _KERNEL_TESTS),
    )  # fmt: skip


def level(number: int) -> Part:
    """Return a part that builds three layers at a level, and measures them."""
    return Part(
        name=f'level-{number}',
        about=f'three layers of the 8B geometry built at level {number}',
        seconds=500,
        command=(*_BENCH, '{work}/{name}', '--layers', '3', '--level', str(number), '--tokens',
                 '4096', '16384', *_FIGURES),
    )  # fmt: skip


PARTS = (
    tests('kernels', 'our kernels against the codec', 120, _KERNEL_TESTS),
    tests('contract', 'the engine contract', 300, _ENGINE_TESTS, '-k', 'Contract'),
    tests('engine', 'the engine against ONNX Runtime, files, memory', 400, _ENGINE_TESTS,
          '-k', 'not Contract and not recall'),
    tests('windows', 'windows between GPU and processor, kills', 400,
          'tests/hil/test_hil_windows.py'),
    tests('probe', 'how far engines differ, and the end probe', 400,
          'tests/hil/test_hil_probe.py'),
    tests('recall', 'recall against ONNX Runtime', 400, _ENGINE_TESTS, '-k', 'recall'),
    Part(name='reference', about='the reference model: GPU table', seconds=300,
         command=('sh', '-c', _REFERENCE)),
    Part(name='transfer', about='8B geometry: the link, freeze and thaw without a model',
         seconds=200, command=(*_BENCH, '{work}/transfer', '--transfer-only', '--tokens', '16384',
                               '32768', *_FIGURES)),
    Part(name='8b-build', about='8B geometry: first, middle and last part', seconds=500,
         command=(*_BENCH, '{work}/8b', '--build-only')),
    Part(name='8b', about='8B geometry: GPU table', seconds=500,
         command=(*_BENCH, '{work}/8b', *_FIGURES)),
    *(sanitizer(tool) for tool in ('memcheck', 'racecheck', 'initcheck')),
    *(level(number) for number in range(4)),
    Part(name='node', about="the node's ignition cycle on this engine", seconds=500,
         needs='bash', command=('tests/ros/run.sh', '-k', 'ignition_thaws_saves',
                                '--junitxml={work}/results/{name}.xml'),
         environment={'CWM_NODE_ENGINE': 'tensorrt'}),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """
    What became of a part.

    Parameters
    ----------
    name, about
        Of the part.
    status
        'passed', 'failed', 'timed out' or 'skipped'.
    seconds
        How long it took.
    reason
        Why it was skipped, or how it failed.
    counts
        Tests by outcome.
    failures
        Failed tests and their first lines.
    said
        What tests printed: figures.

    """

    name: str
    about: str
    status: str
    seconds: float = 0.0
    reason: str = ''
    counts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def run_part(part: Part, work: Path, limit_s: float) -> Result:
    """Run a part, whatever becomes of it, and keep its log and result."""
    log = work / 'results' / f'{part.name}.log'
    xml = log.with_suffix('.xml')
    for old in (log, xml, *log.parent.glob(f'{part.name}.[fp]*')):
        old.unlink(missing_ok=True)
    if part.needs and shutil.which(part.needs) is None:
        result = Result(
            name=part.name, about=part.about, status='skipped', reason=f'no {part.needs} here'
        )
    else:
        began = time.monotonic()
        status, reason = _run(part, work, log, min(part.seconds, limit_s))
        counts, failures, said = read_tests(xml)
        if status == 'passed' and counts and counts['passed'] == 0 and not failures:
            status, reason = 'skipped', said[-1] if said else 'all its tests were skipped'
        result = Result(
            name=part.name,
            about=part.about,
            status=status,
            seconds=round(time.monotonic() - began, 1),
            reason=reason,
            counts=counts,
            failures=failures,
            said=said,
        )
    path = log.with_suffix('.json')
    path.write_text(json.dumps(asdict(result), indent=1), encoding='utf-8')
    return result


def _run(part: Part, work: Path, log: Path, seconds: float) -> tuple[str, str]:
    """Return status and reason; no process of the part is left."""
    command = [text.format(work=work, name=part.name) for text in part.command]
    environment = {
        **os.environ,
        'CWM_HIL_CACHE': str(work / 'engines'),
        'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}',
        'PYTHONUNBUFFERED': '1',
        **part.environment,
    }
    with log.open('wb') as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as exc:
            return 'failed', f'cannot be started: {exc}'
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return 'timed out', f'after {seconds:.0f} s'
        finally:
            _end_group(process)
    text = log.read_text(encoding='utf-8', errors='replace')
    skipped = [line for line in text.splitlines() if line.startswith(SKIPPED_WORD)]
    if code == 0 and skipped:
        return 'skipped', skipped[0]
    *_, last = ['', *text.strip().splitlines()]
    return ('passed', '') if code == 0 else ('failed', f'status {code}: {last[:LINE_CHARACTERS]}')


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what a part has left, its compilers too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_tests(xml: Path) -> tuple[dict[str, int], dict[str, str], list[str]]:
    """Return counts by outcome, failures, and what tests printed, of a JUnit file if there is."""
    try:
        cases = list(ET.parse(xml).iter('testcase'))  # noqa: S314 - pytest wrote it
    except (OSError, ET.ParseError):
        return {}, {}, []
    counts, failures, said = {'passed': 0, 'failed': 0, 'skipped': 0}, {}, []
    for case in cases:
        bad = [case.find(kind) for kind in ('failure', 'error')]
        found = next((element for element in bad if element is not None), None)
        skipped = case.find('skipped')
        if found is not None:
            counts['failed'] += 1
            failures[str(case.get('name'))] = str(found.get('message') or '?').splitlines()[0][
                :LINE_CHARACTERS
            ]
        elif skipped is not None:
            counts['skipped'] += 1
            said.append(f'skipped: {skipped.get("message", "")}')
        else:
            counts['passed'] += 1
        printed = case.findtext('system-out') or ''
        said += [line for line in printed.splitlines() if line and not line.startswith('-----')]
    return counts, failures, list(dict.fromkeys(said))


def run(parts: Sequence[Part], work: Path, limit_s: float) -> None:
    """Run parts until the time is over; those that were not begun have no result."""
    (work / 'results').mkdir(parents=True, exist_ok=True)
    (work / 'cwm.yaml').write_text(
        '/**:\n  ros__parameters:\n    engine: {kind: tensorrt, model: reference, '
        f'precision: fp16, cache_dir: {work / "engines"}}}\n',
        encoding='utf-8',
    )
    ends = time.monotonic() + limit_s - RESERVE_S
    for part in parts:
        left_s = ends - time.monotonic()
        if left_s < min(part.seconds, RESERVE_S):
            print(f'{part.name}: no time is left for it', flush=True)
            continue
        result = run_part(part, work, left_s)
        print(f'{part.name}: {result.status} after {result.seconds} s {result.reason}', flush=True)
        describe_hardware(work / 'results' / 'hardware.json')


def hand_over(work: Path, out: Path) -> None:
    """Copy the report and its plots; all else, of logs only the ends, goes into one archive."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work / 'report.md', out / 'report.md')
    with tarfile.open(out / 'results.tar.gz', 'w:gz') as archive:
        for path in sorted((work / 'results').iterdir()):
            if path.suffix == '.png' and path.stem in PLOTTED:
                shutil.copyfile(path, out / path.name)
                continue
            entry = tarfile.TarInfo(path.name)
            data = path.read_bytes()[-LOG_BYTES if path.suffix == '.log' else 0 :]
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path, help='for engines and results; 12 GB')
    parser.add_argument('--part', action='append', choices=[part.name for part in PARTS])
    parser.add_argument('--limit-s', type=float, default=float('inf'), help='for this call')
    parser.add_argument('--out', type=Path, help='gets the report, plots and ends of logs')
    options = parser.parse_args()
    work = options.folder.resolve()
    results = work / 'results'
    wanted = [
        part
        for part in PARTS
        if (
            part.name in options.part
            if options.part
            else not (results / f'{part.name}.json').exists()
        )
    ]
    run(wanted, work, options.limit_s)
    statuses = write_page(work, [part.name for part in PARTS])
    print((work / 'report.md').read_text(encoding='utf-8'))
    if options.out:
        hand_over(work, options.out)
    return 1 if {'failed', 'timed out'} & {*statuses.values()} else 0


if __name__ == '__main__':
    sys.exit(main())
