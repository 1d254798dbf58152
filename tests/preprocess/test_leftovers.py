"""What converters leave is read, what ONNX defines by functions is expanded, sparse constants are dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from numpy.typing import NDArray

from drpai_qat.core.errors import ModelError
from preprocess import preprocess, reference_model, validate
from tests.preprocess.building import model, normal, ops, random_feeds
from tests.reference import reference

GRID = {"s": np.float32(0.02), "z": np.uint8(100)}


def unchecked(op: str, *, opset: int = 17, producer: str = "tf2onnx", **attributes: Any) -> onnx.ModelProto:
    """`op` behind a quantized input."""
    source = model(
        f'<ir_version: 8, opset_import: ["" : {opset}], producer_name: "{producer}">\n'
        "net (float[2,6] x) => (float[2,6] y)\n{\n q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n"
        "y = Relu (d)\n}",
        **GRID,
    )
    source.graph.node[2].op_type = op
    source.graph.node[2].attribute.extend(oh.make_attribute(name, value) for name, value in attributes.items())
    return source


def grid(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Reals behind the quantized input."""
    scale = np.float32(0.02)
    steps = np.clip(np.rint(x / scale) + 100, 0, 255) - 100
    return np.asarray(steps.astype(np.float32) * scale, np.float64)


def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


FORMULAS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Expm1": np.expm1,
    "TFL_HARD_SWISH": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "TFL_RELU6": lambda x: np.clip(x, 0, 6),
    "TFL_RELU_0_TO_1": lambda x: np.clip(x, 0, 1),
    "TFL_RELU_N1_TO_1": lambda x: np.clip(x, -1, 1),
}


@pytest.mark.parametrize("op", FORMULAS)
def test_leftovers_compute_what_they_stand_for(op: str) -> None:
    source = unchecked(op, opset=13)
    made = preprocess(source, "tensorflow").model
    onnx.checker.check_model(made, full_check=True)
    validate(made)
    x = normal(2, 6)
    for runnable in (made, reference_model(source)):
        np.testing.assert_allclose(reference(runnable, {"x": x})[0], FORMULAS[op](grid(x)), rtol=2e-6, atol=1e-6)


def test_log1p() -> None:
    source = unchecked("Log1p")
    x = np.abs(normal(2, 6))
    made = preprocess(source, "tensorflow").model
    np.testing.assert_allclose(reference(made, {"x": x})[0], np.log1p(grid(x)), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("attributes", "exact"), [({"approximate": 1}, True), ({}, False)])
def test_gelu(attributes: dict[str, Any], exact: bool) -> None:
    x = normal(2, 6)
    got = reference(preprocess(unchecked("TFL_GELU", **attributes), "tensorflow").model, {"x": x})[0]
    off = float(np.abs(got - gelu(grid(x))).max())
    assert (off < 1e-6) == exact
    assert off < 1e-3


def test_others_name_our_exporter() -> None:
    with pytest.raises(ModelError, match=r"node \w+ \(Betainc\).*tf2onnx left.*drpai_qat.export.tensorflow"):
        preprocess(unchecked("Betainc"), "tensorflow")


def test_operators_of_a_later_opset_are_named_with_it() -> None:
    with pytest.raises(ModelError, match="from opset 20 on, and the file is of 17"):
        preprocess(unchecked("Gelu", producer="pytorch"), "pytorch")


@pytest.mark.parametrize(
    ("op", "levels", "attributes"),
    [
        ("FakeQuantWithMinMaxVars", 256, {}),
        ("FakeQuantWithMinMaxVars", 255, {"narrow_range": 1}),
        ("FakeQuantWithMinMaxVars", 16, {"num_bits": 4}),
        ("FakeQuantWithMinMaxArgs", 256, {"min": -1.0, "max": 1.5}),
    ],
)
def test_fake_quant_of_tensorflow(op: str, levels: int, attributes: dict[str, Any]) -> None:
    source = unchecked(op, **attributes)
    if op.endswith("Vars"):
        source.graph.node[2].input.extend(["low", "high"])
        source.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.array(value, np.float32), name)
            for name, value in (("low", -1.0), ("high", 1.5))
        )
    made = preprocess(source, "tensorflow").model
    validate(made)
    assert ops(made)["QuantizeLinear"] == 2
    x = normal(2, 6)
    scale = 2.5 / (levels - 1)
    zero_point = round(1 / scale)
    expected = (np.clip(np.rint(grid(x) / scale) + zero_point, 0, levels - 1) - zero_point) * scale
    for runnable in (made, reference_model(source)):
        np.testing.assert_allclose(reference(runnable, {"x": x})[0], expected, rtol=1e-6, atol=1e-7)


