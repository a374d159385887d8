# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Convert a checkpoint, as a process of its own that tells how far it is.

``python -m tests.model.converting_child FOLDER CACHE KIND`` prints what part is done, a line each
time, and at the end how much the largest resident memory grew [bytes].
"""

from __future__ import annotations

from pathlib import Path
import sys

import onnx  # noqa: F401 - counts before the conversion, not in it

from cwm_ros.model import build_graph, Checkpoint, graph_journal
from cwm_ros.model.graph_precision import decoder_kind


def tell(line: str) -> None:
    sys.stdout.write(f'{line}\n')
    sys.stdout.flush()


def largest_resident_bytes() -> int:
    """Return the peak of this program; that of getrusage begins with its parent's."""
    status = Path('/proc/self/status').read_text(encoding='utf-8')
    line = next(line for line in status.splitlines() if line.startswith('VmHWM:'))
    return int(line.split()[1]) * 1024


def main() -> None:
    folder, cache, kind = sys.argv[1:]
    graph_journal.SYNC_BYTES = 1  # each tensor counts as soon as it is written
    checkpoint = Checkpoint(Path(folder), Path(cache), kind)
    decoder_kind('scatter', kind)
    before = largest_resident_bytes()
    build_graph(checkpoint, 'scatter', Path(cache), lambda part: tell(f'{part:.4f}'))
    tell(f'grown {largest_resident_bytes() - before}')


if __name__ == '__main__':
    main()
