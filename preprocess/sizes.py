"""Sizes of tensors before anything computes them, held against the memory that may be taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import ModelError
from drpai_qat.core.memory_limit import LARGEST_TENSOR
from drpai_qat.core.shape_inference import inferred
from preprocess.passlog import PassLog, label

_LARGE = 1024
"""Initializers of more elements can't be a shape: inference gets their type only and costs the same for any size."""
_UNKNOWN_TYPE = 4  # bytes
_WEIGHTS, _ACTIVATIONS, _INPUTS = 4, 2, 40
"""Bytes that a compilation takes at least for each byte of weights and of activations alive at one time, and for each
element of an input: the file, the graph, packed and deployed weights; the reference and the network; random samples
are drawn in float64."""


def is_static(shape: object) -> bool:
    """True if `shape` is known and every dimension is a number."""
    return isinstance(shape, (list, tuple)) and all(isinstance(d, int) and d >= 0 for d in shape)


def without_large_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace large initializers by inputs of the same type and shape. Changes `model`."""
    small = []
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _LARGE:
            small.append(tensor)
        else:
            model.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    del model.graph.initializer[:]
    model.graph.initializer.extend(small)
    return model


def inferred_bytes(model: onnx.ModelProto) -> dict[str, int]:
    """Sizes of the tensors that a graph computes, where inference tells them; `model` is used up.

    Raises: ModelError: a tensor has more elements than kernels can count.
    """
    try:
        known = inferred(without_large_values(model))
    except onnx.shape_inference.InferenceError:
        return {}  # said where shapes are wanted
    found = {}
    for info in (*known.graph.value_info, *known.graph.output):
        tensor = info.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            count = math.prod(dim.dim_value for dim in tensor.shape.dim)
            found[info.name] = checked(info.name, count) * _itemsize(tensor.elem_type)
    return found


def checked(name: str, count: int) -> int:
    """The number of elements of a tensor.

    Raises: ModelError: kernels can't count them.
    """
    if count > LARGEST_TENSOR:
        raise ModelError(f"tensor {name} has {count:.3g} values: networks of up to 2^31 in one tensor are compiled")
    return count


def refuse_too_large(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Hold what the network takes against the memory that there is.

    Raises: ModelError: it is too much, or a tensor is; names the node where most is needed.
    """
    sizes = {id(one): _nbytes(one) for node in graph.nodes for one in node.outputs if not one.is_empty()}
    inputs = [_nbytes(one) // max(_item(one), 1) for one in graph.inputs]
    weights = {id(one): one for node in graph.nodes for one in node.inputs if isinstance(one, gs.Constant)}
    stored = sum(_nbytes(one) for one in weights.values())
    alive, at = peak(graph.nodes, sizes, {id(one) for one in graph.outputs})
    needed = _WEIGHTS * stored + _ACTIVATIONS * alive + _INPUTS * max(inputs, default=0)
    log.memory.require(needed, f"compiling it, by the size of its tensors around {at}," if at else "compiling it")
    return graph


def peak(nodes: Iterable[gs.Node], sizes: Mapping[int, int], kept: set[int]) -> tuple[int, str]:
    """Most bytes that are alive at one time as nodes run in order, and the node that runs then.

    Args:
        sizes: of the tensors that count, by identity.
        kept: tensors that stay.
    """
    order = list(nodes)
    last: dict[int, int] = {}
    for index, node in enumerate(order):
        last.update({id(one): index for one in (*node.inputs, *node.outputs)})
    ends: dict[int, list[int]] = {}
    for tensor, index in last.items():
        if tensor not in kept:
            ends.setdefault(index, []).append(tensor)
    alive = most = 0
    where = ""
    for index, node in enumerate(order):
        alive += sum(sizes.get(id(one), 0) for one in node.outputs)
        if alive > most:
            most, where = alive, f"node {label(node)} ({node.op})"
        alive -= sum(sizes.get(one, 0) for one in ends.get(index, ()))
    return most, where


def _nbytes(tensor: gs.Tensor) -> int:
    """Bytes of a tensor; 0 where its size is not known."""
    shape = list(tensor.shape) if isinstance(tensor, gs.Constant) else tensor.shape
    return checked(tensor.name, math.prod(shape)) * _item(tensor) if is_static(shape) else 0


def _item(tensor: gs.Tensor) -> int:
    try:
        return int(np.dtype(tensor.dtype).itemsize)
    except TypeError:
        return _UNKNOWN_TYPE


def _itemsize(elem_type: int) -> int:
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize)
    except KeyError:
        return _UNKNOWN_TYPE
