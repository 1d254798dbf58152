"""Indices that come from data stay inside their tensors, and integers divide without ending the process."""

import numpy as np
import pytest

from tests.lowering.running import compiled, model
from tests.reference import reference

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
FAR = np.array([0, 3, 4, -4, -5, 2**40, -(2**40)], np.int64)


def test_indices_outside_are_clamped():
    source = model(
        "(int64[7] i, int64[4,3] e) => (float[7,3] a, float[4,3] b, float[7,3] c, float[4,3] d, float[4,3] f)",
        """a = Gather<axis = 0>(t, i)
           b = GatherElements<axis = 0>(t, e)
           rows = Unsqueeze(i, last)
           c = GatherND(t, rows)
           d = ScatterElements<axis = 0>(t, e, u)
           f = ScatterND(t, rows, v)""",
        t=TABLE, u=TABLE + 1, v=np.linspace(1, 2, 21, dtype=np.float32).reshape(7, 3), last=np.array([1]),
    )  # fmt: skip
    far = {"i": FAR, "e": np.resize(FAR, (3, 4)).T}
    inside = {name: np.clip(np.where(one < 0, one + 4, one), 0, 3) for name, one in far.items()}
    for got, want in zip(compiled(source, far), reference(source, inside), strict=True):
        np.testing.assert_array_equal(got, want)


def test_coordinates_are_clamped_to_their_own_axes():
    source = model("(int64[3,2] i) => (float[3] y)", "y = GatherND(t, i)", t=TABLE)
    (got,) = compiled(source, {"i": np.array([[9, -1], [-9, 9], [1, 2]])})
    np.testing.assert_array_equal(got, TABLE[[3, 0, 1], [2, 2, 2]])


@pytest.mark.parametrize(("op", "want"), [("Div", [7, -2, 0, -5]), ("Mod", [0, 1, 0, 0])])
def test_integers_divide_by_anything(op, want):
    least = np.iinfo(np.int32).min
    x, d = np.array([7, -8, least, 5], np.int32), np.array([0, 3, -1, -1], np.int32)
    source = model("(int32[4] x, int32[4] d) => (int32[4] y)", f"y = {op}(x, d)")
    (got,) = compiled(source, {"x": x, "d": d})
    want[2] = least if op == "Div" else 0
    np.testing.assert_array_equal(got, want)
