# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Keys and values of the first layer, straight from a checkpoint's weights.

They depend on nothing but token and position, so a few of them tell whether KV that comes from
elsewhere belongs to these weights, these tokens and these positions.
"""

from __future__ import annotations

from contextlib import ExitStack
import threading
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.model.rope import inverse_wavelengths
from cwm_ros.model.weight_codes import code_rows, decode_rows
from cwm_ros.model.weights import Weights

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt
    from typing_extensions import Self

    from cwm_ros.kv import FloatArray, TokenArray
    from cwm_ros.model.spec import ModelSpec

EMBEDDING = 'model.embed_tokens.weight'
LAYER = 'model.layers.0.'
SMALL_EMBEDDING_BYTES = 1 << 24
"""Up to here the embedding is kept; of larger ones rows are read, each for 0.1 ms."""
PIECE_ROWS = 16
PIECE_PRODUCTS = 1 << 17
"""
Multiplications that a BLAS does in the thread that asks, with a factor of two to spare.

OpenBLAS takes all cores for more than 2^18. Its threads then spin for 50 ms of processor time in
case that there is more to do, which takes one of two cores from a thaw.
"""


class FirstLayer:
    """
    Embedding, norm and key and value projections of layer 0, in NumPy; a context manager.

    Any thread may call `kv`.

    Parameters
    ----------
    folder, spec
        The checkpoint; its files are read now but for a large embedding, of which rows are read
        as they are needed.
    is_coded
        Whether embeddings are those of codes of 8 bits, as with weights 'int8' and 'int4'.

    Raises
    ------
    ModelError
        A file is damaged.

    """

    def __init__(self, folder: Path, spec: ModelSpec, *, is_coded: bool = False) -> None:
        self._spec = spec
        self._is_coded = is_coded
        self._lock = threading.Lock()
        with ExitStack() as opening:
            self._weights = opening.enter_context(Weights(folder, spec.tensor_shapes()))
            self._norm = self._optional('input_layernorm.weight')
            self._norm_bias = self._optional('input_layernorm.bias')
            self._key_norm = self._optional('self_attn.k_norm.weight')
            self._matrix, self._bias = self._projections()
            num_bytes = 4 * spec.vocab_size * spec.hidden_size
            is_small = num_bytes <= SMALL_EMBEDDING_BYTES
            self._embedding = self._weights.get(EMBEDDING) if is_small else None
            self._open = opening.pop_all()

    def _optional(self, name: str) -> FloatArray | None:
        full = LAYER + name
        return self._weights.get(full) if self._weights.has(full) else None

    def _projections(self) -> tuple[FloatArray, FloatArray]:
        """Return the key and value projections one below another, and their biases."""
        spec, weights = self._spec, self._weights
        rows = [(name, 0, spec.kv_size) for name in spec.qkv_names[1:]]
        if spec.has_fused_projections:
            first = spec.query_size
            rows = [(spec.qkv_names[0], first, first + 2 * spec.kv_size)]
        names = [(f'{LAYER}{name}', start, stop) for name, start, stop in rows]
        matrix = [weights.part(f'{name}.weight', a, b) for name, a, b in names]
        if not spec.has_qkv_bias:
            return np.concatenate(matrix), np.zeros(2 * spec.kv_size, np.float32)
        bias = [weights.part(f'{name}.bias', a, b) for name, a, b in names]
        return np.concatenate(matrix), np.concatenate(bias)

    def kv(self, tokens: TokenArray, positions: npt.NDArray[np.int64]) -> FloatArray:
        """
        Return the KV of tokens, each at its own position.

        Parameters
        ----------
        tokens, positions
            Shape (N,); neighbours need not be neighbours in the conversation.

        Returns
        -------
        FloatArray
            Shape (2, H, N, D), float32: keys after RoPE, and values.

        """
        spec = self._spec
        rows = self._embedded(tokens)
        if self._is_coded:
            rows = decode_rows(*code_rows(rows))
        x = self._normed(rows * np.float32(spec.embedding_scale))
        joint = product(x, self._matrix) + self._bias
        heads = joint.reshape(len(tokens), 2, spec.num_kv_heads, spec.head_dim)
        keys, values = np.moveaxis(heads, 0, 2)
        if self._key_norm is not None:
            keys = _unit(keys, spec.norm_eps) * (self._key_norm + np.float32(spec.norm_offset))
        return np.stack([self._rotated(keys, positions), values])

    def _embedded(self, tokens: TokenArray) -> FloatArray:
        if self._embedding is not None:
            return self._embedding[tokens]
        distinct, places = np.unique(tokens, return_inverse=True)
        with self._lock:
            rows = [self._weights.part(EMBEDDING, t, t + 1) for t in distinct.tolist()]
        return np.concatenate(rows)[places]

    def _normed(self, x: FloatArray) -> FloatArray:
        assert self._norm is not None
        if self._norm_bias is not None:
            x = x - x.mean(axis=-1, keepdims=True)
        y = _unit(x, self._spec.norm_eps) * (self._norm + np.float32(self._spec.norm_offset))
        return y if self._norm_bias is None else y + self._norm_bias

    def _rotated(self, keys: FloatArray, positions: npt.NDArray[np.int64]) -> FloatArray:
        rope, size = self._spec.rope, self._spec.rotated_dims
        waves = inverse_wavelengths(rope, size)
        angles = positions.astype(np.float32)[:, np.newaxis] * waves[np.newaxis]
        cos, sin = (f(angles) * np.float32(rope.amplitude) for f in (np.cos, np.sin))
        low, high = keys[..., : size // 2], keys[..., size // 2 : size]
        turned = [low * cos - high * sin, high * cos + low * sin, keys[..., size:]]
        return np.concatenate(turned, axis=-1)

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def product(x: FloatArray, matrix: FloatArray) -> FloatArray:
    """
    Return ``x @ matrix.T`` without waking the threads of the BLAS, see `PIECE_PRODUCTS`.

    Parameters
    ----------
    x, matrix
        Shape (N, K) and (M, K), float32.

    Returns
    -------
    FloatArray
        Shape (N, M).

    """
    (num_rows, depth), width = x.shape, len(matrix)
    columns = min(width, max(2, PIECE_PRODUCTS // (PIECE_ROWS * depth)))
    rows = np.pad(x, ((0, -num_rows % PIECE_ROWS), (0, 0))).reshape(1, -1, PIECE_ROWS, depth)
    out = np.empty((rows.shape[1], PIECE_ROWS, width), np.float32)
    whole = width - width % columns
    for first, last, step in ((0, whole, columns), (whole, width, width - whole)):
        if first < last:  # a part of the matrix meets all rows while it is in the cache
            part = matrix[first:last].reshape(-1, 1, step, depth).transpose(0, 1, 3, 2)
            target = out[:, :, first:last].reshape(*out.shape[:2], len(part), step)
            np.matmul(rows, part, out=target.transpose(2, 0, 1, 3))
    return out.reshape(-1, width)[:num_rows]


def _unit(x: FloatArray, eps: float) -> FloatArray:
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
    unit: FloatArray = x / np.sqrt(mean_square + np.float32(eps))
    return unit
