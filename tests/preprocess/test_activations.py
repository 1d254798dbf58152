from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.preprocess.building import fold, inputs, model, node, ops
from tests.reference import reference

PAIR = """
net (float[64] x) => (float[64] y)
{
  q = QuantizeLinear (x, s, z)
  %s
  y = DequantizeLinear (%s, s, z)
}
"""


def test_integer_range_becomes_a_float_range() -> None:
    source = model(
        PAIR % ("c = Clip (q, , top)", "c"),
        s=np.array([0.02], np.float32),
        z=np.array([30], np.uint8),
        top=np.array(127, np.uint8),
    )
    result = fold(source, spread=3)
    low, high = inputs(result.model, node(result.model, "Clip"))[1:]
    assert ops(result.model) == {"Clip": 1, "QuantizeLinear": 1, "DequantizeLinear": 1}
    np.testing.assert_allclose([low, high], [-30 * 0.02, 97 * 0.02], rtol=1e-6)
    assert inputs(result.model, node(result.model, "QuantizeLinear"))[1].shape == ()


def test_both_bounds_and_a_second_clip_intersect() -> None:
    steps = "c = Clip (q, low, high)\n  d = Clip (c, lower, higher)"
    source = model(
        PAIR % (steps, "d"),
        s=np.float32(0.1), z=np.array(0, np.int8), low=np.int8(-7), high=np.int8(7),
        lower=np.int8(-20), higher=np.int8(3),
    )  # fmt: skip
    result = fold(source, spread=3)
    assert ops(result.model)["Clip"] == 1
    np.testing.assert_allclose(inputs(result.model, node(result.model, "Clip"))[1:], [-0.7, 0.3], rtol=1e-6)


def test_full_range_clip_disappears() -> None:
    source = model(PAIR % ("c = Clip (q, , top)", "c"), s=np.float32(0.02), z=np.uint8(30), top=np.uint8(255))
    assert ops(fold(source, spread=3).model) == {"QuantizeLinear": 1, "DequantizeLinear": 1}


def test_min_and_max_of_the_integers_are_a_range() -> None:
    source = model(
        PAIR % ("c = Min (q, top)\n  d = Max (bottom, c)", "d"),
        s=np.float32(0.02), z=np.uint8(30), top=np.uint8(127), bottom=np.uint8(5),
    )  # fmt: skip
    result = fold(source, spread=3)
    assert ops(result.model) == {"Clip": 1, "QuantizeLinear": 1, "DequantizeLinear": 1}


@pytest.mark.parametrize(("to", "dtype"), [(2, np.uint8), (6, np.int32)])
def test_casts_between_disappear(to: int, dtype: type) -> None:
    text = PAIR.replace("DequantizeLinear (%s, s, z)", "DequantizeLinear (%s, s, zc)")
    source = model(
        text % (f"c = Cast <to={to}> (q)", "c"),
        s=np.float32(0.02), z=np.uint8(30), zc=np.array(30, dtype),
    )  # fmt: skip
    assert ops(fold(source).model) == {"QuantizeLinear": 1, "DequantizeLinear": 1}


def test_ranged_and_plain_readers_get_a_pair_each() -> None:
    source = model(
        """
net (float[64] x) => (float[64] y, float[64] z)
{
  q = QuantizeLinear (x, s, p)
  c = Clip (q, , top)
  y = DequantizeLinear (c, s, p)
  z = DequantizeLinear (q, s, p)
}""",
        s=np.float32(0.02), p=np.uint8(30), top=np.uint8(40),
    )  # fmt: skip
    assert ops(fold(source, spread=3).model) == {"Clip": 1, "QuantizeLinear": 2, "DequantizeLinear": 2}


@settings(max_examples=60)
@given(
    scale=st.floats(2.0**-20, 1024, width=32),
    zero_point=st.integers(0, 255),
    bounds=st.tuples(st.integers(0, 255), st.integers(0, 255)).filter(lambda pair: pair[0] != pair[1]),
    seed=st.integers(0, 2**31),
)
def test_float_range_selects_the_same_integers(
    scale: float, zero_point: int, bounds: tuple[int, int], seed: int
) -> None:
    low, high = sorted(bounds)
    source = model(
        PAIR % ("c = Clip (q, low, high)", "c"),
        s=np.float32(scale), z=np.uint8(zero_point), low=np.uint8(low), high=np.uint8(high),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    edges = np.array([low, high, low - 0.5, low + 0.5, high - 0.5, high + 0.5], np.float32) - np.float32(zero_point)
    values = np.concatenate([edges, rng.normal(128 - zero_point, 100, 58).astype(np.float32)]) * np.float32(scale)
    from preprocess import preprocess

    np.testing.assert_array_equal(
        reference(preprocess(source).model, {"x": values})[0], reference(source, {"x": values})[0]
    )


@pytest.mark.parametrize("points", [[0, 0, 0, 0], [0, 3, 30, 100]])
def test_range_of_a_per_channel_activation(points: list[int]) -> None:
    source = model(
        """
net (float[1,4,3,3] x) => (float[1,4,3,3] y)
{
  q = QuantizeLinear <axis = 1> (x, s, z)
  c = Clip (q, , top)
  y = DequantizeLinear <axis = 1> (c, s, z)
}""",
        s=np.array([0.01, 0.02, 0.03, 0.005], np.float32), z=np.array(points, np.uint8), top=np.uint8(127),
    )  # fmt: skip
    assert ops(fold(source, rtol=1e-6).model)["QuantizeLinear"] == 1
