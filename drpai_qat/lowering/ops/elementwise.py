"""Elementwise groups that no anchor absorbed: one pointwise kernel, or one look-up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from drpai_qat.graph.canonical import DEQUANTIZE, QUANTIZE, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.operators import is_elementwise
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.epilogue import Epilogue, Kernel
from drpai_qat.kernels.lookup import lookup
from drpai_qat.kernels.pointwise import pointwise
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.elementwise import RULES, data_operands
from drpai_qat.lowering.fusion import grow, lower_anchor
from drpai_qat.lowering.registry import lowers
from drpai_qat.lowering.storage import Stored, row_major

FUSABLE = ("uint8", "int8", "int16", "uint16", "int32", "float32")


@lowers(*RULES)
def lower_elementwise(context: Context, node: Node) -> bool:
    if not is_elementwise(context.graph, node):
        return False
    shape = context.shape(node.output)
    names = [n for n in data_operands(context.graph, node) if not context.graph.is_constant(n)]
    operands = [context.operand(leaf) for name in names for leaf in context.leaves(name)]
    if any(o.dtype not in FUSABLE for o in operands):
        return False
    order = next((o.order for o in operands if o.shape == shape), row_major(len(shape)))

    def make(epilogue: Epilogue) -> Kernel:
        table = _table(epilogue)
        if table is not None:
            operand = epilogue.operands[0]
            first = -128 if operand.dtype == "int8" else 0
            return lookup(_size(operand.shape), operand.dtype, table, first, context.isa)
        return pointwise(tuple(shape[axis] for axis in order) or (1,), epilogue, context.isa)

    group = grow(context, node)
    lower_anchor(context, node, None, order, make, (), "pointwise", group)
    results = [context.stored[leaf] for leaf in context.leaves(group.output)]
    kinds = ["float32" if s.grid is None else s.dtype for s in (*operands, *results)]
    compute = "float32" if "float32" in kinds else "int16" if "int16" in kinds else "int8"
    context.record(node, compute, reason=context.why_float(node, group.output) if compute == "float32" else "")
    return True


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _table(epilogue: Epilogue) -> npt.NDArray[np.generic] | None:
    """The 256 stored outputs where the expression is a table of the one 8-bit operand; None for other expressions."""
    if epilogue.more:
        return None
    root = epilogue.expr
    scale, offset = 1.0, 0.0
    if isinstance(root, E.Affine) and root.mul.size == root.add.size == 1:
        scale, offset, root = float(root.mul.item()), float(root.add.item()), root.x
    if (
        not isinstance(root, E.Table)
        or len(epilogue.operands) != 1
        or epilogue.operands[0].dtype not in ("int8", "uint8")
    ):
        return None
    inner, zero_point = root.x, 0
    if isinstance(inner, E.Affine) and inner.mul.size == inner.add.size == 1 and inner.mul.item() == 1.0:
        zero_point, inner = -int(inner.add.item()), inner.x
    if not isinstance(inner, E.Load):
        return None
    first = -128 if epilogue.operands[0].dtype == "int8" else 0
    stored = np.arange(first, first + 256)
    index = np.clip(stored - zero_point - root.first, 0, len(root.values) - 1)
    values = root.values[index] * np.float32(scale) + np.float32(offset)
    if epilogue.out_dtype == "float32":
        return values.astype(np.float32)
    return (np.rint(values).astype(np.int64) + epilogue.zero_point).astype(epilogue.out_dtype)


@lowers(DEQUANTIZE)
def lower_dequantize(context: Context, node: Node) -> bool:
    """An integer input of the graph: the same memory, or a copy where the CPU wants the other 8-bit type."""
    assert node.params is not None
    stored = context.operand(node.inputs[0])
    grid = context.plan.grids.get(node.output)
    if grid is None or stored.dtype not in FUSABLE or stored.dtype == "float32":
        return False
    plain = Grid(
        float(node.params.scale), int(node.params.zero_point), node.params.qmin, node.params.qmax, stored.dtype
    )
    source = Stored(stored.buffer, stored.shape, stored.order, stored.dtype, plain)
    if grid.dtype == stored.dtype:
        context.stored[node.output] = Stored(stored.buffer, stored.shape, stored.order, stored.dtype, grid)
    else:
        context.stored[node.output] = context.converted(source, grid)
    context.record(node, "view")
    return True


@lowers(QUANTIZE)
def lower_quantize(context: Context, node: Node) -> bool:
    """An integer output of the graph: the stored integers in the type that the model names."""
    assert node.params is not None
    params = node.params
    stored = context.operand(node.inputs[0])
    grid = Grid(float(params.scale), int(params.zero_point), params.qmin, params.qmax, params.dtype.name)
    if stored.dtype != grid.dtype or not grid.same_steps(stored.grid):
        stored = context.converted(stored, grid)
    context.stored[node.output] = Stored(stored.buffer, stored.shape, stored.order, stored.dtype, None)
    context.record(node, "view")
    return True
