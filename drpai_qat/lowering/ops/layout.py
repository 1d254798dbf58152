"""Operators that move elements: views where memory allows, copies of stored integers where not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from drpai_qat.graph.canonical import Node
from drpai_qat.kernels import movement
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.registry import lowers
from drpai_qat.lowering.storage import Stored, channels_last, permuted, row_major

MOVABLE = frozenset(("uint8", "int8", "bool", "int16", "uint16", "int32", "float32"))


def _constant_ints(context: Context, node: Node, index: int, attribute: str) -> list[int] | None:
    if len(node.inputs) > index and node.inputs[index]:
        value = context.graph.constant(node.inputs[index])
        return None if value is None else [int(v) for v in value.reshape(-1)]
    found = node.attributes.get(attribute)
    return None if found is None else [int(v) for v in found]


def _keep(context: Context, node: Node, stored: Stored, output: str | None = None) -> bool:
    context.stored[output or node.output] = stored
    return True


@lowers("Reshape", "Flatten")
def lower_reshape(context: Context, node: Node) -> bool:
    stored = context.operand(node.inputs[0])
    shape = context.shape(node.output)
    if [d for d in stored.shape if d != 1] != [d for d in shape if d != 1] or not _same_dims(stored, shape):
        stored = context.ordered(stored, row_major(len(stored.shape)))
        return _view(context, node, replace(stored, shape=shape, order=row_major(len(shape))))
    # Only axes of size 1 come or go: the memory order of the others stays.
    kept = [axis for axis in stored.order if stored.shape[axis] != 1]
    old_axes = [axis for axis, d in enumerate(stored.shape) if d != 1]
    new_axes = [axis for axis, d in enumerate(shape) if d != 1]
    moved = dict(zip(old_axes, new_axes, strict=True))
    ones = [axis for axis, d in enumerate(shape) if d == 1]
    return _view(context, node, replace(stored, shape=shape, order=(*ones, *(moved[axis] for axis in kept))))


def _same_dims(stored: Stored, shape: tuple[int, ...]) -> bool:
    return not stored.ordered_as(row_major(len(stored.shape))) and bool(shape)


def _view(context: Context, node: Node, stored: Stored) -> bool:
    context.record(node, "view")
    return _keep(context, node, stored)


@lowers("Squeeze", "Unsqueeze")
def lower_squeeze(context: Context, node: Node) -> bool:
    return lower_reshape(context, node)


@lowers("Transpose")
def lower_transpose(context: Context, node: Node) -> bool:
    stored = context.operand(node.inputs[0])
    rank = len(stored.shape)
    permutation = tuple(node.attributes.get("perm", reversed(range(rank))))
    return _view(context, node, permuted(stored, permutation))


@lowers("Slice")
def lower_slice(context: Context, node: Node) -> bool:
    stored = context.operand(node.inputs[0])
    starts, ends = _constant_ints(context, node, 1, "starts"), _constant_ints(context, node, 2, "ends")
    if starts is None or ends is None or stored.dtype not in MOVABLE:
        return False
    axes = _constant_ints(context, node, 3, "axes") or list(range(len(starts)))
    steps = _constant_ints(context, node, 4, "steps") or [1] * len(starts)
    rank = len(stored.shape)
    first, step = [0] * rank, [1] * rank
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        axis %= rank
        begin, _, _ = slice(start, end if abs(end) < 2**62 else None, stride).indices(stored.shape[axis])
        first[axis], step[axis] = begin, stride
    return _slice(context, node, stored, node.output, first, step)


def _slice(context: Context, node: Node, stored: Stored, output: str, first: list[int], step: list[int]) -> bool:
    shape = context.shape(output)
    if shape == stored.shape and all(s == 1 for s in step):
        return _keep(context, node, stored, output)
    order = stored.order
    kernel = movement.slice_(
        stored.physical,
        tuple(first[axis] for axis in order),
        tuple(shape[axis] for axis in order),
        tuple(step[axis] for axis in order),
        stored.dtype,
        context.isa,
    )
    buffer = context.kernel(kernel, (stored,), "slice")
    context.record(node, "view")
    return _keep(context, node, replace(stored, buffer=buffer, shape=shape), output)


@lowers("Split")
def lower_split(context: Context, node: Node) -> bool:
    stored = context.operand(node.inputs[0])
    if stored.dtype not in MOVABLE:
        return False
    axis = int(node.attributes.get("axis", 0)) % len(stored.shape)
    offset = 0
    for output in node.outputs:
        if not output:
            return False
        first = [0] * len(stored.shape)
        first[axis] = offset
        _slice(context, node, stored, output, first, [1] * len(stored.shape))
        offset += context.shape(output)[axis]
    return True


@lowers("Gather")
def lower_gather(context: Context, node: Node) -> bool:
    indices = context.graph.constant(node.inputs[1])
    stored = context.operand(node.inputs[0])
    if indices is None or stored.dtype not in MOVABLE:
        return False
    rank = len(stored.shape)
    axis = int(node.attributes.get("axis", 0)) % rank
    positions = indices.astype(np.int64)
    wrapped = np.where(positions < 0, positions + stored.shape[axis], positions)
    stored = context.ordered(stored, row_major(rank))
    kernel = movement.gather(stored.shape, axis, wrapped, stored.dtype, context.isa)
    buffer = context.kernel(kernel, (stored,), "gather")
    shape = context.shape(node.output)
    context.record(node, "view")
    return _keep(context, node, replace(stored, buffer=buffer, shape=shape, order=row_major(len(shape))))


@lowers("Concat")
def lower_concat(context: Context, node: Node) -> bool:
    inputs = [context.operand(name) for name in node.inputs if name]
    rank = len(inputs[0].shape)
    axis = int(node.attributes["axis"]) % rank
    order = next((s.order for s in inputs if s.size > 1), inputs[0].order)
    if rank >= 3 and any(s.ordered_as(channels_last(rank)) for s in inputs):
        order = channels_last(rank)
    grid = context.target_grid(node.output)
    if context.graph.dtypes.get(node.output) == "float32":
        inputs = [context.converted(context.ordered(s, order), grid) for s in inputs]
    else:
        inputs = [context.ordered(s, order) for s in inputs]
    dtype = inputs[0].dtype
    if dtype not in MOVABLE or any(s.dtype != dtype for s in inputs):
        return False
    kernel = movement.concat(tuple(s.physical for s in inputs), order.index(axis), dtype, context.isa)
    buffer = context.kernel(kernel, inputs, "concat")
    context.put(node.output, buffer, order, grid, dtype)
    context.record(node, "float32" if grid is None else "int16" if dtype == "int16" else "int8")
    return True


@lowers("Pad")
def lower_pad(context: Context, node: Node) -> bool:
    stored = context.operand(node.inputs[0])
    pads = _constant_ints(context, node, 1, "pads")
    mode = str(node.attributes.get("mode", "constant"))
    if pads is None or mode not in ("constant", "reflect", "edge") or min(pads) < 0 or stored.dtype not in MOVABLE:
        return False
    rank = len(stored.shape)
    axes = _constant_ints(context, node, 3, "axes") or list(range(rank))
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis % rank], after[axis % rank] = pads[i], pads[i + len(axes)]
    value = 0.0
    if len(node.inputs) > 2 and node.inputs[2]:
        constant = context.graph.constant(node.inputs[2])
        if constant is None or constant.size != 1:
            return False
        value = float(constant.item())
    grid = context.target_grid(node.output)
    stored = context.converted(stored, grid)
    fill = value if grid is None else float(grid.steps(value))
    order = stored.order
    kernel = movement.pad(
        stored.physical,
        tuple(before[axis] for axis in order),
        tuple(after[axis] for axis in order),
        mode,  # type: ignore[arg-type]
        fill,
        stored.dtype,
        context.isa,
    )
    context.put(node.output, context.kernel(kernel, (stored,), "pad"), order, grid, stored.dtype)
    context.record(node, "view")
    return True


@lowers("Expand", "Tile")
def lower_expand(context: Context, node: Node) -> bool:
    stored = context.operand(node.inputs[0])
    if stored.dtype not in MOVABLE:
        return False
    shape = context.shape(node.output)
    missing = len(shape) - len(stored.shape)
    in_shape = (1,) * missing + stored.shape
    order = (*range(missing), *(axis + missing for axis in stored.order))
    stored = replace(stored, shape=in_shape, order=order)
    if in_shape == shape:
        return _view(context, node, stored)
    target = tuple(shape[axis] for axis in order)
    kernel = movement.expand(stored.physical, target, stored.dtype, context.isa)
    context.record(node, "view")
    return _keep(context, node, replace(stored, buffer=context.kernel(kernel, (stored,), "expand"), shape=shape))


@lowers("DepthToSpace")
def lower_depth_to_space(context: Context, node: Node) -> bool:
    stored = context.ordered(context.operand(node.inputs[0]), channels_last(4))
    if stored.dtype not in MOVABLE:
        return False
    size = int(node.attributes["blocksize"])
    batch, channels, height, width = stored.shape
    depth = channels // (size * size)
    if str(node.attributes.get("mode", "DCR")) == "DCR":
        shape, permutation = (batch, height, width, size, size, depth), (0, 1, 3, 2, 4, 5)
    else:
        shape, permutation = (batch, height, width, depth, size, size), (0, 1, 4, 2, 5, 3)
    return _blocks(context, node, stored, shape, permutation)


@lowers("SpaceToDepth")
def lower_space_to_depth(context: Context, node: Node) -> bool:
    stored = context.ordered(context.operand(node.inputs[0]), channels_last(4))
    if stored.dtype not in MOVABLE:
        return False
    size = int(node.attributes["blocksize"])
    batch, channels, height, width = stored.shape
    shape = (batch, height // size, size, width // size, size, channels)
    depth_last = str(node.attributes.get("mode", "DCR")) == "DCR"
    return _blocks(context, node, stored, shape, (0, 1, 3, 2, 4, 5) if depth_last else (0, 1, 3, 5, 2, 4))


def _blocks(context: Context, node: Node, stored: Stored, shape: tuple[int, ...], permutation: tuple[int, ...]) -> bool:
    kernel = movement.transpose(shape, permutation, stored.dtype, context.isa)
    buffer = context.kernel(kernel, (stored,), "blocks")
    context.put(node.output, buffer, channels_last(4), stored.grid, stored.dtype)
    context.record(node, "view")
    return True
