"""Kernels that write the padding around their output themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drpai_qat.kernels.conv import conv
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.depthwise import depthwise
from drpai_qat.kernels.epilogue import Border
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.products import dot4
from tests.kernels.running import on_each_isa, requantized, run

PADS = [(1, 1, 1, 1), (0, 2, 1, 0), (3, 0, 0, 0), (0, 1, 0, 1)]


def padded(image: np.ndarray, pads: tuple[int, int, int, int], value: int) -> np.ndarray:
    top, left, bottom, right = pads
    return np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


@on_each_isa
@pytest.mark.parametrize("pads", PADS, ids=str)
@pytest.mark.parametrize("size", [(5, 7), (4, 8), (1, 1)], ids=str)
def test_convolution(isa: Isa, pads: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    """Two images; 37 channels leave part of a register, 7 columns make tiles lie in two rows."""
    rng = np.random.default_rng(1)
    shape = ConvShape(2, *size, 16, *size, 37)
    x = rng.integers(0, 128, (2, *size, 16)).astype(np.uint8)
    w = rng.integers(-60, 60, (37, 1, 1, 16)).astype(np.int8)
    acc = (x.astype(np.int64) @ w.reshape(37, 16).T.astype(np.int64)).astype(np.int32)
    epilogue = requantized(acc)
    kernel = conv(shape, dot4(1), isa, replace(epilogue, border=Border(pads, 12)), w)
    got = run(kernel, isa, x)
    np.testing.assert_array_equal(got, padded(epilogue.evaluate(acc, []), pads, 12))


@on_each_isa
def test_depthwise(isa: Isa) -> None:
    rng = np.random.default_rng(2)
    shape = ConvShape(1, 6, 9, 40, 4, 7, 40, (3, 3))
    x = rng.integers(-128, 128, (1, 6, 9, 40)) if isa.arm else rng.integers(0, 256, (1, 6, 9, 40))
    w = rng.integers(-100, 100, (3, 3, 40)).astype(np.int8)
    acc = np.zeros((1, 4, 7, 40), np.int32)
    for r in range(3):
        for s in range(3):
            acc += (x[:, r : r + 4, s : s + 7] * w[r, s].astype(np.int64)).astype(np.int32)
    epilogue = requantized(acc, "int8", -3)
    kernel = depthwise(shape, isa, replace(epilogue, border=Border((1, 1, 1, 1), -3)), w, None, isa.activation)
    got = run(kernel, isa, x.astype(isa.activation))
    np.testing.assert_array_equal(got, padded(epilogue.evaluate(acc, []), (1, 1, 1, 1), -3))
