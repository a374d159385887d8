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

The last layer is computed only for the logit rows: nothing else reads its output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.model.rope import rope_tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cwm_ros.kv import FloatArray
    from cwm_ros.model.graph_writer import GraphWriter
    from cwm_ros.model.spec import ModelSpec
    from cwm_ros.model.weights import Weights

OPSETS = {'delta': 17, 'scatter': 24}
HIDDEN = -30000.0
"""Added to a score it gives a share of exactly zero, in float16 too."""
INT64_MAX = (1 << 63) - 1


class _Decoder:
    """Blocks that both formulations share."""

    position_dtype: str
    cos: str
    sin: str

    def __init__(self, writer: GraphWriter, spec: ModelSpec, weights: Weights) -> None:
        self.w = writer
        self.spec = spec
        self.weights = weights

    def build(self) -> None:
        """Describe the whole model to the writer."""
        w, spec = self.w, self.spec
        ids = w.input('input_ids', 'int32', [1, 'T'])
        rows = w.input('logit_rows', 'int32', ['R'])
        positions = w.input('position_ids', self.position_dtype, [1, 'T'])
        mask = self.masks()
        cos, sin = rope_tables(spec.rope, spec.head_dim, spec.max_tokens)
        self.cos = w.node('Gather', [w.constant('cos_table', cos), positions], 'cos')
        self.sin = w.node('Gather', [w.constant('sin_table', sin), positions], 'sin')
        embedding = w.constant('embedding', self.weights.get('model.embed_tokens.weight'))
        hidden = w.node('Gather', [embedding, ids], 'hidden')
        for layer in range(spec.num_layers - 1):
            hidden = self._block(layer, hidden, mask)
        mask = w.node('Gather', [mask, rows], 'mask_rows', {'axis': 2})
        self._head(self._block(spec.num_layers - 1, hidden, mask, rows))

    def masks(self) -> str:
        """Declare the mask inputs and return the mask that has a row for each token."""
        raise NotImplementedError

    def norm(self, x: str, weight: str, name: str) -> str:
        """Return the RMS norm of ``x`` times ``weight``."""
        raise NotImplementedError

    def rope(self, x: str, name: str) -> str:
        """Rotate ``x`` [1, heads, T, D]."""
        raise NotImplementedError

    def attend(self, layer: int, q: str, k: str, v: str, mask: str) -> str:
        """Return attention [1, heads, rows, D], and declare past and present."""
        raise NotImplementedError

    def _block(self, layer: int, hidden: str, mask: str, rows: str = '') -> str:
        """Return the output of a layer, for ``rows`` only when they are given."""
        w, name = self.w, f'l{layer}'
        source = f'model.layers.{layer}.'
        normed = self.norm(hidden, f'{source}input_layernorm.weight', f'{name}/attn_norm')
        q, k, v = self._project_qkv(layer, normed)
        if rows:
            q = w.node('Gather', [q, rows], f'{name}/q_rows', {'axis': 2})
            hidden = w.node('Gather', [hidden, rows], f'{name}/hidden_rows', {'axis': 1})
        mixed = self.attend(layer, q, k, v, mask)
        mixed = w.node('Transpose', [mixed], f'{name}/mixed_t', {'perm': [0, 2, 1, 3]})
        mixed = w.node('Reshape', [mixed, w.ints(1, -1, self.spec.query_size)], f'{name}/mixed')
        out = self._linear(mixed, [f'{source}self_attn.o_proj'], f'{name}/o')
        hidden = w.node('Add', [hidden, out], f'{name}/attn_out')
        normed = self.norm(hidden, f'{source}post_attention_layernorm.weight', f'{name}/ffn_norm')
        return w.node('Add', [hidden, self._ffn(layer, normed)], f'{name}/out')

    def _project_qkv(self, layer: int, x: str) -> tuple[str, str, str]:
        """Return q and k after RoPE, and v, each [1, heads, T, D], with as few nodes as can be."""
        w, spec, name = self.w, self.spec, f'l{layer}'
        source = f'model.layers.{layer}.self_attn.'
        # The scale of attention is folded into q: with a scale of 1, ONNX Runtime multiplies one
        # row of queries without first packing the keys, which halves the time of a step.
        scales = {f'{source}q_proj': spec.head_dim**-0.5}
        joint = self._linear(x, [f'{source}{p}_proj' for p in 'qkv'], f'{name}/qkv', scales)
        num_turned = spec.num_heads + spec.num_kv_heads
        shape = w.ints(1, -1, num_turned + spec.num_kv_heads, spec.head_dim)
        heads = w.node('Reshape', [joint, shape], f'{name}/heads')
        heads = w.node('Transpose', [heads], f'{name}/heads_t', {'perm': [0, 2, 1, 3]})
        q, k, qk, v = f'{name}/q', f'{name}/k', f'{name}/qk', f'{name}/v'
        w.nodes('Split', [heads, w.ints(num_turned, spec.num_kv_heads)], [qk, v], {'axis': 1})
        turned = self.rope(qk, f'{name}/rope')
        w.nodes('Split', [turned, w.ints(spec.num_heads, spec.num_kv_heads)], [q, k], {'axis': 1})
        return q, k, v

    def _ffn(self, layer: int, x: str) -> str:
        source, name, w = f'model.layers.{layer}.mlp.', f'l{layer}', self.w
        joint = self._linear(x, [f'{source}gate_proj', f'{source}up_proj'], f'{name}/gate_up')
        sizes = w.ints(self.spec.ffn_size, self.spec.ffn_size)
        w.nodes('Split', [joint, sizes], [f'{name}/gate', f'{name}/up'], {'axis': -1})
        sigmoid = w.node('Sigmoid', [f'{name}/gate'], f'{name}/sigmoid')
        silu = w.node('Mul', [f'{name}/gate', sigmoid], f'{name}/silu')
        product = w.node('Mul', [silu, f'{name}/up'], f'{name}/gated')
        return self._linear(product, [f'{source}down_proj'], f'{name}/down')

    def _linear(
        self, x: str, sources: list[str], name: str, scales: Mapping[str, float] | None = None
    ) -> str:
        """Multiply by the published projections (rows are outputs) side by side."""

        def joined(kind: str) -> FloatArray:
            parts = [
                self.weights.get(f'{s}.{kind}') * np.float32((scales or {}).get(s, 1))
                for s in sources
            ]
            return np.concatenate(parts)

        matrix = joined('weight').T.copy()
        y = self.w.node('MatMul', [x, self.w.constant(f'{name}/weight', matrix)], f'{name}/y')
        if f'{sources[0]}.bias' not in self.spec.tensor_shapes():
            return y
        bias = self.w.constant(f'{name}/bias', joined('bias'))
        return self.w.node('Add', [y, bias], f'{name}/y_bias')

    def _head(self, hidden: str) -> None:
        w, spec = self.w, self.spec
        normed = self.norm(hidden, 'model.norm.weight', 'final_norm')
        flat = w.node('Reshape', [normed, w.ints(-1, spec.hidden_size)], 'final_rows')
        matrix = 'embedding'
        if not spec.is_tied:
            matrix = w.constant('lm_head', self.weights.get('lm_head.weight'))
        logits = w.node('Gemm', [flat, matrix], 'logits_rows', {'transB': 1})
        w.node('Reshape', [logits, w.ints(1, -1, spec.vocab_size)], 'logits')
        w.output('logits', 'float32', [1, 'R', spec.vocab_size])

    def weight(self, source: str) -> str:
        """Store a published vector under its own name."""
        return self.w.constant(source, self.weights.get(source))

    def past(self, layer: int) -> tuple[str, str]:
        """Declare the cache inputs of a layer."""
        shape = (1, self.spec.num_kv_heads, 'S', self.spec.head_dim)
        return (
            self.w.input(f'past_key_{layer}', 'float32', shape),
            self.w.input(f'past_value_{layer}', 'float32', shape),
        )

    def present(self, layer: int, rows: str) -> None:
        """Declare the cache outputs of a layer."""
        shape = (1, self.spec.num_kv_heads, rows, self.spec.head_dim)
        self.w.output(f'present_key_{layer}', 'float32', shape)
        self.w.output(f'present_value_{layer}', 'float32', shape)


