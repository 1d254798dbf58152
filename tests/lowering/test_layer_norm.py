"""LayerNormalization and the elementwise steps behind it run as one kernel."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lowering.running import assert_same_steps, grid, kernels, lowered, model, qdq

FEEDS = {"x": np.random.default_rng(5).normal(1, 3, (2, 9, 40)).astype(np.float32)}
SCALES = {"g": np.linspace(0.5, 2, 40, dtype=np.float32), "b": np.linspace(-1, 1, 40, dtype=np.float32)}


@pytest.mark.parametrize(
    "steps", ["o = LayerNormalization(x, g, b)\n", "n = LayerNormalization(x, g)\no = Add(n, b)\n"]
)
def test_layer_norm_and_what_follows_are_one_kernel(steps: str) -> None:
    signature = "(float[2,9,40] x) => (float[2,9,40] y)"
    source = model(signature, steps + qdq("o", "y"), 17, **SCALES, **grid("y", 0.03, 128))
    assert kernels(lowered(source)) == {"layer_norm": 1, "convert": 1}  # the output as float32
    assert_same_steps(source, FEEDS, 0.03, flips=0.002)
