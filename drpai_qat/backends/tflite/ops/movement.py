"""Operators that move elements: a Transpose is a view, the others keep the grid of what they move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from drpai_qat.backends.tflite.context import Context, RefusedError, compute_of
from drpai_qat.backends.tflite.grids import LiteGrid
from drpai_qat.backends.tflite.registry import writes
from drpai_qat.backends.tflite.stored import Stored, channels_last, reshaped_order, row_major
from drpai_qat.graph.canonical import FAKE_QUANT, Node


@writes("Identity", "Dropout", "Cast")
def write_identity(context: Context, node: Node, real: bool) -> None:
    if node.op == "Cast" and context.graph.dtypes.get(node.output) != "float32":
        raise RefusedError(f"TFLite's network has no {context.graph.dtypes.get(node.output)} activations")
    stored = context.stored[node.inputs[0]]
    if context.is_real(stored):
        context.keep(node.output, stored)
        context.record(node, "view")
    else:  # positions
        context.keep(node.output, replace(stored, tensor=context.cast(stored.tensor, node.output, "float32")))
        context.record(node, "float32")


@writes("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def write_reshape(context: Context, node: Node, real: bool) -> None:
    stored, shape = context.stored[node.inputs[0]], context.shape(node.output)
    if stored.columns is not None:
        raise RefusedError("its input is flattened with its channels last")
    in_sequence = stored.same_elements(row_major(len(stored.shape)))
    order = None if in_sequence else reshaped_order(stored, shape)
    if order is not None:
        made = context.view(stored.tensor, node.output, shape, order, stored.grid)
    elif _flattens_for_matrix(context, node, stored, shape):
        made = context.view(stored.tensor, node.output, shape, row_major(2), stored.grid)
        positions = np.arange(np.prod(stored.shape[1:])).reshape(1, *stored.shape[1:]).transpose(stored.order)
        made = replace(made, columns=positions.reshape(-1))
    else:
        stored = context.ordered(stored, row_major(len(stored.shape)))
        made = context.view(stored.tensor, node.output, shape, row_major(len(shape)), stored.grid)
    context.keep(node.output, made)
    context.record(node, "view")


def _flattens_for_matrix(context: Context, node: Node, stored: Stored, shape: tuple[int, ...]) -> bool:
    """(N, C, H, W) becomes (N, C*H*W), and only layers with constant weights read it: they read it in memory order.

    Their weights' columns are permuted instead of the activations.
    """
    if len(shape) != 2 or len(stored.shape) < 3 or stored.shape[0] != shape[0] or stored.order[0] != 0:
        return False
    if node.output in context.graph.outputs:
        return False
    readers = context.consumers.get(node.output, [])

    def takes_columns(reader: Node) -> bool:
        matrix = len(reader.inputs) > 1 and context.graph.weight(reader.inputs[1]) is not None
        plain = not reader.attributes.get("transA", 0) and float(reader.attributes.get("alpha", 1.0)) == 1.0
        return reader.op in ("Gemm", "MatMul") and reader.inputs[0] == node.output and matrix and plain

    return bool(readers) and all(takes_columns(reader) for reader in readers)


@writes("Transpose")
def write_transpose(context: Context, node: Node, real: bool) -> None:
    stored = context.stored[node.inputs[0]]
    permutation = tuple(node.attributes.get("perm", reversed(range(len(stored.shape)))))
    context.keep(node.output, stored.permuted(permutation))
    context.record(node, "view")


@writes("Concat")
def write_concat(context: Context, node: Node, real: bool) -> None:
    inputs = [_operand_or_constant(context, name, real) for name in node.inputs if name]
    rank = len(inputs[0].shape)
    axis = int(node.attributes["axis"]) % rank
    order = inputs[0].order
    if any(one.order == channels_last(rank) for one in inputs):
        order = channels_last(rank)
    grid = None if real else _joined_grid(context, node, inputs)
    inputs = [context.ordered(one, order) for one in inputs]
    if grid is not None:
        inputs = [context.on_grid(one, grid) for one in inputs]
    made = context.new(node.output, context.shape(node.output), order, grid)
    context.emit(
        "CONCATENATION", [one.tensor for one in inputs], [made.tensor], "ConcatenationOptions", axis=order.index(axis)
    )
    context.keep(node.output, made)
    context.record(node, compute_of(grid))


def _operand_or_constant(context: Context, name: str, real: bool) -> Stored:
    """An operand that may be a constant (a class token), on its own grid."""
    weight = context.graph.weight(name)
    if weight is None:
        return context.operand(name, real)
    shape = weight.real.shape
    if real:
        return Stored(context.file.constant(name, weight.real), shape, row_major(len(shape)))
    if weight.integers is None or weight.params is None or weight.params.per_channel:
        raise RefusedError(f"its constant {name!r} has no trained grid")
    shift = 128 if weight.params.dtype == np.uint8 else 0
    if weight.params.dtype.name not in ("int8", "uint8"):
        raise RefusedError(f"its constant {name!r} is {weight.params.dtype.name}")
    grid = LiteGrid.of(float(weight.params.scale), int(weight.params.zero_point) - shift, "int8")
    integers = (weight.integers.astype(np.int64) - shift).astype(np.int8)
    return Stored(context.file.constant(name, integers, grid), shape, row_major(len(shape)), grid)


def _joined_grid(context: Context, node: Node, inputs: list[Stored]) -> LiteGrid:
    """The one grid of a concatenation: that of all, an int8 one that holds all steps, or int16 over the bounds."""
    grids = [one.grid for one in inputs if one.grid is not None]
    if all(grid == grids[0] for grid in grids):
        return grids[0]
    readers = context.consumers.get(node.output, [])
    if len(readers) == 1 and readers[0].op == FAKE_QUANT and node.output not in context.graph.outputs:
        return context.target(context.tail(node, False)).grid  # rounded to it in either order: exact
    if len({(grid.scale, grid.dtype) for grid in grids}) == 1 and grids[0].dtype == "int8":
        low = min(-128 - grid.zero_point for grid in grids)
        high = max(127 - grid.zero_point for grid in grids)
        if high - low <= 255:
            return LiteGrid.of(grids[0].scale, -128 - low, "int8")
    low_end, high_end = min(grid.bounds[0] for grid in grids), max(grid.bounds[1] for grid in grids)
    return context.derived_grid(node.output, low_end, high_end)


@writes("Slice")
def write_slice(context: Context, node: Node, real: bool) -> None:
    stored = context.stored[node.inputs[0]]
    rank = len(stored.shape)
    starts, ends = context.integers(node, 1, "starts"), context.integers(node, 2, "ends")
    if starts is None or ends is None:
        raise RefusedError("its limits are computed")
    axes = context.integers(node, 3, "axes") or list(range(len(starts)))
    steps = context.integers(node, 4, "steps") or [1] * len(starts)
    chosen = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = stored.shape[axis % rank]
        chosen[axis % rank] = range(*slice(start, end if abs(end) < 2**62 else None, step).indices(size))
    context.keep(node.output, _selected(context, stored, node.output, chosen))
    context.record(node, "view")


def _selected(context: Context, stored: Stored, output: str, chosen: dict[int, range]) -> Stored:
    """Elements of some axes: SLICE, STRIDED_SLICE, or GATHER where they run backwards."""
    shape = context.shape(output)
    if shape == stored.shape and all(one.step == 1 for one in chosen.values()):
        return stored
    for axis, one in chosen.items():
        if one.step < 0:
            part = tuple(len(one) if a == axis else d for a, d in enumerate(stored.shape))
            made = context.new(f"{output}:axis{axis}", part, stored.order, stored.grid)
            place = stored.order.index(axis)
            context.emit("GATHER", [stored.tensor, context.ints(list(one))], [made.tensor], "GatherOptions", axis=place)
            stored, chosen = made, {**chosen, axis: range(len(one))}
    made = context.new(output, shape, stored.order, stored.grid)
    ranges = [chosen.get(axis, range(stored.shape[axis])) for axis in stored.order]
    begin = [one.start for one in ranges]
    if all(one.step == 1 for one in ranges):
        size = [len(one) for one in ranges]
        context.emit("SLICE", [stored.tensor, context.ints(begin), context.ints(size)], [made.tensor], "SliceOptions")
    else:
        if len(ranges) > 5:
            raise RefusedError("TFLite's strided slice has up to five axes")
        ends, strides = ([getattr(one, part) for one in ranges] for part in ("stop", "step"))
        operands = [context.ints(values) for values in (begin, ends, strides)]
        context.emit("STRIDED_SLICE", [stored.tensor, *operands], [made.tensor], "StridedSliceOptions")
    return made


@writes("Split")
def write_split(context: Context, node: Node, real: bool) -> None:
    stored = context.stored[node.inputs[0]]
    axis = int(node.attributes.get("axis", 0)) % len(stored.shape)
    offset = 0
    for output in node.outputs:
        if not output:
            raise RefusedError("one of its outputs is left out")
        size = context.shape(output)[axis]
        context.keep(output, _selected(context, stored, output, {axis: range(offset, offset + size)}))
        offset += size
    context.record(node, "view")


@writes("Gather")
def write_gather(context: Context, node: Node, real: bool) -> None:
    indices = context.graph.constant(node.inputs[1])
    if indices is None or context.graph.is_constant(node.inputs[0]):
        raise RefusedError("its indices are computed")
    stored = context.stored[node.inputs[0]]
    rank = len(stored.shape)
    axis = int(node.attributes.get("axis", 0)) % rank
    positions = np.asarray(indices, np.int64) % stored.shape[axis]
    stored = context.ordered(stored, row_major(rank))
    shape = context.shape(node.output)
    made = context.new(node.output, shape, row_major(len(shape)), stored.grid)
    context.emit("GATHER", [stored.tensor, context.ints(positions)], [made.tensor], "GatherOptions", axis=axis)
    context.keep(node.output, made)
    context.record(node, "view")


@writes("Pad")
def write_pad(context: Context, node: Node, real: bool) -> None:
    pads, mode = context.integers(node, 1, "pads"), str(node.attributes.get("mode", "constant"))
    if pads is None or min(pads) < 0 or mode not in ("constant", "reflect"):
        raise RefusedError(f"TFLite has no such padding ({mode}, {pads})")
    stored = context.operand(node.inputs[0], real)
    rank = len(stored.shape)
    axes = context.integers(node, 3, "axes") or list(range(rank))
    amounts = np.zeros((rank, 2), np.int32)
    for i, axis in enumerate(axes):
        amounts[stored.order.index(axis % rank)] = pads[i], pads[i + len(axes)]
    made = context.new(node.output, context.shape(node.output), stored.order, stored.grid)
    if mode == "reflect":
        context.emit("MIRROR_PAD", [stored.tensor, context.ints(amounts)], [made.tensor], "MirrorPadOptions", mode=0)
    else:
        value = 0.0
        if len(node.inputs) > 2 and node.inputs[2]:
            constant = context.graph.constant(node.inputs[2])
            if constant is None or constant.size != 1:
                raise RefusedError("the value it pads with is computed")
            value = float(constant.item())
        grid, fill = stored.grid, np.asarray([value], np.float32)
        if grid is not None:
            step = value / grid.scale + grid.zero_point
            if abs(step - np.rint(step)) > 1e-4 or not grid.limits[0] <= np.rint(step) <= grid.limits[1]:
                raise RefusedError(f"its value {value:g} is no step of its input's grid")
            fill = np.asarray([np.rint(step)], grid.dtype)
        constant_index = context.file.constant(f"{node.output}:fill", fill, grid)
        operands = [stored.tensor, context.ints(amounts), constant_index]
        context.emit("PADV2", operands, [made.tensor], "PadV2Options")
    context.keep(node.output, made)
    context.record(node, "view")


@writes("Expand", "Tile")
def write_expand(context: Context, node: Node, real: bool) -> None:
    stored, shape = context.stored[node.inputs[0]], context.shape(node.output)
    missing = len(shape) - len(stored.shape)
    stored = context.ordered(stored, row_major(len(stored.shape)))
    stored = context.reshaped(stored, (1,) * missing + stored.shape)
    made = context.new(node.output, shape, row_major(len(shape)), stored.grid)
    repeats = [wanted // have for wanted, have in zip(shape, stored.shape, strict=True)]
    context.emit("TILE", [stored.tensor, context.ints(repeats)], [made.tensor], "TileOptions")
    context.keep(node.output, made)
    context.record(node, "view")


@writes("DepthToSpace", "SpaceToDepth")
def write_blocks(context: Context, node: Node, real: bool) -> None:
    stored = context.ordered(context.stored[node.inputs[0]], channels_last(4))
    size = int(node.attributes["blocksize"])
    depth_first = str(node.attributes.get("mode", "DCR")) == "DCR"
    shape = context.shape(node.output)
    made = context.new(node.output, shape, channels_last(4), stored.grid)
    if depth_first:
        kind, table = (
            ("DEPTH_TO_SPACE", "DepthToSpaceOptions")
            if node.op == "DepthToSpace"
            else ("SPACE_TO_DEPTH", "SpaceToDepthOptions")
        )
        context.emit(kind, [stored.tensor], [made.tensor], table, blockSize=size)
    else:
        batch, height, width, channels = stored.physical
        if node.op == "DepthToSpace":
            parts = (batch, height, width, channels // size**2, size, size)
            permutation = (0, 1, 4, 2, 5, 3)
        else:
            parts = (batch, height // size, size, width // size, size, channels)
            permutation = (0, 1, 3, 5, 2, 4)
        flat = Stored(stored.tensor, stored.physical, row_major(4), stored.grid)
        blocks = context.reshaped(flat, parts).permuted(permutation)
        context.reshape(context.ordered(blocks, row_major(6)).tensor, made.tensor)
    context.keep(node.output, made)
    context.record(node, "view")
