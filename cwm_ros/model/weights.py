# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of a checkpoint: safetensors in one file, or sharded with an index."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import ml_dtypes  # noqa: F401 - teaches NumPy the name bfloat16
import numpy as np
from safetensors import safe_open, SafetensorError

from cwm_ros.errors import ModelError
from cwm_ros.model.config_file import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from cwm_ros.kv import FloatArray

SINGLE_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'
MAX_INDEX_BYTES = 1 << 26
BLOCK_BYTES = 1 << 24
"""A matrix is converted in blocks of so many bytes as float32."""
DTYPES = ('F32', 'F16', 'BF16')
OBSOLETE_SUFFIX = '.rotary_emb.inv_freq'
"""Old checkpoints store this derived tensor; it is computed anew from config.json."""
QUANTIZED_SUFFIX = '.qweight'
"""Codes of GPTQ and AWQ, which older checkpoints do not name in config.json."""


def block_length(width: int) -> int:
    """Return how many rows of ``width`` values make a block of `BLOCK_BYTES`, in 32s."""
    return max(1, BLOCK_BYTES // (128 * width)) * 32


def weight_files(folder: Path) -> list[Path]:
    """
    Return the safetensors files of a checkpoint, in the order of their names.

    Raises
    ------
    ModelError
        There are none, or the index names a file outside the folder.

    """
    index = folder / INDEX_FILE
    if not index.exists():
        if not (folder / SINGLE_FILE).is_file():
            raise ModelError(
                f'{folder}: has neither {SINGLE_FILE} nor {INDEX_FILE}',
                hint='convert older weight files to safetensors',
            )
        return [folder / SINGLE_FILE]
    weight_map = read_json(index, MAX_INDEX_BYTES).get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f'{index}: weight_map is missing or empty', hint='download it again')
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if name != name.replace('\\', '/').rsplit('/', 1)[-1] or not name.endswith('.safetensors'):
            raise ModelError(
                f'{index}: weight_map names {name!r}', hint='shards lie beside the index'
            )
        if not (folder / name).is_file():
            raise ModelError(f'{folder / name}: is missing', hint='download the shard')
    return [folder / name for name in names]


class Weights:
    """
    The tensors of a checkpoint, read one at a time; a context manager.

    Parameters
    ----------
    folder
        Checkpoint folder.
    shapes
        Name and shape of every tensor that there must be; there may be no others.

    Raises
    ------
    ModelError
        A file is damaged, or a tensor is missing, left over, misshapen or of another dtype.

    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._opened = ExitStack()
        self._places: dict[str, tuple[Path, safe_open]] = {}
        with ExitStack() as opening:
            for path in weight_files(folder):
                self._open_file(path, opening)
            self._check_names(folder)
            self._opened = opening.pop_all()

    def _open_file(self, path: Path, opening: ExitStack) -> None:
        try:
            file = opening.enter_context(safe_open(path, framework='numpy'))
            names = file.keys()
        except (SafetensorError, OSError, ValueError) as exc:
            raise ModelError(
                f'{path}: is not whole: {exc}', hint='download the file again'
            ) from exc
        for name in names:
            if name in self._places:
                raise ModelError(
                    f'{path}: tensor {name} is also in {self._places[name][0]}',
                    hint='take all shards from one release',
                )
            self._places[name] = (path, file)
            if name in self._shapes:
                self._check_header(path, file, name)

    def _check_header(self, path: Path, file: safe_open, name: str) -> None:
        header = file.get_slice(name)  # type: ignore[no-untyped-call]
        shape = tuple(header.get_shape())
        if shape != self._shapes[name]:
            raise ModelError(
                f'{path}: tensor {name} has shape {shape}, config.json says {self._shapes[name]}',
                hint='take config.json and weights from one release',
            )
        if header.get_dtype() not in DTYPES:
            raise ModelError(
                f'{path}: tensor {name} has dtype {header.get_dtype()}',
                hint='use an unquantized release: ' + ', '.join(DTYPES),
            )

    def _check_names(self, folder: Path) -> None:
        missing = sorted(set(self._shapes) - set(self._places))
        if missing:
            is_quantized = any(name.endswith(QUANTIZED_SUFFIX) for name in self._places)
            raise ModelError(
                f'{folder}: tensor {missing[0]} is missing ({len(missing)} in all)',
                hint='GPTQ and AWQ weights are not supported: use the unquantized release'
                if is_quantized
                else 'take config.json and weights from one release',
            )
        left_over = sorted(
            name
            for name in set(self._places) - set(self._shapes)
            if not name.endswith(OBSOLETE_SUFFIX) and name != 'lm_head.weight'
        )
        if left_over:
            raise ModelError(
                f'{folder}: tensor {left_over[0]} has no place in what config.json describes',
                hint='take config.json and weights from one release',
            )

    def has(self, name: str) -> bool:
        """Say whether there must be a tensor of this name."""
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._shapes[name]

    def get(self, name: str) -> FloatArray:
        """
        Return a tensor as float32, a new array.

        Raises
        ------
        ModelError
            A value is not finite, or the file cannot be read.

        """
        return self._read(name, 0, self._shapes[name][0])

    def part(self, name: str, start: int, stop: int) -> FloatArray:
        """Return rows [start, stop) of a tensor as float32, a new array; errors of `get`."""
        return self._read(name, start, stop)

    def rows(self, name: str) -> Iterator[FloatArray]:
        """Yield a matrix as float32 in blocks of rows, small enough to hold; errors of `get`."""
        num_rows, num_columns = self._shapes[name]
        step = block_length(num_columns)
        for start in range(0, num_rows, step):
            yield self._read(name, start, min(start + step, num_rows))

    def columns(self, name: str, start: int, stop: int) -> FloatArray:
        """Return columns [start, stop) of a matrix as float32, a new array; errors of `get`."""
        return self._read(name, start, stop, axis=1)

    def _read(self, name: str, start: int, stop: int, *, axis: int = 0) -> FloatArray:
        path, file = self._places[name]
        try:
            whole = file.get_slice(name)  # type: ignore[no-untyped-call]
            part = whole[:, start:stop] if axis else whole[start:stop]
            tensor = np.asarray(part, np.float32)
        except (SafetensorError, OSError, ValueError) as exc:
            raise ModelError(
                f'{path}: tensor {name} cannot be read: {exc}', hint='download the file again'
            ) from exc
        if not np.isfinite(tensor).all():
            raise ModelError(
                f'{path}: tensor {name} holds values that are not finite',
                hint='download the file again',
            )
        return tensor

    def close(self) -> None:
        """Close the files."""
        self._opened.close()
        self._places = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
