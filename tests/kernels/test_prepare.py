"""Padding, channel padding and widening."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.prepare import prepare
from tests.kernels.running import few, integers, on_each_isa, run

CONVERSIONS = [
    ("uint8", "uint8", 0, 131),
    ("int8", "uint8", 0, 3),
    ("uint8", "int8", 0, -77),
    ("uint8", "int16", 200, 0),
    ("int8", "int16", -7, 0),
    ("int16", "int16", 0, 0),
    ("float32", "float32", 0, 0),
    ("uint8", "float32", 11, 0),
    ("int16", "float32", -300, 0),
]


@on_each_isa
@pytest.mark.parametrize("conversion", CONVERSIONS, ids=lambda c: f"{c[0]}-{c[1]}")
@few
@given(data=st.data())
def test_prepare(isa: Isa, conversion: tuple[str, str, int, int], data: st.DataObject) -> None:
    in_dtype, out_dtype, subtract, fill = conversion
    batch, height, width = (data.draw(st.integers(1, high)) for high in (2, 5, 9))
    groups, channels, more = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 40)), data.draw(st.integers(0, 3))
    top, left, bottom, right = pads = data.draw(st.tuples(*[st.integers(0, 2)] * 4))
    extra_rows = data.draw(st.integers(0, 1))
    x = integers(np.random.default_rng(channels), (batch, height, width, groups, channels), in_dtype)
    shape = (batch, height, width, groups * channels)
    kernel = prepare(shape, pads, groups, channels + more, in_dtype, out_dtype, subtract, fill, isa, extra_rows)
    shift = {("int8", "uint8"): -128, ("uint8", "int8"): 128}.get((in_dtype, out_dtype), subtract)
    converted = x.astype(float) - shift
    out = (batch, height + top + bottom + extra_rows, width + left + right, groups, channels + more)
    expected = np.full(out, fill, out_dtype)
    expected[:, top : top + height, left : left + width, :, :channels] = converted
    np.testing.assert_array_equal(run(kernel, isa, x), expected.reshape(*out[:3], -1))


@on_each_isa
def test_first_layer_image(isa: Isa) -> None:
    x = integers(np.random.default_rng(0), (1, 37, 41, 3), "uint8")
    kernel = prepare((1, 37, 41, 3), (3, 3, 3, 3), 1, 4, "uint8", "uint8", 0, 9, isa)
    expected = np.full((1, 43, 47, 4), 9)
    expected[:, 3:-3, 3:-3, :3] = x
    np.testing.assert_array_equal(run(kernel, isa, x), expected)
