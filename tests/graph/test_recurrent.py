"""LSTM, GRU and RNN unrolled: the same numbers as onnxruntime's own operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest

from drpai_qat.graph.canonical import read_graph
from drpai_qat.graph.importer_limits import why_not_importable
from drpai_qat.graph.recurrent import GATES, expand_recurrent
from tests.reference import reference

STEPS, BATCH, INPUTS, HIDDEN = 5, 2, 3, 4


def _model(op: str, direction: str, quantized: bool, initial: bool, **attributes: object) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    directions = 2 if direction == "bidirectional" else 1
    width = GATES[op] * HIDDEN
    names = ["x", "w", "r", "b", "", "h0" if initial else ""] + (["c0" if initial else ""] if op == "LSTM" else [])
    nodes = []
    constants = {"b": rng.standard_normal((directions, 2 * width)).astype(np.float32)}
    for name, size in (("w", INPUTS), ("r", HIDDEN)):
        shape = (directions, width, size)
        if quantized:
            constants[f"{name}_q"] = rng.integers(-127, 128, shape).astype(np.int8)
            constants[f"{name}_s"] = rng.uniform(0.004, 0.01, width).astype(np.float32)
            constants[f"{name}_z"] = np.zeros(width, np.int8)
            nodes.append(oh.make_node("DequantizeLinear", [f"{name}_{k}" for k in "qsz"], [name], axis=1))
        else:
            constants[name] = rng.standard_normal(shape).astype(np.float32)
    if initial:
        for name in ("h0", "c0"):
            constants[name] = rng.standard_normal((directions, BATCH, HIDDEN)).astype(np.float32)
    outputs = ["y", "y_h"] + (["y_c"] if op == "LSTM" else [])
    nodes.append(oh.make_node(op, names, outputs, hidden_size=HIDDEN, direction=direction, **attributes))
    float32 = onnx.TensorProto.FLOAT
    last = (directions, BATCH, HIDDEN)
    shapes = {"y": (STEPS, directions, BATCH, HIDDEN), "y_h": last, "y_c": last}
    graph = oh.make_graph(
        nodes,
        "recurrent",
        [oh.make_tensor_value_info("x", float32, (STEPS, BATCH, INPUTS))],
        [oh.make_tensor_value_info(name, float32, shapes[name]) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LSTM", {}),
        ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Relu"], "clip": 0.7}),
        ("GRU", {"linear_before_reset": 0}),
        ("GRU", {"linear_before_reset": 1, "activations": ["HardSigmoid", "Tanh"]}),
        ("RNN", {}),
        ("RNN", {"activations": ["Relu"]}),
    ],
)
def test_unrolled_equals_the_operator(op: str, attributes: dict[str, object], direction: str, quantized: bool) -> None:
    if "activations" in attributes and direction == "bidirectional":
        attributes = {**attributes, "activations": attributes["activations"] * 2}  # type: ignore[operator]
    model = _model(op, direction, quantized, initial=direction == "bidirectional", **attributes)
    unrolled = expand_recurrent(model)
    onnx.checker.check_model(unrolled, full_check=True)
    assert not GATES.keys() & {node.op_type for node in unrolled.graph.node}
    x = np.random.default_rng(1).standard_normal((STEPS, BATCH, INPUTS)).astype(np.float32)
    for found, expected in zip(reference(unrolled, {"x": x}), reference(model, {"x": x}), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_weights_stay_integers() -> None:
    unrolled = expand_recurrent(_model("LSTM", "forward", quantized=True, initial=False))
    dequantized = {node.output[0] for node in unrolled.graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in unrolled.graph.node if node.op_type == "MatMul"]
    assert len(products) == STEPS  # the first step's state is zero
    assert all(node.input[1] in dequantized for node in products)


def test_peepholes() -> None:
    model = _model("LSTM", "bidirectional", quantized=True, initial=True)
    model.graph.node[-1].input.append("p")
    values = np.random.default_rng(3).standard_normal((2, 3 * HIDDEN)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "p"))
    x = np.random.default_rng(1).standard_normal((STEPS, BATCH, INPUTS)).astype(np.float32)
    unrolled = expand_recurrent(model)
    assert "LSTM" not in {node.op_type for node in unrolled.graph.node}
    for found, expected in zip(reference(unrolled, {"x": x}), reference(model, {"x": x}), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("attributes", [{"input_forget": 1}, {"activations": ["Elu"] * 3, "activation_alpha": [0.3]}])
def test_what_is_left_is_named(attributes: dict[str, object]) -> None:
    unrolled = expand_recurrent(_model("LSTM", "forward", quantized=False, initial=False, **attributes))
    (node,) = (node for node in read_graph(unrolled).nodes if node.op == "LSTM")
    assert "are not supported" in why_not_importable(read_graph(unrolled), node)
