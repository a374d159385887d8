# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Fuzz the parsers: `python -m tests.fuzz --runs 100000`.

Each target runs in a process of its own, which libFuzzer ends; its memory is limited. The peak
that libFuzzer looks at is inherited, so that process is always started by this small one.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
from pathlib import Path
import subprocess
import sys
import tempfile

MEMORY_MIB = 512
"""Of a whole process, which holds about 100 before the first input."""
INPUT_BYTES = 1 << 16
INPUT_S = 20


def fuzz(name: str, runs: int, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=['cwm_ros', 'jinja2', 'yaml']):
        from cwm_ros.errors import CwmError
        from tests.fuzz import targets

    logging.disable(logging.CRITICAL)
    targets.without_checksums()
    parse = targets.TARGETS[name]

    def once(data: bytes) -> None:
        try:
            parse(data)
        except (CwmError, FileNotFoundError):
            return

    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(targets.seeds(name)):
            (Path(corpus) / str(number)).write_bytes(data)
            once(data)
        options = [
            f'-runs={runs}', f'-seed={seed}', f'-max_len={INPUT_BYTES}', f'-timeout={INPUT_S}',
            f'-rss_limit_mb={MEMORY_MIB}', '-verbosity=0', '-print_final_stats=1', corpus,
        ]  # fmt: skip
        atheris.Setup([sys.argv[0], *options], once)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m tests.fuzz', description=__doc__)
    parser.add_argument('--target', help='this one alone [default: all]')
    parser.add_argument('--here', action='store_true', help='in this process')
    parser.add_argument('--runs', type=int, default=100_000, help='executions for each target')
    parser.add_argument('--seed', type=int, default=1)
    arguments = parser.parse_args()
    if arguments.here:
        fuzz(arguments.target, arguments.runs, arguments.seed)
        return 0
    if importlib.util.find_spec('atheris') is None:
        print(  # noqa: T201
            'atheris is not installed: it has wheels for Linux on x86-64, Python 3.11 to 3.13',
            file=sys.stderr,
        )
        return 1
    from tests.fuzz.targets import TARGETS

    failed = []
    for name in [arguments.target] if arguments.target else TARGETS:
        options = ['--target', name, '--runs', str(arguments.runs), '--seed', str(arguments.seed)]
        done = subprocess.run(
            [sys.executable, '-m', 'tests.fuzz', '--here', *options],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        executions = _executions(done.stderr)
        print(  # noqa: T201
            f'{name:18} {executions:9} executions  status {done.returncode}', flush=True
        )
        if done.returncode or executions < arguments.runs:
            failed.append(name)
            print(done.stdout[-3000:], done.stderr[-3000:], file=sys.stderr)  # noqa: T201
    return 1 if failed else 0


def _executions(text: str) -> int:
    for line in text.splitlines():
        if 'number_of_executed_units' in line:
            return int(line.split()[-1])
    return 0


if __name__ == '__main__':
    sys.exit(main())
