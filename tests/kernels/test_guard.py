"""Products guarded by a look at the activations are exact whatever these are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpai_qat.kernels import guard
from drpai_qat.kernels.conv import conv
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.isa import AVX2, AVX512_VNNI, NEON, SSE42, Isa
from drpai_qat.kernels.product_choice import product8
from drpai_qat.kernels.products import DOT2, Dot4
from drpai_qat.kernels.tiling import Tiling
from tests.kernels.running import compiled, raw, run

POINTS = ConvShape(1, 5, 5, 128, 5, 5, 40)
STRIDED = ConvShape(2, 9, 9, 64, 4, 4, 24, (3, 3), (2, 2))
BY_PIXELS, BY_CHANNELS = Tiling(3, 2, "pixels", 4), Tiling(4, 1, "channels", 1)


def weights(shape: ConvShape, largest: int = 127) -> np.ndarray:
    size = (shape.out_channels, *shape.kernel, shape.channels)
    values = np.random.default_rng(0).choice([-largest - 1, -40, 0, 3, largest], size=size)
    values[0], values[1] = largest, -largest - 1  # the largest sums of all
    return values.astype(np.int8)


def wanted(shape: ConvShape, data: np.ndarray, w: np.ndarray) -> np.ndarray:
    total = np.zeros((shape.batch, shape.out_height, shape.out_width, shape.out_channels), np.int64)
    for r in range(shape.kernel[0]):
        for s in range(shape.kernel[1]):
            under = data[:, r :: shape.stride[0], s :: shape.stride[1]][:, : shape.out_height, : shape.out_width]
            total += under.astype(np.int64) @ w[:, r, s].T.astype(np.int64)
    return total


def guarded(steps: int) -> Dot4:
    return Dot4(steps=steps, guard=True)


@pytest.mark.parametrize("isa", [AVX2, SSE42], ids=lambda isa: isa.name)
@pytest.mark.parametrize("tiling", [None, BY_PIXELS, BY_CHANNELS], ids=["chosen", "pixels", "channels"])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("shape", [POINTS, STRIDED], ids=["1x1", "3x3"])
def test_exact_however_often_the_limit_is_exceeded(
    isa: Isa, tiling: Tiling | None, steps: int, shape: ConvShape
) -> None:
    """Most sums are 97% of what int16 holds or more; one activation more in one of them, and it is left."""
    rng = np.random.default_rng(1)
    size = (shape.batch, shape.height, shape.width, shape.channels)
    most = 32767 // (2 * steps * 128)
    w = weights(shape)
    kernel = compiled(conv(shape, guarded(steps), isa, raw(), w, tiling=tiling), isa)
    for beyond, often in ((0, 0.0), (1, 0.001), (1, 0.02), (255 - most, 0.02), (255 - most, 0.3), (255 - most, 1.0)):
        near = most - (rng.random(size) < 0.2)
        data = np.where(rng.random(size) < often, most + beyond, near).astype(np.uint8)
        assert np.array_equal(kernel(data), wanted(shape, data, w)), (beyond, often)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_norms_at_the_limit_and_just_beyond(steps: int) -> None:
    w = np.full((8, 1, 1, 128), 127, np.int8)
    w[1] = -127
    size, count = guard.apart(128, steps, AVX2), 2 * steps
    places = [g * size + k for g in range(steps) for k in range(2)]  # what one int16 takes in
    most = int(guard.largest_norms(w, steps, AVX2).min() / math.sqrt(count))  # alike, since then a sum is largest
    assert most * count * 127 <= 32767 < (most + 1) * count * 127
    data = np.zeros((1, 5, 5, 128), np.uint8)
    data[0, 0, 0, places], data[0, 3, 2, places], data[0, 4, 4, places] = most, most + 1, 255
    shape = replace(POINTS, out_channels=8)
    got = run(conv(shape, guarded(steps), AVX2, raw(), w), AVX2, data)
    assert np.array_equal(got, wanted(shape, data, w))


@settings(max_examples=40)
@given(st.integers(0, 1 << 30), st.sampled_from([110, 128]), st.sampled_from([1, 2, 4]))
def test_within_the_limits_no_sum_leaves_int16(seed: int, largest: int, steps: int) -> None:
    """Activations along the weights, whose sums are the largest for their norm, from half the limit to twice it."""
    rng = np.random.default_rng(seed)
    w = rng.integers(-largest, largest, (4, 1, 1, 128), endpoint=True).clip(-128, 127).astype(np.int8)
    w[0], w[1] = np.abs(w[0].astype(int)).clip(max=127), -np.abs(w[1].astype(int))
    size = guard.apart(128, steps, AVX2)

    def by_sum(values: np.ndarray) -> np.ndarray:
        """The values that one int16 takes in side by side, shape (..., sums, steps * 2)."""
        groups = values.reshape(*values.shape[:-1], -1, steps, size // 2, 2)
        return groups.swapaxes(-3, -2).reshape(*values.shape[:-1], -1, steps * 2)

    limits, factors = guard.limits(w, steps, AVX2), by_sum(w[:, 0, 0].astype(int))
    largest_sum = 0
    for along in range(len(w)):
        for sign in (1, -1):
            direction = np.maximum(sign * factors[along], 0)
            norm = np.maximum(np.sqrt((direction**2).sum(-1)), 1)
            for part in (0.5, 0.9, 0.97, 0.98, 0.99, 1.0, 1.01, 1.05, 1.5, 2.0):
                a = np.rint(direction * (part * np.sqrt(2.0 * limits) / norm)[:, None]).clip(max=255).astype(int)
                within = (a * (a // 2)).sum(-1) <= limits
                products = a[within] * factors[:, within]
                sums = np.stack([np.maximum(products, 0), np.minimum(products, 0)]).sum(-1)
                largest_sum = max(largest_sum, int(np.abs(sums).max(initial=0)))
    assert 0.95 * 32767 < largest_sum <= 32767


def test_registers_of_the_survey() -> None:
    assert [guard.apart(n, 2, AVX2) for n in (64, 128, 96, 144, 40)] == [32, 32, 16, 0, 0]
    assert guard.apart(64, 2, SSE42) == 16
    nothing = np.zeros((2, 3, 3, 64), np.int8)
    assert guard.limits(nothing, 2, AVX2).shape == (9 * 64 // 4,)
    assert (guard.limits(nothing, 2, AVX2) == 32766).all()


def test_layers_choose_the_guard_where_the_range_makes_large_sums_rare() -> None:
    w = np.clip(np.random.default_rng(0).normal(0, 40, (64, 1, 1, 128)), -128, 127).astype(np.int8)
    assert product8(AVX2, w, 0, 255, zero_point=0)[0] == guarded(2)
    assert product8(AVX2, w, 0, 127, zero_point=0)[0] == guarded(4)
    assert product8(AVX2, w, 0, 255, zero_point=128)[0] == DOT2
    assert product8(AVX2, w, 0, 255)[0] == DOT2
    assert product8(AVX2, w[..., :40], 0, 255, zero_point=0)[0] == DOT2  # no registers full of channels
    assert not product8(AVX512_VNNI, w, 0, 255, zero_point=0)[0].guard
    assert not product8(NEON, w, -128, 127, zero_point=-128)[0].guard
