from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from drpai_qat.core.errors import QuantizationError
from preprocess import preprocess, reference_model, validate
from tests.preprocess.building import normal, ops, weights_of
from tests.reference import reference

TEXT = """<ir_version: 8, opset_import: ["" : 13, "org.openvinotoolkit" : 1]>
net (float[2,3,6,6] x) => (float[2,4,6,6] y)
{
  a = org.openvinotoolkit.FakeQuantize <levels=256> (x, low, high, low, high)
  w = org.openvinotoolkit.FakeQuantize <levels=255> (w0, wl, wh, wl, wh)
  y = Conv <pads=[1,1,1,1]> (a, w)
}"""


def source(text: str = TEXT, **changes: object) -> onnx.ModelProto:
    weights = normal(4, 3, 3, 3)
    top = np.abs(weights).max((1, 2, 3)).reshape(4, 1, 1, 1)
    step = np.float32(6 / 255)
    constants = {"low": -50 * step, "high": 205 * step, "w0": weights, "wl": -top, "wh": top} | changes
    parsed = onnx.parser.parse_model(text)
    parsed.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()
    )
    return parsed


def fake_quantize(x: NDArray[np.float32], low: NDArray, high: NDArray, levels: int) -> NDArray[np.float32]:
    """FakeQuantize-1 of OpenVINO's operation set."""
    low, high = low.astype(np.float64), high.astype(np.float64)
    steps = np.rint((np.clip(x, low, high) - low) / (high - low) * (levels - 1))
    return (steps / (levels - 1) * (high - low) + low).astype(np.float32)


def test_computes_what_openvino_defines() -> None:
    made = source()
    values = {one.name: onnx.numpy_helper.to_array(one) for one in made.graph.initializer}
    x = normal(2, 3, 6, 6, spread=3)
    a = fake_quantize(x, values["low"], values["high"], 256)
    w = fake_quantize(values["w0"], values["wl"], values["wh"], 255)
    plain = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> net (float[2,3,6,6] a, float[4,3,3,3] w) => (float[2,4,6,6] y)'
        "{ y = Conv <pads=[1,1,1,1]> (a, w) }"
    )
    expected = reference(plain, {"a": a, "w": w})[0]
    result = preprocess(made)
    validate(result.model)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1}
    q, _, zero_point = weights_of(result.model, "Conv")
    assert (q.min(), q.max()) == (-127, 127)
    assert not zero_point.any()
    for got in (reference(result.model, {"x": x})[0], reference(reference_model(made), {"x": x})[0]):
        np.testing.assert_allclose(got, expected, atol=1e-5 * float(np.abs(expected).max()))


def test_range_that_misses_zero_is_moved_and_noted() -> None:
    result = preprocess(source(low=np.float32(-0.01), high=np.float32(5)))
    assert any("range moved by" in note.reason for note in result.log)


def test_output_range_of_its_own_is_refused() -> None:
    text = TEXT.replace("(x, low, high, low, high)", "(x, low, high, low, other)")
    with pytest.raises(QuantizationError, match="output range of its own"):
        preprocess(source(text, other=np.float32(9)))


def test_empty_range_is_refused() -> None:
    with pytest.raises(QuantizationError, match="range is empty"):
        preprocess(source(low=np.float32(1), high=np.float32(1)))
