# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The decoder as ONNX, in two formulations of the same blocks.

Inputs of both: ``input_ids`` [1, T], ``logit_rows`` [R] (int32, R >= 1), ``position_ids`` [1, T],
and for each layer l ``past_key_l`` and ``past_value_l`` [1, H, S, D]. Outputs: ``logits``
[1, R, V] and ``present_key_l``, ``present_value_l``.

- delta (opset 17): ``attn_mask`` [1, 1, 1, S] is added to the scores of the past, ``new_mask``
  [1, 1, T, T] to those of the new tokens; present is the new rows [1, H, T, D].
- scatter (opset 24): ``attn_mask`` [1, 1, T, S] is bool, ``write_indices`` [1] is where the new
  rows go; present is the whole cache [1, H, S, D] and wants the buffer of past.

The masks say what is resident and causal. What a sliding window hides on top of that, the graph
works out itself from positions: slot i of the cache is position i.

The last layer is computed only for the logit rows: nothing else reads its output.
"""

from __future__ import annotations

import numpy as np

from cwm_ros.model.graph_blocks import Decoder, HIDDEN, Mask

AXES_AS_INPUT = 18
"""First opset whose reductions take their axes as an input."""
INT64_MAX = (1 << 63) - 1


class ScatterDecoder(Decoder):
    """The cache is updated in place; attention is one operator."""

    opset = 24
    position_dtype = 'int64'

    def mask(self) -> Mask:
        w = self.w
        w.input('write_indices', 'int64', [1])
        mask = w.input('attn_mask', 'bool', [1, 1, 'T', 'S'])
        numbers = [self.number('shown', 0.0), self.number('masked', HIDDEN)]
        return Mask(w.node('Where', [mask, *numbers], 'added_mask'))  # once, not in each layer

    def norm(self, x: str, name: str, weight: str = '', bias: str = '') -> str:
        attributes = {'epsilon': self.spec.norm_eps, 'axis': -1}
        if bias:
            return self.w.node('LayerNormalization', [x, weight, bias], name, attributes)
        weight = weight or self.w.constant('ones', np.ones(self.spec.head_dim, np.float32))
        return self.w.node('RMSNormalization', [x, weight], name, attributes)

    def rope(self, x: str, name: str) -> str:
        num_dims = self.spec.rope.num_dims  # 0 is all, for the operator as well
        attributes = {'rotary_embedding_dim': num_dims} if num_dims else {}
        return self.w.node('RotaryEmbedding', [x, self.cos, self.sin], name, attributes)

    def attend(self, layer: int, q: str, k: str, v: str, mask: Mask) -> str:
        past_key, past_value = self.past(layer)
        for past, rows, present in (
            (past_key, k, f'present_key_{layer}'),
            (past_value, v, f'present_value_{layer}'),
        ):
            self.w.node('TensorScatter', [past, rows, 'write_indices'], present, {'axis': 2})
        self.present(layer, 'S')
        keys, values = f'present_key_{layer}', f'present_value_{layer}'
        if self.spec.attention_cap:
            return self._attend_capped(layer, q, keys, values, mask)
        inputs = [q, keys, values, mask.past]
        return self.w.node('Attention', inputs, f'l{layer}/attention', {'scale': 1.0})

    def _attend_capped(self, layer: int, q: str, keys: str, values: str, mask: Mask) -> str:
        """Attend in primitives: the operator bounds scores after masking them, models before."""
        name = f'l{layer}/all'
        scores = self.scores(self.grouped(layer, q), keys, self.tiled(mask.past), name)
        shares = self.w.node('Softmax', [scores], f'{name}/shares', {'axis': -1})
        return self.ungrouped(layer, self.w.node('MatMul', [shares, values], f'{name}/mix'))


class DeltaDecoder(Decoder):
    """The cache is only read; primitives that every runtime since 2022 has."""

    opset = 17
    position_dtype = 'int32'

    def mask(self) -> Mask:
        w = self.w
        past = w.input('attn_mask', self.compute_dtype, [1, 1, 1, 'S'])
        shape = w.node('Shape', [past], 'past_shape')
        w.node('Slice', [shape, w.ints(3), w.ints(4)], 'num_slots')
        new = w.input('new_mask', self.compute_dtype, [1, 1, 'T', 'T'])
        return Mask(past, new, has_rows=False)

    def norm(self, x: str, name: str, weight: str = '', bias: str = '') -> str:
        w = self.w
        if bias:
            center = self.mean(x, f'{name}/center')
            x = w.node('Sub', [x, center], f'{name}/centered')
        square = w.node('Mul', [x, x], f'{name}/square')
        mean = self.mean(square, f'{name}/mean')
        eps = self.number('norm_eps', self.spec.norm_eps)
        root = w.node('Sqrt', [w.node('Add', [mean, eps], f'{name}/eps')], f'{name}/root')
        y = w.node('Div', [x, root], f'{name}/unit')
        if weight:
            y = w.node('Mul', [y, weight], f'{name}/weighted')
        return w.node('Add', [y, bias], f'{name}/biased') if bias else y

    def mean(self, x: str, name: str) -> str:
        """Return the mean over the last axis, which stays."""
        if self.opset < AXES_AS_INPUT:
            return self.w.node('ReduceMean', [x], name, {'axes': [-1], 'keepdims': 1})
        return self.w.node('ReduceMean', [x, self.w.ints(-1)], name, {'keepdims': 1})

    def rope(self, x: str, name: str) -> str:
        w, half = self.w, self.spec.rotated_dims // 2
        cos, sin = (
            self.once('Unsqueeze', [t, w.ints(1)], f'{t}_heads') for t in (self.cos, self.sin)
        )
        low, high = f'{name}/low', f'{name}/high'
        num_kept = self.spec.head_dim - 2 * half
        kept = [f'{name}/kept'] if num_kept else []
        sizes = w.ints(half, half, num_kept) if num_kept else w.ints(half, half)
        w.nodes('Split', [x, sizes], [low, high, *kept], {'axis': -1})
        products = {
            (part, table): w.node('Mul', [part, table], f'{part}_{table}')
            for part in (low, high)
            for table in (cos, sin)
        }
        turned = [
            w.node('Sub', [products[low, cos], products[high, sin]], f'{name}/low_t'),
            w.node('Add', [products[high, cos], products[low, sin]], f'{name}/high_t'),
        ]
        return w.node('Concat', [*turned, *kept], name, {'axis': -1})

    def attend(self, layer: int, q: str, k: str, v: str, mask: Mask) -> str:
        w, name = self.w, f'l{layer}'
        past_key, past_value = self.past(layer)
        w.node('Identity', [k], f'present_key_{layer}')
        w.node('Identity', [v], f'present_value_{layer}')
        self.present(layer, 'T')
        groups = self.grouped(layer, q)
        past_mask = self.tiled(mask.past) if mask.has_rows else mask.past
        old = self.scores(groups, past_key, past_mask, f'{name}/old')
        new = self.scores(groups, k, self.tiled(mask.new), f'{name}/new')
        scores = w.node('Concat', [old, new], f'{name}/scores', {'axis': -1})
        shares = w.node('Softmax', [scores], f'{name}/shares', {'axis': -1})
        cuts = ((w.ints(0), 'num_slots', past_value), ('num_slots', w.ints(INT64_MAX), v))
        parts = []
        for index, (start, stop, values) in enumerate(cuts):
            part = w.node('Slice', [shares, start, stop, w.ints(3)], f'{name}/part{index}')
            parts.append(w.node('MatMul', [part, values], f'{name}/mix{index}'))
        return self.ungrouped(layer, w.node('Add', parts, f'{name}/mix'))
