# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a graph file, built once and kept."""

from __future__ import annotations

from contextlib import contextmanager
import json
import os
from pathlib import Path
import shutil
import tempfile
from typing import TYPE_CHECKING

from cwm_ros.errors import ConfigError
from cwm_ros.model.graph_decoder import build_decoder, OPSETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cwm_ros.model.checkpoint import Checkpoint

BUILDER_VERSION = 4
"""Goes up whenever the same checkpoint gives another graph."""
GRAPH_FILE = 'model.onnx'
SIZES_FILE = 'sizes.json'


def build_graph(checkpoint: Checkpoint, formulation: str, folder: Path) -> Path:
    """
    Return the graph file of a checkpoint, building it when ``folder`` has no whole one.

    Parameters
    ----------
    checkpoint
        What to build; its identity names the graph.
    formulation
        'scatter' or 'delta'.
    folder
        Where graphs are kept; the graph appears in it at once or not at all.

    Raises
    ------
    ModelError
        The weights are damaged or do not fit config.json.
    OSError
        The folder cannot be written.

    """
    if formulation not in OPSETS:
        raise ConfigError(
            f'formulation is {formulation!r}', hint='use one of ' + ', '.join(OPSETS)
        )
    key = f'{checkpoint.identity.model.hex()[:32]}-{formulation}-v{BUILDER_VERSION}'
    target = folder / key
    if _is_whole(target):
        return target / GRAPH_FILE
    folder.mkdir(parents=True, exist_ok=True)
    with _staging(target) as staging:
        _write(checkpoint, formulation, staging)
    return target / GRAPH_FILE


def _is_whole(target: Path) -> bool:
    """Say whether the files have the sizes that were written; a torn build has no sizes file."""
    try:
        sizes = json.loads((target / SIZES_FILE).read_text(encoding='utf-8'))
        return all((target / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """Yield a folder beside ``target`` that becomes ``target`` when the block succeeds."""
    staging = Path(tempfile.mkdtemp(prefix=f'{target.name}.', suffix='.tmp', dir=target.parent))
    try:
        yield staging
        if target.exists() and not _is_whole(target):
            shutil.rmtree(target)
        try:
            staging.rename(target)
        except OSError:
            if not _is_whole(target):  # else another process was faster, with the same graph
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(checkpoint: Checkpoint, formulation: str, folder: Path) -> None:
    import onnx

    from cwm_ros.model.graph_writer import DATA_FILE, GraphWriter
    from cwm_ros.model.weights import Weights

    spec = checkpoint.spec
    with (
        (folder / DATA_FILE).open('wb') as data,
        Weights(checkpoint.folder, spec.tensor_shapes()) as weights,
    ):
        writer = GraphWriter(data)
        build_decoder(formulation, writer, spec, weights)
        data.flush()
        os.fsync(data.fileno())
    metadata = {'formulation': formulation, 'identity': checkpoint.identity.model.hex()}
    model = writer.model(f'{spec.architecture}-{formulation}', OPSETS[formulation], metadata)
    _write_file(folder / GRAPH_FILE, model.SerializeToString())
    onnx.checker.check_model(folder / GRAPH_FILE)
    sizes = {name: (folder / name).stat().st_size for name in (GRAPH_FILE, DATA_FILE)}
    _write_file(folder / SIZES_FILE, json.dumps(sizes).encode())


def _write_file(path: Path, content: bytes) -> None:
    with path.open('wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
