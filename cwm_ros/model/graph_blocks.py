# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The blocks of a decoder that both formulations of `cwm_ros.model.graph_decoder` share."""

from __future__ import annotations

from abc import ABC, abstractmethod
import math
from typing import NamedTuple, TYPE_CHECKING

import numpy as np

from cwm_ros.model.graph_writer import TENSOR_TYPES
from cwm_ros.model.rope import rope_tables
from cwm_ros.model.weights import block_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cwm_ros.kv import FloatArray
    from cwm_ros.model.graph_writer import GraphWriter
    from cwm_ros.model.spec import ModelSpec
    from cwm_ros.model.weights import Weights

EMBEDDING = 'model.embed_tokens.weight'
HIDDEN = -30000.0
"""Added to a score it gives a share of exactly zero, in float16 too."""


class Mask(NamedTuple):
    """
    What is added to scores: one part for keys of the cache, another for new keys that are apart.

    ``has_rows`` says whether the first has a row for each token, as the second always does.
    """

    past: str
    new: str = ''
    has_rows: bool = True


class Decoder(ABC):
    """
    Blocks that both formulations share.

    The residual stream, norms and rotations are float32, *wide*; projections and attention are
    of ``compute_dtype``. `narrow` and `widen` lead from one to the other.
    """

    opset: int
    position_dtype: str
    compute_dtype = 'float32'
    cos: str
    sin: str

    def __init__(self, writer: GraphWriter, spec: ModelSpec, weights: Weights) -> None:
        self.w = writer
        self.spec = spec
        self.weights = weights

    def build(self, layers: range | None = None) -> None:
        """
        Describe the model, or a part of it, to the writer.

        A part that does not begin with the first layer takes ``hidden_in`` [1, T, C], float32;
        one that does not end with the last gives ``hidden_out``.
        """
        spec = self.spec
        part = layers or range(spec.num_layers)
        hidden = self._begin(part)
        reaches = {layer: spec.layer_reach(layer) for layer in part}
        mask = self.mask()
        masks = {reach: self._narrowed(mask, reach) for reach in sorted(set(reaches.values()))}
        for layer in part[:-1]:
            hidden = self._block(layer, hidden, masks[reaches[layer]])
        mask = masks[reaches[part[-1]]]
        if part.stop < spec.num_layers:
            hidden = self._block(part[-1], hidden, mask)
            self.w.node('Identity', [hidden], 'hidden_out')
            self.w.output('hidden_out', 'float32', [1, 'T', spec.hidden_size])
            return
        rows = self.w.input('logit_rows', 'int32', ['R'])
        self._head(self._block(part[-1], hidden, self._mask_rows(mask, rows), rows))

    def _begin(self, part: range) -> str:
        """Declare what all parts take, and return what the first layer of this one does."""
        w, spec = self.w, self.spec
        if part.start:
            hidden = w.input('hidden_in', 'float32', [1, 'T', spec.hidden_size])
        else:
            hidden = w.input('input_ids', 'int32', [1, 'T'])
        positions = w.input('position_ids', self.position_dtype, [1, 'T'])
        cos, sin = rope_tables(spec.rope, spec.rotated_dims, spec.max_tokens)
        self.cos = w.node('Gather', [w.constant('cos_table', cos), positions], 'cos')
        self.sin = w.node('Gather', [w.constant('sin_table', sin), positions], 'sin')
        return hidden if part.start else self._embed(hidden)

    def narrow(self, x: str) -> str:
        """Return ``x``, float32, in the type of projections."""
        return x

    def widen(self, x: str) -> str:
        """Return ``x``, in the type of projections, in float32."""
        return x

    @abstractmethod
    def mask(self) -> Mask:
        """Declare the mask inputs and return the mask of layers that see everything."""

    @abstractmethod
    def norm(self, x: str, name: str, weight: str = '', bias: str = '') -> str:
        """Return the RMS norm of ``x``, or with a bias its layer norm."""

    @abstractmethod
    def rope(self, x: str, name: str) -> str:
        """Rotate ``x`` [1, heads, T, D]."""

    @abstractmethod
    def attend(self, layer: int, q: str, k: str, v: str, mask: Mask) -> str:
        """Return attention [1, heads, rows, D], and declare past and present."""

    def _embed(self, ids: str) -> str:
        scale, hidden = self.spec.embedding_scale, self.lookup(ids)
        if scale == 1:
            return hidden
        factor = self.number('embedding_scale', scale)
        return self.w.node('Mul', [hidden, factor], 'hidden_scaled')

    def lookup(self, ids: str) -> str:
        """Return the embeddings of token ids, float32."""
        embedding = self.matrix('embedding', *self.embedding(), is_exact=True)
        return self.widen(self.w.node('Gather', [embedding, ids], 'hidden'))

    def embedding(self) -> tuple[tuple[int, int], Callable[[], Iterator[FloatArray]]]:
        """Return the shape of the embedding, and what yields it in blocks of rows."""
        shape = (self.spec.vocab_size, self.spec.hidden_size)
        return shape, lambda: self.weights.rows(EMBEDDING)

    def _narrowed(self, mask: Mask, reach: int) -> Mask:
        """Return ``mask`` without what lies ``reach`` tokens or more before a token."""
        if not reach:
            return mask
        w, name = self.w, f'reach{reach}'
        size = w.constant(f'{name}/size', np.array(reach, self.position_dtype))
        edge = w.node('Sub', ['position_ids', size], f'{name}/edge_flat')
        edge = w.node('Unsqueeze', [edge, w.ints(1, 3)], f'{name}/edge')

        def near(keys: str, part: str) -> str:
            is_near = w.node('Greater', [keys, edge], f'{part}_{name}/is_near')
            hidden = self.number('masked', HIDDEN, self.compute_dtype)
            return w.node('Where', [is_near, part, hidden], f'{part}_{name}')

        past = near(self._slots(), mask.past)
        if not mask.new:
            return Mask(past)
        keys = self.once('Unsqueeze', ['position_ids', w.ints(1, 2)], 'new_positions')
        return Mask(past, near(keys, mask.new))

    def _slots(self) -> str:
        """Return 0, 1 .. S - 1: the positions of the cache's slots."""
        w, dtype = self.w, self.position_dtype
        if w.has('slots'):
            return 'slots'
        shape = w.node('Shape', ['attn_mask'], 'slots/shape')
        last = w.node('Gather', [shape, w.constant('slots/axis', np.array(3))], 'slots/number')
        number = w.node('Cast', [last], 'slots/stop', {'to': TENSOR_TYPES[dtype]})
        steps = [w.constant(f'slots/{n}', np.array(n, dtype)) for n in (0, 1)]
        return w.node('Range', [steps[0], number, steps[1]], 'slots')

    def matrix(
        self,
        name: str,
        shape: tuple[int, int],
        blocks: Callable[[], Iterator[FloatArray]],
        *,
        is_exact: bool = False,
    ) -> str:
        """
        Store a matrix that comes in blocks of rows, in the type of projections.

        ``is_exact`` forbids codes instead of numbers.
        """
        del is_exact
        return self.w.stream(name, shape, blocks())

    def _mask_rows(self, mask: Mask, rows: str) -> Mask:
        def gather(part: str) -> str:
            return self.w.node('Gather', [part, rows], f'{part}_rows', {'axis': 2})

        past = gather(mask.past) if mask.has_rows else mask.past
        return Mask(past, gather(mask.new) if mask.new else '', mask.has_rows)

    def _block(self, layer: int, hidden: str, mask: Mask, rows: str = '') -> str:
        """Return the output of a layer, for ``rows`` only when they are given."""
        w, spec, name = self.w, self.spec, f'l{layer}'
        source = f'model.layers.{layer}.'
        normed = self._norm(hidden, f'{source}input_layernorm', f'{name}/attn_norm')
        q, k, v = self._project_qkv(layer, self.narrow(normed))
        if rows:
            q = w.node('Gather', [q, rows], f'{name}/q_rows', {'axis': 2})
            hidden = w.node('Gather', [hidden, rows], f'{name}/hidden_rows', {'axis': 1})
        mixed = self.attend(layer, q, k, v, mask)
        mixed = w.node('Transpose', [mixed], f'{name}/mixed_t', {'perm': [0, 2, 1, 3]})
        mixed = w.node('Reshape', [mixed, w.ints(1, -1, spec.query_size)], f'{name}/mixed')
        out = self.widen(self._linear(mixed, [f'{source}self_attn.o_proj'], f'{name}/o'))
        if spec.has_post_norms:
            out = self._norm(out, f'{source}post_attention_layernorm', f'{name}/attn_post')
        hidden = w.node('Add', [hidden, out], f'{name}/attn_out')
        normed = self._norm(hidden, f'{source}{spec.ffn_norm_name}', f'{name}/ffn_norm')
        out = self.widen(self._ffn(layer, self.narrow(normed)))
        if spec.has_post_norms:
            out = self._norm(out, f'{source}post_feedforward_layernorm', f'{name}/ffn_post')
        return w.node('Add', [hidden, out], f'{name}/out')

    def _norm(self, x: str, source: str, name: str) -> str:
        w, offset = self.w, np.float32(self.spec.norm_offset)
        weight = w.constant(f'{source}.weight', self.weights.get(f'{source}.weight') + offset)
        bias = ''
        if self.spec.norm == 'layer':
            bias = w.constant(f'{source}.bias', self.weights.get(f'{source}.bias'))
        return self.norm(x, name, weight, bias)

    def _project_qkv(self, layer: int, x: str) -> tuple[str, str, str]:
        """Return q and k after RoPE, and v, each [1, heads, T, D], with as few nodes as can be."""
        w, spec, name = self.w, self.spec, f'l{layer}'
        sources = [f'model.layers.{layer}.{n}' for n in spec.qkv_names]
        # The scale of attention is folded into q: with a scale of 1, ONNX Runtime multiplies one
        # row of queries without first packing the keys, which halves the time of a step.
        scale = 1.0 if spec.has_qk_norm else self.score_scale
        joint = self._linear(
            x, sources, f'{name}/qkv', {spec.query_size: scale}, is_exact=layer == 0
        )
        num_turned = spec.num_heads + spec.num_kv_heads
        shape = w.ints(1, -1, num_turned + spec.num_kv_heads, spec.head_dim)
        heads = w.node('Reshape', [joint, shape], f'{name}/heads')
        heads = w.node('Transpose', [heads], f'{name}/heads_t', {'perm': [0, 2, 1, 3]})
        q, k, qk, v = f'{name}/q', f'{name}/k', f'{name}/qk', f'{name}/v'
        w.nodes('Split', [heads, w.ints(num_turned, spec.num_kv_heads)], [qk, v], {'axis': 1})
        qk = self.widen(qk)
        if spec.has_qk_norm:
            qk = self._norm_heads(layer, qk)
        turned = self.narrow(self.rope(qk, f'{name}/rope'))
        w.nodes('Split', [turned, w.ints(spec.num_heads, spec.num_kv_heads)], [q, k], {'axis': 1})
        return q, k, v

    @property
    def score_scale(self) -> float:
        """Return what queries are multiplied by; a bound of scores is divided by as well."""
        return self.spec.query_scale / (self.spec.attention_cap or 1.0)

    def _norm_heads(self, layer: int, qk: str) -> str:
        """Norm each head of queries and keys, with one weight for either."""
        spec, source = self.spec, f'model.layers.{layer}.self_attn.'
        offset = np.float32(spec.norm_offset)
        q = (self.weights.get(f'{source}q_norm.weight') + offset) * np.float32(self.score_scale)
        k = self.weights.get(f'{source}k_norm.weight') + offset
        rows = np.stack([q] * spec.num_heads + [k] * spec.num_kv_heads)[:, np.newaxis]
        weight = self.w.constant(f'l{layer}/qk_norm/weight', rows)
        unit = self.norm(qk, f'l{layer}/qk_unit')
        return self.w.node('Mul', [unit, weight], f'l{layer}/qk_norm')

    def _ffn(self, layer: int, x: str) -> str:
        spec, name, w = self.spec, f'l{layer}', self.w
        source = f'model.layers.{layer}.'
        joint = self._linear(x, [f'{source}{n}' for n in spec.gate_up_names], f'{name}/gate_up')
        sizes = w.ints(spec.ffn_size, spec.ffn_size)
        w.nodes('Split', [joint, sizes], [f'{name}/gate', f'{name}/up'], {'axis': -1})
        activate = {'silu': self.silu, 'gelu_tanh': self.gelu_tanh}[spec.activation]
        product = w.node('Mul', [activate(f'{name}/gate'), f'{name}/up'], f'{name}/gated')
        return self._linear(product, [f'{source}mlp.down_proj'], f'{name}/down')

    def silu(self, x: str) -> str:
        """Return x * sigmoid(x)."""
        return self.w.node('Mul', [x, self.w.node('Sigmoid', [x], f'{x}/sigmoid')], f'{x}/silu')

    def gelu_tanh(self, x: str) -> str:
        """Return x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))."""
        w, root = self.w, math.sqrt(2 / math.pi)
        square = w.node('Mul', [x, x], f'{x}/square')
        bent = w.node('Mul', [square, self.small('gelu_cubic', root * 0.044715)], f'{x}/bent')
        slope = w.node('Add', [bent, self.small('gelu_linear', root)], f'{x}/slope')
        tanh = w.node('Tanh', [w.node('Mul', [x, slope], f'{x}/inner')], f'{x}/tanh')
        above = w.node('Add', [tanh, self.small('gelu_one', 1.0)], f'{x}/above')
        half = w.node('Mul', [x, self.small('gelu_half', 0.5)], f'{x}/half')
        return w.node('Mul', [half, above], f'{x}/gelu')

    def _linear(
        self,
        x: str,
        sources: Sequence[str],
        name: str,
        scales: Mapping[int, float] | None = None,
        *,
        is_exact: bool = False,
    ) -> str:
        """
        Multiply by the published projections (rows are outputs) one below another.

        ``scales`` says what the first rows, as many as its key, are multiplied by.
        """
        factors = scales or {}
        shapes = [self.weights.shape(f'{source}.weight') for source in sources]
        shape = (shapes[0][1], sum(num_rows for num_rows, _ in shapes))
        matrix = self.matrix(
            f'{name}/weight',
            shape,
            lambda: self.turned(sources, shape, factors),
            is_exact=is_exact,
        )
        y = self.w.node('MatMul', [x, matrix], f'{name}/y')
        if not self.weights.has(f'{sources[0]}.bias'):
            return y
        joined = np.concatenate([self.weights.get(f'{source}.bias') for source in sources])
        bias = self.w.constant(f'{name}/bias', _scaled(joined, factors).astype(self.compute_dtype))
        return self.w.node('Add', [y, bias], f'{name}/y_bias')

    def turned(
        self,
        sources: Sequence[str],
        shape: tuple[int, int],
        factors: Mapping[int, float] | None = None,
    ) -> Iterator[FloatArray]:
        """Yield projections one below another, turned so that columns are outputs."""
        step = block_length(shape[1])
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])
            parts = [self.weights.columns(f'{s}.weight', start, stop) for s in sources]
            joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
            block = np.ascontiguousarray(_scaled(joined, factors or {}).T)
            del parts, joined  # while the block is in use, and large models have large ones
            yield block
            del block

    def _head(self, hidden: str) -> None:
        w, spec = self.w, self.spec
        normed = self._norm(hidden, 'model.norm', 'final_norm')
        narrow = self.narrow(normed)
        flat = w.node('Reshape', [narrow, w.ints(-1, spec.hidden_size)], 'final_rows')
        logits = self.project_vocabulary(flat)
        if spec.logit_cap:
            cap = self.number('logit_cap', spec.logit_cap)
            tanh = w.node('Tanh', [w.node('Div', [logits, cap], 'logits_small')], 'logits_tanh')
            logits = w.node('Mul', [tanh, cap], 'logits_capped')
        w.node('Reshape', [logits, w.ints(1, -1, spec.vocab_size)], 'logits')
        w.output('logits', 'float32', [1, 'R', spec.vocab_size])

    def project_vocabulary(self, rows: str) -> str:
        """Return the product of rows with the output projection, float32."""
        source = self.head_source()
        name = 'embedding' if self.spec.is_tied else 'lm_head'
        shape = (self.spec.vocab_size, self.spec.hidden_size)
        matrix = self.matrix(name, shape, lambda: self.weights.rows(source), is_exact=True)
        return self.widen(self.w.node('Gemm', [rows, matrix], 'logits_rows', {'transB': 1}))

    def head_source(self) -> str:
        """Return the published tensor of the output projection."""
        return EMBEDDING if self.spec.is_tied else 'lm_head.weight'

    def number(self, name: str, value: float, dtype: str = 'float32') -> str:
        """Store a number under ``name``, once."""
        return self.w.constant(name, np.array(value, dtype))

    def small(self, name: str, value: float) -> str:
        """Store a number in the type of projections, once."""
        return self.number(name, value, self.compute_dtype)

    def past(self, layer: int) -> tuple[str, str]:
        """Declare the cache inputs of a layer."""
        shape = (1, self.spec.num_kv_heads, 'S', self.spec.head_dim)
        return (
            self.w.input(f'past_key_{layer}', self.compute_dtype, shape),
            self.w.input(f'past_value_{layer}', self.compute_dtype, shape),
        )

    def present(self, layer: int, rows: str) -> None:
        """Declare the cache outputs of a layer."""
        shape = (1, self.spec.num_kv_heads, rows, self.spec.head_dim)
        self.w.output(f'present_key_{layer}', self.compute_dtype, shape)
        self.w.output(f'present_value_{layer}', self.compute_dtype, shape)

    def once(
        self, op: str, inputs: list[str], name: str, attributes: dict[str, int] | None = None
    ) -> str:
        """Add a node that all layers share, when the first of them asks."""
        return name if self.w.has(name) else self.w.node(op, inputs, name, attributes)

    def tiled(self, mask: str) -> str:
        """Repeat ``mask`` for the query heads of a group, which lie behind one another."""
        group = self.spec.num_heads // self.spec.num_kv_heads
        return self.once('Concat', [mask] * group, f'{mask}_tiled', {'axis': 2})

    def grouped(self, layer: int, q: str) -> str:
        """Put the query heads that share a key behind one another: [1, H, group * rows, D]."""
        shape = self.w.ints(1, self.spec.num_kv_heads, -1, self.spec.head_dim)
        return self.w.node('Reshape', [q, shape], f'l{layer}/q_groups')

    def ungrouped(self, layer: int, mixed: str) -> str:
        """Undo `grouped`."""
        shape = self.w.ints(1, self.spec.num_heads, -1, self.spec.head_dim)
        return self.w.node('Reshape', [mixed, shape], f'l{layer}/attention')

    def scores(self, q: str, k: str, mask: str, name: str) -> str:
        """Return the scores of grouped queries, bounded if the model bounds them, and masked."""
        w = self.w
        turned = w.node('Transpose', [k], f'{name}/k', {'perm': [0, 1, 3, 2]})
        scores = w.node('MatMul', [q, turned], f'{name}/scores')
        if self.spec.attention_cap:
            tanh = w.node('Tanh', [scores], f'{name}/tanh')
            cap = self.small('attention_cap', self.spec.attention_cap)
            scores = w.node('Mul', [tanh, cap], f'{name}/capped')
        return w.node('Add', [scores, mask], f'{name}/masked')


def _scaled(rows: FloatArray, factors: Mapping[int, float]) -> FloatArray:
    """Multiply the first rows, as many as a key of ``factors`` says, in place."""
    for num_rows, factor in factors.items():
        rows[:num_rows] *= np.float32(factor)
    return rows
