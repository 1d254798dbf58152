from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from drpai_qat.core.quantization import QuantParams
from preprocess.moved_weights import move

Q = np.random.default_rng(0).integers(-127, 127, (6, 4, 2)).astype(np.int8)


def params(axis: int | None) -> QuantParams:
    if axis is None:
        return QuantParams.of(0.5, 3)
    size = Q.shape[axis]
    return QuantParams.of(np.arange(1, size + 1) / 7, np.arange(size), axis=axis)


def apply(op: str, channel_axis: int | None, outputs: int, constants: tuple[Any, ...], attrs: dict[str, object]) -> Any:
    inputs = [gs.Variable("x"), *(gs.Constant(f"c{at}", np.asarray(value)) for at, value in enumerate(constants))]
    made = gs.Node(op, "n", attrs, inputs, [gs.Variable(f"y{at}") for at in range(outputs)])
    return move(made, Q, params(channel_axis), 17)


CASES = [
    ("Transpose", (), {"perm": [2, 0, 1]}, lambda x: [x.transpose(2, 0, 1)]),
    ("Transpose", (), {}, lambda x: [x.transpose()]),
    ("Reshape", ([6, 8],), {}, lambda x: [x.reshape(6, 8)]),
    ("Reshape", ([2, 3, 4, 2],), {}, lambda x: [x.reshape(2, 3, 4, 2)]),
    ("Flatten", (), {"axis": 1}, lambda x: [x.reshape(6, 8)]),
    ("Unsqueeze", ([1, 4],), {}, lambda x: [x[:, None, :, :, None]]),
    ("Slice", ([1], [5], [0], [2]), {}, lambda x: [x[1:5:2]]),
    ("Split", (), {"axis": 0}, lambda x: [x[:3], x[3:]]),
    ("Gather", ([0, 3],), {"axis": 1}, lambda x: [x[:, [0, 3]]]),
    ("Gather", (2,), {"axis": 0}, lambda x: [x[2]]),
    ("Tile", ([1, 1, 3],), {}, lambda x: [np.tile(x, (1, 1, 3))]),
    ("Expand", ([2, 6, 4, 2],), {}, lambda x: [np.broadcast_to(x, (2, 6, 4, 2))]),
]


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize(("op", "constants", "attrs", "expected"), CASES)
def test_moved_integers_have_the_moved_reals(op, constants, attrs, expected, axis) -> None:
    wanted = expected(params(axis).dequantize(Q))
    result = apply(op, axis, len(wanted), constants, attrs)
    if result is None:  # the channels got mixed: only where a reshape cuts through them
        assert op in ("Reshape", "Flatten")
        assert axis != 0 or constants == ([2, 3, 4, 2],)
        return
    for (q, moved), real in zip(result, wanted, strict=True):
        np.testing.assert_array_equal(moved.dequantize(q), real)


def test_operands_computed_at_run_time_are_no_move() -> None:
    made = gs.Node("Reshape", "n", {}, [gs.Variable("x"), gs.Variable("shape")], [gs.Variable("y")])
    assert move(made, Q, params(None), 17) is None
