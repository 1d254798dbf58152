from __future__ import annotations

import numpy as np
import pytest

from tests.preprocess.building import fold, model, node, normal, ops

GRID = {"s": np.float32(0.02), "z": np.uint8(128)}


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
    "folded": np.array([1, -1, 8, 1], np.int64), "axes": np.array([0, 2, 3], np.int64), "ones": np.ones(6, np.float32),
    "zeros": np.zeros(6, np.float32), "back": np.array([2, 3, 8], np.int64), "g": normal(8),
    "b": normal(8, seed=2), **GRID,
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
    result = fold(model(text, count=np.array([8], np.float32), **CONSTANTS), "tensorflow", rtol=1e-6)
    assert ops(result.model)["LayerNormalization"] == 1


SIGNATURE = "net (float[2,9,40] x) => (float[2,9,40] y{0})"
LAST = "n = Div (d, r)\n  k = Mul (n, g)\n  y = Add (k, b)"
ROWS = {
    "two": np.float32(2), "eps": np.float32(1e-5), "g": np.linspace(0.5, 2, 40, dtype=np.float32),
    "b": np.linspace(-1, 1, 40, dtype=np.float32), **GRID,
}  # fmt: skip


def steps(
    mean: str = "ReduceMean <axes = [-1]>", square: str = "Pow (d, two)", last: str = LAST, others: str = ""
) -> str:
    return f"""{SIGNATURE.format(others)}
{{
  q = QuantizeLinear (x, s, z)
  a = DequantizeLinear (q, s, z)
  m = {mean} (a)
  d = Sub (a, m)
  p = {square}
  v = {mean} (p)
  e = Add (v, eps)
  r = Sqrt (e)
  {last}
}}"""


@pytest.mark.parametrize("qat_type", ["pytorch", "tensorflow"])
@pytest.mark.parametrize("square", ["Pow (d, two)", "Mul (d, d)"])
def test_seven_steps_are_one_operator(square: str, qat_type: str) -> None:
    result = fold(model(steps(square=square), **ROWS), qat_type, rtol=1e-6)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "LayerNormalization": 1}


def test_a_quantizer_inside_is_kept() -> None:
    rounded = "c = QuantizeLinear (r, s, z)\n  f = DequantizeLinear (c, s, z)\n  y = Div (d, f)"
    assert ops(fold(model(steps(last=rounded), **ROWS), rtol=1e-6).model)["LayerNormalization"] == 0


@pytest.mark.parametrize(("reader", "others"), [("", ", float[2,9,1] r"), ("\n  w = Neg (d)", ", float[2,9,40] w")])
def test_steps_that_others_read_stay(reader: str, others: str) -> None:
    source = model(steps(last=LAST + reader, others=others), **ROWS)
    assert ops(fold(source, rtol=1e-6).model)["LayerNormalization"] == 0


@pytest.mark.parametrize("mean", ["ReduceMean <axes = [1]>", "ReduceMean <axes = [1, 2]>"])
def test_another_axis_stays(mean: str) -> None:
    assert ops(fold(model(steps(mean=mean), **ROWS), rtol=1e-6).model)["LayerNormalization"] == 0
