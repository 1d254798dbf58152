"""Operators between QuantizeLinear and DequantizeLinear that only move integers: they move the reals instead.

    Q -> Transpose -> DQ               =>   Q -> DQ -> Transpose
    Q, Q -> Concat -> DQ (one grid)    =>   Q -> DQ, Q -> DQ -> Concat

tf2onnx pushes QuantizeLinear up and DequantizeLinear down through every operator that moves elements; TFLite files
come with integer inputs and outputs (float_interface.py). Moving and dequantizing per tensor commute exactly, and
dequantizing keeps the order that MaxPool compares by. Afterwards each QuantizeLinear is read by DequantizeLinear nodes
only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.moving import MOVING
from drpai_qat.core.quantization import QuantParams
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import Names, is_graph_output, params_of, produced_by, readers


def dequantize_before_moves(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Let data movement between Q and DQ work on reals."""
    graph.toposort()
    names = Names(graph)
    moved: dict[int, QuantParams] = {}  # tensors that held integers of a grid and now hold its reals
    made: list[gs.Node] = []
    for node in list(graph.nodes):
        if node.op not in MOVING or not node.inputs:
            continue
        data = list(node.inputs) if MOVING[node.op].joins else node.inputs[:1]
        grids = [moved.get(id(tensor)) or _grid_of_integers(tensor) for tensor in data]
        params = grids[0]
        if params is None or any(one != params for one in grids):
            continue
        for index, tensor in enumerate(data):
            if id(tensor) not in moved:
                node.inputs[index] = _dequantized(tensor, names, made)
        for output in elements(node):
            moved[id(output)] = params
            output.dtype = np.dtype(np.float32)
    for output in [tensor for node in graph.nodes for tensor in node.outputs if id(tensor) in moved]:
        made += _requantize_for_others(graph, output, moved, names)
    graph.nodes.extend(made)
    return graph.cleanup().toposort()


def elements(node: gs.Node) -> list[gs.Tensor]:
    """Outputs of a moving operator that hold elements; the second of a MaxPool tells where they were."""
    return list(node.outputs[:1] if MOVING[node.op].by_value else node.outputs)


def _grid_of_integers(tensor: gs.Tensor) -> QuantParams | None:
    """Parameters of the per-tensor QuantizeLinear that writes `tensor`."""
    quantize = _quantizer(tensor)
    if quantize is None or quantize.attrs.get("block_size", 0) or isinstance(quantize.inputs[0], gs.Constant):
        return None
    params = params_of(quantize)
    return params if params.axis is None else None


def _quantizer(tensor: gs.Tensor) -> gs.Node | None:
    """The QuantizeLinear that writes `tensor`, also where its range is cut behind it."""
    while (clip := produced_by(tensor, "Clip")) is not None:
        tensor = clip.inputs[0]
    return produced_by(tensor, QUANTIZE)


def _dequantized(tensor: gs.Tensor, names: Names, made: list[gs.Node]) -> gs.Tensor:
    """Reals of an integer tensor that a QuantizeLinear writes; uses a DequantizeLinear that is there."""
    quantize = _quantizer(tensor)
    assert quantize is not None
    for node in readers(tensor):
        if node.op == DEQUANTIZE and node.outputs and params_of(node) == params_of(quantize):
            return node.outputs[0]
    output = gs.Variable(names(f"{tensor.name}_reals"), np.dtype(np.float32), tensor.shape)
    made.append(gs.Node(DEQUANTIZE, names(f"{tensor.name}_dequantize"), {}, [tensor, *quantize.inputs[1:]], [output]))
    return output


def _requantize_for_others(
    graph: gs.Graph, tensor: gs.Tensor, moved: dict[int, QuantParams], names: Names
) -> Iterator[gs.Node]:
    """Drop the DequantizeLinear nodes behind a tensor that holds reals now; give other readers their integers."""
    params = moved[id(tensor)]
    others = []
    for node in readers(tensor):
        if node.op == DEQUANTIZE and node.inputs[0] is tensor and params_of(node) == params:
            _bypass_dequantize(graph, node, tensor)
        elif not (node.op in MOVING and node.outputs and id(node.outputs[0]) in moved):
            others.append(node)
    if others:
        integers = gs.Variable(names(f"{tensor.name}_integers"), params.dtype, tensor.shape)
        scale = gs.Constant(names(f"{tensor.name}_scale"), params.scale)
        point = gs.Constant(names(f"{tensor.name}_zero_point"), params.zero_point.astype(params.dtype))
        for node in others:
            node.inputs = [integers if one is tensor else one for one in node.inputs]
        yield gs.Node(QUANTIZE, names(f"{tensor.name}_quantize"), {}, [tensor, scale, point], [integers])


def _bypass_dequantize(graph: gs.Graph, node: gs.Node, reals: gs.Tensor) -> None:
    """Let readers of a DequantizeLinear read `reals`; a graph output keeps its name through an Identity."""
    output = node.outputs[0]
    if is_graph_output(graph, output):
        node.op, node.attrs, node.inputs = "Identity", {}, [reals]
        return
    node.inputs.clear()
    node.outputs.clear()
    for reader in readers(output):
        reader.inputs = [reals if one is output else one for one in reader.inputs]
