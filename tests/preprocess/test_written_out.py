from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.core.errors import ModelError, QuantizationError
from preprocess import preprocess
from tests.preprocess.building import fold, inputs, model, node, normal, ops, weights_of

HEAD = "net (float[4,16] x) => (float[4,16] y)\n{\n%s\n}"
NUMBERS = {
    "s": np.float32(0.0625), "r": np.float32(16.0), "z": np.float32(30), "low": np.float32(0), "high": np.float32(255),
    "minus": np.float32(-8), "plus": np.float32(7),
}  # fmt: skip
CANONICAL = {"QuantizeLinear": 1, "DequantizeLinear": 1}

LSQ = "v = Div (x, s)\n c = Clip (v, minus, plus)\n n = Round (c)\n y = Mul (n, s)"
STRAIGHT_THROUGH = (
    "v = Div (x, s)\n c = Clip (v, minus, plus)\n n = Round (c)\n d = Sub (n, c)\n e = Add (d, c)\n y = Mul (e, s)"
)
STRAIGHT_THROUGH_REALS = (
    "v = Div (x, s)\n c = Clip (v, minus, plus)\n n = Round (c)\n f = Mul (n, s)\n d = Sub (f, x)\n y = Add (x, d)"
)
AFFINE = "v = Mul (r, x)\n a = Add (v, z)\n n = Round (a)\n c = Clip (n, low, high)\n b = Sub (c, z)\n y = Mul (s, b)"
MIN_MAX = "v = Div (x, s)\n n = Round (v)\n a = Max (n, minus)\n c = Min (plus, a)\n y = Div (c, r)"


def constants(text: str) -> dict[str, object]:
    words = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    return {name: value for name, value in NUMBERS.items() if name in words}


@pytest.mark.parametrize(
    ("text", "dtype", "zero_point", "clips"),
    [
        (LSQ, np.int8, 0, 1),
        (STRAIGHT_THROUGH, np.int8, 0, 1),
        (AFFINE, np.uint8, 30, 0),
        (MIN_MAX, np.int8, 0, 1),
    ],
)
def test_written_out_forms(text: str, dtype: type, zero_point: int, clips: int) -> None:
    result = fold(model(HEAD % text, **constants(text)), spread=2)
    assert ops(result.model) == CANONICAL | ({"Clip": clips} if clips else {})
    _, scale, point = inputs(result.model, node(result.model, "QuantizeLinear"))
    assert (scale, point, point.dtype) == (np.float32(0.0625), zero_point, dtype)


def test_straight_through_around_the_reals() -> None:
    result = fold(model(HEAD % STRAIGHT_THROUGH_REALS, **constants(STRAIGHT_THROUGH_REALS)), spread=2, rtol=1e-6)
    assert ops(result.model) == CANONICAL | {"Clip": 1}


def test_sixteen_bits() -> None:
    source = model(
        '<ir_version: 10, opset_import: ["" : 21]>' + HEAD % LSQ,
        s=np.float32(2**-12), minus=np.float32(-32768), plus=np.float32(32767),
    )  # fmt: skip
    result = fold(source)
    assert inputs(result.model, node(result.model, "QuantizeLinear"))[2].dtype == np.int16


def test_weights_written_out_are_recovered() -> None:
    text = """
net (float[2,6] x) => (float[2,4] y) <float sx = {0.03}, uint8 zx = {120}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  v = Div (w0, sw)
  c = Clip (v, low, high)
  n = Round (c)
  d = Sub (n, c)
  e = Add (d, c)
  w = Mul (e, sw)
  y = MatMul (dx, w)
}"""
    weights, scale = normal(6, 4), np.full((1, 4), 0.03, np.float32)
    result = fold(model(text, w0=weights, sw=scale, low=np.float32(-127), high=np.float32(127)), rtol=1e-6)
    q, found, _ = weights_of(result.model, "MatMul")
    np.testing.assert_allclose(found, 0.03, rtol=1e-6)
    np.testing.assert_array_equal(q, np.rint(weights / scale))


@pytest.mark.parametrize(
    "text",
    [
        "v = Div (x, s)\n n = Round (v)\n y = Mul (n, s)",  # no range
        "v = Div (x, s)\n c = Clip (v, minus, plus)\n n = Round (c)\n y = Mul (n, r)",  # another scale
        "v = Div (x, s)\n a = Add (v, z)\n c = Clip (a, low, high)\n n = Round (c)\n y = Mul (n, s)",  # zero is lost
        "y = Round (x)",
    ],
)
def test_other_roundings_are_left_alone(text: str) -> None:
    text = text.replace("y =", "t =") + "\n q = QuantizeLinear (t, s)\n y = DequantizeLinear (q, s)"
    result = fold(model(HEAD % text, **constants(text)))
    assert ops(result.model)["Round"] == 1
    assert any(note.pass_name == "recognize_arithmetic" and note.action == "skipped" for note in result.log)


def test_a_scale_of_zero_is_refused() -> None:
    with pytest.raises(QuantizationError, match="node Round_n: scale = 0 is zero"):
        preprocess(model(HEAD % LSQ, **(constants(LSQ) | {"s": np.float32(0)})))


def test_rounding_alone_is_no_fake_quant() -> None:
    with pytest.raises(ModelError, match="no fake-quant"):
        preprocess(model(HEAD % "y = Round (x)"))
