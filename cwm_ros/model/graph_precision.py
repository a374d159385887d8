# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The decoder with smaller weights, for a runtime that computes in float32.

'fp16' halves the file; the runtime widens the weights when it loads them. 'int8' and 'int4' code
projections in blocks of 32 (`cwm_ros.model.weight_codes`), and the vocabulary in 8 bits, once to
look rows up and once, if it is the output projection as well, turned for the product. Runtimes
that know the pattern of DequantizeLinear and MatMul multiply by the codes; others widen them.

The first layer's query, key and value stay float32: its keys and values are what chunks are
proven by, so they are exactly those of the (coded) embedding.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cwm_ros.errors import ConfigError
from cwm_ros.model.graph_blocks import Decoder
from cwm_ros.model.graph_decoder import DeltaDecoder, ScatterDecoder
from cwm_ros.model.graph_writer import TENSOR_TYPES
from cwm_ros.model.weight_codes import (
    BLOCK,
    code_columns,
    code_rows,
    in_whole_blocks,
    INT4_BITS,
    num_blocks,
    pack_int4,
    to_half,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

    from cwm_ros.kv import FloatArray
    from cwm_ros.model.weight_codes import Codes

    Blocks = Callable[[], Iterator[FloatArray]]

BLOCKED_OPSET = 21
"""First opset whose DequantizeLinear has blocks, and int4."""


class HalfStored(Decoder):
    """Matrices are kept in float16."""

    def lookup(self, ids: str) -> str:
        rows = self.w.node('Gather', [self._half('embedding', *self.embedding()), ids], 'rows')
        return self.w.node('Cast', [rows], 'hidden', {'to': TENSOR_TYPES['float32']})

    def matrix(
        self, name: str, shape: tuple[int, int], blocks: Blocks, *, is_exact: bool = False
    ) -> str:
        del is_exact
        half = self._half(name, shape, blocks)
        return self.once('Cast', [half], name, {'to': TENSOR_TYPES['float32']})

    def _half(self, name: str, shape: tuple[int, int], blocks: Blocks) -> str:
        halves = (to_half(name, block) for block in blocks())
        return self.w.stream(f'{name}/half', shape, halves, 'float16')


class BlockCoded(Decoder):
    """Projections are kept in codes of ``bits``, the vocabulary in codes of 8 bits."""

    bits = 8

    def lookup(self, ids: str) -> str:
        w, (shape, blocks) = self.w, self.embedding()
        codes, scales = self._store('embedding', shape, blocks, axis=1, bits=8)
        codes = w.node('Gather', [codes, ids], 'rows/codes')
        scales = w.node('Gather', [scales, ids], 'rows/scales')
        attributes = {'axis': 2, 'block_size': BLOCK}
        return w.node('DequantizeLinear', [codes, scales], 'hidden', attributes)

    def matrix(
        self, name: str, shape: tuple[int, int], blocks: Blocks, *, is_exact: bool = False
    ) -> str:
        if is_exact:
            return super().matrix(name, shape, blocks, is_exact=True)
        return self._coded(name, shape, blocks, self.bits)

    def project_vocabulary(self, rows: str) -> str:
        shape = (self.spec.hidden_size, self.spec.vocab_size)
        source = self.head_source().removesuffix('.weight')
        matrix = self._coded('head', shape, lambda: self.turned([source], shape), 8)
        return self.w.node('MatMul', [rows, matrix], 'logits_rows')

    def _coded(self, name: str, shape: tuple[int, int], blocks: Blocks, bits: int) -> str:
        codes, scales = self._store(name, shape, blocks, axis=0, bits=bits)
        attributes = {'axis': 0, 'block_size': BLOCK}
        return self.w.node('DequantizeLinear', [codes, scales], name, attributes)

    def _store(
        self, name: str, shape: tuple[int, int], blocks: Blocks, *, axis: int, bits: int
    ) -> tuple[str, str]:
        """Store codes and scales of a matrix whose blocks run along ``axis``."""
        found: list[FloatArray] = []

        def coded() -> Iterator[tuple[Codes, FloatArray]]:
            if axis:
                return map(code_rows, blocks())
            return map(partial(code_columns, bits=bits), in_whole_blocks(blocks()))

        def codes() -> Iterator[npt.NDArray[np.int8 | np.uint8]]:
            for block, factors in coded():
                found.append(factors)
                yield pack_int4(block) if bits == INT4_BITS else block

        def scales() -> Iterator[FloatArray]:
            # Nothing was found where the codes were kept from a build that was interrupted.
            yield from found or (factors for _, factors in coded())

        stored = self.w.stream(f'{name}/codes', shape, codes(), f'int{bits}')
        counts = list(shape)
        counts[axis] = num_blocks(shape[axis])
        return stored, self.w.stream(f'{name}/scales', tuple(counts), scales())


class ScatterHalf(HalfStored, ScatterDecoder):
    """Formulation scatter, weights in float16."""


class ScatterInt8(BlockCoded, ScatterDecoder):
    """Formulation scatter, weights in 8 bits."""


class ScatterInt4(ScatterInt8):
    """Formulation scatter, weights in 4 bits."""

    bits = 4


class DeltaHalf(HalfStored, DeltaDecoder):
    """Formulation delta, weights in float16."""


class DeltaInt8(BlockCoded, DeltaDecoder):
    """Formulation delta, weights in 8 bits."""

    opset = BLOCKED_OPSET


class DeltaInt4(DeltaInt8):
    """Formulation delta, weights in 4 bits."""

    bits = 4


_DECODERS: dict[str, dict[str, type[Decoder]]] = {
    'scatter': {
        'fp32': ScatterDecoder,
        'fp16': ScatterHalf,
        'int8': ScatterInt8,
        'int4': ScatterInt4,
    },
    'delta': {'fp32': DeltaDecoder, 'fp16': DeltaHalf, 'int8': DeltaInt8, 'int4': DeltaInt4},
}


def decoder_kind(formulation: str, weights: str) -> type[Decoder]:
    """
    Return what builds the graph of a formulation with weights of a kind.

    Raises
    ------
    ConfigError
        There is no such formulation or kind.

    """
    if formulation not in _DECODERS:
        raise ConfigError(
            f'formulation is {formulation!r}', hint='use one of ' + ', '.join(_DECODERS)
        )
    kinds = _DECODERS[formulation]
    if weights not in kinds:
        raise ConfigError(f'weights are {weights!r}', hint='use one of ' + ', '.join(kinds))
    return kinds[weights]
