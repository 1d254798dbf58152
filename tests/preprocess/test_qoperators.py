"""Operators on integers become Q/DQ with the same integers, but for single roundings of onnxruntime's kernels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from drpai_qat.core.errors import ModelError
from preprocess import preprocess, reference_model, validate
from tests.preprocess.building import normal, ops, random_feeds, weights_of
from tests.reference import reference

HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
GRIDS = {
    "xs": np.float32(0.0213), "xz": np.uint8(114), "ys": np.float32(0.03), "yz": np.uint8(120), "ws": np.float32(0.011),
    "wz": np.int8(0),
}  # fmt: skip


def source(shape: str, result: str, text: str, /, **constants: object) -> onnx.ModelProto:
    """A network that quantizes `x`, computes `q` from it as `text` says, and dequantizes that."""
    parsed = onnx.parser.parse_model(
        f"{HEAD}net (float[{shape}] x) => (float[{result}] y)\n{{\n qx = QuantizeLinear (x, xs, xz)\n{text}\n"
        "y = DequantizeLinear (q, ys, yz)\n}"
    )
    parsed.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in {**GRIDS, **constants}.items()
    )
    return parsed


def weights(*shape: int) -> np.ndarray:
    """Small integers: no two products leave int16, where onnxruntime's kernels would saturate."""
    return np.random.default_rng(5).integers(-60, 61, shape).astype(np.int8)


