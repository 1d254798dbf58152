"""Winograd's algorithms against plain sums of products: the same integers, whatever wraps on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.epilogue import Epilogue
from drpai_qat.kernels.isa import AVX2, AVX512_VNNI, NEON, SSE42, Isa
from drpai_qat.kernels.winograd import transformed_weights, transformed_windows, winograd
from drpai_qat.kernels.winograd_lines import FOUR, TWO, Lines
from drpai_qat.kernels.winograd_plan import WinogradPlan, choose_plan, fits
from tests.kernels.running import few, raw, requantized, run

on_each_algorithm = pytest.mark.parametrize("lines", [TWO, FOUR], ids=["F(2x2)", "F(4x4)"])
on_bytes_and_int16 = pytest.mark.parametrize("planes", [1, 2], ids=["uint8", "int16"])
on_sets_without_vnni = pytest.mark.parametrize("isa", [SSE42, AVX2], ids=lambda isa: isa.name)


def sizes(height: int, width: int, channels: int, out_channels: int, batch: int = 1) -> ConvShape:
    return ConvShape(batch, height + 2, width + 2, channels, height, width, out_channels, (3, 3))


def direct(shape: ConvShape, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """int64 accumulators."""
    taps = [(r, s) for r in range(3) for s in range(3)]
    views = [x[:, r : r + shape.out_height, s : s + shape.out_width].astype(np.int64) for r, s in taps]
    return np.sum([view @ w[:, r, s].T.astype(np.int64) for view, (r, s) in zip(views, taps, strict=True)], axis=0)


def compute(
    plan: WinogradPlan, epilogue: Epilogue, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    if plan.ahead == "weights":
        inputs = [x, run(transformed_weights(plan, w), plan.isa)]
    else:
        inputs = [run(transformed_windows(plan), plan.isa, x)]
    return run(winograd(plan, epilogue, w, bias), plan.isa, *inputs)


def operands(shape: ConvShape, seed: int, dtype: str = "uint8") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ends = np.iinfo(dtype)
    x = rng.integers(ends.min, ends.max + 1, (shape.batch, shape.height, shape.width, shape.channels)).astype(dtype)
    w = rng.integers(-128, 128, (shape.out_channels, 3, 3, shape.channels)).astype(np.int8)
    return x, w, rng.integers(-9999, 9999, shape.out_channels).astype(np.int32)


@st.composite
def plans(draw: st.DrawFn, isa: Isa, lines: Lines, planes: int) -> WinogradPlan:
    """Sizes that windows do not divide, more batches than one, chunks of channels."""
    height, width = (draw(st.integers(lines.outputs, 11)) for _ in range(2))
    step = 2 * isa.lanes
    channels, out_channels = (step * draw(st.integers(1, most)) for most in (4, 3))
    tile = draw(st.sampled_from([4, 5]))
    chunk = draw(st.sampled_from([n for n in range(step, channels + 1, step) if channels % n == 0]))
    shape = sizes(height, width, channels, out_channels, draw(st.integers(1, 2)))
    ahead: Any = draw(st.sampled_from(["weights", "windows"]))
    windows = tile * draw(st.integers(1, 4))
    return WinogradPlan(shape, lines, isa, ahead, tile, windows, chunk, planes, planes == 2)


@on_sets_without_vnni
@on_each_algorithm
@on_bytes_and_int16
@few
@given(data=st.data(), seed=st.integers(0, 9))
def test_accumulators_are_those_of_a_direct_convolution(
    isa: Isa, lines: Lines, planes: int, data: st.DataObject, seed: int
) -> None:
    plan = data.draw(plans(isa, lines, planes))
    x, w, bias = operands(plan.shape, seed, plan.dtype)
    assert fits(w, 255, lines)
    expected = direct(plan.shape, x, w) + bias
    np.testing.assert_array_equal(compute(plan, raw(), x, w, bias), expected.astype(np.float32))


@on_each_algorithm
@pytest.mark.parametrize("ahead", ["weights", "windows"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_outputs_are_requantized(lines: Lines, ahead: str, dtype: str) -> None:
    shape = sizes(9, 7, 32, 48)
    plan = WinogradPlan(shape, lines, AVX2, ahead, 4, 8, 16)  # type: ignore[arg-type]
    x, w, bias = operands(shape, 1)
    acc = (direct(shape, x, w) + bias).astype(np.int32)
    epilogue = requantized(acc, dtype)
    np.testing.assert_array_equal(compute(plan, epilogue, x, w, bias), epilogue.evaluate(acc, []))


@on_each_algorithm
@pytest.mark.parametrize("ahead", ["weights", "windows"])
@pytest.mark.parametrize("sign", [1, -1])
def test_int16_activations_may_take_all_of_int32(lines: Lines, ahead: str, sign: int) -> None:
    """Sums of the bytes fit what the factor leaves, all together need every bit; the start may wrap them back."""
    shape = sizes(lines.outputs, lines.outputs, 32, 16)
    plan = WinogradPlan(shape, lines, AVX2, ahead, 4, 4, 16, 2, True)  # type: ignore[arg-type]
    w = np.full((16, 3, 3, 32), sign * 127, np.int8)
    x = np.full((1, shape.height, shape.width, 32), 32767, np.int16)
    x[..., ::2] = 24000
    acc = direct(shape, x, w)
    assert fits(w, 255, lines)
    assert 2**29 < abs(acc).min() < 2**31
    np.testing.assert_array_equal(compute(plan, raw(), x, w), acc.astype(np.float32))
    # As with a grid whose zero point is at its end.
    bias = (np.int64(sign * 32768 * 127 * 9 * 32)).repeat(16)
    np.testing.assert_array_equal(
        compute(plan, raw(), x, w, bias.astype(np.int32)), (acc + bias).astype(np.int32).astype(np.float32)
    )


@on_each_algorithm
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_outputs_that_fit(lines: Lines, sign: int) -> None:
    """Sums before the last transform wrap at int32; one more channel of such weights is refused."""
    channels = 16
    while fits(np.full((16, 3, 3, channels + 16), 127, np.int8), 255, lines):
        channels += 16
    w = np.full((16, 3, 3, channels), sign * 127, np.int8)
    shape = sizes(lines.outputs, lines.outputs, channels, 16)
    x = np.full((1, shape.height, shape.width, channels), 255, np.uint8)
    plan = WinogradPlan(shape, lines, AVX2, "windows", 4, 4, 16)
    np.testing.assert_array_equal(compute(plan, raw(), x, w), direct(shape, x, w).astype(np.float32))
    assert 255 * 127 * 9 * channels * 2 ** (2 * lines.shift) > 2**31 * 0.95
    # What is refused would come out wrong.
    wider = sizes(lines.outputs, lines.outputs, channels + 16, 16)
    w, x = (np.concatenate([a, a[..., :16]], -1) for a in (w, x))
    wrong = compute(replace(plan, shape=wider), raw(), x, w)
    assert not np.array_equal(wrong, direct(wider, x, w).astype(np.float32))


def test_any_integers_that_transforms_can_meet_stay_within_int16() -> None:
    for lines in (TWO, FOUR):
        for w in (-128, 127):
            assert fits(np.full((16, 3, 3, 16), w, np.int8), 255, lines)


@pytest.mark.parametrize(
    "shape",
    [
        sizes(28, 28, 24, 32),
        sizes(28, 28, 32, 24),
        sizes(3, 1, 32, 32),
        replace(sizes(28, 28, 32, 32), stride=(2, 2)),
        replace(sizes(28, 28, 32, 32), dilation=(2, 2)),
        replace(sizes(28, 28, 32, 32), groups=2),
        replace(sizes(28, 28, 32, 32), kernel=(1, 3)),
    ],
    ids=str,
)
def test_other_convolutions_have_no_plan(shape: ConvShape) -> None:
    assert choose_plan(shape, np.ones((shape.out_channels, 3, 3, shape.channels), np.int8), 255, AVX2) is None


def test_plans_suit_the_image() -> None:
    def plan(size: int, channels: int, isa: Isa = AVX2, weight: int = 1) -> WinogradPlan | None:
        weights = np.full((channels, 3, 3, channels), weight, np.int8)
        return choose_plan(sizes(size, size, channels, channels), weights, 255, isa)

    large, small, tiny, heavy = plan(56, 64), plan(14, 256), plan(2, 64), plan(14, 256, weight=127)
    assert large is not None
    assert (large.lines, large.ahead) == (FOUR, "weights")
    assert small is not None
    assert (small.lines, small.ahead, small.batches, small.chunk) == (FOUR, "windows", 1, 128)
    assert tiny is not None
    assert tiny.lines == TWO
    assert heavy is not None
    assert heavy.lines == TWO  # its outputs need more bits than F(4x4) leaves
    assert plan(56, 64, AVX512_VNNI) is None
    assert plan(56, 64, NEON) is None
    assert large.cost < small.cost < tiny.cost
    sums = choose_plan(large.shape, np.ones((64, 3, 3, 64), np.int8), None, AVX2)
    assert sums is not None
    assert (sums.lines, sums.planes, sums.dtype) == (FOUR, 2, "int16")
    assert 1.9 < sums.cost / large.cost < 2.1


@on_each_algorithm
@pytest.mark.parametrize("ahead", ["weights", "windows"])
@pytest.mark.parametrize("inputs", [2, 3])
def test_several_inputs_add_up(lines: Lines, ahead: str, inputs: int) -> None:
    """Each with its own start and scale, all with the same weights."""
    shape = sizes(9, 7, 32, 48, batch=2)
    plan = WinogradPlan(shape, lines, AVX2, ahead, 4, 8, 16, inputs)  # type: ignore[arg-type]
    cases = [operands(shape, seed) for seed in range(inputs)]
    data, w, starts = [x for x, _, _ in cases], cases[0][1], np.stack([bias for _, _, bias in cases])
    ratios = np.asarray([1.0, 0.5, 2.0**-8][:inputs], np.float32)
    if ahead == "weights":
        given = (*data, run(transformed_weights(plan, w), AVX2))
    else:
        given = (run(transformed_windows(plan), AVX2, *data),)
    got = run(winograd(plan, raw(), w, starts, ratios), AVX2, *given)
    parts = [(direct(shape, x, w) + start).astype(np.float32) for x, start in zip(data, starts, strict=True)]
    expected = parts[0]
    for part, ratio in zip(parts[1:], ratios[1:], strict=True):
        expected = expected + part * ratio
    np.testing.assert_array_equal(got, expected)
