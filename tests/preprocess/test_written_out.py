from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.core.errors import ModelError, QuantizationError
from preprocess import preprocess
from tests.preprocess.building import fold, inputs, model, node, normal, ops, weights_of

HEAD = "net (float[4,16] x) => (float[4,16] y)\n{\n%s\n}"
NUMBERS = {
    "s": np.float32(0.0625), "r": np.float32(16.0), "z": np.float32(30), "low": np.float32(0), "high": np.float32(255),
    "minus": np.float32(-8), "plus": np.float32(7), "k": np.float32(7.7),
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


FORMS = {
    "limits of the reals": "c = Clip (x, left, right)\n v = Div (c, s)\n n = Round (v)\n y = Mul (n, s)",
    "Relu and an upper limit": "p = Relu (x)\n c = Min (p, right)\n v = Div (c, s)\n n = Round (v)\n y = Mul (n, s)",
    "integers between": "v = Div (x, s)\n n = Round (v)\n c = Clip (n, minus, plus)\n i = Cast <to = 3> (c)\n"
    "f = Cast <to = 1> (i)\n y = Mul (f, s)",
    "unsigned integers, with a zero point": "v = Div (x, s)\n n = Round (v)\n a = Add (n, z)\n"
    "c = Clip (a, low, high)\n i = Cast <to = 2> (c)\n f = Cast <to = 1> (i)\n b = Sub (f, z)\n y = Mul (b, s)",
    "DoReFa": "c = Clip (x, low, one)\n v = Mul (c, n255)\n n = Round (v)\n y = Div (n, n255)",
    "scaled twice": "a = Div (x, two)\n c = Clip (a, low, one)\n v = Mul (c, n255)\n n = Round (v)\n"
    "b = Div (n, n255)\n y = Mul (b, two)",
    "PACT by choices": "l = Less (x, low)\n g = Greater (x, right)\n w = Where (g, right, x)\n c = Where (l, low, w)\n"
    "v = Div (c, s)\n n = Round (v)\n y = Mul (n, s)",
    "PACT by choices, the other way": "l = GreaterOrEqual (x, low)\n w = Where (l, x, low)\n g = Less (right, w)\n"
    "c = Where (g, right, w)\n v = Div (c, s)\n n = Round (v)\n y = Mul (n, s)",
    "PACT by sizes": "a = Abs (x)\n b = Sub (x, right)\n c = Abs (b)\n d = Sub (a, c)\n e = Add (d, right)\n"
    "p = Mul (e, half)\n v = Div (p, s)\n n = Round (v)\n y = Mul (n, s)",
    "half added, rounded down": "v = Div (x, s)\n c = Clip (v, minus, plus)\n a = Add (c, half)\n n = Floor (a)\n"
    "y = Mul (n, s)",
    "half taken away, rounded up": "v = Div (x, s)\n c = Clip (v, minus, plus)\n a = Sub (c, half)\n n = Ceil (a)\n"
    "y = Mul (n, s)",
    "sign and size": "v = Div (x, s)\n c = Clip (v, minus, plus)\n g = Sign (c)\n a = Abs (c)\n"
    "h = Add (a, half)\n f = Floor (h)\n n = Mul (g, f)\n y = Mul (n, s)",
    "from the lower end of the range": "c = Clip (x, left, right)\n a = Sub (c, left)\n v = Div (a, s)\n"
    "n = Round (v)\n b = Mul (n, s)\n y = Add (b, left)",
    "from an end that is on no step": "a = Sub (x, odd)\n v = Div (a, s)\n c = Clip (v, low, high)\n n = Round (c)\n"
    "b = Mul (n, s)\n y = Add (b, odd)",
    "a scale for each channel": "v = Div (x, channels)\n c = Clip (v, minus, plus)\n n = Round (c)\n"
    "y = Mul (n, channels)",
    "another scale": "v = Div (x, s)\n c = Clip (v, minus, plus)\n n = Round (c)\n y = Mul (n, r)",
    "zero is lost": "v = Div (x, s)\n a = Add (v, z)\n c = Clip (a, low, high)\n n = Round (c)\n y = Mul (n, s)",
}
MORE = {
    "left": np.float32(-2), "right": np.float32(1.5), "one": np.float32(1), "two": np.float32(2),
    "half": np.float32(0.5), "n255": np.float32(255), "odd": np.float32(-0.77),
    "channels": (np.abs(normal(16)) + 0.1).astype(np.float32),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_usual_forms_of_fake_quant(form: str) -> None:
    words = set(FORMS[form].replace(",", " ").replace("(", " ").replace(")", " ").split())
    numbers = {name: value for name, value in (NUMBERS | MORE).items() if name in words}
    made = fold(model(HEAD % FORMS[form], **numbers), spread=2, rtol=1e-6).model
    assert (ops(made)["QuantizeLinear"], ops(made)["DequantizeLinear"]) == (1, 1)
    assert not {"Round", "Floor", "Ceil", "Where", "Abs", "Cast", "Sign"} & set(ops(made))


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
        "v = Mul (x, k)\n c = Clip (v, minus, plus)\n n = Floor (c)\n y = Mul (n, s)",  # it rounds down
        "y = Round (x)",
    ],
)
def test_other_roundings_are_left_alone(text: str) -> None:
    text = text.replace("y =", "t =") + "\n q = QuantizeLinear (t, s)\n y = DequantizeLinear (q, s)"
    result = fold(model(HEAD % text, **constants(text)))
    assert ops(result.model)["Round"] + ops(result.model)["Floor"] == 1
    assert any(note.pass_name == "recognize_arithmetic" and note.action == "skipped" for note in result.log)


def test_a_scale_of_zero_is_refused() -> None:
    with pytest.raises(QuantizationError, match="node Round_n: scale = 0 is zero"):
        preprocess(model(HEAD % LSQ, **(constants(LSQ) | {"s": np.float32(0)})))


def test_rounding_alone_is_no_fake_quant() -> None:
    with pytest.raises(ModelError, match="no fake-quant"):
        preprocess(model(HEAD % "y = Round (x)"))
