"""Which product a layer gets: the fastest that is exact, by instruction set, range and weights."""

from __future__ import annotations

import numpy as np
import pytest

from drpai_qat.graph.canonical import Weight
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.layer_weights import IntegerWeights, LayerWeights
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.isa import AVX2, AVX512_VNNI, AVX_VNNI, NEON, NEON_DOTPROD, SSE42
from drpai_qat.lowering.arithmetic import LayerPlan, plan_layer, start_and_add

ISAS = {isa.name: isa for isa in (SSE42, AVX2, AVX_VNNI, AVX512_VNNI, NEON, NEON_DOTPROD)}
INT16 = Grid(0.001, 0, -32768, 32767, "int16")


def plan(isa: str, grid: Grid | None, channels: int = 32, largest: int = 127, pixels: int = 28) -> LayerPlan:
    """A 3x3 convolution of as many output channels; `largest` of its weights."""
    values = np.random.default_rng(0).integers(-largest, largest + 1, (channels, 3, 3, channels))
    size = pixels + 2
    shape = ConvShape(1, size, size, channels, pixels, pixels, channels, (3, 3))
    integers = IntegerWeights(values.astype(np.int64), np.full(channels, 0.01))
    weights = LayerWeights(integers, trained=True, real=lambda: (values * 0.01).astype(np.float32))
    return plan_layer(grid, weights, ISAS[isa], shape)


@pytest.mark.parametrize(
    ("isa", "channels", "product"),
    [
        ("neon-dotprod", 32, "planes"),
        ("neon-dotprod", 30, "dot2"),  # four channels share a lane
        ("neon", 32, "dot2"),
        ("avx512-vnni", 32, "dot2"),
    ],
)
def test_int16_activations(isa: str, channels: int, product: str) -> None:
    layer = plan(isa, INT16, channels)
    assert (layer.product.name, layer.compute, layer.winograd) == (product, "int16", None)


@pytest.mark.parametrize("isa", ["x86-64-v2", "avx2"])
def test_int16_activations_of_a_3x3_convolution_without_vnni(isa: str) -> None:
    layer = plan(isa, INT16)
    assert layer.winograd is not None
    assert (layer.winograd.planes, layer.product.name) == (2, "dot2")


def test_full_8_bit_ranges_without_vnni() -> None:
    """Guarded behind a ReLU; not where what is zero is stored as 128, since then all activations are large."""
    behind_relu, signed = (Grid(0.01, zero, 0, 255, "uint8") for zero in (0, 128))
    assert plan("avx2", behind_relu, pixels=2).product.guard
    assert plan("avx2", signed, pixels=2).product.name == "dot2"
    assert plan("avx512-vnni", behind_relu, pixels=2).product.name == "dot4"
    assert plan("avx2", behind_relu, largest=31, pixels=2).product.steps > 1


def test_float_layers_convert_int8_weights_where_pixels_are_few() -> None:
    assert plan("avx2", None, pixels=8).weights.dtype == np.int8
    assert plan("avx2", None, pixels=64).weights.dtype == np.float32
    assert plan("avx2", None, largest=200, pixels=8).weights.dtype == np.float32


def test_a_bias_beside_a_far_coarser_grid_is_added_in_float32() -> None:
    """On the grid of the accumulators it would be zero."""
    layer, real = plan("avx512-vnni", Grid(1e20, 0, -128, 127, "int8")), np.linspace(-1, 1, 32, dtype=np.float32)
    start, add = start_and_add(layer, Weight(real), 32)
    np.testing.assert_array_equal(add, real)
    fine = plan("avx512-vnni", Grid(0.01, 0, -128, 127, "int8"))
    start, add = start_and_add(fine, Weight(np.full(32, 5e-4, np.float32)), 32)
    assert start is not None
    assert not add.any()
