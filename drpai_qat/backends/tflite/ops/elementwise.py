"""Elementwise operators: roundings and limits, sums and products."""

from __future__ import annotations

import math

import numpy as np

from drpai_qat.backends.tflite.context import Context, RefusedError, check_sum, compute_of, fused_activation
from drpai_qat.backends.tflite.flatbuffer import activation
from drpai_qat.backends.tflite.grids import LiteGrid, Target, finer, symmetric_int16, target_of
from drpai_qat.backends.tflite.ops.affine import affine_chain, as_affine, write_affine
from drpai_qat.backends.tflite.registry import writes
from drpai_qat.backends.tflite.stored import Stored, placed, row_major
from drpai_qat.backends.tflite.tail import Tail, keeps_steps, limited_more
from drpai_qat.backends.tflite.unary import find_function, write_float_gelu, write_function
from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, QUANTIZE, Node
from drpai_qat.graph.ranges import clip_limits


@writes(FAKE_QUANT)
def write_fake_quant(context: Context, node: Node, real: bool) -> None:
    stored = context.stored[node.inputs[0]]
    if context.float_only:
        low = node.params.real_range()[0] if node.params is not None else None
        known = context.bounds.get(node.inputs[0], (-math.inf, math.inf))[0]
        if low is not None and low.size == 1 and float(low) == 0.0 and known < 0.0:
            stored = context.limited(stored, 0.0, math.inf, node.output)
        context.keep(node.output, stored)
        context.record(node, "view")
        return
    _requantize(context, node, stored, context.tail(node, False))


@writes("Relu", "Clip")
def write_limit(context: Context, node: Node, real: bool) -> None:
    limits = clip_limits(context.graph, node)
    if limits is None:
        raise RefusedError("its limits are computed")
    if real:
        stored = context.operand(node.inputs[0], True)
        context.keep(node.output, context.limited(stored, *limits, node.output))
        context.record(node, "float32")
        return
    stored = context.operand(node.inputs[0], False)
    tail = limited_more(context.tail(node, False), limits)
    _requantize(context, node, stored, tail)


def _requantize(context: Context, node: Node, stored: Stored, tail: Tail) -> None:
    """Integers of one grid (or float32) onto another, and limits."""
    target = _kept_grid(stored, tail) if tail.params is None else None
    target = target or context.target(tail)
    if stored.grid == target.grid:
        made = context.limited_steps(stored, target, tail.output)
    else:
        made = context.new(tail.output, stored.shape, stored.order, target.grid)
        summed = stored.grid is not None and (stored.grid.dtype, target.grid.dtype) == ("int8", "int8")
        summed = summed and stored.grid is not None and stored.grid.scale != target.grid.scale
        fused, rest = fused_activation(target) if summed else ("NONE", target)
        context.requantize(stored, made, activation(fused))
        made = context.limited_steps(made, rest, tail.output)
    context.keep(tail.output, made)
    context.done.update(one.output for one in tail.nodes)
    context.record(node, compute_of(target.grid))


def _kept_grid(stored: Stored, tail: Tail) -> Target | None:
    """Limits without a rounding behind them keep the grid where they are steps of it."""
    grid = stored.grid
    if grid is None:
        return None
    if not keeps_steps(grid.scale, grid.bounds, (tail.low, tail.high)):
        return None
    return Target(grid, grid.steps(tail.low), grid.steps(tail.high))


@writes(QUANTIZE, DEQUANTIZE)
def write_border(context: Context, node: Node, real: bool) -> None:
    """Integers as an input or output of the network: the same tensor."""
    stored = context.stored[node.inputs[0]]
    if node.op == QUANTIZE and node.params is not None:
        target = target_of(node.params)
        if target is None or stored.grid is None:
            raise RefusedError("its grid does not exist in TFLite")
        if (stored.grid.scale, stored.grid.dtype) != (target.grid.scale, target.grid.dtype):
            raise RefusedError(f"{node.inputs[0]!r} is not on the grid of {node.output!r}")
    context.keep(node.output, stored)
    context.record(node, "view")


