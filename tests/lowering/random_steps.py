"""The operators that a random graph may grow by; each takes quantized tensors and gives a tensor."""

from __future__ import annotations

import numpy as np

from tests.lowering.random_graphs import Net, Tensor

UNARY: tuple[tuple[str, dict[str, object]], ...] = (
    ("Relu", {}), ("LeakyRelu", {"alpha": 0.125}), ("Sigmoid", {}), ("Tanh", {}), ("HardSwish", {}), ("Erf", {}),
    ("HardSigmoid", {"alpha": 0.25}), ("Elu", {}), ("Selu", {}), ("Celu", {"alpha": 0.5}), ("Softplus", {}),
    ("Softsign", {}), ("Mish", {}), ("Gelu", {}), ("Gelu", {"approximate": "tanh"}), ("Exp", {}), ("Abs", {}),
    ("Neg", {}), ("Floor", {}), ("Ceil", {}), ("Round", {}),
)  # fmt: skip
EXACT_UNARY = ("Relu", "LeakyRelu", "Abs", "Neg", "Floor", "Ceil", "Round")


def convolution(net: Net, x: Tensor) -> Tensor:
    """Dense, grouped or depthwise; strides, dilations, asymmetric pads; with what follows it in a layer."""
    channels, size = x.shape[1], x.shape[2:]
    groups = net.pick(1, 1, 1, channels, *(g for g in (2, 3) if channels % g == 0))
    per_group = net.integer(1, 3) if groups > 1 else net.integer(1, 20)
    out = channels if groups == channels and net.pick(True, False) else groups * per_group
    kernel = [min(net.pick(1, 2, 3, 3, 5), s) for s in size]
    dilations = [net.pick(1, 1, 2) if (k - 1) * 2 < s else 1 for k, s in zip(kernel, size, strict=True)]
    pads = [net.integer(0, 2) for _ in range(2 * len(size))]
    shape = (out, channels // groups, *kernel)
    w, scales = net.weight(shape, 0, float(np.prod(shape[1:])) ** -0.5)
    y = net.one(
        "Conv", [x, w, *net.bias(x, scales, out, 0.5)], group=groups, kernel_shape=kernel, pads=pads,
        strides=[net.integer(1, 2) for _ in size], dilations=dilations,
    )  # fmt: skip
    return tail(net, y)


def transposed_convolution(net: Net, x: Tensor) -> Tensor:
    """Strides, dilations, pads and output padding."""
    channels, rank = x.shape[1], len(x.shape) - 2
    groups = net.pick(1, 1, *(g for g in (2, 3) if channels % g == 0))
    out = net.integer(1, 9)
    strides = [net.integer(1, 3) for _ in range(rank)]
    kernel = [net.integer(2, 4) for _ in range(rank)]
    pads = [net.integer(0, 1) if size > 1 else 0 for size in x.shape[2:]] * 2
    extra = [net.integer(0, s - 1) for s in strides]
    w, scales = net.weight((channels, out, *kernel), 1, 0.3)
    if groups > 1:
        scales = np.tile(scales, groups)
    y = net.one(
        "ConvTranspose", [x, w, *net.bias(x, scales, out * groups, 0.5)], strides=strides, pads=pads,
        output_padding=extra, group=groups, kernel_shape=kernel,
    )  # fmt: skip
    return tail(net, y)


def tail(net: Net, y: Tensor) -> Tensor:
    """What training put behind a layer: nothing, a limit, a curve; always a grid."""
    kind = net.pick("none", "relu", "relu6", "rounded batch norm" if not net.exact else "relu", "curve")
    if kind == "relu":
        y = net.one("Relu", [y])
    elif kind == "relu6":
        y = net.one("Clip", [y, net.constant(np.float32(0)), net.constant(np.float32(1.5))])
    elif kind == "curve" and not net.exact:
        y = unary(net, y)
    elif kind == "rounded batch norm" and len(y.shape) > 2:
        channels = y.shape[1]
        y = net.quantized(y)
        values = [net.rng.uniform(0.5, 1.5, channels), net.rng.normal(0, 0.3, channels)] * 2
        y = net.one("BatchNormalization", [y, *(net.constant(v.astype(np.float32)) for v in (*values[:3], values[0]))])
    return net.quantized(y)


def unary(net: Net, x: Tensor) -> Tensor:
    """One curve, or x * sigmoid(x)."""
    choices = [(op, attributes) for op, attributes in UNARY if not net.exact or op in EXACT_UNARY]
    op, attributes = net.pick(*choices, *([] if net.exact else [("SiLU", {})]))
    if op == "SiLU":
        return net.one("Mul", [x, net.one("Sigmoid", [x])])
    return net.one(op, [x], **attributes)


def curve(net: Net, x: Tensor) -> Tensor:
    """A curve between two grids."""
    if net.pick(True, False, False) and not net.exact:
        slopes = net.constant(net.rng.uniform(0, 0.5, (x.shape[1], *(1,) * (len(x.shape) - 2))).astype(np.float32))
        return net.quantized(net.one("PRelu", [x, slopes]))
    return net.quantized(unary(net, x))


def arithmetic(net: Net, x: Tensor, others: list[Tensor]) -> Tensor:
    """Two tensors, or a tensor and a constant, broadcast."""
    fitting = [o for o in others if _broadcasts(o.shape, x.shape)]
    op = net.pick("Add", "Add", "Mul", "Sub", "Max", "Min")
    if fitting and net.pick(True, True, False):
        pair = [x, net.pick(*fitting)]
        return net.quantized(net.one(op, pair if net.pick(True, False) else pair[::-1]))
    shape = net.pick((), (x.shape[1], *(1,) * (len(x.shape) - 2)))
    value = net.rng.uniform(-2, 2, shape)
    value = (np.round(value * 4) / 4 if net.exact else value).astype(np.float32)
    return net.quantized(net.one(op, [x, net.constant(value)]))


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return len(small) == len(large) and all(s in (1, d) for s, d in zip(small, large, strict=True))


def concatenation(net: Net, x: Tensor, others: list[Tensor]) -> Tensor:
    """Of tensors on one grid or several; with a grid behind it or without."""
    fitting = [o for o in others if o.shape[:1] + o.shape[2:] == x.shape[:1] + x.shape[2:]]
    parts = [x, *(net.pick(*fitting) for _ in range(net.integer(1, 2)) if fitting)]
    return net.quantized(net.one("Concat", [*parts], axis=1))


def pooling(net: Net, x: Tensor) -> Tensor:
    """Maximum, mean; windows with pads and rounding up; or over the whole image."""
    rank = len(x.shape) - 2
    inexact = () if net.exact else ("GlobalAveragePool", "ReduceMean")  # they divide
    kind = net.pick("MaxPool", "MaxPool", "GlobalMaxPool", "AveragePool", *inexact)
    if kind.startswith("Global"):
        return net.quantized(net.one(kind, [x]))
    if kind == "ReduceMean":
        axes = net.pick([-1], [1], list(range(2, rank + 2)), [1, rank + 1])
        return net.quantized(net.one(kind, [x, net.constant(np.asarray(axes, np.int64))], keepdims=1))
    window = [min(net.pick(2, 4) if net.exact and kind == "AveragePool" else net.integer(2, 3), s) for s in x.shape[2:]]
    attributes: dict[str, object] = {"kernel_shape": window, "strides": [net.integer(1, 2) for _ in window]}
    if kind == "MaxPool" or not net.exact:
        attributes["pads"] = [net.integer(0, w - 1) for w in window] * 2
        attributes["ceil_mode"] = net.integer(0, 1)
    if kind == "MaxPool":
        y = net.one(kind, [x], **attributes)
        return Tensor(y.name, y.value, x.scale)
    return net.quantized(net.one(kind, [x], count_include_pad=net.integer(0, 1), **attributes))


def resize(net: Net, x: Tensor) -> Tensor:
    """To whole sizes, nearest or linear."""
    mode = "nearest" if net.exact else net.pick("nearest", "linear")
    transformation = net.pick("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    sizes = [*x.shape[:2], *(net.integer(1, 2 * s + 1) for s in x.shape[2:])]
    attributes = {"nearest_mode": net.pick("floor", "round_prefer_floor", "ceil")} if mode == "nearest" else {}
    y = net.one(
        "Resize", [x, "", "", net.constant(np.asarray(sizes, np.int64))], mode=mode,
        coordinate_transformation_mode=transformation, **attributes,
    )  # fmt: skip
    return Tensor(y.name, y.value, x.scale) if mode == "nearest" else net.quantized(y)


def movement(net: Net, x: Tensor) -> Tensor:
    """Elements moved, selected or repeated: the grid stays."""
    rank = len(x.shape)
    kind = net.pick("Transpose", "Slice", "Split", "Pad", "Gather", "Expand", "Tile", "Reshape", "Unsqueeze")
    ints = lambda *v: net.constant(np.asarray(v, np.int64))  # noqa: E731
    if kind == "Transpose":
        y = net.one(kind, [x], perm=net.pick([0, 1, *range(rank - 1, 1, -1)], [0, *range(rank - 1, 0, -1)]))
    elif kind == "Slice":
        axis = net.integer(1, rank - 1)
        step = net.pick(1, 1, 2, -1)
        first, last = net.integer(0, x.shape[axis] - 1), net.pick(x.shape[axis], 2**31)
        y = net.one(kind, [x, ints(first), ints(last if step > 0 else -(2**31)), ints(axis), ints(step)])
    elif kind == "Split" and x.shape[1] > 1:
        first = net.integer(1, x.shape[1] - 1)
        y = net.op(kind, [x, ints(first, x.shape[1] - first)], 2, axis=1)[net.integer(0, 1)]
    elif kind == "Pad":
        pads = [0, 0, *(net.integer(0, 1) for _ in range(rank - 2))] * 2
        mode = net.pick("constant", "edge", "reflect") if min(x.shape[2:], default=2) > 1 else "constant"
        y = net.one(kind, [x, ints(*pads)], mode=mode)
    elif kind == "Gather":
        axis = net.integer(1, rank - 1)
        y = net.one(kind, [x, ints(*net.rng.integers(-x.shape[axis], x.shape[axis], 3))], axis=axis)
    elif kind == "Expand" and 1 in x.shape[2:]:
        y = net.one(kind, [x, ints(*(3 if d == 1 and i > 1 else d for i, d in enumerate(x.shape)))])
    elif kind == "Tile":
        y = net.one(kind, [x, ints(*(1, 1, *(net.integer(1, 2) for _ in range(rank - 2))))])
    elif kind == "Reshape" and rank == 4:
        y = net.one(kind, [x, ints(x.shape[0], x.shape[1], x.shape[3], x.shape[2])])
    elif kind == "Unsqueeze" and rank == 3:
        y = net.one(kind, [x, ints(net.pick(2, -1))])
    else:
        return x
    return Tensor(y.name, y.value, x.scale)


def blocks(net: Net, x: Tensor) -> Tensor:
    """Depth to space and back."""
    if len(x.shape) == 4 and x.shape[1] % 4 == 0 and net.pick(True, False):
        y = net.one("DepthToSpace", [x], blocksize=2, mode=net.pick("DCR", "CRD"))
    elif len(x.shape) == 4 and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
        y = net.one("SpaceToDepth", [x], blocksize=2)
    else:
        return x
    return Tensor(y.name, y.value, x.scale)


def linear(net: Net, x: Tensor) -> Tensor:
    """Flatten, then Gemm or MatMul with Add; gives (N, K)."""
    x = Tensor((y := net.one("Flatten", [x])).name, y.value, x.scale)
    channels, out = x.shape[1], net.integer(1, 20)
    gemm, transposed = net.pick(True, False), net.pick(0, 1)
    transposed = transposed if gemm else 0
    shape = (out, channels) if transposed else (channels, out)
    w, scales = net.weight(shape, 0 if transposed else 1, 1.0 / channels**0.5)
    if gemm:
        y = net.one("Gemm", [x, w, *net.bias(x, scales, out, 0.5)], transB=transposed)
    else:
        y = net.one("MatMul", [x, w])
        for added in net.bias(x, scales, out, 0.5):
            y = net.one("Add", [y, added])
    return tail(net, y)


def attention(net: Net, x: Tensor) -> Tensor:
    """Tokens of an image times tokens: x^T x, perhaps through a softmax."""
    n, c = x.shape[:2]
    shape = net.constant(np.asarray([n, c, -1], np.int64))
    tokens = Tensor((y := net.one("Reshape", [x, shape])).name, y.value, x.scale)
    turned = Tensor((y := net.one("Transpose", [tokens], perm=[0, 2, 1])).name, y.value, x.scale)
    scores = net.quantized(net.one("MatMul", [turned, tokens] if net.pick(True, False) else [tokens, turned]))
    if not net.exact and net.pick(True, False):
        scores = net.quantized(net.one("Softmax", [scores], axis=net.pick(-1, 1)))
    return scores


def normalization(net: Net, x: Tensor) -> Tensor:
    """LayerNormalization over the last axis, Softmax over any, InstanceNormalization."""
    kind = net.pick("LayerNormalization", "Softmax", "InstanceNormalization")
    if kind == "Softmax":
        return net.quantized(net.one(kind, [x], axis=net.integer(-len(x.shape), -1)))
    if kind == "LayerNormalization" or len(x.shape) < 3:
        size = x.shape[-1]
        values = [net.constant(net.rng.normal(1, 0.2, size).astype(np.float32)) for _ in range(2)]
        return net.quantized(net.one("LayerNormalization", [x, *values], axis=-1))
    values = [net.constant(net.rng.normal(1, 0.2, x.shape[1]).astype(np.float32)) for _ in range(2)]
    return net.quantized(net.one(kind, [x, *values]))
