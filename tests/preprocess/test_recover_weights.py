from __future__ import annotations

import numpy as np
import pytest

from preprocess import Preprocessed
from tests.preprocess.building import constant, fold, inputs, model, node, normal, ops, weights_of

SX, ZX = np.float32(0.02), np.uint8(120)


def on_grid(
    shape: tuple[int, ...], scale: np.ndarray | float, axis: int, low: int = -127, high: int = 127
) -> np.ndarray:
    """Random integers of the whole range times one scale, or one a channel along `axis`."""
    k = np.random.default_rng(5).integers(low, high + 1, shape)
    along = [-1 if at == axis and np.ndim(scale) else 1 for at in range(len(shape))]
    return k.astype(np.float32) * np.float32(scale).reshape(along)


def convolution(weights: np.ndarray, op: str = "Conv", out: str = "1,8,6,6", attrs: str = "") -> object:
    channels = weights.shape[1] if op == "Conv" and "group" not in attrs else weights.shape[0]
    return model(
        f"""
net (float[1,{channels},8,8] x) => (float[{out}] y)
{{
  q = QuantizeLinear (x, sx, zx)
  r = DequantizeLinear (q, sx, zx)
  c = {op} {attrs} (r, w, b)
  qy = QuantizeLinear (c, sy, zy)
  y = DequantizeLinear (qy, sy, zy)
}}""",
        sx=SX, zx=ZX, w=weights, b=normal(int(out.split(",")[1])), sy=np.float32(0.3), zy=np.uint8(128),
    )  # fmt: skip


def notes(result: Preprocessed, action: str) -> list[str]:
    return [str(note) for note in result.log if note.pass_name == "recover_weights" and note.action == action]


def test_per_channel_weights_of_a_convolution() -> None:
    scale = np.linspace(0.01, 0.09, 8).astype(np.float32)
    source = convolution(on_grid((8, 4, 3, 3), scale, 0))
    result = fold(source, "tensorflow")
    q, found, zero_point = weights_of(result.model, "Conv")
    np.testing.assert_array_equal(found, scale)
    assert q.dtype == np.int8
    assert not zero_point.any()
    assert "8 scales" in notes(result, "note")[0]


def test_batch_norm_in_the_weights_costs_no_integer() -> None:
    gain = np.random.default_rng(3).normal(size=8).astype(np.float32)
    trained = on_grid((8, 4, 3, 3), 0.013, 0)
    result = fold(convolution(trained * gain[:, None, None, None]), "tensorflow", rtol=1e-6)
    q, scale, _ = weights_of(result.model, "Conv")
    np.testing.assert_allclose(scale * np.sign(gain), gain * np.float32(0.013), rtol=2e-7)
    np.testing.assert_array_equal(q * np.sign(gain).astype(np.int8)[:, None, None, None], np.rint(trained / 0.013))


def test_depthwise_channels_whose_largest_weight_is_not_127() -> None:
    weights = on_grid((8, 1, 3, 3), np.linspace(0.01, 0.02, 8), 0, -60, 75)
    result = fold(convolution(weights, attrs="<group = 8>"), "tensorflow", rtol=1e-6)
    assert np.abs(weights_of(result.model, "Conv")[0]).max() <= 75


def test_transposed_convolution_has_its_channels_on_axis_one() -> None:
    scale = np.linspace(0.01, 0.09, 6).astype(np.float32)
    result = fold(
        convolution(on_grid((8, 6, 2, 2), scale, 1), "ConvTranspose", "1,6,16,16", "<strides = [2,2]>"), "tensorflow"
    )
    np.testing.assert_array_equal(weights_of(result.model, "ConvTranspose")[1], scale)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(transposed: int) -> None:
    scale = np.linspace(0.01, 0.03, 5).astype(np.float32)
    weights = on_grid((16, 5), scale, 1)
    source = model(
        f"""
net (float[2,16] x) => (float[2,5] y)
{{
  q = QuantizeLinear (x, sx, zx)
  r = DequantizeLinear (q, sx, zx)
  y = Gemm <transB = {transposed}> (r, w, b)
}}""",
        sx=SX, zx=ZX, w=weights.T.copy() if transposed else weights, b=normal(5),
    )  # fmt: skip
    result = fold(source, "tensorflow")
    np.testing.assert_array_equal(weights_of(result.model, "Gemm")[1], scale)


