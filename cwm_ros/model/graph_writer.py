# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes an ONNX model while it is being described; weights stream past into a data file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, TensorProto

from cwm_ros.model.graph_journal import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import BinaryIO

    import numpy.typing as npt
    from onnx import ModelProto, NodeProto, ValueInfoProto

    from cwm_ros.model.graph_journal import GraphJournal

    Number = np.float32 | np.float16 | np.int64 | np.int32 | np.int8 | np.uint8

DATA_FILE = 'model.onnx.data'
INLINE_BYTES = 1024
"""Smaller tensors stay in the model file."""
DATA_ALIGNMENT = 4096
"""Bytes; a runtime maps the data file."""

TENSOR_TYPES = {
    'float32': TensorProto.FLOAT,
    'float16': TensorProto.FLOAT16,
    'int4': TensorProto.INT4,
    'int8': TensorProto.INT8,
    'int32': TensorProto.INT32,
    'int64': TensorProto.INT64,
    'bool': TensorProto.BOOL,
}


class GraphWriter:
    """
    Collects nodes, and writes large tensors into a data file as they come.

    Parameters
    ----------
    data
        The data file, open for writing; it ends up beside the model as `DATA_FILE`.
    journal
        Knows what of the data file is there already, and is told what else is written.
    on_values
        Called with the number of values whenever some were stored in the data file.

    """

    def __init__(
        self,
        data: BinaryIO,
        journal: GraphJournal | None = None,
        on_values: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._data = data
        self._journal = journal
        self._on_values = on_values
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        self._values: set[str] = set()

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declare a graph input; a name as dimension is a dimension that varies."""
        self._inputs.append(helper.make_tensor_value_info(name, TENSOR_TYPES[dtype], shape))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Declare that the value ``name`` is a graph output."""
        self._outputs.append(helper.make_tensor_value_info(name, TENSOR_TYPES[dtype], shape))

    def has(self, name: str) -> bool:
        """Say whether a value of this name was made."""
        return name in self._values

    def constant(self, name: str, array: npt.NDArray[Number]) -> str:
        """Store a tensor under ``name``, once."""
        if name in self._constants:
            return name
        assert array.flags.c_contiguous
        dtype = array.dtype.name
        if array.nbytes >= INLINE_BYTES:
            return self._external(name, dtype, array.shape, [array])
        return self._inline(name, dtype, array.shape, array.tobytes())

    def stream(
        self,
        name: str,
        shape: tuple[int, ...],
        blocks: Iterable[npt.NDArray[Number]],
        dtype: str = 'float32',
    ) -> str:
        """
        Store a tensor that comes in blocks of rows, one held at a time.

        Blocks of 'int4' are bytes of two values each.
        """
        if name in self._constants:
            return name
        if _num_bytes(dtype, shape) < INLINE_BYTES:
            content = b''.join(block.tobytes() for block in blocks)
            return self._inline(name, dtype, shape, content)
        return self._external(name, dtype, shape, blocks)

    def _inline(self, name: str, dtype: str, shape: tuple[int, ...], content: bytes) -> str:
        assert len(content) == _num_bytes(dtype, shape)
        tensor = TensorProto(name=name, data_type=TENSOR_TYPES[dtype], dims=shape)
        tensor.raw_data = content
        self._constants[name] = tensor
        return name

    def _external(
        self, name: str, dtype: str, shape: tuple[int, ...], blocks: Iterable[npt.NDArray[Number]]
    ) -> str:
        start = -(-self._data.tell() // DATA_ALIGNMENT) * DATA_ALIGNMENT
        entry = Entry(name, dtype, shape, start, _num_bytes(dtype, shape))
        if self._journal is not None and self._journal.has(entry):
            self._data.seek(start + entry.length)
            self._on_values(math.prod(shape))
        else:
            self._write(entry, blocks)
        tensor = TensorProto(name=name, data_type=TENSOR_TYPES[dtype], dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {'location': DATA_FILE, 'offset': start, 'length': entry.length}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._constants[name] = tensor
        return name

    def _write(self, entry: Entry, blocks: Iterable[npt.NDArray[Number]]) -> None:
        self._data.write(b'\0' * (entry.start - self._data.tell()))
        for block in blocks:
            self._data.write(block.data)
            self._on_values(block.nbytes * math.prod(entry.shape) // entry.length)
        assert self._data.tell() == entry.start + entry.length
        if self._journal is not None:
            self._journal.add(entry)

    def ints(self, *values: int) -> str:
        """Store a 1-D int64 tensor, named by its values."""
        return self.constant(
            'ints_' + '_'.join(map(str, values)).replace('-', 'm'), np.array(values, np.int64)
        )

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        attributes: Mapping[str, int | float | Sequence[int]] | None = None,
    ) -> str:
        """Add a node with one output, which has the node's ``name``."""
        self.nodes(op, inputs, [name], attributes)
        return name

    def nodes(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, int | float | Sequence[int]] | None = None,
    ) -> None:
        """Add a node with the named outputs."""
        self._values.update(outputs)
        node = helper.make_node(op, inputs, outputs, name=outputs[0])
        for key, value in (attributes or {}).items():
            node.attribute.append(helper.make_attribute(key, value))
        self._nodes.append(node)

    def model(self, name: str, opset: int, metadata: Mapping[str, str]) -> ModelProto:
        """Return the whole model."""
        graph = helper.make_graph(
            self._nodes,
            name,
            self._inputs,
            self._outputs,
            initializer=list(self._constants.values()),
        )
        model = helper.make_model_gen_version(
            graph, opset_imports=[helper.make_opsetid('', opset)], producer_name='cwm_ros'
        )
        helper.set_model_props(model, dict(metadata))
        return model


def _num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    count = math.prod(shape)
    return -(-count // 2) if dtype == 'int4' else count * np.dtype(dtype).itemsize
