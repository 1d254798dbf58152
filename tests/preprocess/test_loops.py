"""Loops of a known number of steps are written out; others are refused in plain words."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from drpai_qat.core.errors import ModelError
from preprocess import preprocess, reference_model
from tests.preprocess.building import fold, model, ops, random_feeds
from tests.reference import reference

GRID = {"s": np.float32(0.02), "z": np.uint8(100), "true": np.array(True)}
WEIGHTS = {"w": (np.arange(64).reshape(8, 8) % 13 - 6).astype(np.int8), "ws": np.float32(0.1), "wz": np.int8(0)}
NETWORK = """net (float[1,8] x) => (float[{shape}] y)
{{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  f = DequantizeLinear (w, ws, wz)
  {text}
}}"""
STEP = """m = MatMul (state, f)
      t = Tanh (m)
      qt = QuantizeLinear (t, s, z)
      next = DequantizeLinear (qt, s, z)"""
BODY = """<body = b (int64 i, bool c, float[1,8] state) => (bool going, float[1,8] next) {
      %s
      going = %s
    }>"""


def network(text: str, shape: str = "1,8") -> str:
    return NETWORK.format(text=text, shape=shape)


@pytest.mark.parametrize(
    ("condition", "going"), [("true", "Identity (c)"), ("true", "Identity (true)"), ("", "Identity (true)")]
)
def test_a_constant_number_of_steps(condition: str, going: str) -> None:
    text = f"y = Loop {BODY % (STEP, going)} (three, {condition}, d)"
    made = fold(model(network(text), **GRID, **WEIGHTS, three=np.array(3, np.int64)), rtol=1e-6).model
    assert ops(made)["MatMul"] == 3
    assert "Loop" not in ops(made)


def test_a_condition_on_a_counter() -> None:
    """As tf2onnx writes it: the number of steps is in the body."""
    text = """y, n = Loop <body = b (int64 i, bool c, float[1,8] state, int64 k)
        => (bool going, float[1,8] next, int64 more) {
      STEP
      more = Add (k, one)
      going = Less (more, four)
    }> (endless, true, d, zero)""".replace("STEP", STEP)
    constants = {
        name: np.array(value, np.int64) for name, value in (("endless", 2**62), ("zero", 0), ("one", 1), ("four", 4))
    }
    made = fold(model(network(text), **GRID, **WEIGHTS, **constants), rtol=1e-6).model
    assert ops(made)["MatMul"] == 4


def test_a_dialect_in_the_body() -> None:
    """QONNX's Quant, with parameters in Constant nodes of the body."""
    quant = """bits = Constant <value = float {8}> ()
      m = MatMul (state, f)
      next = qonnx.custom_op.general.Quant <signed = 0> (m, s, zero, bits)"""
    head = '<ir_version: 8, opset_import: ["" : 13, "qonnx.custom_op.general" : 1]>\n'
    text = head + network(f"y = Loop {BODY % (quant, 'Identity (c)')} (three, true, d)")
    source = onnx.parser.parse_model(text)
    constants = {**GRID, **WEIGHTS, "three": np.array(3, np.int64), "zero": np.float32(0)}
    source.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    result = preprocess(source)
    assert ops(result.model)["QuantizeLinear"] == 4
    feeds = random_feeds(source)
    for found, expected in zip(reference(result.model, feeds), reference(reference_model(source), feeds), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_each_step_hands_out_is_joined() -> None:
    text = """last, y = Loop <body = b (int64 i, bool c, float[1,8] state)
        => (bool going, float[1,8] next, float[1,8] row) {
      STEP
      row = Relu (next)
      going = Identity (c)
    }> (three, true, d)""".replace("STEP", STEP)
    source = model(network(text, "3,1,8"), **GRID, **WEIGHTS, three=np.array(3, np.int64))
    assert ops(fold(source, rtol=1e-6).model)["MatMul"] == 3


def test_a_number_of_steps_that_a_shape_tells() -> None:
    text = f"h = Shape (d)\n n = Gather (h, one)\n y = Loop {BODY % (STEP, 'Identity (c)')} (n, true, d)"
    made = fold(model(network(text), **GRID, **WEIGHTS, one=np.array(1, np.int64)), rtol=1e-6).model
    assert ops(made)["MatMul"] == 8


def test_a_number_of_steps_that_the_data_tells() -> None:
    text = f"""a = ReduceMax <keepdims = 0> (d)
  n = Cast <to = 7> (a)
  v = Loop {BODY % (STEP, "Identity (c)")} (n, true, d)
  y = Relu (v)"""
    with pytest.raises(ModelError, match="decided while it runs; export the model with a constant number of steps"):
        preprocess(model(network(text), **GRID, **WEIGHTS))


def test_a_branch_that_a_shape_decides() -> None:
    text = """h = Size (d)
  c = Greater (h, ten)
  y = If (c) <
    then_branch = t () => (float[1,8] a) { a = Relu (d) },
    else_branch = e () => (float[1,8] b) { b = Neg (d) }
  >"""
    made = fold(model(network(text), **GRID, **WEIGHTS, ten=np.array(10, np.int64))).model
    assert ops(made)["Neg"] == 1
    assert "If" not in ops(made)
