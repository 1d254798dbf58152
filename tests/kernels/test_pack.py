"""Products of two activations: pack the second at run time, multiply."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpai_qat.kernels.conv import conv
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.pack import pack_matrix
from drpai_qat.kernels.products import DOT2_WIDE, FMA
from drpai_qat.kernels.tiling import choose_tiling
from tests.kernels.running import few, integers, on_each_isa, raw, run


@on_each_isa
@pytest.mark.parametrize("transposed", [False, True], ids=["kn", "nk"])
@few
@given(
    dtype=st.sampled_from(["uint8", "int8", "int16", "float32"]),
    batch=st.integers(1, 3),
    m=st.integers(1, 20),
    k=st.sampled_from([1, 2, 3, 16, 33, 64]),
    n=st.integers(1, 70),
)
def test_product(isa: Isa, dtype: str, transposed: bool, batch: int, m: int, k: int, n: int) -> None:
    product = FMA if dtype == "float32" else DOT2_WIDE
    rng = np.random.default_rng(k)
    zero_point = 0 if dtype in ("int16", "float32") else 50
    padded = -(-k // product.pack) * product.pack
    shape = ConvShape(batch, 1, m, padded, 1, m, n)
    x = np.full((batch, m, padded), 99, product.in_dtype)  # the padding meets zeros: its value must not matter
    x[..., :k] = rng.integers(-40, 41, (batch, m, k))
    matrix = integers(rng, (batch, k, n), dtype) // (1 if dtype != "int16" else 64)
    tiling = choose_tiling(shape, product, isa)
    stored = matrix.transpose(0, 2, 1) if transposed else matrix
    packed = run(pack_matrix(shape, k, transposed, dtype, zero_point, product, tiling, isa), isa, stored)
    got = run(conv(shape, product, isa, raw(), None, None, tiling), isa, x, packed)
    expected = x[..., :k].astype(np.float64) @ (matrix.astype(np.float64) - zero_point)
    np.testing.assert_array_equal(got[:, 0], expected)
