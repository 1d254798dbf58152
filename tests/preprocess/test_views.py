from __future__ import annotations

import numpy as np
import pytest

from tests.preprocess.building import fold, model, node, normal, ops

GRID = {"s": np.float32(0.05), "z": np.uint8(128)}


def order(source: object) -> list[str]:
    return [one.op_type for one in source.graph.node]  # type: ignore[attr-defined]


def test_dense_layer_on_three_dimensions_meets_its_bias_and_rounding() -> None:
    source = model(
        """
net (float[2,3,8] x) => (float[2,3,5] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  flat = Reshape (r, rows)
  p = MatMul (flat, w)
  back = Reshape (p, shape)
  a = Add (back, b)
  n = Relu (a)
  qy = QuantizeLinear (n, s, z)
  y = DequantizeLinear (qy, s, z)
}""",
        rows=np.array([-1, 8], np.int64), shape=np.array([2, 3, 5], np.int64), w=normal(8, 5), b=normal(5), **GRID,
    )  # fmt: skip
    result = fold(source, "tensorflow", rtol=1e-6)
    assert order(result.model)[-5:] == ["Gemm", "Relu", "QuantizeLinear", "DequantizeLinear", "Reshape"]


def test_chain_of_such_layers_needs_no_reshape_between() -> None:
    source = model(
        """
net (float[2,3,8] x) => (float[2,3,5] y)
{
  flat = Reshape (x, rows)
  p = MatMul (flat, w)
  back = Reshape (p, shape)
  q = QuantizeLinear (back, s, z)
  r = DequantizeLinear (q, s, z)
  flat2 = Reshape (r, rows)
  p2 = MatMul (flat2, w2)
  y = Reshape (p2, shape2)
}""",
        rows=np.array([-1, 8], np.int64), shape=np.array([2, 3, 8], np.int64), shape2=np.array([2, 3, 5], np.int64),
        w=normal(8, 8), w2=normal(8, 5), **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow", rtol=1e-6).model)["Reshape"] == 2


def test_branches_of_a_swish_are_crossed_together() -> None:
    source = model(
        """
net (float[1,4,6,6] x) => (float[1,6,6,4] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  c = Conv (r, w)
  t = Transpose <perm = [0,2,3,1]> (c)
  g = Sigmoid (t)
  m = Mul (t, g)
  qy = QuantizeLinear (m, s, z)
  y = DequantizeLinear (qy, s, z)
}""",
        w=normal(4, 4, 1, 1), **GRID,
    )  # fmt: skip
    result = fold(source, "tensorflow")
    assert order(result.model)[-1] == "Transpose"
    assert ops(result.model)["Transpose"] == 1


@pytest.mark.parametrize("shape", [(4,), (6, 6, 4), (1, 1, 1, 4), (6, 4), (1, 1), ()])
def test_constants_are_turned_to_the_other_side_of_a_transpose(shape: tuple[int, ...]) -> None:
    source = model(
        """
net (float[1,4,6,6] x) => (float[1,6,6,4] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  t = Transpose <perm = [0,2,3,1]> (r)
  m = Mul (t, c)
  y = Sigmoid (m)
}""",
        c=normal(*shape), **GRID,
    )  # fmt: skip
    assert order(fold(source, "tensorflow").model)[-3:] == ["Mul", "Sigmoid", "Transpose"]


def test_constant_across_merged_dimensions_stops_the_view() -> None:
    source = model(
        """
net (float[1,4,6] x) => (float[1,24] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  t = Reshape (r, shape)
  y = Mul (t, c)
}""",
        shape=np.array([1, 24], np.int64), c=normal(2, 24)[:1, :] * np.ones((1, 1), np.float32), **GRID,
    )  # fmt: skip
    assert order(fold(source, "tensorflow").model)[-2:] == ["Mul", "Reshape"]


def test_view_that_others_read_too_stays() -> None:
    source = model(
        """
net (float[1,4,6] x) => (float[1,24] y, float[1,24] t)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  t = Reshape (r, shape)
  y = Relu (t)
}""",
        shape=np.array([1, 24], np.int64), **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow").model)["Reshape"] == 1


def test_transposes_that_undo_each_other_vanish() -> None:
    source = model(
        """
net (float[1,6,6,4] x) => (float[1,6,6,4] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  a = Transpose <perm = [0,3,1,2]> (r)
  n = Relu (a)
  b = Transpose <perm = [0,2,3,1]> (n)
  y = Sigmoid (b)
}""",
        **GRID,
    )
    assert ops(fold(source, "tensorflow").model) == {
        "QuantizeLinear": 1,
        "DequantizeLinear": 1,
        "Relu": 1,
        "Sigmoid": 1,
    }


def test_transposes_in_a_row_become_one() -> None:
    source = model(
        """
net (float[2,3,4,5] x) => (float[5,2,4,3] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  a = Transpose <perm = [0,2,1,3]> (r)
  y = Transpose <perm = [3,0,1,2]> (a)
}""",
        **GRID,
    )
    result = fold(source, "tensorflow")
    assert ops(result.model)["Transpose"] == 1
    assert list(node(result.model, "Transpose").attribute[0].ints) == [3, 0, 2, 1]


def test_one_channel_wrappers_cancel_though_one_is_a_transpose() -> None:
    source = model(
        """
net (float[1,6,6,1] x) => (float[1,6,6,1] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  a = Transpose <perm = [0,3,1,2]> (r)
  b = Reshape (a, shape)
  y = Sigmoid (b)
}""",
        shape=np.array([-1, 6, 6, 1], np.int64), **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow").model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Sigmoid": 1}


def test_per_channel_rounding_keeps_its_axis() -> None:
    source = model(
        """
net (float[1,4,6,6] x) => (float[1,6,6,4] y)
{
  t = Transpose <perm = [0,2,3,1]> (x)
  q = QuantizeLinear <axis = 3> (t, s, z)
  y = DequantizeLinear <axis = 3> (q, s, z)
}""",
        s=np.array([0.01, 0.02, 0.03, 0.04], np.float32), z=np.array([0, 0, 0, 0], np.int8),
    )  # fmt: skip
    fold(source, "tensorflow")
