# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a graph file, built once and kept."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING

from cwm_ros.model.graph_staging import remove_leftovers, staging_folder
from cwm_ros.model.sizing import size_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cwm_ros.model.checkpoint import Checkpoint
    from cwm_ros.model.graph_blocks import Decoder

log = logging.getLogger(__name__)

BUILDER_VERSION = 4
"""Goes up whenever the same checkpoint gives another graph."""
GRAPH_FILE = 'model.onnx'
SIZES_FILE = 'sizes.json'
LISTING_FILE = 'written.jsonl'


def build_graph(
    checkpoint: Checkpoint,
    formulation: str,
    folder: Path,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Path:
    """
    Return the graph file of a checkpoint, building it when ``folder`` has no whole one.

    A build that was interrupted goes on where it was; while another process builds the same
    graph, this one waits for it. What is left of builds of other graphs is removed after a week.

    Parameters
    ----------
    checkpoint
        What to build; its identity and kind of weights name the graph.
    formulation
        'scatter' or 'delta'.
    folder
        Where graphs are kept; the graph appears in it at once or not at all.
    on_progress
        Called now and then with the part that is done, 0 to 1; not at all when the graph is there.

    Raises
    ------
    ModelError
        The weights are damaged or do not fit config.json; nothing is left.
    OSError
        The folder cannot be written.

    """
    kind = '' if checkpoint.weights == 'fp32' else f'-{checkpoint.weights}'
    key = f'{checkpoint.identity.model.hex()[:32]}-{formulation}{kind}-v{BUILDER_VERSION}'
    target = folder / key
    if not _is_whole(target):
        from cwm_ros.model.graph_precision import decoder_kind

        decoder = decoder_kind(formulation, checkpoint.weights)
        folder.mkdir(parents=True, exist_ok=True)
        with staging_folder(target, _is_whole) as staging:
            if staging is not None:
                log.info('converting %s into %s', checkpoint.folder, target)
                _write(checkpoint, formulation, decoder, staging, on_progress)
    remove_leftovers(folder, time.time())
    return target / GRAPH_FILE


def _is_whole(target: Path) -> bool:
    """Say whether the files have the sizes that were written; a torn build has no sizes file."""
    try:
        sizes = json.loads((target / SIZES_FILE).read_text(encoding='utf-8'))
        return all((target / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _write(
    checkpoint: Checkpoint,
    formulation: str,
    decoder: type[Decoder],
    folder: Path,
    on_progress: Callable[[float], None],
) -> None:
    import onnx

    from cwm_ros.model.graph_journal import GraphJournal
    from cwm_ros.model.graph_writer import DATA_FILE, GraphWriter
    from cwm_ros.model.weights import Weights

    spec, listing = checkpoint.spec, folder / LISTING_FILE
    advance = _progress(size_model(spec).stored_values(checkpoint.weights), on_progress)
    with (
        Weights(checkpoint.folder, spec.tensor_shapes()) as weights,
        GraphJournal(folder / DATA_FILE, listing) as journal,
    ):
        writer = GraphWriter(journal.data, journal, advance)
        decoder(writer, spec, weights).build()
        journal.sync()
    metadata = {'formulation': formulation, 'identity': checkpoint.identity.model.hex()}
    model = writer.model(f'{spec.architecture}-{formulation}', decoder.opset, metadata)
    _write_file(folder / GRAPH_FILE, model.SerializeToString())
    onnx.checker.check_model(folder / GRAPH_FILE)
    listing.unlink()
    sizes = {name: (folder / name).stat().st_size for name in (GRAPH_FILE, DATA_FILE)}
    _write_file(folder / SIZES_FILE, json.dumps(sizes).encode())


def _progress(total: int, on_progress: Callable[[float], None]) -> Callable[[int], None]:
    """Return what takes numbers of stored values, and says which part of ``total`` they are."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        on_progress(min(1.0, done / total))

    return advance


def _write_file(path: Path, content: bytes) -> None:
    with path.open('wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