def test_fake_quant_of_tensorflow_below_opset_13() -> None:
    source = unchecked("FakeQuantWithMinMaxArgs", opset=11, min=-1.0, max=1.5)
    x = normal(2, 6)
    made = preprocess(source, "tensorflow").model
    assert ops(made)["QuantizeLinear"] == 2
    np.testing.assert_array_equal(reference(made, {"x": x})[0], reference(reference_model(source), {"x": x})[0])


def test_fake_quant_of_tensorflow_has_its_channels_last() -> None:
    source = unchecked("FakeQuantWithMinMaxVarsPerChannel")
    top = np.linspace(0.53, 2.1, 6).astype(np.float32)
    source.graph.node[2].input.extend(["low", "high"])
    source.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in (("low", -top), ("high", top))
    )
    x = normal(2, 6)
    scale = 2 * top.astype(np.float64) / 255
    expected = (np.clip(np.rint(grid(x) / scale) + 128, 0, 255) - 128) * scale
    got = reference(preprocess(source, "tensorflow").model, {"x": x})[0]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_sixteen_bits_below_opset_21() -> None:
    """onnxruntime does not load the source: the reference is lifted, as the canonical model is."""
    source = model(
        "net (float[2,6] x) => (float[2,6] y)\n{\n q = QuantizeLinear (x, s, z)\n y = DequantizeLinear (q, s, z)\n}",
        s=np.float32(0.001), z=np.int16(-7),
    )  # fmt: skip
    x = normal(2, 6)
    expected = np.rint(x / np.float32(0.001)).astype(np.float32) * np.float32(0.001)
    for runnable in (preprocess(source).model, reference_model(source)):
        assert runnable.opset_import[0].version >= 21
        np.testing.assert_array_equal(reference(runnable, {"x": x})[0], expected)


ATTENTION = """<ir_version: 10, opset_import: ["" : 23]>
net (float[1,2,5,4] x) => (float[1,2,5,4] y)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  n = RMSNormalization <axis = -1> (d, g)
  y = Attention <is_causal = 1> (n, d, d)
}"""


def test_functions_are_expanded() -> None:
    source = model(ATTENTION, g=normal(4), **GRID)
    made = preprocess(source).model
    validate(made)
    assert not {"Attention", "RMSNormalization", "Shape", "Range", "Identity"} & set(ops(made))
    feeds = random_feeds(source)
    np.testing.assert_allclose(reference(made, feeds)[0], reference(source, feeds)[0], rtol=1e-5, atol=1e-6)


def sparse(values: NDArray[Any], indices: NDArray[Any]) -> onnx.SparseTensorProto:
    return oh.make_sparse_tensor(
        onnx.numpy_helper.from_array(values, "w"),
        onnx.numpy_helper.from_array(indices.astype(np.int64), "w_at"),
        [6, 6],
    )


@pytest.mark.parametrize("indices", [np.array([1, 8, 35]), np.array([[0, 1], [1, 2], [5, 5]])])
@pytest.mark.parametrize("place", ["initializer", "node"])
def test_sparse_constants(indices: NDArray[Any], place: str) -> None:
    values = np.array([0.5, -1.27, 0.3], np.float32)
    source = unchecked("MatMul", producer="pytorch")
    source.graph.node[2].input.append("w")
    if place == "initializer":
        source.graph.sparse_initializer.append(sparse(values, indices))
    else:
        node = oh.make_node("Constant", [], ["w"], sparse_value=sparse(values, indices))
        source.graph.node.insert(0, node)
    dense = np.zeros((6, 6))
    dense[[0, 1, 5], [1, 2, 5]] = values
    x = normal(2, 6)
    got = reference(preprocess(source, "pytorch").model, {"x": x})[0]
    np.testing.assert_allclose(got, grid(x) @ dense, rtol=1e-6, atol=1e-6)


def test_sparse_constants_that_lie_outside() -> None:
    source = unchecked("MatMul", producer="pytorch")
    source.graph.node[2].input.append("w")
    source.graph.sparse_initializer.append(sparse(np.array([1], np.float32), np.array([36])))
    with pytest.raises(ModelError, match="indices lie outside"):
        preprocess(source)
