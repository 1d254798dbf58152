"""Activations on int16 and uint16 grids, trained ones and, on demand, those that lowering gives to sums."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lowering.running import RUNNABLE, compiled, computes, execute, grid, lowered, lsb, model, qdq
from tests.reference import reference

LAYERS = {
    "conv": ("Conv(a, w)", (24, 16, 1, 1), 0),
    "padded": ("Conv<pads=[1,1,1,1]>(a, w)", (24, 16, 3, 3), 0),
    "depthwise": ("Conv<pads=[1,1,1,1], group=16>(a, w)", (16, 1, 3, 3), 0),
    "transposed": ("ConvTranspose<strides=[2,2]>(a, w)", (16, 24, 2, 2), 1),
}


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("layer", LAYERS)
def test_asymmetric_16_bit_activations(layer, target):
    """A zero point far from the middle: it can't be taken off in int16, so the accumulators' start takes it off."""
    call, shape, axis = LAYERS[layer]
    rng = np.random.default_rng(3)
    constants = grid("a", 2.0**-9, 9000, "uint16") | grid("y", 2.0**-2, 30)
    body = qdq("x", "a") + f"w = DequantizeLinear<axis={axis}>(wq, sw, zw)\nc = {call}\n" + qdq("c", "y")
    size = (8, 8) if layer == "transposed" else (4, 4)
    channels = {"depthwise": 16}.get(layer, 24)
    source = model(
        f"(float[1,16,4,4] x) => (float[1,{channels},{size[0]},{size[1]}] y)", body,
        wq=rng.integers(-100, 101, shape).astype(np.int8), sw=np.full(shape[axis], 2.0**-9, np.float32),
        zw=np.zeros(shape[axis], np.int8), **constants,
    )  # fmt: skip
    feeds = {"x": rng.normal(10, 30, (1, 16, 4, 4)).astype(np.float32)}
    assert set(computes(lowered(source, target)).values()) <= {"int16", "int8", "float32"}
    assert computes(lowered(source, target))["ConvTranspose" if axis else "Conv"] == "int16"
    got, wanted = compiled(source, feeds, target)[0], reference(source, feeds)[0]
    assert lsb(got, wanted, 2.0**-2).max() <= 1  # onnxruntime's float32 sums round; ours are exact
    assert np.mean(got == wanted) > 0.998


def test_a_sum_behind_a_relu_uses_all_of_int16():
    """One-sided, its grid has 65,535 steps; the layer behind differs from float32 only at boundaries."""
    rng = np.random.default_rng(4)
    body = qdq("x", "a") + "half = Mul(x, h)\n" + qdq("half", "b") + "s = Add(a, b)\nr = Relu(s)\n"
    layer = "w = DequantizeLinear<axis=0>(wq, sw, zw)\nc = Conv<pads=[1,1,1,1]>(r, w)\n" + qdq("c", "y")
    source = model(
        "(float[1,16,16,16] x) => (float[1,24,16,16] y)", body + layer, h=0.3,
        wq=rng.integers(-100, 101, (24, 16, 3, 3)).astype(np.int8), sw=np.full(24, 0.0021, np.float32),
        zw=np.zeros(24, np.int8), **grid("a", 0.061, 120), **grid("b", 0.017, 131), **grid("y", 0.083, 128),
    )  # fmt: skip
    feeds = {"x": rng.normal(0, 3, (1, 16, 16, 16)).astype(np.float32)}
    network = lowered(source, exact_sums=False)
    assert computes(network)["Conv"] == "int16"
    difference = lsb(execute(network, feeds)[0], reference(source, feeds)[0], 0.083)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 6e-4  # half as many as with 32,767 steps


def test_a_product_of_activations_leaves_what_the_known_operand_does_not_need():
    """Softmax has no grid here, its partner has: 32,767 steps instead of the square root of int32."""
    body = "p = Softmax(x)\n" + qdq("v", "a") + "c = MatMul(p, a)\n" + qdq("c", "y")
    source = model(
        "(float[1,64,17] x, float[1,17,32] v) => (float[1,64,32] y)", body,
        **grid("a", 0.021, 3, "int8"), **grid("y", 0.0043, 0, "int8"),
    )  # fmt: skip
    rng = np.random.default_rng(6)
    feeds = {
        name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in (("x", (1, 64, 17)), ("v", (1, 17, 32)))
    }
    network = lowered(source, exact_sums=False)
    assert computes(network)["MatMul"] == "int16"
    difference = lsb(execute(network, feeds)[0], reference(source, feeds)[0], 0.0043)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 0.012  # with the square root 0.022


def test_attention_is_bounded_by_what_it_weights():
    """Probabilities sum to one: the projection behind Softmax x V is integer without a trained range of its input."""
    body = "p = Softmax(x)\n" + qdq("v", "a") + "c = MatMul(p, a)\nw = DequantizeLinear<axis=1>(wq, sw, zw)\n"
    rng = np.random.default_rng(7)
    source = model(
        "(float[1,64,17] x, float[1,17,32] v) => (float[1,64,24] y)", body + "d = MatMul(c, w)\n" + qdq("d", "y"),
        wq=rng.integers(-100, 101, (32, 24)).astype(np.int8), sw=np.full(24, 0.0021, np.float32),
        zw=np.zeros(24, np.int8), **grid("a", 0.021, 3, "int8"), **grid("y", 0.0083, 0, "int8"),
    )  # fmt: skip
    feeds = {n: rng.normal(0, 1, s).astype(np.float32) for n, s in (("x", (1, 64, 17)), ("v", (1, 17, 32)))}
    network = lowered(source, exact_sums=False)
    assert [node.compute for node in network.coverage if node.op == "MatMul"] == ["int16", "int16"]
    difference = lsb(execute(network, feeds)[0], reference(source, feeds)[0], 0.0083)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 0.012
