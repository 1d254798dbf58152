"""Folds of per-channel steps: exact up to one float32 rounding of scale and bias."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.preprocess.building import fold, inputs, model, node, normal, ops, scales_for, weights_of

CLOSE = 2e-6
QUANTIZED = """
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  q = QuantizeLinear <axis=%d> (w0, s, z)
  w = DequantizeLinear <axis=%d> (q, s, z)
"""
CONV = "net (float[2,3,6,6] x) => (float[2,4,6,6] y) <float sx = {0.03}, uint8 zx = {120}>\n{" + QUANTIZED % (0, 0)
W = normal(4, 3, 3, 3)
BASE = {"w0": W, "s": scales_for(W, 0), "z": np.zeros(4, np.int8)}


def statistics(channels: int, gamma: NDArray[np.float32] | None = None) -> dict[str, NDArray[np.float32]]:
    return {
        "gamma": normal(channels, seed=11) if gamma is None else gamma,
        "beta": normal(channels, seed=12),
        "mean": normal(channels, seed=13),
        "var": np.abs(normal(channels, seed=14)) + np.float32(0.1),
    }


def test_fused_module_keeps_the_trained_integers() -> None:
    stats = statistics(4, np.array([1.2, -0.7, 0.3, 2.0], np.float32))
    factor = stats["gamma"] / np.sqrt(stats["var"] + np.float32(1e-5))
    scaled = W * factor.reshape(4, 1, 1, 1)
    source = model(
        CONV
        + """
  zero = Constant <value = float[4] {0, 0, 0, 0}> ()
  c = Conv <pads=[1,1,1,1]> (dx, w, zero)
  d = Div (c, f)
  y = BatchNormalization (d, gamma, beta, mean, var)
}""",
        w0=scaled, s=scales_for(scaled, 0), z=np.zeros(4, np.int8), f=factor.reshape(1, 4, 1, 1), **stats,
    )  # fmt: skip
    result = fold(source, rtol=CLOSE)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1}
    q, scale, _ = weights_of(result.model, "Conv")
    np.testing.assert_array_equal(q, np.rint(scaled / scales_for(scaled, 0).reshape(4, 1, 1, 1)))
    np.testing.assert_allclose(scale, scales_for(scaled, 0), rtol=1e-6)
    assert {note.node for note in result.log if note.action == "folded"} >= {"Div_d", "BatchNormalization_y"}


def test_negative_gamma_flips_signs_even_of_minus_128() -> None:
    weights = W.copy()
    weights[0, 0, 0, 0] = -10.0  # saturates at -128
    stats = statistics(4, np.array([-1.0, 1.0, -2.0, 0.5], np.float32))
    source = model(
        CONV + "  c = Conv <pads=[1,1,1,1]> (dx, w)\n  y = BatchNormalization (c, gamma, beta, mean, var)\n}",
        w0=weights, s=np.full(4, 0.02, np.float32), z=np.zeros(4, np.int8), **stats,
    )  # fmt: skip
    result = fold(source, rtol=CLOSE)
    q, scale, zero_point = weights_of(result.model, "Conv")
    assert "BatchNormalization" not in ops(result.model)
    assert (scale > 0).all()
    assert zero_point.tolist() == [-1, 0, 0, 0]
    assert q[0, 0, 0, 0] == 127


def test_zero_gamma_blanks_its_channel() -> None:
    stats = statistics(4, np.array([0.0, 1.0, -2.0, 0.5], np.float32))
    source = model(
        CONV + "  c = Conv <pads=[1,1,1,1]> (dx, w)\n  y = BatchNormalization (c, gamma, beta, mean, var)\n}",
        **BASE, **stats,
    )  # fmt: skip
    result = fold(source, rtol=CLOSE)
    q, scale, _ = weights_of(result.model, "Conv")
    assert not q[0].any()
    assert (scale > 0).all()


def test_fused_module_with_zero_gamma_is_its_beta() -> None:
    """The source divides 0 by 0 there; everything else must come out as if it did not."""
    stats = statistics(4, np.array([0.0, 1.0, -2.0, 0.5], np.float32))
    factor = stats["gamma"] / np.sqrt(stats["var"] + np.float32(1e-5))
    scaled = W * factor.reshape(4, 1, 1, 1)
    scale = np.maximum(scales_for(scaled, 0), np.float32(1e-7))
    text = (
        CONV
        + """
  c = Conv <pads=[1,1,1,1]> (dx, w)
  d = Div (c, f)
  y = BatchNormalization (d, gamma, beta, mean, var)
}"""
    )
    from preprocess import preprocess
    from tests.preprocess.building import random_feeds
    from tests.reference import reference

    source = model(text, w0=scaled, s=scale, z=np.zeros(4, np.int8), f=factor.reshape(1, 4, 1, 1), **stats)
    feeds = random_feeds(source)
    expected, got = reference(source, feeds)[0], reference(preprocess(source).model, feeds)[0]
    assert np.isnan(expected[:, 0]).all()
    np.testing.assert_array_equal(got[:, 0], np.broadcast_to(stats["beta"][0], got[:, 0].shape))
    np.testing.assert_allclose(got[:, 1:], expected[:, 1:], atol=1e-5)


def test_batchnorm_between_roundings_stays() -> None:
    source = model(
        CONV
        + """
  c = Conv <pads=[1,1,1,1]> (dx, w)
  qc = QuantizeLinear (c, sc, zc)
  dc = DequantizeLinear (qc, sc, zc)
  b, m2, v2 = BatchNormalization <training_mode=1> (dc, gamma, beta, mean, var)
  qb = QuantizeLinear (b, sb, zc)
  y = DequantizeLinear (qb, sb, zc)
}""".replace("b, m2, v2 = BatchNormalization <training_mode=1>", "b = BatchNormalization"),
        sc=np.float32(0.1), zc=np.uint8(100), sb=np.float32(0.05), **BASE, **statistics(4),
    )  # fmt: skip
    result = fold(source)
    assert ops(result.model) == {"QuantizeLinear": 3, "DequantizeLinear": 4, "Conv": 1, "BatchNormalization": 1}


def test_any_chain_of_channel_steps_folds() -> None:
    source = model(
        CONV
        + """
  c = Conv <pads=[1,1,1,1]> (dx, w, b)
  d = Mul (m, c)
  e = Sub (a, d)
  g = Add (e, scalar)
  h = Div (g, scalar)
  i = Sub (h, a)
  j = BatchNormalization (i, gamma, beta, mean, var)
  y = Relu (j)
}""",
        b=normal(4, seed=2), m=normal(4, 1, 1, seed=3), a=normal(1, 4, 1, 1, seed=4), scalar=np.float32(3),
        **BASE, **statistics(4),
    )  # fmt: skip
    assert ops(fold(source, rtol=CLOSE).model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1, "Relu": 1}


@pytest.mark.parametrize("shape", [(1, 1, 6, 1), (2, 4, 6, 6), (6,)])
def test_operands_along_other_axes_stay(shape: tuple[int, ...]) -> None:
    source = model(CONV + "  c = Conv <pads=[1,1,1,1]> (dx, w)\n  y = Mul (c, m)\n}", m=normal(*shape, seed=3), **BASE)
    assert ops(fold(source).model)["Mul"] == 1


def test_output_read_twice_stays() -> None:
    source = model(
        CONV + "  c = Conv <pads=[1,1,1,1]> (dx, w)\n  m = Mul (c, f)\n  y = Add (c, m)\n}", f=normal(4, 1, 1), **BASE
    )
    assert ops(fold(source).model)["Mul"] == 1


def test_shared_weights_get_a_scale_for_each_reader() -> None:
    source = model(
        CONV
        + """
  a = Conv <pads=[1,1,1,1]> (dx, w)
  b = Conv <pads=[1,1,1,1], dilations=[1,1]> (dx, w)
  c = BatchNormalization (a, gamma, beta, mean, var)
  d = Relu (c)
  y = Add (d, b)
}""",
        **BASE, **statistics(4),
    )  # fmt: skip
    result = fold(source, rtol=CLOSE)
    first, second = weights_of(result.model, "Conv", 0)[1], weights_of(result.model, "Conv", 1)[1]
    assert "BatchNormalization" not in ops(result.model)
    assert not np.array_equal(first, second)


def test_per_tensor_scale_becomes_one_per_channel() -> None:
    source = model(
        CONV + "  c = Conv <pads=[1,1,1,1]> (dx, w)\n  y = BatchNormalization (c, gamma, beta, mean, var)\n}",
        w0=W, s=np.full(4, 0.02, np.float32), z=np.zeros(4, np.int8), **statistics(4),
    )  # fmt: skip
    assert weights_of(fold(source, rtol=CLOSE).model, "Conv")[1].shape == (4,)


def test_float_layer_takes_its_batchnorm_too() -> None:
    source = model(
        """
