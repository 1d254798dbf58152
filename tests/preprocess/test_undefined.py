"""Where a trained range holds what an operator has no finite result for."""

from __future__ import annotations

import numpy as np
import pytest

from preprocess import preprocess
from tests.preprocess.building import model

TEXT = """net (float[2,8] x) => (float[2,8] y)
{
  f = %s
  q = QuantizeLinear (f, s, z)
  d = DequantizeLinear (q, s, z)
  m = %s
  y = %s
}"""
SIGNED, UNSIGNED, FAR = np.uint8(100), np.uint8(0), np.uint8(255)


@pytest.mark.parametrize(
    ("before", "zero_point", "behind", "operator", "told"),
    [
        ("Neg (x)", SIGNED, "Reshape (d, back)", "Div (x, m)", "holds 0: x / 0"),
        ("Neg (x)", UNSIGNED, "Relu (d)", "Reciprocal (m)", "holds 0: 1 / 0"),
        ("Neg (x)", SIGNED, "Relu (d)", "Log (m)", "holds 0 or less"),
        ("Neg (x)", SIGNED, "Reshape (d, back)", "Sqrt (m)", "holds numbers below 0"),
        ("Clip (x, tiny, nine)", SIGNED, "Relu (d)", "Div (x, m)", "holds 0"),  # to which it is rounded
        ("Clip (x, one, nine)", SIGNED, "Relu (d)", "Div (x, m)", ""),
        ("Max (x, one)", SIGNED, "Relu (d)", "Log (m)", ""),
        ("Relu (x)", SIGNED, "Reshape (d, back)", "Sqrt (m)", ""),
        ("Neg (x)", SIGNED, "Relu (d)", "Sqrt (m)", ""),
        ("Neg (x)", FAR, "Reshape (d, back)", "Sqrt (m)", "below 0"),
        ("Neg (x)", SIGNED, "Clip (d, one, nine)", "Div (x, m)", ""),
        ("Neg (x)", SIGNED, "Reshape (d, back)", "Div (m, x)", ""),
    ],
)
def test_what_a_range_holds(before: str, zero_point: np.uint8, behind: str, operator: str, told: str) -> None:
    source = model(
        TEXT % (before, behind, operator), s=np.float32(0.05), z=zero_point, back=np.array([2, 8]),
        tiny=np.float32(0.01), one=np.float32(1), nine=np.float32(9),
    )  # fmt: skip
    found = [note for note in preprocess(source).log if note.action == "warning"]
    assert len(found) == bool(told)
    assert all(told in note.reason and note.node.startswith(operator.split()[0]) for note in found)
