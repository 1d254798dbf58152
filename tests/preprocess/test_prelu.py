from __future__ import annotations

import numpy as np
import pytest

from tests.preprocess.building import fold, model, normal, ops

GRID = {"s": np.float32(0.02), "z": np.uint8(128)}


@pytest.mark.parametrize("total", ["y = Add (p, m)", "y = Add (m, p)"])
@pytest.mark.parametrize("product", ["m = Mul (b, a)", "m = Mul (a, b)"])
def test_prelu(total: str, product: str) -> None:
    source = model(
        f"""
net (float[2,4,6] x) => (float[2,4,6] y)
{{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  p = Relu (r)
  n = Neg (r)
  b = Relu (n)
  {product}
  {total}
}}""",
        a=normal(4, 1), **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow").model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "PRelu": 1}


def test_relus_of_different_tensors_are_no_prelu() -> None:
    source = model(
        """
net (float[2,4] x, float[2,4] x2) => (float[2,4] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  p = Relu (r)
  n = Neg (x2)
  b = Relu (n)
  m = Mul (b, a)
  y = Add (p, m)
}""",
        a=normal(4), **GRID,
    )  # fmt: skip
    assert ops(fold(source, "tensorflow").model)["PRelu"] == 0
