"""Conv, ConvTranspose, Gemm and MatMul."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from drpai_qat.backends.tflite.context import Context, RefusedError, compute_of
from drpai_qat.backends.tflite.flatbuffer import padding
from drpai_qat.backends.tflite.grids import Target
from drpai_qat.backends.tflite.registry import writes
from drpai_qat.backends.tflite.stored import Stored, channels_last, row_major
from drpai_qat.backends.tflite.tail import Tail
from drpai_qat.backends.tflite.weights import Filter, Operands, in_halves, layer_bounds, place, read_filter
from drpai_qat.backends.tflite.window import image, padded, padding_of, window_read
from drpai_qat.graph.canonical import Array, Node, Weight


def bias_of(context: Context, node: Node, tail: Tail, factor: float = 1.0) -> Array | None:
    """The bias of a layer: its third input, and what an Add behind it adds."""
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    value = None
    if name:
        constant = context.graph.constant(name)
        if constant is None:
            raise RefusedError(f"its bias {name!r} is computed")
        value = np.asarray(constant, np.float64) * factor
        if value.ndim > 1 and value.size != value.shape[-1]:
            raise RefusedError(f"its bias {name!r} has one number per row")
        value = value.reshape(-1)
    if tail.bias is None:
        return value
    return np.asarray(tail.bias, np.float64) + (0.0 if value is None else value)


def _data_and_target(
    context: Context, data: Stored, filter_: Filter, bias: Array | None, tail: Tail, real: bool
) -> tuple[Stored, Target | None]:
    """A layer's input and the grid of its result. TFLite's layers give int16 from int16 alone."""
    if real:
        return data, None
    target = context.target(tail, *layer_bounds(filter_, data.grid, bias))
    return (context.wide(data) if target.grid.dtype == "int16" else data), target


@writes("Conv")
def write_conv(context: Context, node: Node, real: bool) -> None:
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    rank = len(in_shape)
    if rank not in (3, 4):
        raise RefusedError("TFLite's convolutions in integers have one or two spatial axes")
    groups = int(node.attributes.get("group", 1))
    filter_ = read_filter(context.graph.weight(node.inputs[1]), 0, real, nine_bits=groups == 1)
    tail = context.tail(node, real, (1, out_shape[1]))
    bias = bias_of(context, node, tail)
    window = window_read(node, filter_.values.shape[2:], in_shape[2:], out_shape[2:])
    data, target = _data_and_target(context, context.operand(node.inputs[0], real), filter_, bias, tail, real)
    data = image(context, context.ordered(data, channels_last(rank)))
    out_size = (1, out_shape[2]) if rank == 3 else (out_shape[2], out_shape[3])
    kind = padding_of(window, (data.shape[1], data.shape[2]), out_size)
    if kind == "EXPLICIT":
        data = padded(context, data, window.pads)
        kind = "VALID"
    values = filter_.values
    values = values[:, :, None] if rank == 3 else values
    channels = data.shape[3]
    depthwise = groups == channels and groups > 1 and values.shape[1] == 1
    arranged = values.transpose(1, 2, 3, 0) if depthwise else values.transpose(0, 2, 3, 1)
    axis = 3 if depthwise else 0
    if filter_.nine_bits:
        data, arranged = _read_twice(context, node, data), in_halves(arranged, 3)
    operands = place(context, node, filter_, arranged, axis, data, bias, target)
    options = {
        "padding": padding(kind), "strideH": window.stride[0], "strideW": window.stride[1],
        "dilationHFactor": window.dilation[0], "dilationWFactor": window.dilation[1],
    }  # fmt: skip
    if depthwise:
        options["depthMultiplier"] = values.shape[0] // channels

    def emit(output: int, fused: int) -> None:
        _convolution(
            context, "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", data, operands, output, rank, fused, options
        )

    wide = not real and data.grid is not None and data.grid.dtype == "int16"
    context.finish(node, tail, channels_last(rank), target, emit, wide=wide)
    macs = math.prod(out_shape) * math.prod(filter_.values.shape[1:])
    context.record(node, compute_of(data.grid), macs)


def _convolution(
    context: Context, kind: str, data: Stored, operands: Operands, output: int, rank: int, fused: int,
    options: dict[str, int],
) -> None:  # fmt: skip
    """The operator over images; the result of a 1-D one loses its row."""
    table = "DepthwiseConv2DOptions" if kind == "DEPTHWISE_CONV_2D" else "Conv2DOptions"
    inputs = [data.tensor, operands.weights, operands.bias]
    result = output
    if rank == 3:
        file = context.file
        batch, width, channels = file.shapes[output]
        grid = file.grids[output]
        result = context.new(f"{file.tensors[output].name}:row", (batch, 1, width, channels), row_major(4), grid).tensor
    context.emit(kind, inputs, [result], table, fusedActivationFunction=fused, **options)
    if rank == 3:
        context.reshape(result, output)


@writes("ConvTranspose")
def write_conv_transpose(context: Context, node: Node, real: bool) -> None:
    in_shape, out_shape = context.shape(node.inputs[0]), context.shape(node.output)
    if len(in_shape) != 4:
        raise RefusedError("TFLite's transposed convolution has two spatial axes")
    if int(node.attributes.get("group", 1)) != 1 or any(d != 1 for d in node.attributes.get("dilations", [1])):
        raise RefusedError("TFLite's transposed convolution knows neither groups nor dilation")
    filter_ = read_filter(context.graph.weight(node.inputs[1]), 1, real)
    tail = context.tail(node, real, (1, out_shape[1]))
    bias = bias_of(context, node, tail)
    strides = tuple(node.attributes.get("strides", [1, 1]))
    kernel = filter_.values.shape[2:]
    begins = list(node.attributes.get("pads", [0] * 4)[:2])  # cut off in front of the full result
    full = tuple((i - 1) * s + k for i, s, k in zip(in_shape[2:], strides, kernel, strict=True))
    kind = _transposed_padding(begins, in_shape[2:], out_shape[2:], kernel, strides, full)
    data, target = _data_and_target(context, context.operand(node.inputs[0], real), filter_, bias, tail, real)
    data = context.ordered(data, channels_last(4))
    values = filter_.values
    operands = place(context, node, filter_, values.transpose(1, 2, 3, 0), 0, data, bias, target)
    batch, channels = out_shape[:2]

    def emit(output: int, _: int) -> None:
        if kind != "CUT":
            _transposed(context, data, operands, output, kind, strides)
            return
        file = context.file
        whole_shape = (batch, *full, channels)
        whole = context.new(f"{file.tensors[output].name}:whole", whole_shape, row_major(4), file.grids[output])
        _transposed(context, data, operands, whole.tensor, "VALID", strides)
        begin = context.ints([0, *begins, 0])
        size = context.ints([batch, *out_shape[2:], channels])
        context.emit("SLICE", [whole.tensor, begin, size], [output], "SliceOptions")

    wide = not real and data.grid is not None and data.grid.dtype == "int16"
    context.finish(node, tail, channels_last(4), target, emit, wide=wide, fuses=False)
    macs = math.prod(in_shape) * math.prod(filter_.values.shape[1:])
    context.record(node, compute_of(data.grid), macs)


def _transposed_padding(
    begins: list[int], in_size: tuple[int, ...], out_size: tuple[int, ...], kernel: tuple[int, ...],
    strides: tuple[int, ...], full: tuple[int, ...],
) -> str:  # fmt: skip
    """SAME, VALID, or CUT out of the full result, of which the operator itself can't do this part."""
    same = []
    for i in range(2):
        total = max(0, (-(-out_size[i] // strides[i]) - 1) * strides[i] + kernel[i] - out_size[i])
        same.append(total // 2)
    if not any(begins) and tuple(out_size) == full:
        return "VALID"
    if begins == same and all(-(-o // s) == i for o, s, i in zip(out_size, strides, in_size, strict=True)):
        return "SAME"
    if any(b + o > f for b, o, f in zip(begins, out_size, full, strict=True)):
        raise RefusedError(
            "TFLite's transposed convolution can't add rows or columns behind its result (output_padding)"
        )
    return "CUT"


def _transposed(
    context: Context, data: Stored, operands: Operands, output: int, kind: str, strides: tuple[int, ...]
) -> None:
    shape = context.ints(context.file.shapes[output])
    context.emit(
        "TRANSPOSE_CONV", [shape, operands.weights, data.tensor, operands.bias], [output], "TransposeConvOptions",
        padding=padding(kind), strideH=strides[0], strideW=strides[1],
    )  # fmt: skip


@writes("Gemm")
def write_gemm(context: Context, node: Node, real: bool) -> None:
    if float(node.attributes.get("alpha", 1.0)) != 1.0:
        raise RefusedError("its factor alpha is not 1")
    weight = context.graph.weight(node.inputs[1])
    transposed = bool(node.attributes.get("transB", 0))
    if weight is None:
        if len(node.inputs) > 2 and node.inputs[2]:
            raise RefusedError("its weights are computed")
        _two_activations(context, node, real, bool(node.attributes.get("transA", 0)), transposed)
        return
    if node.attributes.get("transA", 0):
        raise RefusedError("its input is transposed")
    _constant_matrix(context, node, real, weight, transposed, float(node.attributes.get("beta", 1.0)))


@writes("MatMul")
def write_matmul(context: Context, node: Node, real: bool) -> None:
    first, second = (context.shape(name) for name in node.inputs)
    if len(first) < 2 or len(second) < 2:
        raise RefusedError("one of its operands is a vector")
    weight = context.graph.weight(node.inputs[1])
    if weight is not None and math.prod(second[:-2]) == 1 and len(second) <= len(first):
        if len(second) > 2:
            weight = _two_dimensional(weight)
        _constant_matrix(context, node, real, weight, False, 1.0)
        return
    if any(context.graph.is_constant(name) for name in node.inputs):
        raise RefusedError("its constant operand is no plain matrix on the right")
    _two_activations(context, node, real, False, False)


def _two_dimensional(weight: Weight) -> Weight:
    """A weight (1, ..., 1, K, N) as (K, N)."""
    drop, shape, params = len(weight.shape) - 2, weight.shape[-2:], weight.params
    if params is not None and params.axis is not None:
        if params.axis < drop:
            raise RefusedError("its weights have a scale per batch")
        params = replace(params, axis=params.axis - drop)
    return Weight(weight.values.reshape(shape), params)


def _constant_matrix(context: Context, node: Node, real: bool, weight: Weight, transposed: bool, beta: float) -> None:
    out_axis = 0 if transposed else 1
    filter_ = read_filter(weight, out_axis, real, nine_bits=True)
    values = filter_.values
    rows = values if transposed else values.T
    out_shape = context.shape(node.output)
    rank = len(out_shape)
    tail = context.tail(node, real, (rank - 1, out_shape[-1]))
    bias = bias_of(context, node, tail, beta)
    data = matrix_input(context, node.inputs[0], real)
    if data.columns is not None:
        rows = rows[:, data.columns]
    data, target = _data_and_target(context, replace(data, columns=None), filter_, bias, tail, real)
    columns = rows.shape[1]
    if filter_.nine_bits:
        data, rows = _read_twice(context, node, data), in_halves(rows, 1)
    wide = not real and data.grid is not None and data.grid.dtype == "int16"
    if rank > 4 or wide:  # 16-bit activations: the convolution has scales per channel in all kernels
        _as_convolution(context, node, data, filter_, rows, tail, target, bias)
        return
    operands = place(context, node, filter_, rows, 0, data, bias, target)

    def emit(output: int, fused: int) -> None:
        context.emit(
            "FULLY_CONNECTED", [data.tensor, operands.weights, operands.bias], [output], "FullyConnectedOptions",
            fusedActivationFunction=fused, keepNumDims=rank > 2,
        )  # fmt: skip

    context.finish(node, tail, row_major(rank), target, emit)
    context.record(node, compute_of(data.grid), math.prod(out_shape) * columns)


def _read_twice(context: Context, node: Node, data: Stored) -> Stored:
    """A layer's input, channels last and row-major, beside itself: for weights in halves."""
    rank = len(data.shape)
    shape = (*data.shape[:-1], 2 * data.shape[-1])
    made = context.new(f"{context.file.tensors[data.tensor].name}:twice", shape, row_major(rank), data.grid)
    context.emit("CONCATENATION", [data.tensor, data.tensor], [made.tensor], "ConcatenationOptions", axis=rank - 1)
    context.notes.append((node.name, "its weights leave int8 without their zero point: written in halves"))
    return made


def matrix_input(context: Context, name: str, real: bool) -> Stored:
    """The left operand of a product with constant weights; it may be flattened with its channels last."""
    stored = context.stored.get(name)
    if stored is not None and stored.columns is not None:
        if real:
            return replace(context.as_float(replace(stored, columns=None)), columns=stored.columns)
        if stored.grid is None:
            raise RefusedError(f"its input {name!r} is float32")
        return stored
    data = context.operand(name, real)
    return context.ordered(data, row_major(len(data.shape)))


def _as_convolution(
    context: Context, node: Node, data: Stored, filter_: Filter, rows: Array, tail: Tail, target: Target | None,
    bias: Array | None,
) -> None:  # fmt: skip
    """A matrix product as a convolution of 1x1 over its rows."""
    out_shape = context.shape(node.output)
    count, channels = math.prod(out_shape[:-1]), rows.shape[1]
    flat = context.reshaped(data, (1, 1, count, channels))
    operands = place(context, node, filter_, rows.reshape(len(rows), 1, 1, channels), 0, flat, bias, target)
    wide = data.grid is not None and data.grid.dtype == "int16"

    def emit(output: int, fused: int) -> None:
        file = context.file
        shape = (1, 1, count, len(rows))
        made = context.new(f"{file.tensors[output].name}:rows", shape, row_major(4), file.grids[output])
        context.emit(
            "CONV_2D", [flat.tensor, operands.weights, operands.bias], [made.tensor], "Conv2DOptions",
            padding=padding("VALID"), strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1,
            fusedActivationFunction=fused,
        )  # fmt: skip
        context.reshape(made.tensor, output)

    context.finish(node, tail, row_major(len(out_shape)), target, emit, wide=wide)
    context.record(node, compute_of(data.grid), math.prod(out_shape) * (filter_.values.size // len(rows)))


def _two_activations(context: Context, node: Node, real: bool, first_transposed: bool, second_transposed: bool) -> None:
    """BATCH_MATMUL; an operand whose last two axes lie the other way round is read so."""
    out_shape = context.shape(node.output)
    tail = context.tail(node, real)
    operands = [context.operand(name, real) for name in node.inputs]
    target = None
    if not real:
        target = context.target(tail, *_product_bounds(operands))
        if target.grid.dtype == "int16" or any(o.grid is not None and o.grid.dtype == "int16" for o in operands):
            operands = [context.wide(o) for o in operands]
    sides = [first_transposed, second_transposed]
    for i, operand in enumerate(operands):
        rank = len(operand.shape)
        swapped = (*range(rank - 2), rank - 1, rank - 2)
        if operand.order == swapped:
            operands[i] = operand.permuted(swapped)
            sides[i] = not sides[i]
        operands[i] = context.ordered(operands[i], row_major(rank))

    def emit(output: int, _: int) -> None:
        context.emit(
            "BATCH_MATMUL", [o.tensor for o in operands], [output], "BatchMatMulOptions", adjX=sides[0], adjY=sides[1]
        )

    wide = operands[0].grid is not None and operands[0].grid.dtype == "int16"
    context.finish(node, tail, row_major(len(out_shape)), target, emit, wide=wide, fuses=False)
    context.record(node, compute_of(operands[0].grid), math.prod(out_shape) * operands[0].shape[-1])


def _product_bounds(operands: list[Stored]) -> tuple[float, float]:
    """Bounds of a product of two quantized tensors."""
    grids = [operand.grid for operand in operands]
    assert all(grid is not None for grid in grids)
    largest = math.prod(max(abs(end) for end in grid.bounds) for grid in grids if grid is not None)
    bound = largest * operands[0].shape[-1]
    return -bound, bound
