from __future__ import annotations

import numpy as np
import pytest

from preprocess import preprocess
from tests.preprocess.building import fold, model, normal, ops
from tests.reference import reference

GRID = {"s": np.float32(0.05), "z": np.uint8(128)}
MOVES = {
    "transpose": ("m = Transpose <perm = [0,2,1]> (q)", "2,6,4"),
    "reshape": ("m = Reshape (q, shape)", "8,6"),
    "two of them": ("u = Unsqueeze (q, zero)  m = Transpose <perm = [1,0,2,3]> (u)", "2,1,4,6"),
    "slice": ("m = Slice (q, zero, one, zero)", "1,4,6"),
    "gather": ("m = Gather <axis = 1> (q, zero)", "2,1,6"),
    "reduce max": ("m = ReduceMax <axes = [1], keepdims = 0> (q)", "2,6"),
    "max pool": ("m = MaxPool <kernel_shape = [2]> (q)", "2,4,5"),
}


@pytest.mark.parametrize("kind", MOVES)
def test_moves_between_q_and_dq_work_on_reals(kind: str) -> None:
    moves, shape = MOVES[kind]
    source = model(
        f"""
net (float[2,4,6] x) => (float[{shape}] y)
{{
  q = QuantizeLinear (x, s, z)
  {moves}
  y = DequantizeLinear (m, s, z)
}}""",
        shape=np.array([8, 6], np.int64), zero=np.array([0], np.int64), one=np.array([1], np.int64), **GRID,
    )  # fmt: skip
    assert [one.op_type for one in fold(source, "tensorflow").model.graph.node][:2] == [
        "QuantizeLinear",
        "DequantizeLinear",
    ]


def test_concatenated_integers_of_one_grid() -> None:
    source = model(
        """
net (float[1,4,6] a, float[1,2,6] b) => (float[1,6,6] y)
{
  qa = QuantizeLinear (a, s, z)
  qb = QuantizeLinear (b, s, z)
  q = Concat <axis = 1> (qa, qb)
  t = Transpose <perm = [0,2,1]> (q)
  r = DequantizeLinear (t, s, z)
  y = Relu (r)
}""",
        **GRID,
    )
    assert ops(fold(source, "tensorflow").model)["DequantizeLinear"] == 2


def test_integers_that_are_also_read_elsewhere_are_rounded_again() -> None:
    """A second reader on another grid gets the integers, not the reals."""
    source = model(
        """
net (float[2,6] x) => (float[6,2] y, float[6,2] other)
{
  q = QuantizeLinear (x, s, z)
  t = Transpose <perm = [1,0]> (q)
  y = DequantizeLinear (t, s, z)
  other = DequantizeLinear (t, s2, z)
}""",
        s2=np.float32(0.07), **GRID,
    )  # fmt: skip
    fold(source, "tensorflow", rtol=1e-6)


def test_places_that_max_pooling_tells_are_no_elements() -> None:
    """The second output holds places: int64, and on no grid."""
    source = model(
        """
net (float[2,4,6] x) => (float[2,4,5] y, int64[2,4,5] places)
{
  q = QuantizeLinear (x, s, z)
  m, places = MaxPool <kernel_shape = [2]> (q)
  y = DequantizeLinear (m, s, z)
}""",
        **GRID,
    )
    made = preprocess(source, "tensorflow").model
    feeds = {"x": normal(2, 4, 6)}
    for expected, got in zip(reference(source, feeds), reference(made, feeds), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_integers_that_are_cut_and_then_moved() -> None:
    """As onnxruntime's optimizer leaves reduced ranges in front of pooling."""
    source = model(
        """
net (float[2,4,6] x) => (float[2,4,5] y)
{
  q = QuantizeLinear (x, s, z)
  c = Clip (q, , top)
  m = MaxPool <kernel_shape = [2]> (c)
  y = DequantizeLinear (m, s, z)
}""",
        **GRID, top=np.uint8(127),
    )  # fmt: skip
    assert ops(fold(source).model) == {"Clip": 1, "QuantizeLinear": 1, "DequantizeLinear": 1, "MaxPool": 1}
