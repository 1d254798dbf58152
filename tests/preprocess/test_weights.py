from __future__ import annotations

import numpy as np
import onnx
import pytest

from drpai_qat.core.errors import QuantizationError
from preprocess import preprocess
from tests.preprocess.building import fold, inputs, model, node, normal, ops, scales_for, weights_of

CONV = """
net (float[1,3,6,6] x) => (float[1,4,6,6] y) <float sx = {0.03}, uint8 zx = {120}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  %s
  y = Conv <pads=[1,1,1,1]> (dx, w)
}
"""
W = normal(4, 3, 3, 3)
PER_CHANNEL = "q = QuantizeLinear <axis=0> (w0, s, z)\n  w = DequantizeLinear <axis=0> (q, s, z)"


def test_per_channel_chain_becomes_int8() -> None:
    scale = scales_for(W, 0)
    result = fold(model(CONV % PER_CHANNEL, w0=W, s=scale, z=np.zeros(4, np.int8)))
    q, s, z = weights_of(result.model, "Conv")
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1}
    assert q.dtype == z.dtype == np.int8
    np.testing.assert_array_equal(s, scale)
    np.testing.assert_array_equal(q, np.rint(W / scale.reshape(4, 1, 1, 1)))


def test_per_tensor_scale_of_shape_one_becomes_a_scalar() -> None:
    chain = "q = QuantizeLinear (w0, s, z)\n  w = DequantizeLinear (q, s, z)"
    result = fold(model(CONV % chain, w0=W, s=np.array([0.02], np.float32), z=np.zeros(1, np.int8)))
    _, scale, zero_point = weights_of(result.model, "Conv")
    assert scale.shape == zero_point.shape == ()


def test_four_bit_clip_stays_in_the_integers() -> None:
    chain = "q = QuantizeLinear <axis=0> (w0, s, z)\n c = Clip (q, low, high)\n w = DequantizeLinear <axis=0> (c, s, z)"
    source = model(
        CONV % chain,
        w0=W, s=scales_for(W, 0, 4), z=np.zeros(4, np.int8), low=np.array(-7, np.int8), high=np.array(7, np.int8),
    )  # fmt: skip
    q, _, _ = weights_of(fold(source).model, "Conv")
    assert (q.min(), q.max()) == (-4, 4)
    source = model(
        CONV % chain,
        w0=W, s=scales_for(W, 0, 20), z=np.zeros(4, np.int8), low=np.array(-7, np.int8), high=np.array(7, np.int8),
    )  # fmt: skip
    q, _, _ = weights_of(fold(source).model, "Conv")
    assert (q.min(), q.max()) == (-7, 7)