@writes("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum")
def write_arithmetic(context: Context, node: Node, real: bool) -> None:
    names = [name for name in node.inputs if name]
    computed = [name for name in names if not context.graph.is_constant(name)]
    if real and len(computed) == 1 and write_float_gelu(context, node):
        return
    if len(names) == 1:
        context.keep(node.output, context.stored[names[0]])
        context.record(node, "view")
        return
    if len(names) > 2:
        _sum_of_many(context, node, real, names)
        return
    if len(computed) == 1 and _scales_a_softmax(context, node, computed[0]):
        context.record(node, "view")
        return
    limits = clip_limits(context.graph, node)
    if limits is not None:
        _limit_of(context, node, real, computed[0], limits)
        return
    if not real and len(set(computed)) == 1:
        function = find_function(context, node)
        simple = function is None or len([n for n in function.nodes if n.op != FAKE_QUANT and n.op != "Clip"]) == 1
        if function is not None and not (simple and node.op in ("Add", "Sub", "Mul")):
            stored = context.stored[function.source]
            if stored.grid is not None and stored.grid.dtype == "int8":
                write_function(context, function, node)
                return
        affine = as_affine(context, node, computed[0]) if len(computed) == 1 else None
        if affine is not None and context.stored[computed[0]].grid is not None:
            last, affine = affine_chain(context, node, affine)
            write_affine(context, last, False, computed[0], affine, node)
            return
    _binary(context, node, real, names)


def _scales_a_softmax(context: Context, node: Node, name: str) -> bool:
    """A number times the input of a Softmax: the operator has a factor of its own, and there is one rounding less."""
    readers = context.consumers.get(node.output, [])
    if node.op not in ("Mul", "Div") or not readers or node.output in context.graph.outputs or node.inputs[0] != name:
        return False
    value = context.graph.constant(node.inputs[1])
    if value is None or value.size != 1 or not all(reader.op == "Softmax" for reader in readers):
        return False
    number = float(value.item())
    factor = number if node.op == "Mul" else 1.0 / number
    if not (math.isfinite(factor) and factor > 0.0):
        return False
    context.keep(node.output, context.stored[name])
    context.factors[node.output] = factor
    return True


def _limit_of(context: Context, node: Node, real: bool, name: str, limits: tuple[float, float]) -> None:
    """Min or Max with a constant number."""
    stored = context.operand(name, real)
    if real:
        context.keep(node.output, context.limited(stored, *limits, node.output))
        context.record(node, "float32")
        return
    tail = context.tail(node, False)
    _requantize(context, node, stored, limited_more(tail, limits))


def _sum_of_many(context: Context, node: Node, real: bool, names: list[str]) -> None:
    raise RefusedError(f"{node.op} of {len(names)} tensors: TFLite's operators take two")


def _binary(context: Context, node: Node, real: bool, names: list[str]) -> None:
    kind = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV", "Min": "MINIMUM", "Max": "MAXIMUM", "Sum": "ADD"}[
        node.op
    ]
    if kind == "DIV" and not real:
        raise RefusedError("TFLite divides float32 alone")
    tail = context.tail(node, real)
    out_shape = context.shape(node.output)
    order = _common_order(context, node, names, len(out_shape))
    narrow = False
    if real:
        operands = [_operand(context, name, out_shape, order, None, True) for name in names]
        target = None
    else:
        grids = [_grid_of(context, name) for name in names]
        target = context.target(tail, *_bounds(node.op, grids))
        narrow = target.grid.dtype == "int8" and all(grid.dtype == "int8" for grid in grids)
        if kind in ("MINIMUM", "MAXIMUM"):
            grids = [target.grid] * len(names)  # monotonic: each is rounded before
            narrow = True
        operands = [
            _operand(context, name, out_shape, order, grid, False, wide=not narrow)
            for name, grid in zip(names, grids, strict=True)
        ]
    table = {"MINIMUM": "MaximumMinimumOptions", "MAXIMUM": "MaximumMinimumOptions"}.get(kind, f"{kind.title()}Options")

    def emit(output: int, fused: int) -> None:
        options: dict[str, object] = {}
        if kind in ("ADD", "SUB", "MUL", "DIV"):
            options["fusedActivationFunction"] = fused
        if kind in ("ADD", "SUB"):
            options["potScaleInt16"] = False
        context.emit(kind, [o.tensor for o in operands], [output], table, **options)

    if target is not None and kind in ("ADD", "SUB"):
        result = target.grid if narrow else finer(target)
        check_sum(max(one.grid.scale for one in operands if one.grid is not None), result)
    computed = operands[0].grid
    wide = computed is not None and computed.dtype == "int16"
    context.finish(node, tail, order, target, emit, wide=wide, fuses=kind in ("ADD", "SUB", "MUL", "DIV"))
    context.record(node, compute_of(computed))


