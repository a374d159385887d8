# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The delta formulation in parts of a few layers, in the precision of an accelerator.

A runtime that compiles a graph as one node does so in a time that grows faster than the graph.
Parts are compiled one by one, and those in the middle have the same structure, so what is found
out about one holds for all of them.

`cwm_ros.engine.plans.PARTS_VERSION` goes up whenever the same checkpoint gives other parts.

Precisions: 'fp32'; 'fp16' has matrices, attention and cache in float16, while the residual
stream, norms, rotations and logits are float32; 'int8' is that with weights of projections as
int8, one scale for each output, but for the first layer's query, key and value, by which chunks
are proven.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.model.graph_decoder import DeltaDecoder
from cwm_ros.model.graph_writer import DATA_FILE, GraphWriter, TENSOR_TYPES
from cwm_ros.model.weight_codes import to_half

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cwm_ros.kv import FloatArray
    from cwm_ros.model.spec import ModelSpec
    from cwm_ros.model.weights import Weights

PART_FILE = 'part.onnx'


class HalfDecoder(DeltaDecoder):
    """Projections, attention and cache in float16."""

    compute_dtype = 'float16'

    def narrow(self, x: str) -> str:
        return self.once('Cast', [x], f'{x}/half', {'to': TENSOR_TYPES['float16']})

    def widen(self, x: str) -> str:
        return self.once('Cast', [x], f'{x}/wide', {'to': TENSOR_TYPES['float32']})

    def matrix(
        self,
        name: str,
        shape: tuple[int, int],
        blocks: Callable[[], Iterator[FloatArray]],
        *,
        is_exact: bool = False,
    ) -> str:
        del is_exact
        halves = (to_half(name, block) for block in blocks())
        return self.w.stream(name, shape, halves, 'float16')


class Int8Decoder(HalfDecoder):
    """Weights of projections are int8, with a scale for each output."""

    opset = 21  # the first whose DequantizeLinear gives float16

    def matrix(
        self,
        name: str,
        shape: tuple[int, int],
        blocks: Callable[[], Iterator[FloatArray]],
        *,
        is_exact: bool = False,
    ) -> str:
        if is_exact:
            return super().matrix(name, shape, blocks, is_exact=True)
        peaks = np.max([np.abs(block).max(axis=0) for block in blocks()], axis=0)
        scales = to_half(name, np.maximum(peaks / np.float32(127), np.float32(2**-14)))
        wide = scales.astype(np.float32)
        codes = (np.clip(np.rint(block / wide), -127, 127).astype(np.int8) for block in blocks())
        stored = self.w.stream(f'{name}/codes', shape, codes, 'int8')
        factor = self.w.constant(f'{name}/scales', scales)
        return self.w.node('DequantizeLinear', [stored, factor], name, {'axis': 1})


DECODERS: dict[str, type[DeltaDecoder]] = {
    'fp32': DeltaDecoder,
    'fp16': HalfDecoder,
    'int8': Int8Decoder,
}


def part_layers(num_layers: int, group_layers: int) -> list[range]:
    """Return the layers of each part, ``group_layers`` at a time."""
    return [
        range(first, min(first + group_layers, num_layers))
        for first in range(0, num_layers, group_layers)
    ]


def write_part(
    folder: Path, spec: ModelSpec, weights: Weights, layers: range, precision: str
) -> Path:
    """
    Write the graph of some layers into a folder, and return its file.

    Raises
    ------
    ModelError
        The weights are damaged, or do not fit the precision.
    OSError
        The folder cannot be written.

    """
    with (folder / DATA_FILE).open('wb') as data:
        writer = GraphWriter(data)
        decoder = DECODERS[precision](writer, spec, weights)
        decoder.build(layers)
        data.flush()
        os.fsync(data.fileno())
    name = f'{spec.architecture}-{layers.start}-{layers.stop}'
    path = folder / PART_FILE
    model = writer.model(name, decoder.opset, {'precision': precision})
    path.write_bytes(model.SerializeToString())
    return path
