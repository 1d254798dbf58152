"""Which sums are refused, and which are large and well."""

from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.core.errors import QuantizationError
from preprocess import preprocess
from tests.preprocess.building import model, normal

W = np.random.default_rng(1).integers(-127, 128, (6, 5)).astype(np.int8)
TEXT = """net (float[3,6] x) => (float[3,5] y)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  f = DequantizeLinear (w, ws, wz)
  g = Gemm (d, f, b)
  %s
  r = QuantizeLinear (a, t, z)
  y = DequantizeLinear (r, t, z)
}"""
CONSTANTS = {"z": np.int8(0), "w": W, "ws": np.float32(0.01), "wz": np.int8(0), "b": normal(5), "k": np.float32(1e-20)}


@pytest.mark.parametrize("between", ["a = Relu (g)", "h = HardSigmoid (g)\n a = Mul (g, h)", "a = Sigmoid (g)"])
def test_terms_that_cancel_would_decide(between: str) -> None:
    source = model(TEXT % between, s=np.float32(1e20), t=np.float32(0.02), **CONSTANTS)
    with pytest.raises(
        QuantizationError, match=r"node Gemm_g \(Gemm\), tensor s: scale = 1e\+20 makes sums that float32"
    ):
        preprocess(source)


@pytest.mark.parametrize(
    ("between", "scale", "behind"),
    [
        ("a = Relu (g)", 1e20, 1e19),
        ("a = Mul (g, k)", 1e20, 0.02),  # back to where the grid is
        ("a = Relu (g)", 1.0, 1.2e-7),  # a layer that is always zero, as observers leave it
        ("a = Relu (g)", 1e5, 0.02),
    ],
)
def test_large_and_well(between: str, scale: float, behind: float) -> None:
    preprocess(model(TEXT % between, s=np.float32(scale), t=np.float32(behind), **CONSTANTS))
