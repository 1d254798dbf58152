"""QONNX's Quant becomes Q/DQ with the same reals."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray

from drpai_qat.core.errors import QuantizationError
from preprocess import preprocess, reference_model, validate
from tests.preprocess.building import normal, ops, weights_of
from tests.reference import reference

TEXT = """<ir_version: 8, opset_import: ["" : 17, "qonnx.custom_op.general" : 1]>
net (float[3,6] x) => (float[3,5] y)
{
  a = qonnx.custom_op.general.Quant <%s> (x, s, z, bits)
  f = qonnx.custom_op.general.Quant <%s> (w, ws, zero, wbits)
  c = qonnx.custom_op.general.Quant (b, bs, zero, bbits)
  y = Gemm (a, f, c)
}"""
W, B = normal(6, 5), normal(5)


def source(activation: str = "signed = 0", weights: str = "narrow = 1", **changes: object) -> onnx.ModelProto:
    constants: dict[str, object] = {
        "s": 0.02, "z": 100, "bits": 8, "w": W, "ws": np.linspace(0.01, 0.03, 5)[None], "zero": 0, "wbits": 8, "b": B,
        "bs": 0.0002, "bbits": 24, **changes,
    }  # fmt: skip
    parsed = onnx.parser.parse_model(TEXT % (activation, weights))
    parsed.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()
    )
    return parsed


def quant(x: NDArray, scale: NDArray | float, zero: float, low: int, high: int) -> NDArray[np.float64]:
    """Quant, as QONNX defines it."""
    scale = np.asarray(scale, np.float32).astype(np.float64)
    return np.asarray(scale * (np.clip(np.rint(x / scale + zero), low, high) - zero))


@pytest.mark.parametrize(
    ("activation", "weights", "changes", "ends", "weight_ends"),
    [
        ("signed = 0", "narrow = 1", {}, (0, 255), (-127, 127)),
        ("signed = 1, narrow = 0", "narrow = 0", {"z": 3, "wbits": 4}, (-128, 127), (-8, 7)),
        ("signed = 0", "narrow = 1", {"bits": 5, "z": 10, "s": 0.1}, (0, 31), (-127, 127)),
        ("signed = 0, narrow = 1", "narrow = 1", {"bits": 4, "z": 7, "s": 0.2, "wbits": 2}, (0, 14), (-1, 1)),
        ("signed = 1", "narrow = 1", {"bits": 12, "z": 0, "s": 0.001}, (-2048, 2047), (-127, 127)),
    ],
)
def test_quant_is_q_and_dq(
    activation: str, weights: str, changes: dict[str, float], ends: tuple[int, int], weight_ends: tuple[int, int]
) -> None:
    network = source(activation, weights, **changes)
    made = preprocess(network, "pytorch").model
    onnx.checker.check_model(made, full_check=True)
    validate(made)
    assert ops(made)["QuantizeLinear"] == 1
    x = normal(3, 6, seed=9)
    numbers = {"s": 0.02, "z": 100} | changes
    a = quant(x, numbers["s"], numbers["z"], *ends)
    w = quant(W, np.linspace(0.01, 0.03, 5)[None], 0, *weight_ends)
    expected = a @ w + quant(B, 0.0002, 0, -(2**23), 2**23 - 1)
    for runnable in (made, reference_model(network)):
        np.testing.assert_allclose(reference(runnable, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)
    assert weights_of(made, "Gemm")[0].dtype == np.int8


@pytest.mark.parametrize(
    ("mode", "function"), [("FLOOR", np.floor), ("CEIL", np.ceil), ("DOWN", np.trunc), ("HALF_UP", np.rint)]
)
def test_weights_of_any_rounding(mode: str, function: np.ufunc) -> None:
    made = preprocess(source(weights=f'narrow = 1, rounding_mode = "{mode}"'), "pytorch").model
    scale = np.linspace(0.01, 0.03, 5).astype(np.float32)[None]
    np.testing.assert_array_equal(weights_of(made, "Gemm")[0], np.clip(function(W / scale), -127, 127))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"activation": 'rounding_mode = "FLOOR"'}, "rounded by FLOOR; train with rounding mode ROUND"),
        ({"bits": 7.5}, "7.5 bits have no integer type"),
        ({"z": 0.5}, "no whole number"),
        ({"ws": np.ones((6, 5)) * 0.01}, "scales along several axes"),
        ({"z": 300}, "zero point 300 is outside uint8"),
    ],
)
def test_others_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(QuantizationError, match=rf"node \w+ \(Quant\): .*{says}"):
        preprocess(source(**arguments), "pytorch")  # type: ignore[arg-type]
