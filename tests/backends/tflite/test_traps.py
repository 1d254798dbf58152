"""What the format gets wrong silently, or refuses, one by one: in XNNPACK and in the plain kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drpai_qat.backends.tflite.running import WrittenNetwork
from drpai_qat.backends.tflite.writer import LiteModel
from drpai_qat.core.errors import LoweringError
from drpai_qat.runtimes.tflite import LiteNetwork
from tests.backends.tflite.running import (
    BOTH,
    dequantized,
    grid,
    model,
    normal,
    qdq,
    steps_apart,
    weights,
    written,
)


def kinds(made: LiteModel) -> list[str]:
    return [kind for one in made.coverage for kind in one.operators]


def grid_of(made: LiteModel, name: str) -> tuple[float, int]:
    params = LiteNetwork(made.content).tensors()[name]
    assert params is not None
    return float(params.scale), int(params.zero_point)


X = normal(1, 8, 9, 9)
IN = {"x": X}
CONV = f"{qdq('x', 'a', 'x')} {dequantized('w')} c = Conv <pads=[1,1,1,1]> (a, w)"


def conv_net(tail: str, **constants: NDArray[Any] | float) -> Any:
    return model(
        "(float[1,8,9,9] x) => (float[1,4,9,9] y)",
        f"{CONV} {tail}",
        **(grid("x", 0.03, 120) | weights("w", 4, 8, 3, 3) | constants),
    )


@BOTH
@pytest.mark.parametrize("zero_point", [0, 49, 127])
def test_a_range_of_seven_bits_keeps_its_ends(zero_point: int, plain: bool) -> None:
    """0..127 stays as it is: the type ends at 127; the lower end is a fused ReLU at zero point 0, else a MAXIMUM."""
    ends = np.float32(0.05) * (np.array([0, 127], np.float32) - zero_point)
    net = conv_net(f"l = Clip (c, lo, hi) {qdq('l', 'y', 'y')}", lo=ends[0], hi=ends[1], **grid("y", 0.05, zero_point))
    made = written(net)
    scale, stored = grid_of(made, made.outputs[0].name)
    assert scale == np.float32(0.05)
    assert stored in (zero_point, zero_point - 128)
    extra = [kind for kind in kinds(made) if kind in ("MAXIMUM", "MINIMUM")]
    assert len(extra) == (0 if zero_point == 0 else 1)
    apart = steps_apart(net, IN, plain)
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.99
    raw = WrittenNetwork(made, plain=plain).run(IN)["y"]
    assert raw.min() >= ends[0] - 1e-5
    assert raw.max() <= ends[1] + 1e-5
    assert raw.max() == pytest.approx(ends[1])  # the range is reached, so its end was tested


@BOTH
@pytest.mark.parametrize("limits", [(0.0, 6.0), (-1.0, 1.0), (0.5, 3.0)])
def test_limits_inside_the_range(limits: tuple[float, float], plain: bool) -> None:
    net = conv_net(f"l = Clip (c, lo, hi) {qdq('l', 'y', 'y')}", lo=limits[0], hi=limits[1], **grid("y", 0.06, 100))
    assert sum(kind in ("MAXIMUM", "MINIMUM") for kind in kinds(written(net))) == (2 if limits[0] == 0.5 else 0)
    apart = steps_apart(net, IN, plain)
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.99


@BOTH
def test_zero_padding_is_the_zero_point(plain: bool) -> None:
    """A stride of 2 over 9 pixels is not SAME on both sides: PAD writes the zero point."""
    net = model(
        "(float[1,8,10,10] x) => (float[1,4,5,5] y)",
        f"{qdq('x', 'a', 'x')} {dequantized('w')} c = Conv <pads=[1,1,1,1], strides=[2,2]> (a, w) {qdq('c', 'y', 'y')}",
        **(grid("x", 0.03, 40) | weights("w", 4, 8, 3, 3) | grid("y", 0.08, 128)),
    )
    assert "PAD" in kinds(written(net))
    apart = steps_apart(net, {"x": normal(1, 8, 10, 10)}, plain)
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.99


@BOTH
def test_max_pool_pads_with_the_lowest_value(plain: bool) -> None:
    net = model(
        "(float[1,8,10,10] x) => (float[1,8,5,5] y)",
        f"{qdq('x', 'a', 'x')} y = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]> (a)",
        **grid("x", 0.03, 200),
    )
    made = written(net)
    assert "PADV2" in kinds(made)
    assert grid_of(made, "x") == grid_of(made, "y")
    assert (
        steps_apart(net, {"x": -np.abs(normal(1, 8, 10, 10))}, plain).max() == 0
    )  # a pad of zero would win everywhere


@BOTH
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_have_one_grid(op: str, plain: bool) -> None:
    """Kernels do not look at the grids of a pool: with two of them the result is nonsense."""
    pool = f"p = {op} <kernel_shape=[2,2], strides=[2,2]> (a)"
    net = model(
        "(float[1,8,8,8] x) => (float[1,8,4,4] y)",
        f"{qdq('x', 'a', 'x')} {pool} {qdq('p', 'y', 'y')}",
        **(grid("x", 0.03, 128) | grid("y", 0.019, 100)),
    )
    apart = steps_apart(net, {"x": normal(1, 8, 8, 8)}, plain)
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.98


@BOTH
def test_concatenation_has_one_grid(plain: bool) -> None:
    net = model(
        "(float[1,4,5,5] x, float[1,4,5,5] z) => (float[1,8,5,5] y)",
        f"{qdq('x', 'a', 'x')} {qdq('z', 'b', 'z')} c = Concat <axis=1> (a, b) {qdq('c', 'y', 'y')}",
        **(grid("x", 0.03, 128) | grid("z", 0.011, 90) | grid("y", 0.033, 120)),
    )
    assert steps_apart(net, {"x": normal(1, 4, 5, 5), "z": normal(1, 4, 5, 5, seed=2)}, plain).max() == 0


@BOTH
@pytest.mark.parametrize("scale", [1 / 256, 1 / 255, 1 / 200])
def test_softmax_has_its_own_grid(scale: float, plain: bool) -> None:
    """SOFTMAX gives 1/256 whatever the file says; the trained grid is reached by a QUANTIZE."""
    net = model(
        "(float[4,10] x) => (float[4,10] y)",
        f"{qdq('x', 'a', 'x')} s = Softmax <axis=1> (a) {qdq('s', 'y', 'y')}",
        **(grid("x", 0.05, 128) | grid("y", scale, 0)),
    )
    made = written(net)
    assert grid_of(made, "y") == (float(np.float32(scale)), -128)
    assert ("QUANTIZE" in kinds(made)) == (scale != 1 / 256)
    apart = steps_apart(net, {"x": normal(4, 10, spread=3.0)}, plain)
    assert apart.max() <= 1


@BOTH
@pytest.mark.parametrize("scale", [1 / 256, 0.0041, 0.02])
def test_logistic_has_its_own_grid(scale: float, plain: bool) -> None:
    """Plain kernels of LOGISTIC know 1/256 alone: on another grid, a table takes its place."""
    net = model(
        "(float[4,300] x) => (float[4,300] y)",
        f"{qdq('x', 'a', 'x')} s = Sigmoid (a) {qdq('s', 'y', 'y')}",
        **(grid("x", 0.05, 128) | grid("y", scale, 0)),
    )
    assert ("LOGISTIC" in kinds(written(net))) == (scale == 1 / 256)
    apart = steps_apart(net, {"x": normal(4, 300, spread=4.0)}, plain)
    assert apart.max() <= (1 if scale == 1 / 256 else 0)


@pytest.mark.parametrize("which", ["weights", "input", "result"])
def test_degenerate_scales_are_refused(which: str) -> None:
    """A bias that overflows, or a layer that XNNPACK does not load."""
    scale, result = 1e-12 if which == "input" else 0.03, 1e-6 if which == "result" else 0.1
    net = model(
        "(float[1,8,9,9] x) => (float[1,4,9,9] y)",
        f"{CONV[:-1]}, b) {qdq('c', 'y', 'y')}",
        **(grid("x", scale, 0) | weights("w", 4, 8, 3, 3) | {"b": normal(4)} | grid("y", result, 9)),
    )
    if which == "weights":
        scales = next(one for one in net.graph.initializer if one.name == "sw")
        values = np.frombuffer(scales.raw_data, np.float32).copy()
        values[2] = 1e-12
        scales.raw_data = values.tobytes()
    with pytest.raises(LoweringError, match=r"Conv_3.*degenerate: channel"):
        written(net)


@BOTH
def test_a_channel_of_zeros_may_have_any_scale(plain: bool) -> None:
    """Pruned channels: an observer that saw zeros gave them a scale of nothing."""
    constants = weights("w", 4, 8, 3, 3)
    constants["w_i"][1] = 0
    constants["sw"][1] = 1e-12
    net = model(
        "(float[1,8,9,9] x) => (float[1,4,9,9] y)",
        f"{CONV[:-1]}, b) {qdq('c', 'y', 'y')}",
        **(grid("x", 0.03, 120) | constants | {"b": normal(4)} | grid("y", 0.1, 128)),
    )
    assert steps_apart(net, IN, plain).max() <= 1


def test_depthwise_weights_with_a_zero_point_are_refused_by_name() -> None:
    net = model(
        "(float[1,8,9,9] x) => (float[1,8,7,7] y)",
        f"{qdq('x', 'a', 'x')} w = DequantizeLinear (w_i, sw, zw) c = Conv <group=8> (a, w) {qdq('c', 'y', 'y')}",
        w_i=np.random.default_rng(0).integers(0, 256, (8, 1, 3, 3)).astype(np.uint8), sw=0.02,
        zw=np.array(100, np.uint8),
        **(grid("x", 0.03, 120) | grid("y", 0.1, 128)),
    )  # fmt: skip
    with pytest.raises(LoweringError, match=r"'Conv_3' \(Conv\).*zero point.*--allow-float"):
        written(net)
    island = written(net, allow_float=True)
    assert {one.compute for one in island.coverage if one.op == "Conv"} == {"float32"}
    assert steps_apart(net, IN, False, allow_float=True).max() <= 1


@BOTH
def test_weights_of_few_bits_hold_their_bias(plain: bool) -> None:
    """4-bit weights make large accumulator steps: a bias in them is off by up to a tenth of the result's step."""
    constants = weights("w", 4, 8, 3, 3, largest=7)
    net = model(
        "(float[1,8,9,9] x) => (float[1,4,9,9] y)",
        f"{CONV[:-1]}, b) {qdq('c', 'y', 'y')}",
        **(grid("x", 0.03, 120) | constants | {"b": normal(4)} | grid("y", 0.05, 128)),
    )
    made = written(net)
    stored = LiteNetwork(made.content).tensors()["w"]
    assert stored is not None
    assert (stored.scale * 16 == constants["sw"]).all()  # a power of two: the same reals
    apart = steps_apart(net, IN, plain)
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.995


