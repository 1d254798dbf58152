"""Layers that Winograd's algorithm computes: full 8-bit ranges, padding, residual sums, batches."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lowering.running import RUNNABLE, compiled, grid, kernels, lowered, model, qdq
from tests.reference import reference

WITHOUT_VNNI = [name for name in RUNNABLE if name in ("x86-64-v2", "avx2")]
GRIDS = grid("a", 2**-4, 120) | grid("b", 2**-4, 131) | grid("y", 2**-4, 128)


def layer(name: str, source: str, channels: int, out: int) -> tuple[str, dict[str, np.ndarray]]:
    """3x3, same size, weights over the whole of int8."""
    line = f"w{name} = DequantizeLinear<axis=0>(q{name}, s{name}, z{name})\n"
    line += f"{name} = Conv<pads = [1, 1, 1, 1]>({source}, w{name})\n"
    values = np.random.default_rng(len(source)).integers(-128, 128, (out, channels, 3, 3)).astype(np.int8)
    scales = np.full(out, 2.0**-12, np.float32)
    return line, {f"q{name}": values, f"s{name}": scales, f"z{name}": np.zeros(out, np.int8)}


@pytest.mark.parametrize("target", WITHOUT_VNNI)
@pytest.mark.parametrize(("size", "channels", "ahead"), [((13, 30), 16, "weights"), ((6, 7), 64, "windows")])
def test_a_residual_block_is_exact(size, channels, ahead, target):
    first, first_weights = layer("c", "a", channels, channels)
    second, second_weights = layer("d", "b", channels, channels)
    height, width = size
    source = model(
        f"(float[2,{channels},{height},{width}] x) => (float[2,{channels},{height},{width}] y)",
        qdq("x", "a") + first + qdq("c", "b") + second + qdq("d", "e", "b") + "r = Add(e, a)\n" + qdq("r", "y"),
        **GRIDS, **first_weights, **second_weights,
    )  # fmt: skip
    feeds = {"x": np.random.default_rng(0).normal(0, 4, (2, channels, *size)).astype(np.float32)}
    count = kernels(lowered(source, target))
    assert count["winograd"] == 2
    assert count[f"winograd_{ahead}"] == 2
    # The input is read by a sum as well, so it is padded by a copy; between the two layers the producer pads.
    assert count["prepare"] == 1
    np.testing.assert_array_equal(compiled(source, feeds, target)[0], reference(source, feeds)[0])


@pytest.mark.parametrize("target", WITHOUT_VNNI)
@pytest.mark.parametrize(("size", "channels", "ahead"), [((16, 31), 32, "weights"), ((12, 12), 64, "windows")])
def test_a_sum_behind_a_relu_is_read_part_by_part(size, channels, ahead, target):
    """Both parts are multiplied by the weights that are transformed once."""
    line, weights = layer("c", "r", channels, channels)
    height, width = size
    source = model(
        f"(float[2,{channels},{height},{width}] x) => (float[2,{channels},{height},{width}] y)",
        qdq("x", "a") + "n = Neg(x)\n" + qdq("n", "b") + "s = Add(a, b)  r = Relu(s)\n" + line + qdq("c", "y"),
        **GRIDS, **weights,
    )  # fmt: skip
    feeds = {"x": np.random.default_rng(0).normal(0, 4, (2, channels, *size)).astype(np.float32)}
    count = kernels(lowered(source, target))
    assert (count["winograd"], count[f"winograd_{ahead}"]) == (1, 1)
    np.testing.assert_array_equal(compiled(source, feeds, target)[0], reference(source, feeds)[0])


@pytest.mark.parametrize("target", WITHOUT_VNNI)
def test_the_network_keeps_its_own_weights(target):
    """What is transformed exists only while the network runs: parameters are the 9 int8 weights of each channel."""
    line, weights = layer("c", "a", 64, 64)
    source = model(
        "(float[1,64,28,28] x) => (float[1,64,28,28] y)", qdq("x", "a") + line + qdq("c", "y"), **GRIDS, **weights
    )
    params = lowered(source, target).params
    assert sum(v.nbytes for v in params.values()) < 1.05 * 64 * 64 * 9
