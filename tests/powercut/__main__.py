# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Power cuts on your own drive: `python -m tests.powercut --help`; see docs/reliability.md.

The command works in a folder of its own, which it removes, except for a live run.
"""

from __future__ import annotations

import argparse
from itertools import count
import logging
from pathlib import Path
import sys
import time

import tests.powercut.assistant  # noqa: F401 - adds a scenario
from tests.powercut.harness import cut_scenario
from tests.powercut.promises import broken_promises, Note, Promises
from tests.powercut.scenarios import program, QUOTA_MIB, SCENARIOS

BAD_EXIT = 1
TURNS_OF_WINDOW = 200


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m tests.powercut', description=__doc__)
    parser.add_argument('--store', type=Path, help='a folder on the drive [default: memory]')
    parser.add_argument('--scenario', choices=[*SCENARIOS], help='this one alone [default: all]')
    parser.add_argument('--every', type=int, default=1, help='cut at each n-th operation only')
    parser.add_argument('--random-kills', type=int, default=20, help='for each scenario')
    parser.add_argument(
        '--live', action='store_true',
        help='write to --store until the power is really cut, and say what is durable on stdout: '
        'let another machine keep it',
    )  # fmt: skip
    parser.add_argument(
        '--check',
        type=Path,
        metavar='FILE',
        help='after --live: compare --store with what it said',
    )
    arguments = parser.parse_args()
    if (arguments.live or arguments.check) and not arguments.store:
        parser.error('--live and --check need --store')
    if arguments.store and not arguments.store.absolute().parent.is_dir():
        parser.error(f'--store {arguments.store}: its parent is no folder: is the drive mounted?')
    return arguments


def run_scenarios(arguments: argparse.Namespace) -> int:
    if arguments.store:
        arguments.store.mkdir(exist_ok=True)
    totals = [0, 0, 0, 0]
    print(f'{"scenario":16} {"operations":>10} {"states":>8} {"kills":>7} {"broken":>7}')  # noqa: T201
    for name, scenario in SCENARIOS.items():
        if arguments.scenario not in (None, name):
            continue
        report = cut_scenario(
            scenario,
            arguments.store,
            state_every=arguments.every,
            kill_every=arguments.every,
            random_kills=arguments.random_kills,
        )
        row = [report.operations, report.states, report.kills, len(report.broken)]
        totals = [a + b for a, b in zip(totals, row, strict=True)]
        print(f'{name:16} {row[0]:10} {row[1]:8} {row[2]:7} {row[3]:7}')  # noqa: T201
        for sentence in report.broken:
            print(f'  {sentence}', file=sys.stderr)  # noqa: T201
    print(f'{"all":16} {totals[0]:10} {totals[1]:8} {totals[2]:7} {totals[3]:7}')  # noqa: T201
    return BAD_EXIT if totals[3] else 0


def write_until_cut(root: Path) -> int:
    def say(note: Note) -> None:
        sys.stdout.write(note.line())
        sys.stdout.flush()

    with program(root, say) as writer:
        for number in count(time.time_ns() // 1_000_000):
            writer.may_evict(f'live-{number - 1}')
            for turns in range(2, TURNS_OF_WINDOW, 2):
                writer.say(f'live-{number}', turns)
                writer.freeze(f'live-{number}', 3 * turns)
    return 0


def check_after_cut(root: Path, file: Path) -> int:
    lines = file.read_text(encoding='ascii', errors='replace').splitlines()
    notes = [Note.of(line) for line in lines if len(line.split()) == 4]
    promises = Promises.of(notes)
    promises.is_lossy = True
    broken = broken_promises(root, promises, quota_mib=QUOTA_MIB)
    for sentence in broken:
        print(sentence)  # noqa: T201
    done = sum(note.is_done for note in notes)
    print(f'{done} acknowledged operations, {len(broken)} promises broken')  # noqa: T201
    return BAD_EXIT if broken else 0


def main() -> int:
    arguments = parse_arguments()
    logging.disable(logging.WARNING)
    if arguments.live:
        return write_until_cut(arguments.store)
    if arguments.check:
        return check_after_cut(arguments.store, arguments.check)
    return run_scenarios(arguments)


if __name__ == '__main__':
    sys.exit(main())
