"""Convolutions write the padding that the convolution behind them reads; where another reader is, a copy is made."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lowering.running import RUNNABLE, compiled, grid, kernels, lowered, model, qdq
from tests.reference import reference


def layer(name: str, source: str, attributes: str = "") -> str:
    return (
        f"w{name} = DequantizeLinear<axis=0>(q{name}, s{name}, z{name})\n{name} = Conv{attributes}({source}, w{name})\n"
    )


def weight(name: str, *shape: int) -> dict[str, np.ndarray]:
    """Up to 60, two products of full-range activations fit int16: 8 bits are multiplied as they are."""
    values = np.random.default_rng(len(name)).integers(-60, 61, shape).astype(np.int8)
    scales = np.full(shape[0], 2.0**-10, np.float32)
    return {f"q{name}": values, f"s{name}": scales, f"z{name}": np.zeros(shape[0], np.int8)}


CONSTANTS = grid("a", 2**-4, 120) | grid("b", 2**-4, 101) | grid("y", 2**-3, 128) | weight("c", 32, 16, 1, 1)
FEEDS = {"x": np.random.default_rng(0).normal(0, 2, (2, 16, 6, 7)).astype(np.float32)}
FIRST = qdq("x", "a") + layer("c", "a") + qdq("c", "b")


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize(
    ("attributes", "shape", "size"),
    [
        ("<pads=[1,1,1,1]>", (24, 32, 3, 3), (6, 7)),
        ("<pads=[1,1,1,1], group=32>", (32, 1, 3, 3), (6, 7)),
        ("<pads=[0,1,1,0], strides=[2,2]>", (24, 32, 2, 2), (3, 4)),
        ("<pads=[0,0,1,1]>", (24, 32, 2, 2), (6, 7)),
    ],
    ids=["3x3", "depthwise", "one side", "the other side"],
)
def test_padding_is_written_by_the_producer(attributes, shape, size, target):
    source = model(
        f"(float[2,16,6,7] x) => (float[2,{shape[0]},{size[0]},{size[1]}] y)",
        FIRST + layer("d", "b", attributes) + qdq("d", "y"), **CONSTANTS, **weight("d", *shape),
    )  # fmt: skip
    assert kernels(lowered(source, target))["prepare"] == 0
    np.testing.assert_array_equal(compiled(source, FEEDS, target)[0], reference(source, FEEDS)[0])


@pytest.mark.parametrize(
    ("readers", "outputs"),
    [
        (layer("d", "b", "<pads=[1,1,1,1]>") + qdq("d", "y") + "r = Relu(b)\n" + qdq("r", "v", "a"), "v"),
        (layer("d", "b", "<pads=[1,1,1,1]>") + qdq("d", "y") + "v = Identity(b)\n", "v"),
    ],
    ids=["elementwise", "output"],
)
def test_other_readers_get_the_plain_image(readers, outputs):
    source = model(
        f"(float[2,16,6,7] x) => (float[2,32,6,7] y, float[2,32,6,7] {outputs})",
        FIRST + readers, **CONSTANTS, **weight("d", 32, 32, 3, 3),
    )  # fmt: skip
    assert kernels(lowered(source))["prepare"] == 1
    for got, wanted in zip(compiled(source, FEEDS), reference(source, FEEDS), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_readers_with_different_padding_get_copies():
    readers = layer("d", "b", "<pads=[1,1,1,1]>") + layer("ee", "b", "<pads=[2,2,2,2]>")
    readers += qdq("d", "y") + qdq("ee", "v", "y")
    source = model(
        "(float[2,16,6,7] x) => (float[2,24,6,7] y, float[2,24,6,7] v)", FIRST + readers,
        **CONSTANTS, **weight("d", 24, 32, 3, 3), **weight("ee", 24, 32, 5, 5),
    )  # fmt: skip
    assert kernels(lowered(source))["prepare"] == 2
    for got, wanted in zip(compiled(source, FEEDS), reference(source, FEEDS), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_eight_bits_that_are_multiplied_as_int16_are_written_so():
    """Full-range weights leave vpmaddubsw's int16 in nearly every pair: AVX2 multiplies int16 pairs instead."""
    weights = weight("d", 24, 32, 3, 3)
    weights["qd"] = np.where(weights["qd"] < 0, -127, 127).astype(np.int8)
    source = model(
        "(float[2,16,6,7] x) => (float[2,24,6,7] y)", FIRST + layer("d", "b", "<pads=[1,1,1,1]>") + qdq("d", "y"),
        **CONSTANTS, **weights,
    )  # fmt: skip
    network = lowered(source, "avx2")
    assert kernels(network)["prepare"] == 0
    assert [node.compute for node in network.coverage if node.op == "Conv"] == ["int8", "int8"]
    np.testing.assert_array_equal(compiled(source, FEEDS, "avx2")[0], reference(source, FEEDS)[0])


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize(
    ("channels", "attributes", "kernel", "size"),
    [
        (3, "<pads=[3,3,3,3], strides=[2,2]>", (7, 7), (6, 7)),
        (1, "", (5, 5), (8, 9)),
        (2, "<pads=[0,1,2,0], dilations=[2,1]>", (3, 3), (10, 12)),
        (6, "<pads=[0,1,0,1]>", (1, 3), (12, 13)),
        (1, "", (1, 3), (12, 11)),
    ],
    ids=["7x7/2 of 3", "5x5 of 1", "dilated rows of 2", "1x3 of 6", "1x3 of 1: less than a step"],
)
def test_rows_under_the_kernel_of_few_channels_are_read_at_once(channels, attributes, kernel, size, target):
    """The last row reads beyond the image, in every image of a batch."""
    grids = grid("a", 2**-4, 120) | grid("y", 2**-3, 128)
    source = model(
        f"(float[2,{channels},12,13] x) => (float[2,24,{size[0]},{size[1]}] y)",
        qdq("x", "a") + layer("d", "a", attributes) + qdq("d", "y"), **grids, **weight("d", 24, channels, *kernel),
    )  # fmt: skip
    feeds = {"x": np.random.default_rng(0).normal(0, 2, (2, channels, 12, 13)).astype(np.float32)}
    network = lowered(source, target)
    assert kernels(network)["prepare"] == 1
    np.testing.assert_array_equal(compiled(source, feeds, target)[0], reference(source, feeds)[0])
    stored = max(v.size for v in network.params.values() if v.dtype == np.int8)
    row = -(-kernel[1] * channels // 4) * 4
    assert stored <= 32 * kernel[0] * row  # padding of whole registers included


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("channels", [1, 32], ids=["depthwise", "dense"])
def test_padding_of_a_range_above_zero(channels, target):
    """No stored value means zero, but the padding does."""
    grids = grid("a", 2**-8, 34) | grid("b", 2**-8, 0) | grid("y", 2**-3, 128)
    source = model(
        f"(float[1,{channels},6,7] x) => (float[1,{channels},6,7] y)",
        qdq("x", "a") + "m = Max(a, floor)\n" + qdq("m", "b") + layer("d", "b", "<pads=[1,1,1,1]>") + qdq("d", "y"),
        **grids, **weight("d", channels, channels, 3, 3), floor=0.75,
    )  # fmt: skip
    feeds = {"x": np.random.default_rng(0).normal(0, 1, (1, channels, 6, 7)).astype(np.float32)}
    np.testing.assert_array_equal(compiled(source, feeds, target)[0], reference(source, feeds)[0])
