"""Bounds of tensors that training left without a range."""

from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.graph.canonical import read_graph
from drpai_qat.graph.ranges import find_bounds, find_grids
from tests.lowering.running import grid, model, qdq

CURVES = {
    "SiLU": ("e = Sigmoid(a)\ny = Mul(a, e)\n", (-0.278, 8 / (1 + np.exp(-8)))),
    "HardSwish": ("e = HardSigmoid<alpha=0.1666666667, beta=0.5>(a)\ny = Mul(e, a)\n", (-0.375, 8.0)),
    "GELU": ("d = Div(a, r)\ne = Erf(d)\nf = Add(e, one)\ng = Mul(a, f)\ny = Mul(g, h)\n", (-0.17, 8.0)),
}


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_of_one_tensor_is_bounded_by_its_values(curve):
    """Interval arithmetic, which takes x and its gate for independent, has -8 for all of them."""
    body, expected = CURVES[curve]
    constants = grid("a", 1 / 16, 128)
    numbers = {name: value for name, value in (("r", 2**0.5), ("one", 1.0), ("h", 0.5)) if f"{name})" in body}
    source = model("(float[1,4] x) => (float[1,4] y)", qdq("x", "a") + body, **constants, **numbers)
    graph = read_graph(source)
    found = find_bounds(graph, find_grids(graph, "uint8"))["y"]
    np.testing.assert_allclose(found, expected, atol=0.07)
    assert found[0] <= expected[0] + 1e-3


def test_a_product_of_two_tensors_has_the_product_of_their_bounds():
    body = qdq("x", "a") + "n = Neg(x)\n" + qdq("n", "b", "a") + "e = Sigmoid(b)\ny = Mul(a, e)\n"
    graph = read_graph(model("(float[1,4] x) => (float[1,4] y)", body, **grid("a", 1 / 16, 128)))
    low, high = find_bounds(graph, find_grids(graph, "uint8"))["y"]
    assert (low, high) == (-8.0, 127 / 16)