def test_trained_grids_are_kept_bit_for_bit() -> None:
    constants = weights("w", 4, 8, 3, 3)
    net = conv_net(qdq("c", "y", "y"), **grid("y", 0.0734, 77))
    grids = LiteNetwork(written(net).content).tensors()
    assert grids["w"] is not None
    assert (grids["w"].scale == constants["sw"]).all()
    assert grids["w"].axis == 0
    for name, scale, zero_point in (("x", 0.03, 120), ("y", 0.0734, 77)):
        params = grids[name]
        assert params is not None
        assert (float(params.scale), int(params.zero_point)) == (float(np.float32(scale)), zero_point - 128)
    bias = grids["w:bias"]
    assert bias is not None
    assert (bias.scale == np.float32(0.03) * constants["sw"]).all()


def test_an_input_without_a_range_is_refused_with_the_remedy() -> None:
    net = model(
        "(float[1,8,9,9] x) => (float[1,4,7,7] y)",
        f"{dequantized('w')} c = Conv (x, w) {qdq('c', 'y', 'y')}",
        **(weights("w", 4, 8, 3, 3) | grid("y", 0.1, 128)),
    )
    with pytest.raises(LoweringError, match=r"input 'x' has no trained range.*--samples.*--allow-float"):
        written(net)
    made = written(net, ranges={"x": (-2.0, 3.0)})
    assert [(one.tensor, one.source, one.grid.dtype) for one in made.derived] == [("x", "data", "int8")]
    assert steps_apart(net, IN, False, ranges={"x": (-4.0, 4.0)}).max() <= 1


