"""Softmax in integers; LayerNormalization and InstanceNormalization in float32 alone."""

from __future__ import annotations

import numpy as np

from drpai_qat.backends.tflite.context import Context, Derived, RefusedError, compute_of
from drpai_qat.backends.tflite.grids import LiteGrid, symmetric_int16
from drpai_qat.backends.tflite.registry import writes
from drpai_qat.backends.tflite.stored import Stored, channels_last, row_major
from drpai_qat.backends.tflite.tail import Tail
from drpai_qat.graph.canonical import Array, Node

# The grids that the kernels give, whatever the file says.
SOFTMAX_INT8 = LiteGrid.of(1 / 256, -128, "int8")
SOFTMAX_INT16 = LiteGrid.of(1 / 32768, 0, "int16")


@writes("Softmax")
def write_softmax(context: Context, node: Node, real: bool) -> None:
    data = context.operand(node.inputs[0], real)
    beta = context.factors.get(node.inputs[0], 1.0)
    rank = len(data.shape)
    axis = int(node.attributes.get("axis", -1)) % rank
    data = context.ordered(data, (*(a for a in data.order if a != axis), axis))
    tail = context.tail(node, real)

    def emit(source: Stored, output: int) -> None:
        context.emit("SOFTMAX", [source.tensor], [output], "SoftmaxOptions", beta=beta)

    if real:
        context.finish(node, tail, data.order, None, lambda output, _: emit(data, output), fuses=False)
        context.record(node, "float32")
        return
    assert data.grid is not None
    grid, target = data.grid, None
    if tail.params is None:
        tail = Tail(node.output)
        narrow = node.output in context.graph.outputs
    else:
        target = context.target(tail)
        narrow = target.grid == SOFTMAX_INT8 and grid.dtype == "int8"
    largest = max(abs(end) for end in grid.bounds)
    if not narrow and grid.dtype == "int8":
        data = context.on_grid(data, symmetric_int16(largest))
    elif narrow and grid.dtype == "int16":
        data = context.on_grid(data, LiteGrid.of(largest / 127, 0, "int8"))
    fixed = SOFTMAX_INT8 if narrow else SOFTMAX_INT16
    if target is None:
        context.derived.append(Derived(node.output, fixed, "bounds"))
    made = context.new(f"{node.output}:softmax", data.shape, data.order, fixed)
    emit(data, made.tensor)
    if target is not None:
        made = context.limited_steps(context.on_grid(made, target.grid), target, tail.output)
    context.keep(tail.output, made)
    context.done.update(one.output for one in tail.nodes)
    context.record(node, compute_of(data.grid))


@writes("LogSoftmax")
def write_log_softmax(context: Context, node: Node, real: bool) -> None:
    if not real:
        raise RefusedError("TFLite's integer LogSoftmax has a grid of its own, 1/16, coarser than a trained one")
    data = context.operand(node.inputs[0], True)
    axis = int(node.attributes.get("axis", -1)) % len(data.shape)
    data = context.ordered(data, (*(a for a in data.order if a != axis), axis))
    made = context.new(node.output, data.shape, data.order, None)
    context.emit("LOG_SOFTMAX", [data.tensor], [made.tensor], "LogSoftmaxOptions")
    context.keep(node.output, made)
    context.record(node, "float32")


@writes("LayerNormalization")
def write_layer_norm(context: Context, node: Node, real: bool) -> None:
    if not real:
        raise RefusedError("TFLite has no layer normalization in integers")
    if any(context.consumers.get(name) for name in node.outputs[1:] if name):
        raise RefusedError("its mean or variance is read")
    data = context.operand(node.inputs[0], True)
    rank = len(data.shape)
    data = context.ordered(data, row_major(rank))
    axis = int(node.attributes.get("axis", -1)) % rank
    constants = [context.graph.constant(name) for name in node.inputs[1:] if name]
    _normalize(context, node, data, list(range(axis, rank)), constants)


@writes("InstanceNormalization")
def write_instance_norm(context: Context, node: Node, real: bool) -> None:
    if not real:
        raise RefusedError("TFLite has no instance normalization in integers")
    data = context.operand(node.inputs[0], True)
    rank = len(data.shape)
    data = context.ordered(data, channels_last(rank))
    constants = [context.graph.constant(name) for name in node.inputs[1:3]]
    _normalize(context, node, data, list(range(1, rank - 1)), constants)


def _normalize(context: Context, node: Node, data: Stored, places: list[int], constants: list[Array | None]) -> None:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, over axes given by their place in memory."""
    if any(value is None for value in constants):
        raise RefusedError("its factors are computed")
    physical = data.physical
    reduced = tuple(1 if i in places else d for i, d in enumerate(physical))
    order = row_major(len(physical))
    axes = context.ints(places)

    def step(kind: str, operands: list[int], shape: tuple[int, ...], table: str = "", **options: object) -> int:
        made = context.new(f"{node.output}:{kind.lower()}", shape, order, None)
        context.emit(kind, operands, [made.tensor], table, **options)
        return made.tensor

    mean = step("MEAN", [data.tensor, axes], reduced, "ReducerOptions", keepDims=True)
    squares = step("SQUARED_DIFFERENCE", [data.tensor, mean], physical, "SquaredDifferenceOptions")
    variance = step("MEAN", [squares, axes], reduced, "ReducerOptions", keepDims=True)
    epsilon = context.file.constant("const/epsilon", np.asarray([node.attributes.get("epsilon", 1e-5)], np.float32))
    factor = step("RSQRT", [step("ADD", [variance, epsilon], reduced, "AddOptions")], reduced)
    centred = step("SUB", [data.tensor, mean], physical, "SubOptions")
    result = step("MUL", [centred, factor], physical, "MulOptions")
    for kind, value in zip(("MUL", "ADD"), constants, strict=False):
        constant = context.file.constant(f"{node.output}:{kind.lower()}:constant", np.asarray(value, np.float32))
        result = step(kind, [result, constant], physical, f"{kind.title()}Options")
    context.keep(node.output, Stored(result, data.shape, data.order))
    context.record(node, "float32")
