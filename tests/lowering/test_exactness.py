"""Tensors without a trained range: what reads them computes as if nothing had been rounded.

Compared with onnxruntime's float32, integer for integer, of which one may have been rounded wrong there: an int16 form
of these tensors gets dozens of them wrong.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.lowering.running import RUNNABLE, assert_same_steps, computes, grid, kernels, lowered, model, qdq

STEP = 0.031
CONSTANTS = grid("a", 0.061, 120) | grid("b", 0.0173, 131) | grid("y", STEP, 128)


def weight(name: str, *shape: int) -> dict[str, np.ndarray]:
    values = np.random.default_rng(len(name)).integers(-100, 101, shape).astype(np.int8)
    scales = np.linspace(0.0007, 0.0021, shape[0]).astype(np.float32)
    return {f"q{name}": values, f"s{name}": scales, f"z{name}": np.zeros(shape[0], np.int8)}


def conv(result: str, source: str, name: str, attributes: str = "") -> str:
    call = f"Conv<{attributes}>" if attributes else "Conv"
    return f"w{result} = DequantizeLinear<axis=0>(q{name}, s{name}, z{name})\n{result} = {call}({source}, w{result})\n"


def image(channels: int = 32, size: int = 16) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(5).normal(0, 3, (1, channels, size, size)).astype(np.float32)}


def assert_exact(source: onnx.ModelProto, feeds: dict[str, np.ndarray], target: str) -> None:
    assert_same_steps(source, feeds, STEP, flips=1e-4, target=target)


PADDED = "pads=[1,1,1,1]"
# The last node makes t, 32 channels of 16x16, bounded and without a grid.
TENSORS = {
    "a sum behind a ReLU": "half = Mul(x, h)\n" + qdq("half", "b") + "s = Add(a, b)\nt = Relu(s)\n",
    "sums of sums": "half = Mul(x, h)\n" + qdq("half", "b") + "n = Neg(half)\n" + qdq("n", "e", "b")
    + "s = Add(a, b)\nr = Relu(s)\nu = Add(r, e)\nv = Relu(u)\ng = Add(v, a)\nt = Relu(g)\n",
    "a sum within limits": "half = Mul(x, h)\n" + qdq("half", "b") + "s = Add(a, b)\nt = Clip(s, lo, hi)\n",
    "SiLU": "e = Sigmoid(a)\nt = Mul(a, e)\n",
    "a product": "half = Mul(x, h)\n" + qdq("half", "b") + "t = Mul(a, b)\n",
    "a pooled curve": "e = Sigmoid(a)\ng = Mul(a, e)\nt = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(g)\n",
}  # fmt: skip
READERS = {
    "1x1": (conv("c", "t", "w"), weight("w", 24, 32, 1, 1), (24, 16)),
    "3x3": (conv("c", "t", "w", PADDED), weight("w", 32, 32, 3, 3), (32, 16)),
    "strided": (conv("c", "t", "w", PADDED + ", strides=[2,2]"), weight("w", 24, 32, 3, 3), (24, 8)),
    "depthwise": (conv("c", "t", "w", PADDED + ", group=32"), weight("w", 32, 1, 3, 3), (32, 16)),
}


def network(tensor: str, reader: str) -> onnx.ModelProto:
    line, weights, (channels, size) = READERS[reader]
    return model(
        f"(float[1,32,16,16] x) => (float[1,{channels},{size},{size}] y)",
        qdq("x", "a") + TENSORS[tensor] + line + qdq("c", "y"),
        h=0.3, lo=0.0, hi=6.0, **CONSTANTS, **weights,
    )  # fmt: skip


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("tensor", TENSORS)
def test_a_tensor_without_a_range(tensor, target):
    assert_exact(network(tensor, "3x3"), image(), target)


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("reader", READERS)
def test_a_reader(reader, target):
    assert_exact(network("a sum behind a ReLU", reader), image(), target)
    assert_exact(network("SiLU", reader), image(), target)


def test_layers_are_integer():
    """With products that add in int32; elsewhere float32 may be faster, and where it is it is taken."""
    for tensor in TENSORS:
        wanted = "int16" if tensor == "a product" else "int8"  # int16 holds it exactly
        assert computes(lowered(network(tensor, "3x3"), "rzv2h"))["Conv"] == wanted


@pytest.mark.parametrize("target", RUNNABLE)
def test_a_pooled_concatenation(target):
    """Its parts are pooled, each on its own grid, and the convolution reads them so."""
    body = qdq("x", "a") + "half = Mul(x, h)\n" + qdq("half", "b") + "s = Concat<axis=1>(a, b)\n"
    body += "t = MaxPool<kernel_shape=[3,3], strides=[2,2]>(s)\n" + conv("c", "t", "w") + qdq("c", "y")
    source = model(
        "(float[1,32,17,17] x) => (float[1,24,8,8] y)", body, h=0.3, **CONSTANTS, **weight("w", 24, 64, 1, 1)
    )
    found = kernels(lowered(source, target))
    assert (found["max_pool"], found["concat"], found["join"]) == (2, 0, 0)
    assert computes(lowered(source, target))["Conv"] == "int8"
    assert_exact(source, image(size=17), target)


@pytest.mark.parametrize("target", RUNNABLE)
def test_a_matrix_product(target):
    body = qdq("x", "a") + "e = Sigmoid(a)\nt = Mul(a, e)\n"
    body += "w = DequantizeLinear<axis=1>(qw, sw, zw)\nc = MatMul(t, w)\n" + qdq("c", "y")
    weights = weight("w", 40, 64)
    weights["qw"] = np.ascontiguousarray(weights["qw"].T)
    source = model("(float[1,50,64] x) => (float[1,50,40] y)", body, **CONSTANTS, **weights)
    assert computes(lowered(source, "rzv2h"))["MatMul"] == "int8"
    feeds = {"x": np.random.default_rng(5).normal(0, 3, (1, 50, 64)).astype(np.float32)}
    assert_exact(source, feeds, target)


@pytest.mark.parametrize("target", RUNNABLE)
def test_other_readers_put_the_parts_together(target):
    body = qdq("x", "a") + TENSORS["a sum behind a ReLU"] + conv("c", "t", "w") + qdq("c", "y")
    body += "m = GlobalAveragePool(t)\n" + qdq("m", "z", "b")
    source = model(
        "(float[1,32,16,16] x) => (float[1,24,16,16] y, float[1,32,1,1] z, float[1,32,16,16] t)", body, h=0.3,
        **CONSTANTS, **weight("w", 24, 32, 1, 1),
    )  # fmt: skip
    assert_exact(source, image(), target)


@pytest.mark.parametrize("shape", [(4, 1, 1), (6, 1), (5,)])
def test_a_scale_along_any_axis(shape):
    """A rounding behind a quantizer whose scales lie along another axis than the channels."""
    body = qdq("x", "a") + "s = Div(a, d)\n" + qdq("s", "y")
    divisor = np.random.default_rng(1).uniform(0.5, 2, shape).astype(np.float32)
    source = model("(float[1,4,6,5] x) => (float[1,4,6,5] y)", body, d=divisor, **CONSTANTS)
    feeds = {"x": np.random.default_rng(2).normal(0, 1, (1, 4, 6, 5)).astype(np.float32)}
    assert_exact(source, feeds, "host")


@pytest.mark.parametrize("op", ["Min", "Max"])
@pytest.mark.parametrize("shape", [(5,), (4, 1, 1), (1, 4, 6, 5), ()])
def test_limits_that_lie_beyond_the_tensor(op, shape):
    """A Min or Max with several constants brings values of its own, and a layer behind needs their range."""
    body = qdq("x", "a") + f"t = {op}(a, d)\n" + conv("c", "t", "w") + qdq("c", "y")
    limits = np.random.default_rng(1).normal(0, 4, shape).astype(np.float32)
    source = model("(float[1,4,6,5] x) => (float[1,8,6,5] y)", body, d=limits, **CONSTANTS, **weight("w", 8, 4, 1, 1))
    feeds = {"x": np.random.default_rng(2).normal(0, 1, (1, 4, 6, 5)).astype(np.float32)}
    assert_exact(source, feeds, "host")
