"""Legal operators that keep a tensor's shape: each is a chain of nodes that onnxruntime runs, or nearly always does.

A function takes the chain, the tensor's name and its shape, and returns the name of the result. What a tensor or an
opset does not allow raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from tests.attack.chain import Chain, Shape

Insert = Callable[[Chain, str, Shape], str]
INSERTS: dict[str, Insert] = {}

_SINCE = {
    "Relu": 6, "Sigmoid": 6, "Tanh": 6, "Elu": 6, "Selu": 6, "LeakyRelu": 6, "HardSigmoid": 6, "Softplus": 1,
    "Softsign": 1, "ThresholdedRelu": 10, "Celu": 12, "HardSwish": 14, "Mish": 18, "Gelu": 20, "Neg": 6, "Abs": 6,
    "Exp": 6, "Erf": 9, "Ceil": 6, "Floor": 6, "Round": 11, "Sign": 9, "Sin": 7, "Cos": 7, "Atan": 7, "Sinh": 9,
    "Reciprocal": 6, "Identity": 1, "Dropout": 12, "Asinh": 9, "Shrink": 9, "Tan": 7,
}  # fmt: skip
_SIZES = (1e-30, 1e-6, 1e-3, 0.1, 1.0, 1.0, 3.0, 100.0, 1e4, 1e9)


def insert(function: Insert) -> Insert:
    """Register a way."""
    INSERTS[function.__name__.replace("_", " ").strip()] = function
    return function


def _needs(fact: object) -> None:
    if not fact:
        raise ValueError


def _axis(chain: Chain, shape: Shape) -> int:
    """Any axis, counted from either end."""
    _needs(shape)
    return chain.rng.randrange(-len(shape), len(shape))


def _grid(chain: Chain) -> tuple[str, str]:
    """A legal scale and zero point."""
    dtype = np.dtype(chain.rng.choice(["int8", "uint8", "uint8"] + ["int16", "uint16"] * (chain.opset >= 21)))
    info = np.iinfo(dtype.name)
    scale = chain.rng.choice((0.02, 0.02, 1 / 255, 0.1, 0.5, 1e-3, 1e-6, 1e-12, 7.0, 1e4)) * chain.rng.uniform(0.5, 1.5)
    zero_point = chain.rng.choice((0, info.min, info.max, (info.min + info.max + 1) // 2, 3))
    return chain.constant(scale), chain.constant(zero_point, dtype)


def _pair(chain: Chain, x: str) -> str:
    grid = _grid(chain)
    return chain.op("DequantizeLinear", chain.op("QuantizeLinear", x, *grid), *grid)


def _inner(chain: Chain, x: str) -> str:
    """Something small in the middle of another way."""
    way = chain.rng.choice(("none", "pair", "Relu", "Sigmoid", "Neg"))
    return x if way == "none" else _pair(chain, x) if way == "pair" else chain.op(way, x)


@insert
def unary(chain: Chain, x: str, _shape: Shape) -> str:
    """A function of one tensor."""
    operator = chain.rng.choice([one for one, since in _SINCE.items() if since <= chain.opset])
    alpha = chain.rng.choice((0.0, 0.01, 0.2, 1.0, -0.5, 3.0))
    given = {"alpha": alpha} if operator in ("Elu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu") else {}
    return chain.op(operator, x, **given)


@insert
def of_positive(chain: Chain, x: str, _shape: Shape) -> str:
    """A function that is real for positive numbers alone."""
    above = chain.op("Add", chain.op("Abs", x), chain.constant(chain.rng.choice((1e-9, 1e-3, 1.0))))
    operator = chain.rng.choice(("Sqrt", "Log", "Reciprocal", "Pow"))
    return chain.op(operator, above, *([chain.constant(chain.rng.choice((0.5, -1.0, 2.5)))] * (operator == "Pow")))


@insert
def clip(chain: Chain, x: str, _shape: Shape) -> str:
    """Bounds, also of equal size, or one alone."""
    _needs(chain.opset >= 11)
    low, high = chain.rng.choice(((0.0, 6.0), (-1.0, 1.0), (0.0, 0.0), (-3e38, 3e38), (1.0, 2.0), (-1e-3, 1e-3)))
    way = chain.rng.choice(("both", "low", "high"))
    low_name = chain.constant(low) if way != "high" else ""
    return chain.op("Clip", x, low_name, *([chain.constant(high)] * (way != "low")))


@insert
def with_a_constant(chain: Chain, x: str, shape: Shape) -> str:
    """Arithmetic with a constant of a shape that is spread."""
    operator = chain.rng.choice(("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Mod", "Pow"))
    to = chain.rng.choice((
        (), (1,), shape, shape[-1:], *([(shape[1], *([1] * (len(shape) - 2)))] if len(shape) > 1 else []),
        tuple(n if chain.rng.random() < 0.5 else 1 for n in shape),
    ))  # fmt: skip
    values: np.ndarray = chain.spread(to, chain.rng.choice(_SIZES))
    if operator in ("Div", "Mod"):
        values = np.abs(values) + np.float32(1e-3)
    if operator == "Pow":
        values = np.array(chain.rng.choice((1.0, 2.0, 3.0, 0.0)), np.float32)
    given = {"fmod": 1} if operator == "Mod" else {}
    operands = [x, chain.constant(values)]
    if operator in ("Add", "Mul", "Sub", "Max") and chain.rng.random() < 0.3:
        operands.reverse()
    return chain.op(operator, *operands, **given)


@insert
def with_itself(chain: Chain, x: str, _shape: Shape) -> str:
    """Both operands are one tensor, or made of it."""
    way = chain.rng.choice(("Add", "Mul", "Sub", "Max", "Where", "Sum", "Mean"))
    other = _inner(chain, x)
    if way == "Where":
        return chain.op("Where", chain.op("Less", x, chain.constant(0.1)), other, x)
    if way in ("Sum", "Mean"):
        return chain.op(way, x, other, *[_inner(chain, x) for _ in range(chain.rng.randrange(4))])
    return chain.op(way, x, other)


@insert
def quantized(chain: Chain, x: str, _shape: Shape) -> str:
    """A pair of quantizers, once or more."""
    for _ in range(chain.rng.choice((1, 1, 2, 3))):
        x = _pair(chain, x)
    return x


@insert
def quantized_per_channel(chain: Chain, x: str, shape: Shape) -> str:
    """A pair with a scale for each slice of an axis."""
    _needs(shape)
    axis = _axis(chain, shape)
    scale = chain.constant(np.abs(chain.spread((shape[axis],), 0.05)) + 1e-3)
    zero_point = chain.constant(np.zeros(shape[axis]), chain.rng.choice((np.int8, np.uint8)))
    quantized_ = chain.op("QuantizeLinear", x, scale, zero_point, axis=axis)
    return chain.op("DequantizeLinear", quantized_, scale, zero_point, axis=axis)


@insert
def moved_in_integers(chain: Chain, x: str, shape: Shape) -> str:
    """Between the two of a pair, integers move and come back."""
    grid = _grid(chain)
    q = chain.op("QuantizeLinear", x, *grid)
    perm = chain.rng.sample(range(len(shape)), len(shape))
    q = chain.op("Transpose", chain.op("Transpose", q, perm=perm), perm=[int(one) for one in np.argsort(perm)])
    q = chain.op("Reshape", chain.op("Reshape", q, chain.indices([-1])), chain.indices(shape))
    return chain.op("DequantizeLinear", q, *grid)


@insert
def turned(chain: Chain, x: str, shape: Shape) -> str:
    """Transposed, and back."""
    perm = chain.rng.sample(range(len(shape)), len(shape))
    back = [int(one) for one in np.argsort(perm)]
    return chain.op("Transpose", _inner(chain, chain.op("Transpose", x, perm=perm)), perm=back)


@insert
def reshaped(chain: Chain, x: str, shape: Shape) -> str:
    """Another rank, and back; the shape is a constant, or asked of the tensor."""
    to = chain.rng.choice(([-1], [1, -1], [-1, shape[-1]] if shape else [1], [1, *shape, 1], [0, -1]))
    _needs(shape or 0 not in to)
    flat = _inner(chain, chain.op("Reshape", x, chain.indices(to)))
    asked = chain.rng.random() < 0.3
    return chain.op("Reshape", flat, chain.op("Shape", x) if asked else chain.indices(shape))


@insert
def squeezed(chain: Chain, x: str, shape: Shape) -> str:
    """A dimension more, and back."""
    _needs(chain.opset >= 13)
    axis = chain.indices([chain.rng.randrange(len(shape) + 1)])
    return chain.op("Squeeze", _inner(chain, chain.op("Unsqueeze", x, axis)), axis)


@insert
def padded(chain: Chain, x: str, shape: Shape) -> str:
    """Padded, and cut back; or shifted by it."""
    _needs(shape and chain.opset >= 11)
    mode = chain.rng.choice(("constant", "reflect", "edge"))
    before = [chain.rng.randrange(min(n, 3)) for n in shape]
    after = [chain.rng.randrange(min(n, 3)) for n in shape]
    value = [chain.constant(chain.rng.choice((0.0, 1.0, -7.5)))] if mode == "constant" else []
    wide = _inner(chain, chain.op("Pad", x, chain.indices(before + after), *value, mode=mode))
    start = chain.rng.choice((before, [0] * len(shape)))
    end = [one + n for one, n in zip(start, shape, strict=True)]
    return chain.op("Slice", wide, chain.indices(start), chain.indices(end), chain.indices(range(len(shape))))


@insert
def sliced_backwards(chain: Chain, x: str, shape: Shape) -> str:
    """Reversed along an axis."""
    axis = _axis(chain, shape)
    ends = [chain.indices([one]) for one in (-1, -(2**63), axis, -1)]
    return chain.op("Slice", x, *ends)


@insert
def joined(chain: Chain, x: str, shape: Shape) -> str:
    """Joined with itself, taken apart, and one of the parts."""
    _needs(chain.opset >= 13)
    axis = _axis(chain, shape)
    count = chain.rng.choice((2, 2, 3, 9))
    parts = [_inner(chain, x) for _ in range(count)]
    whole = _inner(chain, chain.op("Concat", *parts, axis=axis))
    taken = chain.make("Split", whole, chain.indices([shape[axis]] * count), outputs=count, axis=axis)
    return chain.rng.choice(taken) if chain.rng.random() < 0.5 else chain.op("Add", taken[0], taken[-1])


@insert
def repeated(chain: Chain, x: str, shape: Shape) -> str:
    """Tiled or expanded, and its mean."""
    axis = chain.rng.randrange(len(shape)) if shape else 0
    _needs(shape and np.prod(shape) < 2**15 and chain.opset >= 13)
    new = chain.op("Unsqueeze", x, chain.indices([axis]))
    wide = [chain.rng.choice((2, 5)) if at == axis else 1 for at in range(len(shape) + 1)]
    many = chain.op(chain.rng.choice(("Tile", "Expand")), new, chain.indices(wide))
    return chain.op("Gather", _inner(chain, many), chain.indices(chain.rng.choice((0, 1, -1))), axis=axis)


@insert
def gathered(chain: Chain, x: str, shape: Shape) -> str:
    """Entries of an axis in another order, or some twice, counted from either end."""
    axis = _axis(chain, shape)
    size = shape[axis]
    at = [chain.rng.randrange(-size, size) for _ in range(size)]
    dtype = chain.rng.choice((np.int64, np.int32))
    if chain.opset >= 11 and chain.rng.random() < 0.4:
        spread = np.array(at).reshape([-1 if n == axis % len(shape) else 1 for n in range(len(shape))])
        return chain.op("GatherElements", x, chain.constant(np.broadcast_to(spread, shape), dtype), axis=axis)
    return chain.op("Gather", x, chain.constant(at, dtype), axis=axis)


@insert
def scattered(chain: Chain, x: str, shape: Shape) -> str:
    """Some entries written over."""
    _needs(shape and chain.opset >= 16)
    if chain.rng.random() < 0.5:
        axis = _axis(chain, shape)
        few = tuple(max(1, n // 2) for n in shape)
        size = shape[axis]
        at = np.broadcast_to(
            np.arange(few[axis]).reshape([-1 if n == axis % len(shape) else 1 for n in range(len(shape))]), few
        )
        return chain.op(
            "ScatterElements", x, chain.indices(at - chain.rng.choice((0, size))), chain.constant(chain.spread(few)),
            axis=axis, reduction=chain.rng.choice(("none", "add", "mul")),
        )  # fmt: skip
    rows = chain.rng.sample(range(-shape[0], 0), max(1, shape[0] // 2))
    updates = chain.constant(chain.spread((len(rows), *shape[1:])))
    return chain.op("ScatterND", x, chain.indices(np.array(rows)[:, None]), updates)


@insert
def pooled(chain: Chain, x: str, shape: Shape) -> str:
    """A window that keeps the size."""
    _needs(len(shape) in (3, 4) and chain.opset >= 11)
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
    return chain.op(operator, _inner(chain, x), **given)


@insert
def resized(chain: Chain, x: str, shape: Shape) -> str:
    """Twice the size, and back."""
    _needs(len(shape) == 4 and np.prod(shape) < 2**14 and chain.opset >= 13)
    mode = chain.rng.choice(("nearest", "nearest", "linear", "cubic"))
    way = chain.rng.choice(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"))
    given = {"nearest_mode": chain.rng.choice(("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"))}
    larger = chain.op(
        "Resize", x, "", chain.constant([1, 1, 2, 2]), mode=mode, coordinate_transformation_mode=way,
        **given if mode == "nearest" else {},
    )  # fmt: skip
    larger = _inner(chain, larger)
    if chain.rng.random() < 0.5:
        return chain.op(chain.rng.choice(("AveragePool", "MaxPool")), larger, kernel_shape=[2, 2], strides=[2, 2])
    return chain.op("Resize", larger, "", "", chain.indices(shape), mode=mode, coordinate_transformation_mode=way)


@insert
def to_depth(chain: Chain, x: str, shape: Shape) -> str:
    """Blocks to channels, and back in either order."""
    _needs(len(shape) == 4 and shape[2] % 2 == 0 and shape[3] % 2 == 0 and chain.opset >= 13)
    deep = _inner(chain, chain.op("SpaceToDepth", x, blocksize=2))
    return chain.op("DepthToSpace", deep, blocksize=2, mode=chain.rng.choice(("DCR", "CRD")))


@insert
def normalized(chain: Chain, x: str, shape: Shape) -> str:
    """A normalization, or a softmax along any axis."""
    _needs(len(shape) >= 2)
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
    return chain.op(way, x, axis=_axis(chain, shape), **given)


@insert
def reduced(chain: Chain, x: str, shape: Shape) -> str:
    """A figure of some axes, and arithmetic with it."""
    _needs(shape and chain.opset >= 13)
    ways = ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp", "LogSum"]
    way = chain.rng.choice(ways)
    axes = chain.rng.sample(range(-len(shape), 0), chain.rng.randint(1, len(shape)))
    if way == "Sum" or chain.opset >= 18:
        figure = chain.op(f"Reduce{way}", x, chain.indices(axes), keepdims=1)
    else:
        figure = chain.op(f"Reduce{way}", x, axes=axes, keepdims=1)
    return chain.op(chain.rng.choice(("Add", "Sub", "Mul", "Max")), x, _inner(chain, figure))


@insert
def convolved(chain: Chain, x: str, shape: Shape) -> str:
    """A convolution that keeps the size, in float or with weights on a grid."""
    _needs(len(shape) in (3, 4) and np.prod(shape) < 2**15)
    spatial, channels = len(shape) - 2, shape[1]
    groups = chain.rng.choice([n for n in range(1, channels + 1) if channels % n == 0])
    size, dilation = chain.rng.choice((1, 3, 3, 5)), chain.rng.choice((1, 1, 2))
    transposed = chain.rng.random() < 0.25
    values = chain.spread((channels, channels // groups, *[size] * spatial), chain.rng.choice((0.01, 0.1, 0.3, 10.0)))
    if chain.rng.random() < 0.5 and chain.opset >= 13:
        levels = np.clip(np.round(values / np.abs(values).max() * 127), -128, 127)
        grid = [chain.constant(np.abs(values).max() / 127 + 1e-9), chain.constant(0, np.int8)]
        weights = chain.op("DequantizeLinear", chain.constant(levels, np.int8), *grid)
        x = _pair(chain, x)
    else:
        weights = chain.constant(values)
    bias = [chain.constant(chain.spread((channels,), chain.rng.choice(_SIZES)))] * (chain.rng.random() < 0.6)
    pads = [dilation * (size - 1) // 2] * (2 * spatial)
    made = chain.op(
        "ConvTranspose" if transposed else "Conv", x, weights, *bias, group=groups, pads=pads,
        dilations=[dilation] * spatial, kernel_shape=[size] * spatial,
    )  # fmt: skip
    return _inner(chain, made)


@insert
def multiplied(chain: Chain, x: str, shape: Shape) -> str:
    """A product with a square matrix of constants, or with itself."""
    _needs(len(shape) >= 2 and shape[-1] <= 256)
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
        return chain.op("MatMul", _inner(chain, chain.op("MatMul", x, chain.op("Transpose", x, perm=perm))), x)
    return chain.op("MatMul", _pair(chain, x) if way == "quantized" else x, chain.constant(weights))


@insert
def compared(chain: Chain, x: str, _shape: Shape) -> str:
    """A comparison that chooses, or becomes a number."""
    operator = chain.rng.choice(("Greater", "Less", *(["GreaterOrEqual", "LessOrEqual"] if chain.opset >= 12 else [])))
    truth = chain.op(operator, x, chain.constant(chain.rng.choice((0.0, 0.5, -1.0))))
    truth = chain.rng.choice((truth, chain.op("Not", truth), chain.op("Or", truth, chain.op("IsNaN", x))))
    if chain.rng.random() < 0.5:
        return chain.op("Mul", x, chain.op("Cast", truth, to=TensorProto.FLOAT))
    return chain.op("Where", truth, x, chain.constant(chain.rng.choice((0.0, -1.0))))


@insert
def ordered(chain: Chain, x: str, shape: Shape) -> str:
    """Sorted, summed up, or with the place of the largest."""
    axis = _axis(chain, shape)
    way = chain.rng.choice(("TopK", "CumSum", "ArgMax", "ArgMin", "OneHot"))
    _needs(chain.opset >= 12)
    if way == "TopK":
        return chain.make(
            "TopK", x, chain.indices([shape[axis]]), outputs=2, axis=axis, largest=chain.rng.randrange(2)
        )[0]
    if way == "CumSum":
        return chain.op(
            "CumSum", x, chain.indices(axis), reverse=chain.rng.randrange(2), exclusive=chain.rng.randrange(2)
        )
    if way == "OneHot":
        place = chain.op("ArgMax", x, axis=axis, keepdims=0)
        return chain.op(
            "Mul", x, chain.op("OneHot", place, chain.indices(shape[axis]), chain.constant([0, 1]), axis=axis)
        )
    place = chain.op(way, x, axis=axis, keepdims=1)
    return chain.op("Add", x, chain.op("Cast", place, to=TensorProto.FLOAT))


@insert
def cast(chain: Chain, x: str, _shape: Shape) -> str:
    """Another type, and back."""
    there = chain.rng.choice(
        (TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL)
    )
    return chain.op("Cast", chain.op("Cast", x, to=there), to=TensorProto.FLOAT)


@insert
def recurrent(chain: Chain, x: str, shape: Shape) -> str:
    """A recurrent layer over the first axis."""
    _needs(len(shape) == 3 and shape[0] <= 32 and shape[2] <= 64 and chain.opset >= 14)
    operator, gates = chain.rng.choice((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    size = shape[2]
    w, r = (chain.constant(chain.spread((1, gates * size, size), 0.2)) for _ in range(2))
    y = chain.make(operator, x, w, r, outputs=1, hidden_size=size, direction=chain.rng.choice(("forward", "reverse")))[
        0
    ]
    return chain.op("Squeeze", y, chain.indices([1]))


@insert
def sampled(chain: Chain, x: str, shape: Shape) -> str:
    """Read at given places, inside and far outside."""
    _needs(len(shape) == 4 and chain.opset >= 16)
    n, _, h, w = shape
    size = chain.rng.choice((0.5, 1.0, 3.0, 1e6))
    grid = chain.constant(chain.spread((n, h, w, 2), size))
    mode = chain.rng.choice(("linear", "nearest", "cubic") if chain.opset >= 20 else ("bilinear", "nearest", "bicubic"))
    edge = chain.rng.choice(("zeros", "border", "reflection"))
    return chain.op("GridSample", x, grid, mode=mode, padding_mode=edge, align_corners=chain.rng.randrange(2))


@insert
def conditional(chain: Chain, x: str, _shape: Shape) -> str:
    """One of two branches, by a constant."""
    branches = []
    for operator in ("Relu", chain.rng.choice(("Neg", "Sigmoid", "Identity"))):
        name = chain.name()
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        branches.append(helper.make_graph([helper.make_node(operator, [x], [name])], f"branch_{name}", [], [out]))
    truth = chain.constant(chain.rng.random() < 0.5, np.bool_)
    return chain.op("If", truth, then_branch=branches[0], else_branch=branches[1])


@insert
def looped(chain: Chain, x: str, shape: Shape) -> str:
    """A loop that runs a known number of times."""
    count, going, carried, on, made = (chain.name() for _ in range(5))
    steps = [
        helper.make_node("Identity", [going], [on]),
        helper.make_node(chain.rng.choice(("Relu", "Neg", "Tanh")), [carried], [made]),
    ]
    number, truth, tensor = (TensorProto.INT64, ()), (TensorProto.BOOL, ()), (TensorProto.FLOAT, shape)
    inputs, outputs = {count: number, going: truth, carried: tensor}, {on: truth, made: tensor}
    declared = [
        [helper.make_tensor_value_info(name, *kind) for name, kind in names.items()] for names in (inputs, outputs)
    ]
    body = helper.make_graph(steps, f"body_{count}", *declared)
    times = chain.indices(chain.rng.choice((0, 1, 3, 20)))
    return chain.op("Loop", times, chain.constant(True, np.bool_), x, body=body)


@insert
def shaped(chain: Chain, x: str, _shape: Shape) -> str:
    """Arithmetic with a tensor whose size is asked of another."""
    asked = chain.op("Shape", x)
    value = helper.make_tensor("", TensorProto.FLOAT, [1], [chain.rng.choice((0.0, 1.0, -2.0))])
    if chain.rng.random() < 0.5:
        other = chain.op("ConstantOfShape", asked, value=value)
    else:
        other = chain.op("Expand", chain.constant(chain.rng.choice((0.5, -1.0))), asked)
    return chain.op("Add", x, other)


@insert
def triangular(chain: Chain, x: str, shape: Shape) -> str:
    """Half of a matrix."""
    _needs(len(shape) >= 2 and chain.opset >= 14)
    return chain.op(
        "Trilu", x, chain.indices(chain.rng.choice((0, 1, -1, 100, -100, 2**40))), upper=chain.rng.randrange(2)
    )