def test_asymmetric_weights_keep_a_zero_point() -> None:
    result = fold(convolution(on_grid((8, 4, 3, 3), 0.01, 0, -20, 235)), "tensorflow")
    q, _, zero_point = weights_of(result.model, "Conv")
    assert zero_point == -108
    assert (q.min(), q.max()) == (-128, 127)


def test_weights_that_two_layers_share_are_recovered_once() -> None:
    source = model(
        """
net (float[1,4,8,8] x) => (float[1,4,8,8] y)
{
  q = QuantizeLinear (x, sx, zx)
  r = DequantizeLinear (q, sx, zx)
  a = Conv (r, w)
  qa = QuantizeLinear (a, sx, zx)
  ra = DequantizeLinear (qa, sx, zx)
  y = Conv (ra, w)
}""",
        sx=SX, zx=ZX, w=on_grid((4, 4, 1, 1), 0.01, 0),
    )  # fmt: skip
    result = fold(source, "tensorflow")
    assert len(notes(result, "note")) == 1
    assert ops(result.model)["DequantizeLinear"] == 3


def test_untrained_weights_stay_float_and_say_how_far_they_are_off() -> None:
    result = fold(convolution(normal(8, 4, 3, 3)), "tensorflow")
    (text,) = notes(result, "skipped")
    assert "no 8-bit grid" in text
    assert "ulp" in text
    name = node(result.model, "Conv").input[1]
    assert constant(result.model, name).dtype == np.float32


def test_one_channel_off_the_grid_keeps_the_layer_float() -> None:
    weights = on_grid((8, 4, 3, 3), 0.01, 0)
    weights[3] = normal(4, 3, 3)
    (text,) = notes(fold(convolution(weights), "tensorflow"), "skipped")
    assert "1 channel(s)" in text
    assert "channel 3" in text


def test_gain_behind_a_dense_layer_goes_into_the_recovered_scale() -> None:
    """Dense + BatchNormalization arrives as MatMul -> Mul -> Add."""
    source = model(
        """
net (float[2,16] x) => (float[2,5] y)
{
  q = QuantizeLinear (x, sx, zx)
  r = DequantizeLinear (q, sx, zx)
  p = MatMul (r, w)
  m = Mul (p, g)
  y = Add (m, b)
}""",
        sx=SX, zx=ZX, w=on_grid((16, 5), 0.01, 1), g=np.array([1, -2, 0.5, 3, 0.25], np.float32), b=normal(5),
    )  # fmt: skip
    result = fold(source, "tensorflow", rtol=1e-6)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Gemm": 1}
    np.testing.assert_allclose(
        weights_of(result.model, "Gemm")[1], np.array([0.01, 0.02, 0.005, 0.03, 0.0025], np.float32)
    )
    assert inputs(result.model, node(result.model, "Gemm"))[2] is not None


@pytest.mark.parametrize("channels", [1, 8])
def test_weights_that_went_through_float16(channels: int) -> None:
    """Each is rounded to 11 bits: the grid is found within that, and the integers are the trained ones."""
    scale = np.linspace(0.013, 0.091, channels).astype(np.float32)
    trained = on_grid((8, 4, 3, 3), scale if channels > 1 else scale[0], 0)
    rounded = trained.astype(np.float16).astype(np.float32)
    assert (rounded != trained).any()
    result = fold(convolution(rounded), "tensorflow", rtol=0.02)  # a step of the output, at most
    q, found, _ = weights_of(result.model, "Conv")
    np.testing.assert_array_equal(q, on_grid((8, 4, 3, 3), 1.0, 0))
    np.testing.assert_allclose(found, scale if channels > 1 else scale[0], rtol=2**-11)
    assert "float16" in notes(result, "note")[0]


def test_float16_weights_on_no_grid_stay() -> None:
    weights = normal(8, 4, 3, 3).astype(np.float16).astype(np.float32)
    result = fold(convolution(weights), "tensorflow", rtol=1e-6)
    assert len(notes(result, "skipped")) == 1


def test_few_float16_weights_prove_no_grid() -> None:
    """Three weights a channel lie near some grid of 8 bits by accident."""
    weights = normal(8, 3, 1, 1).astype(np.float16).astype(np.float32)
    assert len(notes(fold(convolution(weights, out="1,8,8,8"), "tensorflow", rtol=1e-6), "skipped")) == 1
