# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Compile one part, as a process of its own: TensorRT cannot be interrupted, a process can.

``python -m cwm_ros.engine.compile_part GRAPH PLAN TIMINGS OPTIONS``, where OPTIONS is JSON. The
plan appears at once or not at all; an error is one line on stderr and status 1.
"""

from __future__ import annotations

import json
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from cwm_ros.engine.cuda import Device
from cwm_ros.engine.trt import build_plan, BuildOptions, Dialect, import_tensorrt, Profile
from cwm_ros.errors import CwmError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def options_json(
    *, precision: str, level: int, profiles: Sequence[Mapping[str, tuple[int, int, int]]]
) -> str:
    """Return the options of a part as an argument."""
    values = {'precision': precision, 'level': level, 'profiles': list(profiles)}
    return json.dumps(values)


def compile_part(graph: Path, plan: Path, timings: Path, options: str) -> None:
    """Compile a graph file into a plan file, with and into a file of timings."""
    values = json.loads(options)
    profiles = [
        Profile(ranges={name: tuple(sizes) for name, sizes in profile.items()})
        for profile in values['profiles']
    ]
    known = timings.read_bytes() if timings.exists() else b''
    options_of_part = BuildOptions(
        precision=values['precision'],
        profiles=profiles,
        level=values['level'],
        workspace_bytes=Device().free_bytes() // 2,
    )
    built, found = build_plan(Dialect(import_tensorrt()), graph, options_of_part, known)
    _replace(plan, built)
    _replace(timings, found)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f'{path.name}.tmp')
    temporary.write_bytes(data)
    temporary.replace(path)


def main() -> int:
    """Run as a program."""
    graph, plan, timings, options = sys.argv[1:]
    try:
        compile_part(Path(graph), Path(plan), Path(timings), options)
    except CwmError as exc:
        sys.stderr.write(f'{exc}\n')
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
