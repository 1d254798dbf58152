"""Sums and concatenations that convolutions read part by part; powers of two as scales, so every bit is known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from drpai_qat.backends.cpu import targets
from drpai_qat.graph.canonical import read_graph
from drpai_qat.graph.rewrite import hoist_fake_quant
from drpai_qat.lowering.planning import plan_network
from tests.lowering.running import (
    RUNNABLE,
    assert_same_steps,
    compiled,
    computes,
    grid,
    kernels,
    lowered,
    model,
    qdq,
)
from tests.reference import reference

WEIGHTS = "w = DequantizeLinear<axis=0>(wq, sw, zw)\n"


def weights(out: int, channels: int, size: int = 1, seed: int = 1) -> dict[str, np.ndarray]:
    """A per-channel int8 weight wq, sw, zw."""
    rng = np.random.default_rng(seed)
    scales = 2.0 ** rng.integers(-9, -6, out)
    values = rng.integers(-100, 101, (out, channels, size, size)).astype(np.int8)
    return {"wq": values, "sw": scales.astype(np.float32), "zw": np.zeros(out, np.int8)}


def image(channels: int, name: str = "x", seed: int = 2) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng(seed).normal(0, 2, (1, channels, 5, 5)).astype(np.float32)}


def residual(readers: str, outputs: str = "float[1,24,5,5] y", size: int = 1) -> onnx.ModelProto:
    """s = a + b on grids of their own, without a quantizer behind, read by `readers`."""
    body = qdq("x", "a") + "half = Mul(x, h)\n" + qdq("half", "b") + "s = Add(a, b)\n" + WEIGHTS + readers
    constants = grid("a", 2**-4, 128) | grid("b", 2**-6, 101) | grid("y", 2**-2, 120)
    return model(f"(float[1,32,5,5] x) => ({outputs})", body, h=0.5, **constants, **weights(24, 32, size))


def assert_exact(source: onnx.ModelProto, target: str = "host", **inputs: np.ndarray) -> None:
    feeds = inputs or image(source.graph.input[0].type.tensor_type.shape.dim[1].dim_value)
    for got, wanted in zip(compiled(source, feeds, target), reference(source, feeds), strict=True):
        np.testing.assert_array_equal(got, wanted)


def parts_read(source: onnx.ModelProto, target: str = "host") -> list[int]:
    """How many parts each convolution reads."""
    graph = hoist_fake_quant(read_graph(source))
    made = plan_network(graph, targets.by_name(target, None).isa)
    return [len(plan.reads) for plan in made.convolutions.values()]


@pytest.mark.parametrize("target", RUNNABLE)
def test_a_sum_is_read_part_by_part(target):
    source = residual("c = Conv(s, w)\n" + qdq("c", "y"))
    assert_exact(source, target)
    assert kernels(lowered(source, target))["conv"] == 1
    (node,) = (n for n in lowered(source, target).coverage if n.op == "Conv")
    assert (node.compute, node.macs) == ("int8", 24 * 32 * 25)
    assert parts_read(source, target) == [2]


def test_padding_is_each_parts_zero_point():
    assert_exact(residual("c = Conv<pads=[1,1,1,1]>(s, w)\n" + qdq("c", "y"), size=3))


def test_elementwise_readers_add_the_parts():
    readers = "c = Conv(s, w)\n" + qdq("c", "y") + "r = Relu(s)\n" + qdq("r", "z", "a")
    assert_exact(residual(readers, "float[1,24,5,5] y, float[1,32,5,5] z"))


def test_a_chain_of_sums_keeps_its_first_operands():
    chain = (
        qdq("x", "d", "y") + "t = Add(s, d)\nc = Conv(s, w)\n" + qdq("c", "y") + "e = Conv(t, w)\n" + qdq("e", "z", "y")
    )
    source = residual(chain, "float[1,24,5,5] y, float[1,24,5,5] z")
    assert_exact(source)
    assert sorted(parts_read(source)) == [2, 3]


def test_more_operands_than_pay_are_summed_first():
    lines = "s1 = Add(s, a)\ns2 = Add(s1, b)\ns3 = Add(s2, a)\nc = Conv(s3, w)\n" + qdq("c", "y")
    source = residual(lines)
    assert parts_read(source, "avx512-vnni") == [3]  # its bytes
    assert_exact(source)


def test_a_sum_that_is_an_output_is_computed():
    source = residual("c = Conv(s, w)\n" + qdq("c", "y"), "float[1,24,5,5] y, float[1,32,5,5] s")
    got, wanted = compiled(source, image(32)), reference(source, image(32))
    np.testing.assert_array_equal(got[0], wanted[0])
    np.testing.assert_array_equal(got[1], wanted[1])


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("channels", [(32, 64), (36, 40, 35)])
def test_a_concatenation_of_grids_is_not_copied(target, channels):
    total, names = sum(channels), [f"p{i}" for i in range(len(channels))]
    body, constants = WEIGHTS, grid("y", 2**-2, 100)
    inputs: dict[str, np.ndarray] = {}
    for i, (name, count) in enumerate(zip(names, channels, strict=True)):
        body += qdq(f"x{i}", name)
        constants |= grid(name, 2.0 ** (-4 - i), 90 + i)
        inputs |= image(count, f"x{i}", i)
    body += f"s = Concat<axis=1>({', '.join(names)})\nc = Conv(s, w)\n" + qdq("c", "y")
    signature = ", ".join(f"float[1,{count},5,5] x{i}" for i, count in enumerate(channels))
    source = model(f"({signature}) => (float[1,24,5,5] y)", body, **constants, **weights(24, total))
    assert_exact(source, target, **inputs)
    assert not kernels(lowered(source, target))["concat"]
    (node,) = (n for n in lowered(source, target).coverage if n.op == "Conv")
    assert (node.compute, node.macs) == ("int8", 24 * total * 25)


def test_other_readers_have_the_concatenation_computed():
    body = qdq("x", "a") + qdq("x", "b") + "s = Concat<axis=1>(a, b)\n"
    readers = "c = Conv(s, w)\nz = ReduceMean<keepdims=0>(s, ax)\n" + qdq("c", "y")
    constants = grid("a", 2**-4, 128) | grid("b", 2**-6, 101) | grid("y", 2**-2, 120)
    source = model(
        "(float[1,32,5,5] x) => (float[1,24,5,5] y, float[1,64] z)", WEIGHTS + body + readers,
        ax=np.asarray([2, 3]), **constants, **weights(24, 64),
    )  # fmt: skip
    feeds = image(32)
    got, wanted = compiled(source, feeds), reference(source, feeds)
    np.testing.assert_array_equal(got[0], wanted[0])
    np.testing.assert_allclose(got[1], wanted[1], atol=1e-6)


def test_a_curve_in_front_of_a_coarse_grid():
    """Where one flipped rounding would be a step of a sixteenth of the range."""
    body = qdq("x", "a") + "e = Sigmoid(a)\ng = Mul(a, e)\ns = Concat<axis=1>(a, g)\n"
    readers = "c = Conv(s, w)\nl = Clip(c, lo, hi)\n" + qdq("l", "y")
    constants = grid("a", 2**-4, 128) | grid("y", 1.0, 8)
    source = model(
        "(float[1,32,5,5] x) => (float[1,24,5,5] y)", WEIGHTS + body + readers,
        lo=-8.0, hi=7.0, **constants, **weights(24, 64),
    )  # fmt: skip
    assert computes(lowered(source))["Conv"] == "int8"
    assert_same_steps(source, image(32), 1.0)