net (float[2,3,6,6] x) => (float[2,4,6,6] y) <float sy = {0.1}, uint8 zy = {100}>
{
  c = Conv <pads=[1,1,1,1]> (x, w0, b)
  n = BatchNormalization (c, gamma, beta, mean, var)
  q = QuantizeLinear (n, sy, zy)
  y = DequantizeLinear (q, sy, zy)
}""",
        w0=W, b=normal(4), **statistics(4),
    )  # fmt: skip
    assert ops(fold(source).model) == {"Conv": 1, "QuantizeLinear": 1, "DequantizeLinear": 1}


TRANSPOSED = (
    "net (float[1,%d,5,5] x) => (float[1,%d,7,7] y) <float sx = {0.03}, uint8 zx = {120}>\n{"
    + QUANTIZED
    + """
  c = ConvTranspose <group=%d> (dx, w)
  d = Div (c, f)
  y = BatchNormalization (d, gamma, beta, mean, var)
}"""
)


@pytest.mark.parametrize(
    ("shape", "group", "axis", "folds"),
    [
        ((3, 4, 3, 3), 1, 1, True),
        ((4, 1, 3, 3), 4, 0, True),  # depthwise: input channels are output channels
        ((4, 3, 3, 3), 2, 1, False),  # one scale for two groups
        ((3, 4, 3, 3), 1, 0, False),  # scales along the input channels
    ],
)
def test_transposed_convolution(shape: tuple[int, ...], group: int, axis: int, folds: bool) -> None:
    weights, channels = normal(*shape), shape[1] * group
    source = model(
        TRANSPOSED % (shape[0], channels, axis, axis, group),
        w0=weights, s=scales_for(weights, axis), z=np.zeros(shape[axis], np.int8),
        f=(np.abs(normal(1, channels, 1, 1, seed=7)) + np.float32(0.5)), **statistics(channels),
    )  # fmt: skip
    result = fold(source, rtol=CLOSE)
    expected = {"QuantizeLinear": 1, "DequantizeLinear": 2, "ConvTranspose": 1}
    assert ops(result.model) == (expected if folds else expected | {"BatchNormalization": 1})
    assert folds or any(note.action == "skipped" and "other channels" in note.reason for note in result.log)


GEMM = "net (float[3,6] x) => (float[3,4] y) <float sx = {0.03}, uint8 zx = {120}>\n{" + QUANTIZED


@pytest.mark.parametrize("bias", [(4,), (1, 4), (1,), ()])
def test_gemm_factors_and_bias_shapes(bias: tuple[int, ...]) -> None:
    weights = normal(4, 6)
    source = model(
        GEMM % (0, 0) + "  y = Gemm <transB=1, alpha=0.5, beta=-2.0> (dx, w, b)\n}",
        w0=weights, s=scales_for(weights, 0), z=np.zeros(4, np.int8), b=normal(*bias) if bias else np.float32(0.3),
    )  # fmt: skip
    result = fold(source, rtol=CLOSE)
    gemm = node(result.model, "Gemm")
    assert {one.name for one in gemm.attribute} == {"transB"}
    assert inputs(result.model, gemm)[2].shape == (4,)


def test_linear_with_batchnorm() -> None:
    weights = normal(4, 6)
    source = model(
        GEMM % (0, 0) + "  g = Gemm <transB=1> (dx, w)\n  d = Div (g, f)\n"
        "  y = BatchNormalization (d, gamma, beta, mean, var)\n}",
        w0=weights, s=scales_for(weights, 0), z=np.zeros(4, np.int8), f=normal(1, 4, seed=9), **statistics(4),
    )  # fmt: skip
    assert ops(fold(source, rtol=CLOSE).model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Gemm": 1}


def test_two_dimensional_matmul_and_add_become_gemm() -> None:
    weights = normal(6, 4)
    source = model(
        GEMM % (1, 1) + "  m = MatMul (dx, w)\n  y = Add (b, m)\n}",
        w0=weights, s=scales_for(weights, 1), z=np.zeros(4, np.int8), b=normal(4),
    )  # fmt: skip
    assert ops(fold(source, rtol=CLOSE).model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Gemm": 1}


def test_three_dimensional_matmul_keeps_its_add() -> None:
    weights = normal(6, 4)
    text = (GEMM % (1, 1)).replace("[3,6]", "[2,3,6]").replace("[3,4]", "[2,3,4]")
    source = model(
        text + "  m = MatMul (dx, w)\n  a = Add (b, m)\n  y = Mul (a, f)\n}",
        w0=weights, s=scales_for(weights, 1), z=np.zeros(4, np.int8), b=normal(4), f=normal(4, seed=5),
    )  # fmt: skip
    result = fold(source, rtol=CLOSE)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "MatMul": 1, "Add": 1}


@settings(max_examples=40)
@given(
    gamma=st.lists(st.floats(-4, 4, width=32).filter(lambda g: g == 0 or abs(g) > 2**-10), min_size=4, max_size=4),
    variance=st.lists(st.floats(2.0**-10, 64, width=32), min_size=4, max_size=4),
    zero_point=st.integers(-128, 127),
    seed=st.integers(0, 2**31),
)
def test_random_batchnorms_on_random_grids(
    gamma: list[float], variance: list[float], zero_point: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    stats = statistics(4, np.array(gamma, np.float32)) | {"var": np.array(variance, np.float32)}
    text = CONV.replace("q = QuantizeLinear <axis=0> (w0, s, z)", "q = Identity (w0)")
    source = model(
        text + "  c = Conv <pads=[1,1,1,1]> (dx, w)\n  y = BatchNormalization (c, gamma, beta, mean, var)\n}",
        w0=rng.integers(-128, 128, W.shape).astype(np.int8), s=rng.uniform(1e-4, 1, 4).astype(np.float32),
        z=np.full(4, zero_point, np.int8), **stats,
    )  # fmt: skip
    assert "BatchNormalization" not in ops(fold(source, rtol=1e-5).model)
