"""Poolings, means and other reductions, resizing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from drpai_qat.backends.tflite.context import Context, RefusedError, compute_of
from drpai_qat.backends.tflite.flatbuffer import padding, tensor_type
from drpai_qat.backends.tflite.grids import LiteGrid, Target, finer
from drpai_qat.backends.tflite.registry import writes
from drpai_qat.backends.tflite.stored import Stored, channels_last, row_major
from drpai_qat.backends.tflite.window import image, padded, padding_of, window_read
from drpai_qat.graph.canonical import Node
from drpai_qat.graph.window import Window


def _geometry(context: Context, node: Node) -> tuple[Window, tuple[int, int], tuple[int, int]]:
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    if len(in_shape) not in (3, 4):
        raise RefusedError("TFLite's poolings have two spatial axes")
    window = window_read(node, tuple(node.attributes["kernel_shape"]), in_shape[2:], out_shape[2:])
    if window.dilation != (1, 1):
        raise RefusedError("TFLite's poolings have no dilation")
    sizes = [(1, s[2]) if len(s) == 3 else (s[2], s[3]) for s in (in_shape, out_shape)]
    return window, sizes[0], sizes[1]


def _pool(context: Context, kind: str, data: Stored, output: int, window: Window, pads: str) -> None:
    """The operator over images; 1-D results lose their row."""
    file, result = context.file, output
    row = len(file.shapes[output]) == 3
    if row:
        batch, width, channels = file.shapes[output]
        shape = (batch, 1, width, channels)
        result = context.new(f"{file.tensors[output].name}:row", shape, row_major(4), file.grids[output]).tensor
    context.emit(
        kind, [data.tensor], [result], "Pool2DOptions", padding=padding(pads), strideH=window.stride[0],
        strideW=window.stride[1], filterHeight=window.kernel[0], filterWidth=window.kernel[1],
    )  # fmt: skip
    if row:
        context.reshape(result, output)


@writes("MaxPool")
def write_max_pool(context: Context, node: Node, real: bool) -> None:
    if len([name for name in node.outputs if name]) > 1:
        raise RefusedError("TFLite's pooling gives no indices")
    window, in_size, out_size = _geometry(context, node)
    rank = len(context.shape(node.output))
    stored = context.ordered(context.operand(node.inputs[0], real), channels_last(rank))
    data = image(context, stored)
    kind = padding_of(window, in_size, out_size)
    if kind == "EXPLICIT":
        lowest = float(np.finfo(np.float32).min) if data.grid is None else data.grid.limits[0]
        data, kind = padded(context, data, window.pads, lowest), "VALID"
    made = context.new(node.output, context.shape(node.output), channels_last(rank), stored.grid)
    _pool(context, "MAX_POOL_2D", data, made.tensor, window, kind)
    context.keep(node.output, made)
    context.record(node, compute_of(stored.grid))


Emits = Callable[[Stored, int], None]
"""Writes an operator, given its input and the index of its output."""


@writes("AveragePool")
def write_average_pool(context: Context, node: Node, real: bool) -> None:
    window, in_size, out_size = _geometry(context, node)
    rank = len(context.shape(node.output))
    include = bool(node.attributes.get("count_include_pad", 0))
    kind = padding_of(window, in_size, out_size)
    stored = context.ordered(context.operand(node.inputs[0], real), channels_last(rank))
    data = image(context, stored)
    if any(window.pads) and (include or kind == "EXPLICIT"):
        if not include or _reads_beyond_pads(node, window):
            raise RefusedError("its pads are not TFLite's SAME, and some do not count")
        data, kind = padded(context, data, window.pads), "VALID"
    if kind == "VALID" and not real and _mean_by_convolution(context, node, data, window):
        return
    _on_one_grid(
        context, node, real, data, channels_last(rank),
        lambda source, output: _pool(context, "AVERAGE_POOL_2D", source, output, window, kind),
    )  # fmt: skip


def _reads_beyond_pads(node: Node, window: Window) -> bool:
    """Rounding its size up, a window ends beyond the pads; what lies there is not counted."""
    given = node.attributes.get("pads")
    if given is None:
        return True
    ends = list(given[len(given) // 2 :])
    return any(pad > end for pad, end in zip(window.pads[-len(ends) :], ends, strict=True))


def _mean_by_convolution(context: Context, node: Node, data: Stored, window: Window) -> bool:
    """A mean that training rounded to another grid, as a depthwise convolution of equal weights: one rounding."""
    tail = context.tail(node, False)
    target = context.target(tail)
    if data.grid is None or "int16" in (target.grid.dtype, data.grid.dtype) or target.grid == data.grid:
        return False
    count, channels, rank = math.prod(window.kernel), data.shape[3], len(context.shape(node.output))
    mean = LiteGrid((float(np.float32(1 / (127 * count))),) * channels, 0, "int8", 3)
    units = LiteGrid((float(np.float32(data.grid.scale) * np.float32(mean.scales[0])),) * channels, 0, "int32")
    weights = context.file.constant(f"{node.output}:mean", np.full((1, *window.kernel, channels), 127, np.int8), mean)
    bias = context.file.constant(f"{node.output}:mean:bias", np.zeros(channels, np.int32), units)

    def emit(output: int, fused: int) -> None:
        file, result = context.file, output
        if rank == 3:
            batch, width, _ = file.shapes[output]
            shape = (batch, 1, width, channels)
            result = context.new(f"{file.tensors[output].name}:row", shape, row_major(4), file.grids[output]).tensor
        context.emit(
            "DEPTHWISE_CONV_2D", [data.tensor, weights, bias], [result], "DepthwiseConv2DOptions",
            padding=padding("VALID"), strideH=window.stride[0], strideW=window.stride[1], depthMultiplier=1,
            dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=fused,
        )  # fmt: skip
        if rank == 3:
            context.reshape(result, output)

    context.finish(node, tail, channels_last(rank), target, emit)
    context.record(node, "int8")
    return True


def _on_one_grid(context: Context, node: Node, real: bool, data: Stored, order: tuple[int, ...], emit: Emits) -> None:
    """An operator whose result has its input's grid: in 8 bits where that is the trained one, else in int16.

    With another grid on its output these operators compute nonsense, and kernels do not check.
    """
    tail = context.tail(node, real)
    if real:
        context.finish(node, tail, order, None, lambda output, _: emit(data, output), fuses=False)
        context.record(node, "float32")
        return
    target = context.target(tail)
    if data.grid is not None and target.grid != data.grid:
        between = target.grid if target.grid.dtype == "int16" else finer(Target(data.grid, *data.grid.limits))
        data = context.on_grid(data, between)
    assert data.grid is not None
    if data.grid == target.grid:
        context.finish(node, tail, order, target, lambda output, _: emit(data, output), fuses=False)
    else:
        middle = context.new(f"{node.output}:int16", context.shape(tail.output), order, data.grid)
        emit(data, middle.tensor)
        made = context.on_grid(middle, target.grid)
        context.keep(tail.output, context.limited_steps(made, target, tail.output))
        context.done.update(one.output for one in tail.nodes)
    context.record(node, compute_of(data.grid))


@writes("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def write_reduce(context: Context, node: Node, real: bool) -> None:
    axes = _axes(context, node)
    kind = {
        "GlobalAveragePool": "MEAN", "ReduceMean": "MEAN", "ReduceSum": "SUM", "GlobalMaxPool": "REDUCE_MAX",
        "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN",
    }[node.op]  # fmt: skip
    data = context.operand(node.inputs[0], real)
    keep = len(context.shape(node.output)) == len(data.shape)
    kept = data.order if keep else tuple(axis for axis in data.order if axis not in axes)
    left = sorted(kept)
    order = kept if keep else tuple(left.index(axis) for axis in kept)
    places = [data.order.index(axis) for axis in axes]

    def emit(source: Stored, output: int) -> None:
        operands = [source.tensor, context.ints(places)]
        if not keep:
            context.emit(kind, operands, [output], "ReducerOptions", keepDims=False)
            return
        # Kernels round a mean that keeps its axes in another way; this is how TensorFlow's converter writes it.
        file, shape = context.file, tuple(d for i, d in enumerate(source.physical) if i not in places)
        dropped = context.new(f"{file.tensors[output].name}:dropped", shape, row_major(len(shape)), file.grids[output])
        context.emit(kind, operands, [dropped.tensor], "ReducerOptions", keepDims=False)
        context.reshape(dropped.tensor, output)

    selects = kind in ("REDUCE_MAX", "REDUCE_MIN")
    if selects:
        made = context.new(node.output, context.shape(node.output), order, data.grid)
        emit(data, made.tensor)
        context.keep(node.output, made)
        context.record(node, compute_of(data.grid))
        return
    tail = context.tail(node, real)
    if real:
        context.finish(node, tail, order, None, lambda output, _: emit(data, output), fuses=False)
        context.record(node, "float32")
        return
    assert data.grid is not None
    count = math.prod(data.shape[axis] for axis in axes) if kind == "SUM" else 1
    low, high = (count * end for end in data.grid.bounds)
    target = context.target(tail, low, high)
    if target.grid.dtype == "int16":
        data = context.wide(data)
    wide = data.grid is not None and data.grid.dtype == "int16"
    context.finish(node, tail, order, target, lambda output, _: emit(data, output), wide=wide, fuses=False)
    context.record(node, compute_of(data.grid))


@writes("ArgMax", "ArgMin")
def write_arg(context: Context, node: Node, real: bool) -> None:
    """Positions, as int64; of integers, they are those of the reals."""
    if node.attributes.get("select_last_index", 0):
        raise RefusedError("TFLite gives the first of equal values")
    data = context.operand(node.inputs[0], real)
    rank = len(data.shape)
    axis = int(node.attributes.get("axis", 0)) % rank
    data = context.ordered(data, row_major(rank))
    if data.grid is not None and data.grid.dtype == "int16":  # kernels compare int8, and float32
        data = context.as_float(data)
    kind, table = ("ARG_MAX", "ArgMaxOptions") if node.op == "ArgMax" else ("ARG_MIN", "ArgMinOptions")
    shape = tuple(d for i, d in enumerate(data.shape) if i != axis)
    found = context.new(f"{node.output}:position", shape, row_major(rank - 1), None, "int64")
    operands = [data.tensor, context.file.constant(f"const/{axis}", np.asarray(axis, np.int32))]
    context.emit(kind, operands, [found.tensor], table, outputType=tensor_type("int64"))
    out_shape = context.shape(node.output)
    made = found
    if out_shape != shape:
        made = context.new(node.output, out_shape, row_major(len(out_shape)), None, "int64")
        context.reshape(found.tensor, made.tensor)
    context.keep(node.output, made)
    context.record(node, "view")


def _axes(context: Context, node: Node) -> list[int]:
    rank = len(context.shape(node.inputs[0]))
    if node.op.startswith("Global"):
        return list(range(2, rank))
    axes = context.integers(node, 1, "axes")
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            raise RefusedError("it has no axes")
        axes = list(range(rank))
    return sorted(axis % rank for axis in axes)


@writes("Resize", "Upsample")
def write_resize(context: Context, node: Node, real: bool) -> None:
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    mode = str(node.attributes.get("mode", "nearest"))
    if len(in_shape) != 4 or in_shape[:2] != out_shape[:2] or mode not in ("nearest", "linear"):
        raise RefusedError(f"TFLite resizes images, nearest or bilinear, not {mode}")
    data = context.ordered(context.operand(node.inputs[0], real), channels_last(4))
    default = "asymmetric" if node.op == "Upsample" else "half_pixel"
    transformation = str(node.attributes.get("coordinate_transformation_mode", default))
    if mode == "nearest":
        _nearest(context, node, data, transformation)
        return
    linear = {
        "half_pixel": (False, True), "pytorch_half_pixel": (False, True), "align_corners": (True, False),
        "asymmetric": (False, False),
    }  # fmt: skip
    if transformation not in linear or (transformation == "pytorch_half_pixel" and 1 in out_shape[2:]):
        raise RefusedError(f"TFLite's bilinear resizing has no {transformation}")
    if not _whole_scale(context, node):
        raise RefusedError("its scales are not those of its sizes, which TFLite takes")
    corners, half = linear[transformation]
    size = context.ints(out_shape[2:])

    def emit(source: Stored, output: int) -> None:
        context.emit(
            "RESIZE_BILINEAR", [source.tensor, size], [output], "ResizeBilinearOptions", alignCorners=corners,
            halfPixelCenters=half,
        )  # fmt: skip

    _on_one_grid(context, node, real, data, channels_last(4), emit)


def _scales(context: Context, node: Node) -> list[float]:
    """Scale of both spatial axes."""
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    index = 1 if node.op == "Upsample" else 2
    value = context.graph.constant(node.inputs[index]) if len(node.inputs) > index and node.inputs[index] else None
    if value is not None and value.size == 4:
        return [float(v) for v in value.reshape(-1)[2:]]
    return [o / i for i, o in zip(in_shape[2:], out_shape[2:], strict=True)]


def _whole_scale(context: Context, node: Node) -> bool:
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    sizes = zip(_scales(context, node), in_shape[2:], out_shape[2:], strict=True)
    return all(abs(scale * i - o) < 1e-4 for scale, i, o in sizes)


def _nearest(context: Context, node: Node, data: Stored, transformation: str) -> None:
    """RESIZE_NEAREST_NEIGHBOR where one of its forms reads the same pixels, else a GATHER along each axis."""
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    rounding = str(node.attributes.get("nearest_mode", "floor" if node.op == "Upsample" else "round_prefer_floor"))
    wanted = [
        _nearest_index(transformation, rounding, i, o, s)
        for i, o, s in zip(in_shape[2:], out_shape[2:], _scales(context, node), strict=True)
    ]
    made = context.new(node.output, out_shape, channels_last(4), data.grid)
    for corners, half in ((False, False), (False, True), (True, False)):
        theirs = [_lite_index(i, o, corners, half) for i, o in zip(in_shape[2:], out_shape[2:], strict=True)]
        if all(np.array_equal(a, b) for a, b in zip(wanted, theirs, strict=True)):
            context.emit(
                "RESIZE_NEAREST_NEIGHBOR", [data.tensor, context.ints(out_shape[2:])], [made.tensor],
                "ResizeNearestNeighborOptions", alignCorners=corners, halfPixelCenters=half,
            )  # fmt: skip
            break
    else:
        rows_shape = (out_shape[0], out_shape[1], out_shape[2], in_shape[3])
        rows = context.new(f"{node.output}:rows", rows_shape, channels_last(4), data.grid)
        context.emit("GATHER", [data.tensor, context.ints(wanted[0])], [rows.tensor], "GatherOptions", axis=1)
        context.emit("GATHER", [rows.tensor, context.ints(wanted[1])], [made.tensor], "GatherOptions", axis=2)
    context.keep(node.output, made)
    context.record(node, "view")


def _nearest_index(transformation: str, rounding: str, in_size: int, out_size: int, scale: float) -> NDArray[np.int64]:
    """ONNX: the input pixel of each output pixel."""
    x, s, half = np.arange(out_size, dtype=np.float32), np.float32(scale), np.float32(0.5)
    if transformation in ("half_pixel", "pytorch_half_pixel"):
        position = (x + half) / s - half
        if transformation == "pytorch_half_pixel" and out_size == 1:
            position = np.zeros_like(x)
    elif transformation == "asymmetric":
        position = x / s
    elif transformation == "align_corners":
        position = x * np.float32(in_size - 1) / np.float32(max(out_size - 1, 1))
    elif transformation == "tf_half_pixel_for_nn":
        position = (x + half) / s
    else:
        raise RefusedError(f"its coordinate transformation {transformation} is not known")
    rounded = {
        "round_prefer_floor": np.ceil(position - half), "round_prefer_ceil": np.floor(position + half),
        "floor": np.floor(position), "ceil": np.ceil(position),
    }[rounding]  # fmt: skip
    return np.clip(rounded, 0, in_size - 1).astype(np.int64)


def _lite_index(in_size: int, out_size: int, corners: bool, half: bool) -> NDArray[np.int64]:
    """TFLite: the same, by its kernels' arithmetic."""
    scale = np.float32(in_size) / np.float32(out_size)
    if corners and out_size > 1:
        scale = np.float32(in_size - 1) / np.float32(out_size - 1)
    x = np.arange(out_size, dtype=np.float32) + np.float32(0.5 if half else 0.0)
    index = np.floor(x * scale + np.float32(0.5)) if corners else np.floor(x * scale)
    return np.clip(index, 0, in_size - 1).astype(np.int64)