def test_scale_factor_computed_from_constants() -> None:
    chain = """
  v = Add (variance, eps)
  r = Sqrt (v)
  f = Div (gamma, r)
  shape = Constant <value = int64[4] {-1, 1, 1, 1}> ()
  f4 = Reshape (f, shape)
  i = Identity (w0)
  wf = Mul (i, f4)
  z8 = Cast <to=3> (z)
  q = QuantizeLinear <axis=0> (wf, s, z8)
  w = DequantizeLinear <axis=0> (q, s, z8)"""
    gamma, variance = normal(4, seed=2), np.abs(normal(4, seed=3)) + np.float32(0.1)
    source = model(
        CONV % chain,
        w0=W, gamma=gamma, variance=variance, eps=np.float32(1e-5), s=scales_for(W, 0), z=np.zeros(4, np.int32),
    )  # fmt: skip
    assert ops(fold(source).model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_integers_already_there_are_kept(dtype: type) -> None:
    q0: np.ndarray = np.random.default_rng(5).integers(0, 127, (4, 3, 3, 3)).astype(dtype)
    source = model(CONV % "w = DequantizeLinear (q0, s, z)", q0=q0, s=np.float32(0.01), z=np.array(60, dtype))
    q, _, z = weights_of(fold(source).model, "Conv")
    assert q.dtype == np.int8
    np.testing.assert_array_equal(q.astype(int) - z, q0.astype(int) - 60)
    assert z == 0


def test_wide_asymmetric_weights_keep_their_zero_point() -> None:
    q0 = np.random.default_rng(5).integers(0, 256, (4, 3, 3, 3)).astype(np.uint8)
    source = model(CONV % "w = DequantizeLinear (q0, s, z)", q0=q0, s=np.float32(0.01), z=np.array(20, np.uint8))
    q, _, z = weights_of(fold(source).model, "Conv")
    assert q.dtype == np.int8
    assert z == 20 - 128
    np.testing.assert_array_equal(q, q0.astype(int) - 128)


def test_weights_quantized_twice_keep_both_roundings() -> None:
    chain = """
  q1 = QuantizeLinear (w0, s1, z)
  d1 = DequantizeLinear (q1, s1, z)
  q2 = QuantizeLinear (d1, s2, z)
  w = DequantizeLinear (q2, s2, z)"""
    source = model(CONV % chain, w0=W, s1=np.float32(0.03), s2=np.float32(0.05), z=np.array(0, np.int8))
    q, scale, _ = weights_of(fold(source).model, "Conv")
    once = np.rint(W / np.float32(0.05))
    assert scale == np.float32(0.05)
    assert (q != once).any(), "the first rounding left no trace"


def test_two_layers_share_one_weight() -> None:
    source = model(
        """
net (float[1,4,6,6] x) => (float[1,4,6,6] y) <float sx = {0.03}, uint8 zx = {120}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  q = QuantizeLinear <axis=0> (w0, s, z)
  w = DequantizeLinear <axis=0> (q, s, z)
  a = Conv <pads=[1,1,1,1]> (dx, w)
  y = Conv <pads=[1,1,1,1]> (a, w)
}""",
        w0=normal(4, 4, 3, 3), s=np.full(4, 0.02, np.float32), z=np.zeros(4, np.int8),
    )  # fmt: skip
    result = fold(source)
    assert node(result.model, "Conv", 0).input[1] == node(result.model, "Conv", 1).input[1]
    assert ops(result.model)["DequantizeLinear"] == 2


def linear(chain: str, layer: str, **constants: object) -> onnx.ModelProto:
    text = """
net (float[2,5,6] x) => (float[2,5,4] y) <float sx = {0.03}, uint8 zx = {120}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  %s
  %s
}"""
    return model(text % (chain, layer), **constants)


def test_transposed_linear_weights() -> None:
    weights = normal(4, 6)
    chain = """
  q = QuantizeLinear <axis=0> (w0, s, z)
  d = DequantizeLinear <axis=0> (q, s, z)
  w = Transpose <perm=[1,0]> (d)"""
    source = linear(chain, "y = MatMul (dx, w)", w0=weights, s=scales_for(weights, 0), z=np.zeros(4, np.int8))
    result = fold(source)
    q, scale, _ = weights_of(result.model, "MatMul")
    assert "Transpose" not in ops(result.model)
    assert q.shape == (6, 4)
    np.testing.assert_array_equal(scale, scales_for(weights, 0))


def test_stacked_weights_are_split_with_their_scales() -> None:
    weights = normal(8, 6)
    chain = """
  q = QuantizeLinear <axis=0> (w0, s, z)
  d = DequantizeLinear <axis=0> (q, s, z)
  wa, wb = Split <axis=0> (d)
  ta = Transpose (wa)
  tb = Transpose (wb)"""
    layer = "a = MatMul (dx, ta)\n  b = MatMul (dx, tb)\n  y = Add (a, b)"
    scale = scales_for(weights, 0)
    result = fold(linear(chain, layer, w0=weights, s=scale, z=np.zeros(8, np.int8)))
    np.testing.assert_array_equal(weights_of(result.model, "MatMul", 0)[1], scale[:4])
    np.testing.assert_array_equal(weights_of(result.model, "MatMul", 1)[1], scale[4:])


def test_reshape_that_mixes_channels_leaves_float_weights() -> None:
    weights = normal(6, 4)
    chain = """
  q = QuantizeLinear <axis=0> (w0, s, z)
  d = DequantizeLinear <axis=0> (q, s, z)
  flat = Reshape (d, [-1])
  t = Reshape (flat, shape)
  w = Transpose (t)"""
    chain = chain.replace("[-1]", "all")
    source = linear(
        chain, "y = MatMul (dx, w)",
        w0=weights, s=scales_for(weights, 0), z=np.zeros(6, np.int8), all=np.array([-1]), shape=np.array([4, 6]),
    )  # fmt: skip
    result = fold(source, rtol=1e-6)
    assert inputs(result.model, node(result.model, "MatMul"))[1] is not None
    assert any("float constant" in note.reason for note in result.log)


def test_factor_behind_the_weights_goes_into_their_scale() -> None:
    factor = np.array([2.0, -0.5, 1.5, 0.0], np.float32).reshape(4, 1, 1, 1)
    chain = PER_CHANNEL.replace("  w =", "  d =") + "\n  w = Mul (factor, d)"
    source = model(CONV % chain, w0=W, s=scales_for(W, 0), z=np.zeros(4, np.int8), factor=factor)
    result = fold(source, rtol=1e-6)
    q, scale, _ = weights_of(result.model, "Conv")
    original = np.rint(W / scales_for(W, 0).reshape(4, 1, 1, 1))
    np.testing.assert_array_equal(q, original * np.array([1, -1, 1, 0]).reshape(4, 1, 1, 1))
    np.testing.assert_allclose(scale[:3], scales_for(W, 0)[:3] * [2.0, 0.5, 1.5], rtol=1e-7)


def test_fake_quantized_constants_that_are_no_weights_become_float() -> None:
    source = linear(
        "q = QuantizeLinear (position, sx, zx)\n  d = DequantizeLinear (q, sx, zx)\n  e = Add (dx, d)",
        "y = MatMul (e, w)", position=normal(5, 6), w=normal(6, 4),
    )  # fmt: skip
    result = fold(source)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Add": 1, "MatMul": 1}
    assert any(note.action == "folded" and "no layer's weights" in note.reason for note in result.log)


def test_block_wise_weights_of_a_float_layer_become_float_and_say_so() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
net (float[2,8] x) => (float[2,4] y) <float sx = {0.03}, uint8 zx = {120}>
{
  w = DequantizeLinear <axis=0, block_size=4> (q, s, z)
  v = MatMul (x, w)
  qx = QuantizeLinear (v, sx, zx)
  y = DequantizeLinear (qx, sx, zx)
}"""
    q = np.random.default_rng(0).integers(-8, 8, (8, 4)).astype(np.int8)
    scale = np.abs(normal(2, 4)) + np.float32(0.01)
    result = fold(model(text, q=q, s=scale, z=np.zeros((2, 4), np.int8)))
    expected = q * np.repeat(scale, 4, 0)
    np.testing.assert_array_equal(inputs(result.model, node(result.model, "MatMul"))[1], expected)
    assert any(note.action == "skipped" and "block-wise" in note.reason for note in result.log)


def test_block_wise_chain_is_evaluated_as_a_whole() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
net (float[2,8] x) => (float[2,4] y) <float sx = {0.03}, uint8 zx = {120}>
{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  q = QuantizeLinear <axis=0, block_size=4> (w0, s, z)
  w = DequantizeLinear <axis=0, block_size=4> (q, s, z)
  y = MatMul (dx, w)
}"""
    scale = np.abs(normal(2, 4, spread=0.1)) + np.float32(0.01)
    source = model(text, w0=normal(8, 4), s=scale, z=np.zeros((2, 4), np.int8))
    assert ops(fold(source, rtol=1e-6).model)["MatMul"] == 2


def test_weights_that_are_nan_are_refused() -> None:
    weights = W.copy()
    weights[1, 1] = np.nan
    with pytest.raises(QuantizationError, match="tensor w0: constant holds NaN"):
        preprocess(model(CONV % PER_CHANNEL, w0=weights, s=scales_for(W, 0), z=np.zeros(4, np.int8)))
