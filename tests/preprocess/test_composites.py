from __future__ import annotations

import numpy as np
import pytest

from tests.preprocess.building import fold, model, node, normal, ops

GRID = {"s": np.float32(0.02), "z": np.uint8(128)}


@pytest.mark.parametrize("total", ["y = Add (p, m)", "y = Add (m, p)"])
@pytest.mark.parametrize("product", ["m = Mul (b, a)", "m = Mul (a, b)"])
def test_prelu(total: str, product: str) -> None:
    source = model(
        f"""
net (float[2,4,6] x) => (float[2,4,6] y)
{{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  p = Relu (r)
  n = Neg (r)
  b = Relu (n)
  {product}
  {total}
}}""",
        a=normal(4, 1), **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow").model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "PRelu": 1}


def test_relus_of_different_tensors_are_no_prelu() -> None:
    source = model(
        """
net (float[2,4] x, float[2,4] x2) => (float[2,4] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  p = Relu (r)
  n = Neg (x2)
  b = Relu (n)
  m = Mul (b, a)
  y = Add (p, m)
}""",
        a=normal(4), **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow").model)["PRelu"] == 0


KERAS = """
net (float[2,3,8] x) => (float[2,3,8] y)
{{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  f = Reshape (r, folded)
  mean = ReduceMean <axes = [0,2,3], keepdims = 1> (f)
  d = Sub (f, mean)
  v = ReduceSumSquare <axes = [0,2,3], keepdims = 0> (d)
  m = Squeeze (mean, axes)
  var = Div (v, count)
  n = BatchNormalization <epsilon = 0.001> (f, ones, zeros, m, var)
  {tail}
}}"""
CONSTANTS = {
    "folded": np.int64([1, -1, 8, 1]), "axes": np.int64([0, 2, 3]), "ones": np.ones(6, np.float32),
    "zeros": np.zeros(6, np.float32), "back": np.int64([2, 3, 8]), "g": normal(8), "b": normal(8, seed=2), **GRID,
}  # fmt: skip


def test_layer_normalization_with_scale_and_bias() -> None:
    text = KERAS.format(tail="k = Reshape (n, back)  a = Mul (k, g)  y = Add (a, b)")
    result = fold(model(text, count=np.float32(8), **CONSTANTS), "tensorflow", rtol=1e-6)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "LayerNormalization": 1}
    assert result.model.opset_import[0].version == 17
    assert [one.f for one in node(result.model, "LayerNormalization").attribute if one.name == "epsilon"] == [
        pytest.approx(0.001)
    ]


def test_layer_normalization_without_scale() -> None:
    text = KERAS.format(tail="y = Reshape (n, back)")
    result = fold(model(text, count=np.float32([8]), **CONSTANTS), "tensorflow", rtol=1e-6)
    assert ops(result.model)["LayerNormalization"] == 1