class ScatterDecoder(_Decoder):
    """The cache is updated in place; attention is one operator."""

    position_dtype = 'int64'

    def masks(self) -> str:
        w = self.w
        w.input('write_indices', 'int64', [1])
        mask = w.input('attn_mask', 'bool', [1, 1, 'T', 'S'])
        shown = w.constant('shown', np.array(0, np.float32))
        hidden = w.constant('masked', np.array(HIDDEN, np.float32))
        return w.node('Where', [mask, shown, hidden], 'added_mask')  # once, not in each layer

    def norm(self, x: str, weight: str, name: str) -> str:
        attributes = {'epsilon': self.spec.norm_eps, 'axis': -1}
        return self.w.node('RMSNormalization', [x, self.weight(weight)], name, attributes)

    def rope(self, x: str, name: str) -> str:
        return self.w.node('RotaryEmbedding', [x, self.cos, self.sin], name)

    def attend(self, layer: int, q: str, k: str, v: str, mask: str) -> str:
        past_key, past_value = self.past(layer)
        for past, rows, present in (
            (past_key, k, f'present_key_{layer}'),
            (past_value, v, f'present_value_{layer}'),
        ):
            self.w.node('TensorScatter', [past, rows, 'write_indices'], present, {'axis': 2})
        self.present(layer, 'S')
        inputs = [q, f'present_key_{layer}', f'present_value_{layer}', mask]
        return self.w.node('Attention', inputs, f'l{layer}/attention', {'scale': 1.0})


