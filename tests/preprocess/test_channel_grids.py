from __future__ import annotations

from typing import Any

import numpy as np

from tests.preprocess.building import fold, inputs, model, node, ops, weights_of

TEXT = """
net (float[2,4,6,6] x) => (float[2,4,6,6] y)
{
  q = QuantizeLinear <axis=1> (x, s, p)
  d = DequantizeLinear <axis=1> (q, s, p)
  w = DequantizeLinear <axis=0> (q0, sw, zw)
  y = Conv <group=4, pads=[1,1,1,1]> (d, w)
}"""
BASE: dict[str, Any] = {
    "q0": np.random.default_rng(3).integers(-127, 127, (4, 1, 3, 3)).astype(np.int8),
    "sw": np.array([0.01, 0.02, 0.015, 0.03], np.float32),
    "zw": np.zeros(4, np.int8),
    "s": np.array([0.01, 0.02, 0.004, 0.03], np.float32),
}


def test_common_zero_point_keeps_eight_bits() -> None:
    result = fold(model(TEXT, p=np.full(4, 30, np.uint8), **BASE), rtol=1e-6)
    assert ops(result.model) == {"Div": 1, "QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1}
    _, one, zero_point = inputs(result.model, node(result.model, "QuantizeLinear"))
    assert (one, zero_point, zero_point.dtype) == (1, 30, np.uint8)
    np.testing.assert_allclose(weights_of(result.model, "Conv")[1], BASE["sw"] * BASE["s"], rtol=1e-6)


def test_zero_points_of_their_own_need_sixteen() -> None:
    result = fold(model(TEXT, p=np.array([30, 0, 128, 255], np.uint8), **BASE), rtol=1e-6, spread=2)
    assert ops(result.model) == {"Div": 1, "Max": 1, "Min": 1, "QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1}
    assert inputs(result.model, node(result.model, "QuantizeLinear"))[2].dtype == np.int16
    assert next(one.version for one in result.model.opset_import if not one.domain) >= 21


def test_other_readers_get_the_product() -> None:
    text = """
net (float[2,4,6,6] x) => (float[2,4,6,6] y)
{
  q = QuantizeLinear <axis=1> (x, s, p)
  d = DequantizeLinear <axis=1> (q, s, p)
  y = Relu (d)
}"""
    result = fold(model(text, p=np.full(4, 30, np.uint8), s=BASE["s"]))
    assert ops(result.model) == {"Div": 1, "QuantizeLinear": 1, "DequantizeLinear": 1, "Mul": 1, "Relu": 1}


def test_equal_parameters_are_no_channels_at_all() -> None:
    result = fold(model(TEXT, **(BASE | {"s": np.full(4, 0.02, np.float32)}), p=np.full(4, 30, np.uint8)))
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1}


def test_full_convolution_keeps_the_product_in_front() -> None:
    text = TEXT.replace("group=4", "group=1")
    weights = {"q0": np.random.default_rng(3).integers(-127, 127, (4, 4, 3, 3)).astype(np.int8)}
    result = fold(model(text, p=np.full(4, 30, np.uint8), **(BASE | weights)))
    assert ops(result.model)["Mul"] == 1


def test_a_raised_opset_leaves_no_constant_nodes() -> None:
    """From opset 18 on, the axes of a reduction are an input."""
    text = TEXT.replace("y = Conv", "c = Conv").replace("\n}", "\n  y = ReduceMean <axes=[2,3]> (c)\n}")
    source = model(text.replace("[2,4,6,6] y", "[2,4,1,1] y"), p=np.array([30, 0, 128, 255], np.uint8), **BASE)
    assert ops(fold(source, rtol=1e-6, spread=2).model)["Constant"] == 0