def _common_order(context: Context, node: Node, names: list[str], rank: int) -> tuple[int, ...]:
    """The memory order that moves least: that of the largest operand that is not row-major."""
    full = [
        context.stored[name] for name in names if name in context.stored and len(context.stored[name].shape) == rank
    ]
    full = [one for one in full if one.shape == context.shape(node.output)] or full
    moved = [one.order for one in full if one.order != row_major(rank)]
    return moved[0] if moved else row_major(rank)


def _grid_of(context: Context, name: str) -> LiteGrid:
    """The grid of an operand; a constant without one gets int16, or int8 where it is one number."""
    weight = context.graph.weight(name)
    if weight is None:
        grid = context.operand(name, False).grid
        assert grid is not None
        return grid
    if weight.params is not None and weight.integers is not None and not weight.params.per_channel:
        found = target_of(weight.params)
        if found is not None:
            return found.grid
    if weight.real.size == 1:
        value = float(weight.real.reshape(-1)[0])
        return LiteGrid.of(np.float32(max(abs(value), 1e-20)) / np.float32(127), 0, "int8")
    return symmetric_int16(float(np.abs(weight.real).max()))


def _bounds(op: str, grids: list[LiteGrid]) -> tuple[float, float]:
    (a, b), (c, d) = (grid.bounds for grid in grids)
    if op in ("Add", "Sum"):
        return a + c, b + d
    if op == "Sub":
        return a - d, b - c
    if op == "Mul":
        products = [x * y for x in (a, b) for y in (c, d)]
        return min(products), max(products)
    return min(a, c), max(b, d)


def _operand(
    context: Context, name: str, out_shape: tuple[int, ...], order: tuple[int, ...], grid: LiteGrid | None, real: bool,
    wide: bool = False,
) -> Stored:  # fmt: skip
    """An operand, with as many axes as the result, in its order, on the grid."""
    rank = len(out_shape)
    weight = context.graph.weight(name)
    if weight is not None:
        values = np.asarray(weight.real, np.float32)
        values = placed(values.reshape((1,) * (rank - values.ndim) + values.shape), order)
        if grid is None:
            return Stored(context.file.constant(name, values), values.shape, row_major(rank))
        if wide and grid.dtype == "int8":
            grid = symmetric_int16(float(np.abs(values).max()))
        steps = np.rint(values.astype(np.float64) / grid.scale) + grid.zero_point
        integers = np.clip(steps, *grid.limits).astype(grid.dtype)
        return Stored(context.file.constant(name, integers, grid), values.shape, row_major(rank), grid)
    stored = context.operand(name, real)
    missing = rank - len(stored.shape)
    if missing:
        shape = (1,) * missing + stored.shape
        kept = tuple(axis + missing for axis in stored.order)
        made = context.reshaped(
            Stored(stored.tensor, stored.physical, row_major(len(stored.shape)), stored.grid),
            (1,) * missing + stored.physical,
        )
        stored = Stored(made.tensor, shape, (*range(missing), *kept), stored.grid)
    stored = context.ordered(stored, order)
    if grid is None:
        return stored
    return context.wide(stored) if wide else context.on_grid(stored, grid)