class DeltaDecoder(_Decoder):
    """The cache is only read; primitives that every runtime since 2022 has."""

    position_dtype = 'int32'

    def masks(self) -> str:
        w = self.w
        past = w.input('attn_mask', 'float32', [1, 1, 1, 'S'])
        shape = w.node('Shape', [past], 'past_shape')
        w.node('Slice', [shape, w.ints(3), w.ints(4)], 'num_slots')
        return w.input('new_mask', 'float32', [1, 1, 'T', 'T'])

    def norm(self, x: str, weight: str, name: str) -> str:
        w = self.w
        square = w.node('Mul', [x, x], f'{name}/square')
        mean = w.node('ReduceMean', [square], f'{name}/mean', {'axes': [-1], 'keepdims': 1})
        eps = w.constant('norm_eps', np.array(self.spec.norm_eps, np.float32))
        root = w.node('Sqrt', [w.node('Add', [mean, eps], f'{name}/eps')], f'{name}/root')
        unit = w.node('Div', [x, root], f'{name}/unit')
        return w.node('Mul', [unit, self.weight(weight)], name)

    def rope(self, x: str, name: str) -> str:
        w, half = self.w, self.spec.head_dim // 2
        cos, sin = (
            self._once('Unsqueeze', [t, w.ints(1)], f'{t}_heads') for t in (self.cos, self.sin)
        )
        low, high = f'{name}/low', f'{name}/high'
        w.nodes('Split', [x, w.ints(half, half)], [low, high], {'axis': -1})
        products = {
            (part, table): w.node('Mul', [part, table], f'{part}_{table}')
            for part in (low, high)
            for table in (cos, sin)
        }
        turned = [
            w.node('Sub', [products[low, cos], products[high, sin]], f'{name}/low_t'),
            w.node('Add', [products[high, cos], products[low, sin]], f'{name}/high_t'),
        ]
        return w.node('Concat', turned, name, {'axis': -1})

    def _once(
        self, op: str, inputs: list[str], name: str, attributes: dict[str, int] | None = None
    ) -> str:
        """Add a node that all layers share, when the first of them asks."""
        return name if self.w.has(name) else self.w.node(op, inputs, name, attributes)

    def _tiled(self, mask: str) -> str:
        """Repeat ``mask`` for the query heads of a group, which lie behind one another."""
        group = self.spec.num_heads // self.spec.num_kv_heads
        return self._once('Concat', [mask] * group, f'{mask}_tiled', {'axis': 2})

    def attend(self, layer: int, q: str, k: str, v: str, mask: str) -> str:
        w, spec, name = self.w, self.spec, f'l{layer}'
        past_key, past_value = self.past(layer)
        w.node('Identity', [k], f'present_key_{layer}')
        w.node('Identity', [v], f'present_value_{layer}')
        self.present(layer, 'T')
        shape = w.ints(1, spec.num_kv_heads, -1, spec.head_dim)
        groups = w.node('Reshape', [q, shape], f'{name}/q_groups')
        old = self._scores(groups, past_key, 'attn_mask', f'{name}/old')
        new = self._scores(groups, k, self._tiled(mask), f'{name}/new')
        scores = w.node('Concat', [old, new], f'{name}/scores', {'axis': -1})
        shares = w.node('Softmax', [scores], f'{name}/shares', {'axis': -1})
        cuts = ((w.ints(0), 'num_slots', past_value), ('num_slots', w.ints(INT64_MAX), v))
        parts = []
        for index, (start, stop, values) in enumerate(cuts):
            part = w.node('Slice', [shares, start, stop, w.ints(3)], f'{name}/part{index}')
            parts.append(w.node('MatMul', [part, values], f'{name}/mix{index}'))
        mixed = w.node('Add', parts, f'{name}/mix')
        shape = w.ints(1, spec.num_heads, -1, spec.head_dim)
        return w.node('Reshape', [mixed, shape], f'{name}/attention')

    def _scores(self, q: str, k: str, mask: str, name: str) -> str:
        turned = self.w.node('Transpose', [k], f'{name}/k', {'perm': [0, 1, 3, 2]})
        scores = self.w.node('MatMul', [q, turned], f'{name}/scores')
        return self.w.node('Add', [scores, mask], f'{name}/masked')


def build_decoder(
    formulation: str, writer: GraphWriter, spec: ModelSpec, weights: Weights
) -> None:
    """Describe the decoder in the named formulation to ``writer``."""
    kinds = {'scatter': ScatterDecoder, 'delta': DeltaDecoder}
    kinds[formulation](writer, spec, weights).build()