@BOTH
def test_between_two_grids_of_8_bits_every_integer_is_right(plain: bool) -> None:
    """QUANTIZE loses up to half a step there, in both sets of kernels: a sum with zero does not."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        scale = rng.uniform(0.001, 0.1)
        net = model(
            "(float[1,256] x) => (float[1,256] y)",
            f"{qdq('x', 'a', 'x')} {qdq('a', 'y', 'y')}",
            **grid("x", scale, int(rng.integers(256))),
            **grid("y", float(scale * np.exp(rng.uniform(-1.5, 1.5))), int(rng.integers(256))),
        )
        made = written(net)
        params = made.inputs[0].quantization
        assert params is not None
        every = params.dequantize(np.arange(-128, 128, dtype=np.int8)[None])
        assert kinds(made) == ["ADD"]
        assert steps_apart(net, {"x": every}, plain).max() == 0


def test_a_sum_far_coarser_than_its_result_is_refused() -> None:
    """LiteRT's kernel would end the process."""
    net = model(
        "(float[1,8] x, float[1,8] z) => (float[1,8] y)",
        f"{qdq('x', 'a', 'x')} {qdq('z', 'b', 'z')} c = Add (a, b) {qdq('c', 'y', 'y')}",
        **(grid("x", 0.03, 128) | grid("z", 0.011, 90) | grid("y", 1e-9, 120)),
    )
    with pytest.raises(LoweringError, match=r"Add_4.*scales are degenerate"):
        written(net)
