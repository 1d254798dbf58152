"""The trained grid of an output is found behind operators that only move its elements."""

from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.kernels.isa import AVX2
from drpai_qat.lowering import lower
from preprocess import preprocess
from tests.preprocess.building import model

TEXT = """net (float[2,6] x) => (float[%s] y)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  %s
}"""


@pytest.mark.parametrize(
    ("shape", "step", "has_grid"),
    [
        ("2,6", "y = Relu (d)\n", False),
        ("6,2", "y = Transpose <perm = [1,0]> (d)", True),
        ("12", "t = Transpose <perm = [1,0]> (d)\n y = Reshape (t, flat)", True),
        ("2,12", "y = Concat <axis = 1> (d, d)", False),
    ],
)
def test_grid_of_a_moved_output(shape: str, step: str, has_grid: bool) -> None:
    flat = {"flat": np.array([-1], np.int64)} if "flat" in step else {}
    source = model(TEXT % (shape, step), s=np.float32(0.02), z=np.uint8(100), **flat)
    (info,) = lower(preprocess(source).model, AVX2).outputs
    assert (info.quantization is not None) == has_grid
    if info.quantization is not None:
        assert info.quantization.scale == np.float32(0.02)
        assert info.quantization.zero_point == 100