BIAS = np.array([100, -3000, 12000, 7], np.int32)
SCALES = np.array([0.01, 0.02, 0.004, 0.03], np.float32)
CASES = {
    "QLinearConv": source(
        "1,3,6,6", "1,4,6,6", "q = QLinearConv <pads = [1,1,1,1]> (qx, xs, xz, w, wc, wz4, ys, yz, b)",
        w=weights(4, 3, 3, 3), wc=SCALES, wz4=np.zeros(4, np.int8), b=BIAS,
    ),
    "QLinearConv, one scale, no bias": source(
        "1,3,6,6", "1,4,6,6", "q = QLinearConv <pads = [1,1,1,1]> (qx, xs, xz, w, ws, wz, ys, yz)",
        w=weights(4, 3, 3, 3),
    ),
    "QLinearMatMul": source(
        "2,6", "2,4", "q = QLinearMatMul (qx, xs, xz, w, wc, wz4, ys, yz)",
        w=weights(6, 4), wc=SCALES, wz4=np.zeros(4, np.int8),
    ),
    "QGemm": source(
        "2,6", "2,4",
        "q = com.microsoft.QGemm <transB = 1, alpha = 0.5> (qx, xs, xz, w, wc, wz4, b, ys, yz)",
        w=weights(4, 6), wc=SCALES, wz4=np.zeros(4, np.int8), b=BIAS,
    ),
    "QLinearAdd": source("2,6", "2,6", "q = com.microsoft.QLinearAdd (qx, xs, xz, k, ws, xz, ys, yz)",
                         k=np.arange(6, dtype=np.uint8)),
    "QLinearMul": source("2,6", "2,6", "q = com.microsoft.QLinearMul (qx, xs, xz, k, ws, xz, ys, yz)",
                         k=np.arange(6, dtype=np.uint8)),
    "QLinearSigmoid": source("2,6", "2,6", "q = com.microsoft.QLinearSigmoid (qx, xs, xz, ys, yz)"),
    "QLinearLeakyRelu": source("2,6", "2,6", "q = com.microsoft.QLinearLeakyRelu <alpha = 0.2> (qx, xs, xz, ys, yz)"),
    "QLinearSoftmax": source(
        "2,6", "2,6", "q = com.microsoft.QLinearSoftmax <axis = -1, opset = 13> (qx, xs, xz, ys, yz)"
    ),
    "QLinearAveragePool": source(
        "1,3,6,6", "1,3,3,3",
        "q = com.microsoft.QLinearAveragePool <kernel_shape = [2,2], strides = [2,2]> (qx, xs, xz, ys, yz)",
    ),
    "QLinearGlobalAveragePool": source(
        "1,3,6,6", "1,3,1,1", "q = com.microsoft.QLinearGlobalAveragePool (qx, xs, xz, ys, yz)"
    ),
    "QLinearConcat": source(
        "2,6", "2,12", "q = com.microsoft.QLinearConcat <axis = 1> (ys, yz, qx, xs, xz, k, ws, xz)",
        k=np.arange(12, dtype=np.uint8).reshape(2, 6),
    ),
    "QLinearWhere": source(
        "2,6", "2,6", "q = com.microsoft.QLinearWhere (c, qx, xs, xz, k, ws, xz, ys, yz)",
        c=np.array([True, False] * 3), k=np.arange(6, dtype=np.uint8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_integers_are_those_of_the_operator(case: str) -> None:
    made = preprocess(CASES[case], "pytorch").model
    onnx.checker.check_model(made, full_check=True)
    validate(made)
    assert not [op for op in ops(made) if op.startswith("Q") and op != "QuantizeLinear"]
    feeds = random_feeds(CASES[case])
    (expected,), (got,) = reference(CASES[case], feeds), reference(made, feeds)
    steps = np.abs(got - expected) / GRIDS["ys"]
    assert expected.std() > 0.02
    assert steps.max() < 1.01, "more than one rounding"
    assert (steps > 0.5).mean() <= 0.05
    np.testing.assert_array_equal(reference(reference_model(CASES[case]), feeds)[0], got)


def test_a_product_that_leaves_as_float() -> None:
    case = onnx.parser.parse_model(
        f"{HEAD}net (float[2,6] x) => (float[2,4] y)\n{{\n qx = QuantizeLinear (x, xs, xz)\n"
        "y = com.microsoft.QGemm (qx, xs, xz, w, ws, wz, b)\n}"
    )
    constants = {**GRIDS, "w": weights(6, 4), "b": BIAS}
    case.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
    made = preprocess(case, "pytorch").model
    feeds = random_feeds(case)
    np.testing.assert_allclose(reference(made, feeds)[0], reference(case, feeds)[0], rtol=1e-5, atol=1e-6)
    q, scale, _ = weights_of(made, "Gemm")
    np.testing.assert_array_equal(q, constants["w"])
    assert scale == GRIDS["ws"]


def test_integer_pooling_between_them_moves_elements() -> None:
    made = preprocess(
        source(
            "1,3,6,6", "1,4,3,3",
            "c = QLinearConv <pads = [1,1,1,1]> (qx, xs, xz, w, ws, wz, ys, yz)\n"
            "q = MaxPool <kernel_shape = [2,2], strides = [2,2]> (c)",
            w=weights(4, 3, 3, 3),
        ),
        "pytorch",
    ).model  # fmt: skip
    validate(made)
    assert ops(made)["QuantizeLinear"] == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("q = com.microsoft.QLinearGlobalAveragePool <channels_last = 1> (qx, xs, xz, ys, yz)", "internal layout"),
        ("q = com.microsoft.QLinearSoftmax <axis = 1, opset = 12> (qx, xs, xz, ys, yz)", "before opset 13"),
    ],
)
def test_forms_without_a_translation_are_refused(text: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        preprocess(source("1,3,6,6", "1,3,6,6", text), "pytorch")


FUSED = {
    "FusedConv": (
        "1,3,6,6", 'd = com.microsoft.FusedConv <pads = [1,1,1,1], activation = "Relu"> (dx, w, b)',
        {"w": normal(4, 3, 3, 3), "b": normal(4)}, "1,4,6,6",
    ),
    "FusedConv with a summand and a range": (
        "1,3,6,6",
        'd = com.microsoft.FusedConv <pads=[1,1,1,1], activation="Clip", activation_params=[0.0,2.5]> (dx, w, b, dx)',
        {"w": normal(3, 3, 3, 3), "b": normal(3)}, "1,3,6,6",
    ),
    "FusedGemm": (
        "2,6", 'd = com.microsoft.FusedGemm <activation = "LeakyRelu", activation_alpha = 0.3> (dx, w, b)',
        {"w": normal(6, 4), "b": normal(4)}, "2,4",
    ),
    "FusedMatMul": (
        "3,2,6", "d = com.microsoft.FusedMatMul <transB = 1, alpha = 0.125> (dx, dx)", {}, "3,2,2",
    ),
    "Gelu": ("2,6", "d = com.microsoft.Gelu (dx)", {}, "2,6"),
    "BiasGelu": ("2,6", "d = com.microsoft.BiasGelu (dx, b)", {"b": normal(6)}, "2,6"),
    "FastGelu": ("2,6", "d = com.microsoft.FastGelu (dx)", {}, "2,6"),
    "QuickGelu": ("2,6", "d = com.microsoft.QuickGelu <alpha = 1.5> (dx)", {}, "2,6"),
    "SkipLayerNormalization": (
        "2,6", "d = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (dx, k, g, b)",
        {"k": normal(2, 6), "g": normal(6), "b": normal(6)}, "2,6",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FUSED)
def test_fused_operators_are_the_ones_they_stand_for(case: str) -> None:
    shape, text, constants, result = FUSED[case]
    network = source(
        shape, result, f"dx = DequantizeLinear (qx, xs, xz)\n{text}\nq = QuantizeLinear (d, ys, yz)", **constants
    )
    made = preprocess(network, "pytorch").model
    onnx.checker.check_model(made, full_check=True)
    validate(made)
    feeds = random_feeds(network)
    steps = np.abs(reference(made, feeds)[0] - reference(network, feeds)[0]) / GRIDS["ys"]
    assert (steps > 0.5).sum() <= 1, "a rounding at most: float32 sums run in another order"
    assert steps.max() < 1.01


@pytest.mark.parametrize("opset", [11, 12])
def test_files_of_older_opsets(opset: int) -> None:
    """The opset is converted while the operators are still onnxruntime's: its converter knows no others."""
    network = onnx.parser.parse_model(
        f"""<ir_version: 7, opset_import: ["" : {opset}, "com.microsoft" : 1]>
net (float[1,3,6,6] x) => (float[1,4,6] y)
{{
  qx = QuantizeLinear (x, xs, xz)
  q = QLinearConv <pads = [1,1,1,1]> (qx, xs, xz, w, ws, wz, ys, yz)
  k = com.microsoft.QLinearLeakyRelu <alpha = 0.5> (q, ys, yz, ys, yz)
  d = DequantizeLinear (k, ys, yz)
  f = com.microsoft.FusedConv <activation = "Relu"> (d, v)
  t = ReduceSum <axes = [3], keepdims = 1> (f)
  y = Squeeze <axes = [3]> (t)
}}"""
    )
    constants = {**GRIDS, "w": weights(4, 3, 3, 3), "v": normal(4, 4, 1, 1)}
    network.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
    made = preprocess(network, "pytorch").model
    validate(made)
    feeds = random_feeds(network)
    expected, got = reference(network, feeds)[0], reference(made, feeds)[0]
    assert (np.abs(got - expected) > 1e-4 * np.abs(expected).max()).mean() <= 0.1, "but for single roundings"
    np.testing.assert_array_equal(reference(reference_model(network), feeds)[0], got)
