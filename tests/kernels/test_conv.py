"""The convolution template against numpy: every product, instruction set, tile and loop order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpai_qat.kernels.conv import conv, conv_sum
from drpai_qat.kernels.conv_shape import ConvShape, blocks_of, pack_weights
from drpai_qat.kernels.epilogue import Epilogue
from drpai_qat.kernels.isa import AVX2, AVX512_VNNI, AVX_VNNI, NEON, NEON_DOTPROD, SSE42, Isa
from drpai_qat.kernels.product import Product
from drpai_qat.kernels.products import DOT2, DOT2_WIDE, FMA, FMA_INT8, PLANES, Dot4, Pairs, dot4
from drpai_qat.kernels.term import Term
from drpai_qat.kernels.tiling import Tiling, choose_tiling
from tests.kernels.running import few, on_each_isa, raw, requantized, run

PRODUCTS = {
    "dot4": dot4(1),
    "dot4/2": dot4(2),
    "dot2": DOT2,
    "dot2_wide": DOT2_WIDE,
    "fma": FMA,
    "fma, int8 weights": FMA_INT8,
}


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]


def accumulators(shape: ConvShape, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """What the integers of a convolution add up to; int64."""
    per_group = shape.out_channels // shape.groups
    acc = np.zeros((shape.batch, shape.out_height, shape.out_width, shape.out_channels), np.int64)
    for g in range(shape.groups):
        inputs, outputs = slice(g * shape.channels, (g + 1) * shape.channels), slice(g * per_group, (g + 1) * per_group)
        for r in range(shape.kernel[0]):
            for s in range(shape.kernel[1]):
                y, z = r * shape.dilation[0], s * shape.dilation[1]
                part = x[:, y:, z:, inputs][:, :: shape.stride[0], :: shape.stride[1]]
                part = part[:, : shape.out_height, : shape.out_width]
                acc[..., outputs] += part @ w[outputs, r, s].T
    return acc


def case(shape: ConvShape, product: Product, seed: int) -> Arrays:
    """Input, weights, bias and the exact accumulators."""
    rng = np.random.default_rng(seed)
    limit = {"int8": 31, "int16": 255, "float32": 31}[product.weight_dtype]
    low, high = {"uint8": (0, 255), "int16": (-400, 400), "float32": (-20, 20)}[product.in_dtype]
    w = rng.integers(-limit, limit + 1, (shape.out_channels, *shape.kernel, shape.channels))
    x = rng.integers(low, high + 1, (shape.batch, shape.height, shape.width, shape.groups * shape.channels))
    bias = rng.integers(-999, 999, shape.out_channels).astype(np.int32) if product.acc_dtype == "int32" else None
    acc = accumulators(shape, x, w)
    if bias is not None:
        acc += bias
    return x.astype(product.in_dtype), w.astype(product.weight_dtype), bias, acc


def check(shape: ConvShape, product: Product, isa: Isa, seed: int = 0, tiling: Tiling | None = None) -> None:
    x, w, bias, acc = case(shape, product, seed)
    np.testing.assert_array_equal(run(conv(shape, product, isa, raw(), w, bias, tiling), isa, x), acc)


@st.composite
def shapes(draw: st.DrawFn, pack: int) -> ConvShape:
    """Small convolutions of every geometry; strides that leave input rows unused included."""
    size, kernel = (draw(st.tuples(st.integers(1, 8), st.integers(1, 9))), draw(st.tuples(*[st.integers(1, 3)] * 2)))
    stride, dilation = (draw(st.tuples(*[st.integers(1, 2)] * 2)) for _ in range(2))
    groups, rest = draw(st.integers(1, 3)), draw(st.integers(0, 1))
    height, width = ((size[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 + rest for i in (0, 1))
    batch, channels, out = draw(st.integers(1, 2)), pack * draw(st.integers(1, 9)), groups * draw(st.integers(1, 40))
    return ConvShape(batch, height, width, channels, *size, out, kernel, stride, dilation, groups)


@on_each_isa
@pytest.mark.parametrize("name", PRODUCTS)
@few
@given(data=st.data(), seed=st.integers(0, 9))
def test_any_shape(isa: Isa, name: str, data: st.DataObject, seed: int) -> None:
    product = PRODUCTS[name]
    check(data.draw(shapes(product.pack)), product, isa, seed)


@on_each_isa
@pytest.mark.parametrize(("product", "steps"), [(DOT2, 127), (DOT2_WIDE, 9000)], ids=["int8", "int16"])
@settings(max_examples=2)
@given(data=st.data(), seed=st.integers(0, 9))
def test_16_bits_up_to_the_ends_of_the_accumulators(
    isa: Isa, product: Product, steps: int, data: st.DataObject, seed: int
) -> None:
    """Inputs as large as `--max-drop` makes them: |q| sum |w| reaches 0.79 * 2^31, with either sign."""
    shape, rng = data.draw(shapes(product.pack)), np.random.default_rng(seed)
    size = (shape.out_channels, *shape.kernel, shape.channels)
    w = rng.integers(-steps, steps + 1, size).astype(product.weight_dtype)
    end = min(32767, int(0.79 * 2**31 / max(np.abs(w.astype(np.int64)).sum((1, 2, 3)).max(), 1)))
    x = rng.integers(-end, end + 1, (shape.batch, shape.height, shape.width, shape.groups * shape.channels))
    rows, columns = ((size - 1) * apart + 1 for size, apart in zip(shape.kernel, shape.dilation, strict=True))
    signs = np.sign(w[0].astype(np.int64)) * end  # the first output pixel of channel 0 is the largest that there is
    x[0, : rows : shape.dilation[0], : columns : shape.dilation[1], : shape.channels] = signs * rng.choice([-1, 1])
    bias = rng.integers(-(2**28), 2**28, shape.out_channels).astype(np.int32)
    acc = accumulators(shape, x, w.astype(np.int64)) + bias
    assert np.abs(acc).max() < 2**31
    got = run(conv(shape, product, isa, raw(), w, bias), isa, x.astype(np.int16))
    np.testing.assert_array_equal(got, acc.astype(np.float32))  # which is what the kernel makes of its integers


@on_each_isa
@pytest.mark.parametrize(
    "tiling", [Tiling(1, 1, "pixels", 1), Tiling(3, 2, "pixels", 4), Tiling(5, 1, "channels", 1)], ids=str
)
def test_any_tiling(isa: Isa, tiling: Tiling) -> None:
    check(ConvShape(2, 6, 7, 8, 4, 5, 37, (3, 3)), dot4(1), isa, 3, tiling)


@on_each_isa
def test_requantized_output_matches_the_epilogue(isa: Isa) -> None:
    shape = ConvShape(1, 9, 9, 16, 7, 7, 24, (3, 3))
    x, w, bias, acc = case(shape, dot4(1), 5)
    for dtype in ("uint8", "int8", "int16"):
        epilogue = requantized(acc, dtype)
        got = run(conv(shape, dot4(1), isa, epilogue, w, bias), isa, x)
        np.testing.assert_array_equal(got, epilogue.evaluate(acc.astype(np.int32), []))


@on_each_isa
def test_terms_of_several_inputs_add_up(isa: Isa) -> None:
    """Each with its own channels, arithmetic, start and scale; 37 channels leave a partial register."""
    shapes = [ConvShape(1, 6, 7, channels, 4, 5, 37, (3, 3)) for channels in (8, 16, 24)]
    products, ratios = (dot4(1), DOT2, dot4(2)), (1.0, 0.5, 4.0)
    cases = [case(shape, product, i) for i, (shape, product) in enumerate(zip(shapes, products, strict=True))]
    terms = [Term(p, w, bias, r) for p, (_, w, bias, _), r in zip(products, cases, ratios, strict=True)]
    got = run(conv_sum(shapes[0], terms, isa, raw()), isa, *(x for x, *_ in cases))
    expected = sum(acc * ratio for (*_, acc), ratio in zip(cases, ratios, strict=True))
    np.testing.assert_array_equal(got, expected)


def test_packing_keeps_every_weight() -> None:
    shape = ConvShape(1, 5, 5, 8, 3, 3, 42, (3, 3), groups=2)
    w = np.arange(1, 42 * 9 * 8 + 1, dtype=np.int32).reshape(42, 3, 3, 8)
    blocks = blocks_of(shape, 8, 2)
    packed = pack_weights(w, shape, blocks, 8, 4)
    assert sorted(packed[packed != 0]) == sorted(w.reshape(-1))
    assert sum(block.channels for block in blocks) == 42


X86, ARM = (SSE42, AVX2, AVX_VNNI, AVX512_VNNI), (NEON, NEON_DOTPROD)


@pytest.mark.parametrize(
    ("isa", "product"),
    [
        *((isa, product) for isa in X86 for product in PRODUCTS.values()),
        *((isa, product) for isa in ARM for product in (DOT2, DOT2_WIDE, FMA, Pairs(1), Pairs(4))),
        *((NEON_DOTPROD, product) for product in (Dot4("int8"), PLANES)),
    ],
    ids=str,
)
def test_tiles_fit_the_registers(isa: Isa, product: Product) -> None:
    for pixels in (1, 4, 7, 14, 49, 56, 3136):
        for channels in (1, 8, 17, 64, 1000):
            shape = ConvShape(1, 1, pixels, 64, 1, pixels, channels)
            tiling = choose_tiling(shape, product, isa)
            assert product.planes * tiling.pixels * tiling.vectors + tiling.vectors < isa.registers
            assert 1 <= tiling.pixels <= pixels


def test_layers_of_one_shape_share_their_function() -> None:
    shape = ConvShape(1, 5, 5, 8, 3, 3, 16, (3, 3))

    def function(seed: int) -> str:
        _, w, bias, acc = case(shape, dot4(1), seed)
        epilogue: Epilogue = requantized(acc)
        return str(conv(shape, dot4(1), AVX2, epilogue, w, bias).func)

    assert function(1) == function(2)
    assert math.prod((3, 3)) * 8 * 16 == conv(shape, dot4(1), AVX2, raw(), case(shape, dot4(1), 1)[1]).constants[0].size
