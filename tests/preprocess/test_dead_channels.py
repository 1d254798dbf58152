"""Dead channels of weights are zeros on a scale that they can have; nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.core.errors import QuantizationError
from preprocess import preprocess
from tests.preprocess.building import fold, model, normal, scales_for, weights_of

GRID = {"s": np.float32(0.02), "z": np.uint8(100)}
W = normal(6, 5)
TEXT = """net (float[3,6] x) => (float[3,5] y)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  %s
  y = Gemm (d, f, b)
}"""
FLOAT = "i = QuantizeLinear <axis = 1> (w, ws, wz)\n f = DequantizeLinear <axis = 1> (i, ws, wz)"
INTEGERS = "f = DequantizeLinear <axis = 1> (w, ws, wz)"


@pytest.mark.parametrize("tiny", [0.0, 1e-42, 1e-37])
@pytest.mark.parametrize("text", [FLOAT, INTEGERS])
def test_dead_channels_are_zeros(text: str, tiny: float) -> None:
    scale = scales_for(W, 1)
    integers = np.rint(W / scale).astype(np.int8)
    scale[2] = tiny
    constants = {"w": W if text is FLOAT else integers, "ws": scale, "wz": np.zeros(5, np.int8), "b": normal(5)}
    result = fold(model(TEXT % text, **GRID, **constants), rtol=1e-6)
    q, found, zero_point = weights_of(result.model, "Gemm")
    assert not q[:, 2].any()
    assert not zero_point.any()
    np.testing.assert_array_equal(np.delete(q, 2, 1), np.delete(integers, 2, 1))
    assert found[2] > 1e-3
    assert any("dead channel" in note.reason for note in result.log)


def test_a_zero_point_stays_the_zero() -> None:
    scale, point = scales_for(W, 1), np.array([3, 5, 7, 9, 11], np.uint8)
    scale[2] = 0
    integers = np.random.default_rng(1).integers(0, 256, W.shape).astype(np.uint8)
    made = fold(model(TEXT % INTEGERS, **GRID, w=integers, ws=scale, wz=point, b=normal(5)), rtol=1e-6).model
    q, _, zero_point = weights_of(made, "Gemm")
    assert (q[:, 2] == np.broadcast_to(zero_point, 5)[2]).all()


def test_an_activation_of_scale_zero_is_refused() -> None:
    with pytest.raises(QuantizationError, match="node QuantizeLinear_q, tensor s: scale = 0 is zero"):
        preprocess(model(TEXT % FLOAT, s=np.float32(0), z=GRID["z"], w=W, ws=scales_for(W, 1),
                         wz=np.zeros(5, np.int8), b=normal(5)))  # fmt: skip


def test_scales_whose_product_underflows() -> None:
    """Neither of them does alone: the bias stays float32."""
    scale = np.full(5, 1e-20, np.float32)
    text = TEXT % INTEGERS
    source = model(
        text,
        s=np.float32(1e-20),
        z=np.uint8(100),
        w=np.ones((6, 5), np.int8),
        ws=scale,
        wz=np.zeros(5, np.int8),
        b=normal(5),
    )
    assert fold(source, rtol=1e-6).model.graph.node[-1].op_type == "Gemm"
