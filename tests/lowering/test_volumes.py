"""Convolutions and pooling over three dimensions, in integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.lowering.running import RUNNABLE, compiled, lowered, model
from tests.reference import reference


def network(body: str, shape: tuple[int, ...], out: str) -> onnx.ModelProto:
    """From a quantized volume `b` to `c`, which is quantized; `v`: trained weights of this shape."""
    rng = np.random.default_rng(0)
    return model(
        f"(float[2,4,7,9,8] x) => (float[{out}] y)",
        "v = DequantizeLinear<axis = 0>(w, s)  a = QuantizeLinear(x, t, o)  b = DequantizeLinear(a, t, o)\n"
        + body + "\nd = Relu(c)  e = QuantizeLinear(d, t, o)  y = DequantizeLinear(e, t, o)",
        w=rng.integers(-127, 128, shape).astype(np.int8), s=rng.uniform(0.001, 0.003, shape[0]).astype(np.float32),
        t=np.float32(0.03), o=np.uint8(100), bias=rng.normal(0, 1, shape[0]).astype(np.float32),
    )  # fmt: skip


CONVOLUTIONS = [
    ("c = Conv(b, v)", (6, 4, 1, 3, 2), "2,6,7,7,7"),
    ("c = Conv<pads = [1, 1, 0, 2, 1, 1]>(b, v, bias)", (6, 4, 3, 3, 3), "2,6,8,9,7"),
    ("c = Conv<group = 2, strides = [2, 2, 1], pads = [1, 1, 1, 1, 1, 1]>(b, v)", (6, 2, 3, 3, 3), "2,6,4,5,8"),
    ("c = Conv<group = 4, dilations = [2, 1, 2], pads = [2, 0, 0, 2, 0, 0]>(b, v)", (4, 1, 3, 3, 3), "2,4,7,7,4"),
]
POOLING = [
    ("c = MaxPool<kernel_shape = [2, 3, 2], strides = [2, 2, 2], ceil_mode = 1>(b)", (1, 1, 1, 1, 1), "2,4,4,4,4"),
    ("c = MaxPool<kernel_shape = [3, 3, 3], pads = [1, 0, 1, 1, 1, 0]>(b)", (1, 1, 1, 1, 1), "2,4,7,8,7"),
]


@pytest.mark.parametrize(("body", "shape", "out"), [*CONVOLUTIONS, *POOLING])
def test_in_integers(body: str, shape: tuple[int, ...], out: str) -> None:
    source = network(body, shape, out)
    feeds = {"x": np.random.default_rng(1).normal(0, 1, (2, 4, 7, 9, 8)).astype(np.float32)}
    wanted, found = reference(source, feeds)[0], compiled(source, feeds, RUNNABLE[0])[0]
    steps = np.abs(wanted - found) / 0.03
    assert steps.max() < 1.01
    assert (steps > 0.01).mean() < 1e-3  # ties
    assert {node.compute for node in lowered(source, RUNNABLE[0]).coverage if node.op != "QuantizeLinear"} <= {
        "int8", "view",
    }  # fmt: skip
