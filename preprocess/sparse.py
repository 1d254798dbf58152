"""Sparse constants, which no kernel and few tools read, as dense ones."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.numpy_helper

from drpai_qat.core.errors import ModelError

_MOST_BYTES = 2**31 - 1


def write_dense(model: onnx.ModelProto) -> None:
    """Replace sparse initializers and sparse Constant nodes of the main graph by dense ones. Changes `model`.

    Raises: ModelError: one is larger than a file can be, or its indices lie outside.
    """
    graph = model.graph
    graph.initializer.extend(_dense(sparse, sparse.values.name) for sparse in graph.sparse_initializer)
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                dense = _dense(attribute.sparse_tensor, node.output[0])
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    shape = tuple(sparse.dims)
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    if math.prod(shape) * values.itemsize > _MOST_BYTES:
        raise ModelError(f"sparse constant {name} of shape {list(shape)} is too large: export it without that part")
    dense = np.zeros(math.prod(shape), values.dtype)
    try:
        places = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
        dense[places] = values
    except (ValueError, IndexError):
        raise ModelError(f"sparse constant {name}: its indices lie outside {list(shape)}: damaged file") from None
    return onnx.numpy_helper.from_array(dense.reshape(shape), name)
