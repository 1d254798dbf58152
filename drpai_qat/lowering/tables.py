"""Tables of elementwise functions, computed by onnxruntime itself so that they are exact by definition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import onnxruntime as ort

from drpai_qat.lowering.graph import FAKE_QUANT, Graph, Node


def tabulate(
    graph: Graph, nodes: tuple[Node, ...], source: str, reals: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Values of a chain of elementwise nodes for each real value of one tensor.

    Args:
        nodes: in order; they read `source` and size-1 constants only.
        reals: float32, shape (n,), values of `source`.
    Returns: float32, shape (n,), values of the last node's output.
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
            proto = onnx.NodeProto()
            proto.CopyFrom(node.source[0])
            del proto.input[:], proto.output[:]
            proto.input.extend(node.inputs)
            proto.output.extend(node.outputs)
            protos.append(proto)
    n = len(reals)
    model = oh.make_model(
        oh.make_graph(
            protos,
            "table",
            [oh.make_tensor_value_info(source, onnx.TensorProto.FLOAT, [n])],
            [oh.make_tensor_value_info(nodes[-1].output, onnx.TensorProto.FLOAT, None)],
            list(constants.values()),
        ),
        opset_imports=[oh.make_opsetid("", graph.opset)],
        ir_version=10,
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result = session.run(None, {source: reals.astype(np.float32)})[0]
    return np.asarray(result, np.float32).reshape(n)


def _fake_quant(node: Node, constants: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    assert node.params is not None
    scale, zero, integers = (f"{node.output}::{part}" for part in ("scale", "zero_point", "integers"))
    constants[scale] = onnx.numpy_helper.from_array(node.params.scale, scale)
    constants[zero] = onnx.numpy_helper.from_array(node.params.zero_point.astype(node.params.dtype), zero)
    return [
        oh.make_node("QuantizeLinear", [node.inputs[0], scale, zero], [integers]),
        oh.make_node("DequantizeLinear", [integers, scale, zero], [node.output]),
    ]
