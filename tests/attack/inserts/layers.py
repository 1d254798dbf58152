"""Layers, windows, reductions and normalizations."""

from __future__ import annotations

import numpy as np

from tests.attack.chain import Chain, Shape
from tests.attack.inserts.register import an_axis, fake_quantized, insert, needs, something_small

_SIZES = (1e-30, 1e-6, 1e-3, 0.1, 1.0, 1.0, 3.0, 100.0, 1e4, 1e9)


@insert
def pooled(chain: Chain, x: str, shape: Shape) -> str:
    """A window that keeps the size."""
    needs(len(shape) in (3, 4) and chain.opset >= 11)
    spatial = len(shape) - 2
    operator = chain.rng.choice(("MaxPool", "AveragePool", "LpPool"))
    size = chain.rng.choice((1, 3, 3, 5))
    given: dict[str, object] = {"kernel_shape": [size] * spatial, "strides": [1] * spatial}
    if chain.rng.random() < 0.3:
        given["auto_pad"] = chain.rng.choice(("SAME_UPPER", "SAME_LOWER"))
    else:
        given["pads"] = [size // 2] * (2 * spatial)
        if operator == "MaxPool" and size > 1 and chain.rng.random() < 0.3:
            given |= {"dilations": [2] * spatial, "pads": [size - 1] * (2 * spatial)}
    if operator == "AveragePool":
        given["count_include_pad"] = chain.rng.randrange(2)
    if operator == "MaxPool" and chain.rng.random() < 0.1:
        given["storage_order"] = 1
    return chain.op(operator, something_small(chain, x), **given)


@insert
def resized(chain: Chain, x: str, shape: Shape) -> str:
    """Twice the size, and back."""
    needs(len(shape) == 4 and np.prod(shape) < 2**14 and chain.opset >= 13)
    mode = chain.rng.choice(("nearest", "nearest", "linear", "cubic"))
    way = chain.rng.choice(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"))
    given = {"nearest_mode": chain.rng.choice(("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"))}
    larger = chain.op(
        "Resize", x, "", chain.constant([1, 1, 2, 2]), mode=mode, coordinate_transformation_mode=way,
        **given if mode == "nearest" else {},
    )  # fmt: skip
    larger = something_small(chain, larger)
    if chain.rng.random() < 0.5:
        return chain.op(chain.rng.choice(("AveragePool", "MaxPool")), larger, kernel_shape=[2, 2], strides=[2, 2])
    return chain.op("Resize", larger, "", "", chain.indices(shape), mode=mode, coordinate_transformation_mode=way)


@insert
def to_depth(chain: Chain, x: str, shape: Shape) -> str:
    """Blocks to channels, and back in either order."""
    needs(len(shape) == 4 and shape[2] % 2 == 0 and shape[3] % 2 == 0 and chain.opset >= 13)
    deep = something_small(chain, chain.op("SpaceToDepth", x, blocksize=2))
    return chain.op("DepthToSpace", deep, blocksize=2, mode=chain.rng.choice(("DCR", "CRD")))


@insert
def normalized(chain: Chain, x: str, shape: Shape) -> str:
    """A normalization, or a softmax along any axis."""
    needs(len(shape) >= 2)
    channels = shape[1]
    ways = ["Softmax", "LogSoftmax", "LpNormalization", "Hardmax", "BatchNormalization"]
    ways += ["InstanceNormalization", "LRN", "MeanVarianceNormalization"] * (len(shape) == 4)
    ways += ["LayerNormalization"] * (chain.opset >= 17) + ["GroupNormalization"] * (
        chain.opset >= 21 and len(shape) > 2
    )
    way = chain.rng.choice(ways)
    gamma, beta = (chain.constant(chain.spread((channels,), chain.rng.choice(_SIZES[1:-1]))) for _ in range(2))
    epsilon = chain.rng.choice((1e-5, 1e-5, 1e-12, 1.0))
    if way == "BatchNormalization":
        mean = chain.constant(chain.spread((channels,)))
        variance = chain.constant(np.abs(chain.spread((channels,), chain.rng.choice(_SIZES))))
        return chain.op(way, x, gamma, beta, mean, variance, epsilon=epsilon)
    if way == "InstanceNormalization":
        return chain.op(way, x, gamma, beta, epsilon=epsilon)
    if way == "GroupNormalization":
        groups = chain.rng.choice([n for n in range(1, channels + 1) if channels % n == 0])
        return chain.op(way, x, gamma, beta, num_groups=groups, epsilon=epsilon)
    if way == "LayerNormalization":
        axis = chain.rng.randrange(1, len(shape))
        scale, bias = (chain.constant(chain.spread(shape[axis:])) for _ in range(2))
        return chain.op(way, x, scale, bias, axis=axis - chain.rng.choice((0, len(shape))), epsilon=epsilon)
    if way == "LRN":
        return chain.op(way, x, size=chain.rng.choice((1, 3, 4)))
    if way == "MeanVarianceNormalization":
        return chain.op(way, x)
    given = {"p": chain.rng.choice((1, 2))} if way == "LpNormalization" else {}
    return chain.op(way, x, axis=an_axis(chain, shape), **given)


@insert
def reduced(chain: Chain, x: str, shape: Shape) -> str:
    """A figure of some axes, and arithmetic with it."""
    needs(shape and chain.opset >= 13)
    ways = ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp", "LogSum"]
    way = chain.rng.choice(ways)
    axes = chain.rng.sample(range(-len(shape), 0), chain.rng.randint(1, len(shape)))
    if way == "Sum" or chain.opset >= 18:
        figure = chain.op(f"Reduce{way}", x, chain.indices(axes), keepdims=1)
    else:
        figure = chain.op(f"Reduce{way}", x, axes=axes, keepdims=1)
    return chain.op(chain.rng.choice(("Add", "Sub", "Mul", "Max")), x, something_small(chain, figure))


@insert
def convolved(chain: Chain, x: str, shape: Shape) -> str:
    """A convolution that keeps the size, in float or with weights on a grid."""
    needs(len(shape) in (3, 4) and np.prod(shape) < 2**15)
    spatial, channels = len(shape) - 2, shape[1]
    groups = chain.rng.choice([n for n in range(1, channels + 1) if channels % n == 0])
    size, dilation = chain.rng.choice((1, 3, 3, 5)), chain.rng.choice((1, 1, 2))
    transposed = chain.rng.random() < 0.25
    values = chain.spread((channels, channels // groups, *[size] * spatial), chain.rng.choice((0.01, 0.1, 0.3, 10.0)))
    if chain.rng.random() < 0.5 and chain.opset >= 13:
        levels = np.clip(np.round(values / np.abs(values).max() * 127), -128, 127)
        grid = [chain.constant(np.abs(values).max() / 127 + 1e-9), chain.constant(0, np.int8)]
        weights = chain.op("DequantizeLinear", chain.constant(levels, np.int8), *grid)
        x = fake_quantized(chain, x)
    else:
        weights = chain.constant(values)
    bias = [chain.constant(chain.spread((channels,), chain.rng.choice(_SIZES)))] * (chain.rng.random() < 0.6)
    pads = [dilation * (size - 1) // 2] * (2 * spatial)
    made = chain.op(
        "ConvTranspose" if transposed else "Conv", x, weights, *bias, group=groups, pads=pads,
        dilations=[dilation] * spatial, kernel_shape=[size] * spatial,
    )  # fmt: skip
    return something_small(chain, made)


@insert
def multiplied(chain: Chain, x: str, shape: Shape) -> str:
    """A product with a square matrix of constants, or with itself."""
    needs(len(shape) >= 2 and shape[-1] <= 256)
    size = shape[-1]
    weights = chain.spread((size, size), chain.rng.choice((0.01, 0.1, 1.0)))
    way = chain.rng.choice(("MatMul", "Gemm", "Einsum", "quantized", "itself"))
    if way == "Gemm" and len(shape) == 2:
        bias = chain.constant(chain.spread(chain.rng.choice(((size,), (1,), (1, size), shape, ()))))
        return chain.op(
            "Gemm", x, chain.constant(weights), bias, transB=chain.rng.randrange(2),
            alpha=chain.rng.choice((1.0, 0.0, -2.0)), beta=chain.rng.choice((1.0, 0.0, 0.5)),
        )  # fmt: skip
    if way == "Einsum" and chain.opset >= 12:
        return chain.op("Einsum", x, chain.constant(weights), equation="...i,ij->...j")
    if way == "itself" and np.prod(shape) < 2**14:
        perm = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        return chain.op("MatMul", something_small(chain, chain.op("MatMul", x, chain.op("Transpose", x, perm=perm))), x)
    return chain.op("MatMul", fake_quantized(chain, x) if way == "quantized" else x, chain.constant(weights))
