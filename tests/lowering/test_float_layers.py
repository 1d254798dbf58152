"""Layers whose input has no trained range: computed in float32, from weights stored as they were trained."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.lowering.running import RUNNABLE, compiled, lowered, model
from tests.reference import reference


def network(body: str, shape: tuple[int, ...], out: str, zero_point: int = 0) -> tuple[onnx.ModelProto, np.ndarray]:
    """`body` reads v, trained int8 weights of this shape; and the weights as they are stored in the model."""
    rng = np.random.default_rng(0)
    values = rng.integers(-127, 128 - zero_point, shape).astype(np.int8)
    source = model(
        f"(float[1,32,16,16] x) => (float[{out}] y)",
        "v = DequantizeLinear<axis=0>(w, s, z)\n" + body,
        w=values, s=rng.uniform(0.001, 0.002, shape[0]).astype(np.float32), z=np.full(shape[0], zero_point, np.int8),
        flat=np.array([1, 32 * 256]), bias=rng.normal(0, 1, shape[0]).astype(np.float32),
    )  # fmt: skip
    return source, values


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize(
    ("body", "shape", "out"),
    [
        ("y = Conv<strides = [2, 2]>(x, v, bias)", (48, 32, 2, 2), "1,48,8,8"),
        ("y = Conv<group = 32, pads = [1, 1, 1, 1]>(x, v, bias)", (32, 1, 3, 3), "1,32,16,16"),
        ("f = Reshape(x, flat)  y = Gemm<transB = 1, alpha = 0.5>(f, v, bias)", (10, 32 * 256), "1,10"),
    ],
    ids=["Conv", "depthwise", "Gemm"],
)
def test_outputs_are_those_of_float_weights(body, shape, out, target):
    source, _ = network(body, shape, out)
    feeds = {"x": np.random.default_rng(1).normal(0, 1, (1, 32, 16, 16)).astype(np.float32)}
    expected = reference(source, feeds)[0]
    # float32 sums of up to 8192 products, in another order.
    np.testing.assert_allclose(compiled(source, feeds, target)[0], expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("target", RUNNABLE)
def test_their_weights_take_a_byte(target):
    source, values = network("y = Conv<strides = [2, 2]>(x, v, bias)", (48, 32, 2, 2), "1,48,8,8")
    stored = [v for v in lowered(source, target).params.values() if v.size >= values.size]
    assert [v.dtype for v in stored] == [np.int8]


def test_where_pixels_are_many_they_are_stored_as_they_are_multiplied():
    source, values = network("y = Conv<pads = [31, 31, 31, 31]>(x, v, bias)", (8, 32, 3, 3), "1,8,76,76")
    stored = [v for v in lowered(source, RUNNABLE[0]).params.values() if v.size >= values.size]
    assert [v.dtype for v in stored] == [np.float32]


def test_weights_beyond_int8_stay_float32():
    """A zero point takes some of them to -137."""
    source, values = network("y = Conv<strides = [2, 2]>(x, v, bias)", (48, 32, 2, 2), "1,48,8,8", zero_point=10)
    stored = [v for v in lowered(source, RUNNABLE[0]).params.values() if v.size >= values.size]
    assert [v.dtype for v in stored] == [np.float32]


def test_every_float_node_says_what_training_left_out():
    """In ONNX's words, with the cause: no FakeQuant, nothing empty."""
    source = model(
        "(float[1,32,16,16] x) => (float[1,8,16,16] y, float[1,8,8,8] p)",
        """v = DequantizeLinear<axis = 0>(w, s)
        a = QuantizeLinear(x, t, o)  b = DequantizeLinear(a, t, o)
        c = Conv(b, v)  d = Conv(b, u)  m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d)
        e = QuantizeLinear(c, t, o)  f = DequantizeLinear(e, t, o)  h = Add(f, d)  y = Neg(h)
        p = Relu(m)""",
        w=np.ones((8, 32, 1, 1), np.int8), s=np.full(8, 0.01, np.float32), t=np.float32(0.1), o=np.int8(0),
        u=np.random.default_rng(0).normal(0, 1, (8, 32, 1, 1)).astype(np.float32),
    )  # fmt: skip
    found = {(node.op, node.reason) for node in lowered(source, RUNNABLE[0]).coverage if node.compute == "float32"}
    assert found == {
        ("QuantizeLinear", "the network's input is float32"),
        ("Conv", "its weights were not quantized in training"),
        ("MaxPool", "its input has no trained range"),
        ("Add", "an operand has no trained range"),
        ("Relu", "its input has no trained range"),
    }
