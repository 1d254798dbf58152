"""Layers whose weights have a scale for every block of input channels."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.preprocess.building import fold, model, normal, ops

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
NET = """net (float[{x}] x) => (float[{y}] y) <float sx = {{0.03}}, uint8 zx = {{120}}>
{{
  qx = QuantizeLinear (x, sx, zx)
  dx = DequantizeLinear (qx, sx, zx)
  {body}
}}"""
DQ = "w = DequantizeLinear <axis={}, block_size=4> (q, s, z)\n"


def blocks(*shape: int, axis: int, dtype: str = "int8") -> dict[str, Any]:
    """Weights, and a scale and zero point for every four along `axis`; the last block may be shorter."""
    rng = np.random.default_rng(0)
    counts = [-(-n // 4) if at == axis else n for at, n in enumerate(shape)]
    low, high = (0, 16) if dtype.startswith("u") else (-8, 8)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    scale = np.abs(normal(*counts)) + np.float32(0.01)
    values, points = (rng.integers(low, high, size).astype(kind) for size in (shape, counts))
    return {"q": values, "s": scale, "z": points}


def _taps(constants: dict[str, Any]) -> dict[str, Any]:
    """With one scale and zero point for all taps of a kernel."""
    return constants | {one: np.broadcast_to(constants[one][..., :1, :1], constants[one].shape) for one in ("s", "z")}


@pytest.mark.parametrize(
    ("x", "y", "body", "constants", "layer", "count"),
    [
        ("2,8", "2,4", DQ.format(0) + "y = MatMul (dx, w)", blocks(8, 4, axis=0), "MatMul", 2),
        ("2,3,10", "2,3,4", DQ.format(-2) + "y = MatMul (dx, w)", blocks(10, 4, axis=0, dtype="uint4"), "MatMul", 3),
        ("2,10", "2,4", DQ.format(1) + "t = Transpose (w) y = MatMul (dx, t)", blocks(4, 10, axis=1), "MatMul", 3),
        ("2,10", "2,5", DQ.format(1) + "y = Gemm <transB=1, alpha=0.5, beta=2.0> (dx, w, b)",
         {**blocks(5, 10, axis=1, dtype="int4"), "b": normal(5)}, "Gemm", 3),
        ("10,2", "2,5", DQ.format(0) + "y = Gemm <transA=1> (dx, w)", blocks(10, 5, axis=0), "Gemm", 3),
        ("1,6,5,5", "1,6,3,3", DQ.format(1) + "y = Conv (dx, w)", _taps(blocks(6, 6, 3, 3, axis=1)), "Conv", 2),
    ],
)  # fmt: skip
def test_a_layer_each(x: str, y: str, body: str, constants: dict[str, Any], layer: str, count: int) -> None:
    result = fold(model(HEAD + NET.format(x=x, y=y, body=body), **constants), rtol=1e-6)
    found = ops(result.model)
    assert found[layer] == found["DequantizeLinear"] - 1 == count
    assert found.get("Add", 0) == count - 1
    assert any("blocks of weights" in note.reason for note in result.log)
