"""Weights of LSTM and GRU stay integers, also behind Slice and Concat, by which exporters reorder gates."""

from __future__ import annotations

import numpy as np
import pytest

from tests.preprocess.building import fold, model, node, normal, scales_for, weights_of

GRID = {"s": np.float32(0.02), "z": np.uint8(100)}
HEAD = (
    "net (float[5,1,6] x) => (float[1,1,4] y)\n{\n q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n%s\n}"
)
W, R = normal(16, 6), normal(16, 4, seed=2)
REORDERED = """
  qw = QuantizeLinear <axis = 0> (w, ws, wz)
  dw = DequantizeLinear <axis = 0> (qw, ws, wz)
  i = Slice (dw, at0, at4, at0)
  o = Slice (dw, at12, at16, at0)
  f = Slice (dw, at4, at12, at0)
  c = Concat <axis = 0> (i, o, f)
  u = Unsqueeze (c, at0)
  qr = QuantizeLinear (r, rs, rz)
  dr = DequantizeLinear (qr, rs, rz)
  v = Unsqueeze (dr, at0)
  all, y = LSTM <hidden_size = 4> (d, u, v)"""
PLACES = {f"at{at}": np.array([at], np.int64) for at in (0, 4, 12, 16)}
WS = scales_for(W, 0)
TRAINED = {
    "w": W, "ws": WS, "wz": np.zeros(16, np.int8), "r": R, "rs": np.float32(0.03), "rz": np.int8(0),
}  # fmt: skip


def test_gates_that_are_reordered() -> None:
    made = fold(model(HEAD % REORDERED, **GRID, **TRAINED, **PLACES), rtol=1e-6).model
    q, scale, _ = weights_of(made, "LSTM")
    order = [*range(4), *range(12, 16), *range(4, 12)]
    np.testing.assert_array_equal(q[0], np.rint(W / WS[:, None])[order])
    np.testing.assert_array_equal(scale, WS[order])
    recurrent = next(one for one in made.graph.node if node(made, "LSTM").input[2] in one.output)
    assert recurrent.op_type == "DequantizeLinear"


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_integers_of_the_file_stay(op: str, gates: int, dtype: type) -> None:
    zero = 128 if dtype == np.uint8 else 0
    text = (
        f"dw = DequantizeLinear (w, ws, wz)\n dr = DequantizeLinear (r, ws, wz)\n all, y = {op} <hidden_size = 4> "
        "(d, dw, dr)"
    )
    rng = np.random.default_rng(0)
    w, r = (rng.integers(-100, 101, (1, 4 * gates, size)) for size in (6, 4))
    constants = {"w": (w + zero).astype(dtype), "r": (r + zero).astype(dtype), "wz": dtype(zero)}
    made = fold(model(HEAD % text, **GRID, **constants, ws=np.float32(0.01)), rtol=1e-6).model
    q, _, zero_point = weights_of(made, op)
    assert q.dtype == np.int8
    assert not zero_point.any()
    np.testing.assert_array_equal(q, w)


def test_float_weights_on_a_grid_are_recovered() -> None:
    text = "all, y = LSTM <hidden_size = 4> (d, w, r)"
    w = (np.rint(W / 0.03) * np.float32(0.03)).astype(np.float32)[None]
    made = fold(model(HEAD % text, **GRID, w=w, r=R[None]), rtol=1e-6).model
    np.testing.assert_array_equal(weights_of(made, "LSTM")[0][0], np.rint(W / 0.03))


@pytest.mark.parametrize("axes", [(0, 0), (1, 1), (0, 1)])
def test_joined_weights_of_a_layer(axes: tuple[int, int]) -> None:
    """Scales along the joined axis follow; along another they would have to agree."""
    scale_axis, axis = axes
    a, b = normal(4, 6), normal(4, 6, seed=2)
    scales = [scales_for(one, scale_axis) for one in (a, b)]
    if scale_axis != axis:
        scales[1] = scales[0]
    along = f"<axis = {scale_axis}>"
    text = (
        f"qa = QuantizeLinear {along} (a, sa, p)\n da = DequantizeLinear {along} (qa, sa, p)\n"
        f"qb = QuantizeLinear {along} (b, sb, p)\n db = DequantizeLinear {along} (qb, sb, p)\n"
        f"w = Concat <axis = {axis}> (da, db)\n y = MatMul (d, w)"
    )
    rows, columns = (8, 6) if axis == 0 else (4, 12)
    head = (
        f"net (float[3,{rows}] x) => (float[3,{columns}] y)\n{{\n q = QuantizeLinear (x, s, z)\n"
        f"d = DequantizeLinear (q, s, z)\n{text}\n}}"
    )
    points = np.zeros(a.shape[scale_axis], np.int8)
    made = fold(model(head, **GRID, a=a, b=b, sa=scales[0], sb=scales[1], p=points), rtol=1e-6).model
    assert weights_of(made, "MatMul")[0].shape == (rows, columns)
