from __future__ import annotations

import numpy as np

from tests.preprocess.building import fold, inputs, model, node, ops


def test_one_q_read_by_several_dq_stays_one() -> None:
    source = model(
        """
net (float[64] x) => (float[64] y)
{
  q = QuantizeLinear (x, s, z)
  a = DequantizeLinear (q, s, z)
  b = DequantizeLinear (q, s, z)
  r = Relu (a)
  y = Add (r, b)
}""",
        s=np.float32(0.02), z=np.uint8(30),
    )  # fmt: skip
    assert ops(fold(source).model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Relu": 1, "Add": 1}


def test_equal_pairs_on_one_tensor_merge_and_are_logged() -> None:
    source = model(
        """
net (float[64] x) => (float[64] y)
{
  qa = QuantizeLinear (x, s, z)
  a = DequantizeLinear (qa, s, z)
  qb = QuantizeLinear (x, s2, z2)
  b = DequantizeLinear (qb, s2, z2)
  r = Relu (a)
  y = Add (r, b)
}""",
        s=np.float32(0.02), z=np.uint8(30), s2=np.array([0.02], np.float32), z2=np.array([30], np.uint8),
    )  # fmt: skip
    result = fold(source)
    assert ops(result.model)["QuantizeLinear"] == 1
    assert any(note.action == "folded" and note.reason.startswith("same as") for note in result.log)


def test_repeated_grid_is_dropped() -> None:
    source = model(
        """
net (float[64] x) => (float[64] y)
{
  qa = QuantizeLinear (x, s, z)
  a = DequantizeLinear (qa, s, z)
  qb = QuantizeLinear (a, s, z)
  y = DequantizeLinear (qb, s, z)
}""",
        s=np.float32(0.02), z=np.uint8(30),
    )  # fmt: skip
    assert ops(fold(source).model) == {"QuantizeLinear": 1, "DequantizeLinear": 1}


def test_two_grids_in_a_row_keep_both_roundings() -> None:
    source = model(
        """
net (float[64] x) => (float[64] y)
{
  qa = QuantizeLinear (x, s, z)
  a = DequantizeLinear (qa, s, z)
  qb = QuantizeLinear (a, t, z)
  y = DequantizeLinear (qb, t, z)
}""",
        s=np.float32(0.03), t=np.float32(0.05), z=np.uint8(30),
    )  # fmt: skip
    assert ops(fold(source).model) == {"QuantizeLinear": 2, "DequantizeLinear": 2}


def test_narrower_second_range_stays() -> None:
    source = model(
        """
net (float[64] x) => (float[64] y)
{
  qa = QuantizeLinear (x, s, z)
  a = DequantizeLinear (qa, s, z)
  qb = QuantizeLinear (a, s, z)
  c = Clip (qb, , top)
  y = DequantizeLinear (c, s, z)
}""",
        s=np.float32(0.02), z=np.uint8(30), top=np.uint8(60),
    )  # fmt: skip
    assert ops(fold(source).model) == {"QuantizeLinear": 2, "DequantizeLinear": 2, "Clip": 1}


def test_equal_ranges_in_a_row_become_one() -> None:
    chain = """
  q{0} = QuantizeLinear ({1}, s, z)
  c{0} = Clip (q{0}, , top)
  d{0} = DequantizeLinear (c{0}, s, z)"""
    source = model(
        "net (float[64] x) => (float[64] d2)\n{" + chain.format(1, "x") + chain.format(2, "d1") + "\n}",
        s=np.float32(0.02), z=np.uint8(30), top=np.uint8(60),
    )  # fmt: skip
    assert ops(fold(source).model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Clip": 1}


def test_dequantize_with_other_parameters_is_rescaled() -> None:
    source = model(
        """
net (float[64] x) => (float[64] y)
{
  q = QuantizeLinear (x, s, z)
  y = DequantizeLinear (q, t, w)
}""",
        s=np.float32(0.02), t=np.float32(0.5), z=np.uint8(30), w=np.uint8(10),
    )  # fmt: skip
    result = fold(source, rtol=1e-6)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Mul": 1, "Add": 1}
    assert any(note.action == "skipped" and "another grid" in note.reason for note in result.log)


def test_scales_that_differ_by_rounding_are_one_grid() -> None:
    source = model(
        """
net (float[64] x) => (float[64] y)
{
  q = QuantizeLinear (x, s, z)
  y = DequantizeLinear (q, t, z)
}""",
        s=np.float32(0.02), t=np.nextafter(np.float32(0.02), np.float32(1)), z=np.uint8(30),
    )  # fmt: skip
    result = fold(source, rtol=1e-6)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    assert inputs(result.model, node(result.model, "DequantizeLinear"))[1] == np.float32(0.02)


def test_moves_between_q_and_dq_move_reals() -> None:
    source = model(
        """
net (float[4,16] x) => (float[16,4] y)
{
  q = QuantizeLinear (x, s, z)
  t = Transpose (q)
  y = DequantizeLinear (t, s, z)
}""",
        s=np.float32(0.02), z=np.uint8(30),
    )  # fmt: skip
    result = fold(source)
    assert [one.op_type for one in result.model.graph.node] == ["QuantizeLinear", "DequantizeLinear", "Transpose"]
