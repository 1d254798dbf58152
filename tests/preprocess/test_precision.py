from __future__ import annotations

import numpy as np
import onnx
import pytest

from preprocess import preprocess, reference_model, validate
from tests.preprocess.building import model, normal, ops, weights_of
from tests.reference import reference

HALF = """<ir_version: 8, opset_import: ["" : 17]>
net ({0}[2,3,6] x) => ({0}[2,3,4] y)
{{
  xf = Cast <to=1> (x)
  qx = QuantizeLinear (xf, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  xh = Cast <to={1}> (dx)
  wf = Cast <to=1> (w0)
  q = QuantizeLinear <axis=1> (wf, s, z)
  d = DequantizeLinear <axis=1> (q, s, z)
  wh = Cast <to={1}> (d)
  m = MatMul (xh, wh)
  c = Add (m, b)
  y = Relu (c)
}}"""
BASE = {
    "sx": np.float32(0.03),
    "zx": np.uint8(120),
    "s": np.full(4, 0.02, np.float32),
    "z": np.zeros(4, np.int8),
}


@pytest.mark.parametrize(("name", "dtype", "elem", "tolerance"), [
    ("float16", np.float16, 10, 2e-3), ("double", np.float64, 11, 1e-6)
])  # fmt: skip
def test_other_precisions_become_float32(name: str, dtype: type, elem: int, tolerance: float) -> None:
    weights: np.ndarray = normal(6, 4, spread=0.5).astype(dtype)
    source = model(HALF.format(name, elem), w0=weights, b=normal(4).astype(dtype), **BASE)
    result = preprocess(source)
    validate(result.model)
    onnx.checker.check_model(result.model, full_check=True)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "MatMul": 1, "Add": 1, "Relu": 1}
    np.testing.assert_array_equal(
        weights_of(result.model, "MatMul")[0], np.rint(weights.astype(np.float32) / np.float32(0.02))
    )
    assert {one.node for one in result.log if one.pass_name == "use_float32"} == {"x", "y"}
    x: np.ndarray = normal(2, 3, 6).astype(dtype)
    expected = reference(source, {"x": x})[0]
    got = reference(result.model, {"x": x.astype(np.float32)})[0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=tolerance * float(np.abs(expected).max()))


def test_reference_has_a_float32_interface() -> None:
    source = model(
        HALF.format("float16", 10), w0=normal(6, 4, spread=0.5).astype(np.float16), b=np.zeros(4, np.float16), **BASE
    )
    x = normal(2, 3, 6).astype(np.float16)
    got = reference(reference_model(source), {"x": x.astype(np.float32)})[0]
    np.testing.assert_allclose(got, reference(source, {"x": x})[0].astype(np.float32), rtol=1e-3)
