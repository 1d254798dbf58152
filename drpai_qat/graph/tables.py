"""Tables of elementwise functions and values of constant nodes, computed by onnxruntime: exact by definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper

from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, QUANTIZE, Array, Graph, Node, Weight
from drpai_qat.runtimes.onnxruntime import Reference


def tabulate(
    graph: Graph, nodes: tuple[Node, ...], source: str, reals: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Values of a chain of elementwise nodes for each real value of one tensor.

    Args:
        nodes: in order; they read `source`, and constants that broadcast to the shape of `reals`.
        reals: float32, values of `source`.
    Returns: float32, shape of `reals`, values of the last node's output.
    """
    protos: list[onnx.NodeProto] = []
    constants: dict[str, onnx.TensorProto] = {}
    for node in nodes:
        for name in node.inputs:
            value = graph.constant(name) if name else None
            if value is not None:
                constants[name] = onnx.numpy_helper.from_array(np.asarray(value), name)
        if node.op == FAKE_QUANT:
            protos += _fake_quant(node, constants)
        else:
            protos.append(_renamed(node))
    inputs = [oh.make_tensor_value_info(source, onnx.TensorProto.FLOAT, reals.shape)]
    outputs = [oh.make_tensor_value_info(nodes[-1].output, onnx.TensorProto.FLOAT, None)]
    proto_graph = oh.make_graph(protos, "table", inputs, outputs, list(constants.values()))
    result = _run(graph.opset, proto_graph, {source: reals.astype(np.float32)})[0]
    return np.asarray(result, np.float32).reshape(reals.shape)


def fold_constant_nodes(graph: Graph) -> Graph:
    """Evaluate nodes that read constants alone (a quantized class token, a table behind its DequantizeLinear)."""
    constants, weights = dict(graph.constants), dict(graph.weights)
    folded = replace(graph, constants=constants, weights=weights)
    kept: list[Node] = []
    for node in graph.nodes:
        names = [name for name in node.inputs if name]
        if not names or not all(folded.is_constant(name) for name in names) or node.op == QUANTIZE:
            kept.append(node)
        elif node.op in (FAKE_QUANT, DEQUANTIZE) and node.params is not None:
            real = np.asarray(folded.constant(names[0]))
            integers = node.params.quantize(real.astype(np.float32)) if node.op == FAKE_QUANT else real
            weights[node.output] = Weight(integers, node.params)
        else:
            values = [
                onnx.numpy_helper.from_array(np.asarray(folded.constant(name)), name) for name in dict.fromkeys(names)
            ]
            outputs = [oh.make_empty_tensor_value_info(name) for name in node.outputs if name]
            proto_graph = oh.make_graph([_renamed(node)], "constant", [], outputs, values)
            results = _run(graph.opset, proto_graph, {})
            constants.update(zip([name for name in node.outputs if name], results, strict=True))
    return folded.with_nodes(tuple(kept))


def _renamed(node: Node) -> onnx.NodeProto:
    """The node's ONNX form with the tensor names it has now."""
    proto = onnx.NodeProto()
    proto.CopyFrom(node.source[0])
    del proto.input[:], proto.output[:]
    proto.input.extend(node.inputs)
    proto.output.extend(node.outputs)
    return proto


def _run(opset: int, graph: onnx.GraphProto, feeds: dict[str, npt.NDArray[np.float32]]) -> list[Array]:
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)], ir_version=10)
    return [np.asarray(value) for value in Reference(model, graph.name, threads=1).run(feeds).values()]


def _fake_quant(node: Node, constants: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    assert node.params is not None
    scale, zero, integers = (f"{node.output}::{part}" for part in ("scale", "zero_point", "integers"))
    constants[scale] = onnx.numpy_helper.from_array(node.params.scale, scale)
    constants[zero] = onnx.numpy_helper.from_array(node.params.zero_point.astype(node.params.dtype), zero)
    return [
        oh.make_node("QuantizeLinear", [node.inputs[0], scale, zero], [integers]),
        oh.make_node("DequantizeLinear", [integers, scale, zero], [node.output]),
    ]
