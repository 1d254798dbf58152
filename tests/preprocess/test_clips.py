from __future__ import annotations

import numpy as np
import pytest

from tests.preprocess.building import fold, inputs, model, node, ops

GRID = {"s": np.float32(0.05), "z": np.uint8(0)}
LIMITS = {
    "minimum, maximum": ("a = Min (x, six)  b = Max (zero, a)", (0, 6)),
    "maximum, minimum": ("a = Max (x, zero)  b = Min (a, six)", (0, 6)),
    "relu, minimum": ("a = Relu (x)  b = Min (six, a)", (0, 6)),
    "clip, clip": ("a = Clip (x, half, )  b = Clip (a, , six)", (0.5, 6)),
    "limits that exclude each other": ("a = Clip (x, six, )  b = Clip (a, zero, half)", (0.5, 0.5)),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_limits_become_one_clip(kind: str) -> None:
    text, (low, high) = LIMITS[kind]
    source = model(
        f"""
net (float[4,8] x) => (float[4,8] y)
{{
  {text}
  q = QuantizeLinear (b, s, z)
  y = DequantizeLinear (q, s, z)
}}""",
        zero=np.float32(0), half=np.float32(0.5), six=np.float32(6), **GRID,
    )  # fmt: skip
    result = fold(source, "tensorflow", spread=5)
    assert ops(result.model) == {"Clip": 1, "QuantizeLinear": 1, "DequantizeLinear": 1}
    assert inputs(result.model, node(result.model, "Clip"))[1:] == [low, high]


def test_maximum_with_zero_is_relu() -> None:
    source = model(
        """
net (float[4,8] x) => (float[4,8] y)
{
  b = Max (x, zero)
  q = QuantizeLinear (b, s, z)
  y = DequantizeLinear (q, s, z)
}""",
        zero=np.array([0], np.float32), **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow").model)["Relu"] == 1


def test_limit_that_is_read_twice_stays() -> None:
    source = model(
        """
net (float[4,8] x) => (float[4,8] y)
{
  a = Relu (x)
  b = Min (a, six)
  c = Add (a, b)
  q = QuantizeLinear (c, s, z)
  y = DequantizeLinear (q, s, z)
}""",
        six=np.float32(6), **GRID,
    )  # fmt: skip
    counts = ops(fold(source, "tensorflow", spread=5).model)
    assert (counts["Relu"], counts["Clip"]) == (1, 1)


@pytest.mark.parametrize("bound", [np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float32), np.ones((2, 1, 1), np.float32)])
def test_tensors_are_no_limits(bound: np.ndarray) -> None:
    shape = "2,4,8" if bound.ndim == 3 else "4,8"
    source = model(
        f"""
net (float[4,8] x) => (float[{shape}] y)
{{
  b = Min (x, bound)
  q = QuantizeLinear (b, s, z)
  y = DequantizeLinear (q, s, z)
}}""",
        bound=bound, **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow").model)["Min"] == 1
