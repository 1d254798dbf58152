from __future__ import annotations

import numpy as np
import pytest

from tests.lowering.running import RUNNABLE, assert_same_steps, grid, model, qdq


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize(("shape", "axis"), [((1, 2, 2, 1), 2), ((2, 5, 1, 1), 1), ((2, 5, 3, 3), 1), ((2, 3, 7), -1)])
def test_softmax_over_any_axis(shape: tuple[int, ...], axis: int, target: str) -> None:
    x = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    dims = ",".join(map(str, shape))
    source = model(
        f"(float[{dims}] x) => (float[{dims}] y)",
        qdq("x", "a") + f"s = Softmax<axis = {axis}>(a)\n" + qdq("s", "y"),
        **grid("a", 0.01, 100),
        **grid("y", 1 / 255, 0),
    )
    assert_same_steps(source, {"x": x}, 1 / 255, flips=0.02, target=target)
