"""Constants of affine steps between two roundings."""

from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.graph.grid import Grid
from drpai_qat.kernels import expr as E
from drpai_qat.lowering.elementwise import Value, snap

GRID = Grid(1.0, 0, -1000, 1000, "int32")
STEPS = np.arange(256.0)[:, None]


def integers(x: E.Expr | None, channels: int) -> np.ndarray:
    assert x is not None
    return E.evaluate(x, np.broadcast_to(STEPS, (256, channels)).astype(np.float32), [])


def test_integers_round_as_exact_values_do():
    """Constants that are merely rounded to float32 get some of them wrong."""
    rng, channels = np.random.default_rng(1), 20_000
    mul, add = rng.uniform(0.3, 1.0, (1, channels)), rng.uniform(-99, 99, (1, channels))
    x = E.affine(E.Snap(E.Acc(), 0, 255), mul, add)
    exact = np.rint(STEPS * mul + add)
    plain = np.count_nonzero(np.rint(integers(x, channels)) != exact)
    fitted = np.count_nonzero(integers(snap(Value(x), GRID).ints, channels) != exact)
    assert plain > 10
    assert fitted <= plain / 5


@pytest.mark.parametrize("decide", [lambda x: np.floor(x + 0.5), lambda x: np.ceil(x - 0.5)], ids=["up", "down"])
def test_ties_go_where_the_reference_has_them(decide):
    wanted = decide(np.round(STEPS * 0.1, 6))
    x = E.affine(E.Snap(E.Acc(), 0, 255), 0.1)
    np.testing.assert_array_equal(integers(snap(Value(x), GRID, lambda steps: wanted).ints, 1), wanted)
