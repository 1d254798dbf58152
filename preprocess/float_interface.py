"""Integer inputs and outputs of the network as float32 of the same name, shape and meaning.

    uint8 x -> DQ(s, z)      =>   float32 x -> Q(s, z) -> DQ(s, z)      x holds the reals
    uint8 x -> Cast(float)   =>   float32 x -> Q(1, 0) -> DQ(1, 0)      x holds the integers, as numbers
    Q(s, z) -> uint8 y       =>   Q(s, z) -> DQ(s, z) -> float32 y
    int64 x                  =>   int32 x -> Cast(int64)                x holds indices: tokens, classes

Images come as bytes where normalization is part of the model, and as integers of a grid in TFLite files. The board's
runtime feeds float32. A Cast of integers is a DequantizeLinear of scale 1, so that what follows reads a grid. Indices
stay integers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from drpai_qat.core.moving import MOVING
from preprocess.data_movement import elements
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import Names, producer, readers

_GRID_BITS = 16
"""Integers of more bits are class numbers, indices and the like, not samples of a signal."""


def use_float_interface(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Give integer inputs and outputs of the network their reals."""
    names = Names(graph)
    made: list[gs.Node] = []
    for index, tensor in enumerate(graph.inputs):
        if tensor.dtype == np.int64:
            narrow = gs.Variable(tensor.name, np.dtype(np.int32), tensor.shape)
            tensor.name = names(f"{tensor.name}_wide")
            to = {"to": int(onnx.TensorProto.INT64)}
            made.append(gs.Node("Cast", names(f"{narrow.name}_cast"), to, [narrow], [tensor]))
            graph.inputs[index] = narrow
            log.note(narrow.name, "int64 input in the source, int32 here")
        if not _is_sampled(tensor):
            continue
        dequantize = next(_reached(tensor, DEQUANTIZE), None)
        grid = _integers_themselves(tensor, names)
        if dequantize is not None:
            grid[: len(dequantize.inputs) - 1] = dequantize.inputs[1:]
        float_input = gs.Variable(tensor.name, np.dtype(np.float32), tensor.shape)
        tensor.name = names(f"{tensor.name}_integers")
        if dequantize is None:
            for cast in list(_reached(tensor, "Cast")):
                if cast.attrs["to"] == onnx.TensorProto.FLOAT:
                    cast.op, cast.attrs = DEQUANTIZE, {}
                    cast.inputs = [cast.inputs[0], *grid]
        made.append(gs.Node(QUANTIZE, names(f"{float_input.name}_quantize"), {}, [float_input, *grid], [tensor]))
        graph.inputs[index] = float_input
        log.note(float_input.name, f"{np.dtype(tensor.dtype).name} input in the source, float32 here")
    for index, tensor in enumerate(graph.outputs):
        quantize = _last_quantize(tensor)
        if quantize is None or not _is_sampled(tensor):
            continue
        float_output = gs.Variable(tensor.name, np.dtype(np.float32), tensor.shape)
        tensor.name = names(f"{tensor.name}_integers")
        made.append(
            gs.Node(
                DEQUANTIZE, names(f"{float_output.name}_dequantize"), {}, [tensor, *quantize.inputs[1:]], [float_output]
            )
        )
        graph.outputs[index] = float_output
        log.note(float_output.name, f"{np.dtype(tensor.dtype).name} output in the source, float32 here")
    graph.nodes.extend(made)
    return graph.toposort() if made else graph


def _is_sampled(tensor: gs.Tensor) -> bool:
    """True for integers that stand for reals."""
    kind = None if tensor.dtype is None or isinstance(tensor.dtype, int) else np.dtype(tensor.dtype)
    return kind is not None and np.issubdtype(kind, np.integer) and np.iinfo(kind).bits <= _GRID_BITS


def _integers_themselves(tensor: gs.Tensor, names: Names) -> list[gs.Tensor]:
    """Scale 1 and zero point 0."""
    return [
        gs.Constant(names(f"{tensor.name}_scale"), np.array(1, np.float32)),
        gs.Constant(names(f"{tensor.name}_zero_point"), np.array(0, tensor.dtype)),
    ]


def _reached(tensor: gs.Tensor, op: str) -> Iterator[gs.Node]:
    """The nodes of type `op` that `tensor` reaches, as their first input, through data movement alone."""
    for node in readers(tensor):
        if node.op == op and node.inputs[0] is tensor:
            yield node
        elif node.op in MOVING and (MOVING[node.op].joins or node.inputs[0] is tensor):
            for output in elements(node):
                yield from _reached(output, op)


def _last_quantize(tensor: gs.Tensor) -> gs.Node | None:
    """The QuantizeLinear that `tensor` comes from through data movement alone."""
    while (node := producer(tensor)) is not None and node.op in MOVING:
        if not any(tensor is one for one in elements(node)):
            return None
        tensor = node.inputs[0]
    return node if node is not None and node.op == QUANTIZE else None
