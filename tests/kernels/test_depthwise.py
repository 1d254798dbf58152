"""Depthwise convolutions against numpy, at the limits of their dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.depthwise import depthwise
from drpai_qat.kernels.isa import Isa
from tests.kernels.running import few, integers, on_each_isa, raw, requantized, run, windows

INPUTS = {  # input dtype, weight dtype, zero point, qmin, qmax, largest weight
    "8 bits": ("uint8", "int8", 117, 0, 255, 128),
    "7 bits": ("uint8", "int8", 0, 0, 127, 127),
    "4 bits": ("uint8", "int8", 128, 120, 135, 7),
    "16 bits": ("int16", "int8", 0, -30000, 30000, 127),
    "wide": ("int16", "int16", 0, -300, 300, 255),
    "float": ("float32", "float32", 0, -100, 100, 100),
}


@on_each_isa
@pytest.mark.parametrize("name", INPUTS)
@few
@given(data=st.data(), seed=st.integers(0, 9))
def test_depthwise(isa: Isa, name: str, data: st.DataObject, seed: int) -> None:
    in_dtype, weight_dtype, zero_point, qmin, qmax, limit = INPUTS[name]
    kernel = data.draw(st.sampled_from([(3, 3), (5, 5), (1, 3), (3, 1), (2, 2), (1, 1), (3, 7)]))
    stride, dilation = (data.draw(st.sampled_from([(1, 1), (2, 2), (1, 2)])) for _ in range(2))
    size, batch = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9))), data.draw(st.integers(1, 2))
    channels = data.draw(st.sampled_from([1, 3, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 96, 144]))
    rng = np.random.default_rng(seed)
    height, width = ((size[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 for i in (0, 1))
    # Only extremes and their neighbours, so that a saturating product shows.
    x = rng.choice([qmin, qmin + 1, qmax - 1, qmax], (batch, height, width, channels)).astype(in_dtype)
    w = rng.choice([-limit, 1 - limit, 0, limit - 1], (*kernel, channels)).astype(weight_dtype)
    bias = None if name == "float" else integers(rng, (channels,), "int16").astype(np.int32)
    shape = ConvShape(batch, height, width, channels, size[0], size[1], channels, kernel, stride, dilation)
    taps = windows(x, kernel, stride, (0, 0, 0, 0), dilation, size, 0) - zero_point
    acc = np.einsum("tnhwc,tc->nhwc", taps, w.reshape(-1, channels).astype(np.float64))
    acc += 0 if bias is None else bias
    epilogue = requantized(acc)
    got = run(depthwise(shape, isa, epilogue, w, bias, in_dtype, zero_point, qmin, qmax), isa, x)
    accumulators = acc.astype(np.float32 if name == "float" else np.int32)
    np.testing.assert_allclose(got, epilogue.evaluate(accumulators, []).astype(int), atol=1 if name == "float" else 0)
    if np.abs(acc).max() < 2**24:
        got = run(depthwise(shape, isa, raw(), w, bias, in_dtype, zero_point, qmin, qmax), isa, x)
        np.testing.assert_array_equal(got, acc)


@on_each_isa
def test_rows_longer_than_a_tile(isa: Isa) -> None:
    rng = np.random.default_rng(3)
    x, w = integers(rng, (1, 9, 57, 40), "uint8"), integers(rng, (3, 3, 40), "int8")
    for stride in ((1, 1), (2, 2)):
        size = (7 // stride[0] + (stride[0] > 1), 55 // stride[1] + (stride[1] > 1))
        shape = ConvShape(1, 9, 57, 40, *size, 40, (3, 3), stride)
        taps = windows(x, (3, 3), stride, (0, 0, 0, 0), (1, 1), size, 0) - 7
        acc = np.einsum("tnhwc,tc->nhwc", taps, w.reshape(9, 40).astype(np.float64))
        np.testing.assert_array_equal(run(depthwise(shape, isa, raw(), w, None, "uint8", 7, 0, 255), isa, x), acc)
