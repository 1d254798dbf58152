"""Groups of elementwise nodes that run in one kernel, and the expression of a group.

A group starts at an anchor (a convolution, a pooling ... whose accumulator the expression reads) or at an elementwise
node, and grows forward over elementwise nodes of the same shape whose other operands exist already. Only its last value
leaves it: the longest prefix with that property is taken, so a residual fork ends a group and a SiLU (x * sigmoid(x))
does not.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from drpai_qat.graph.canonical import FAKE_QUANT, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.operators import is_elementwise
from drpai_qat.graph.parts import Masked, Planes
from drpai_qat.graph.ranges import batch_norm_affine, data_input
from drpai_qat.graph.tables import tabulate
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.epilogue import Border, Epilogue, Kernel, Operand
from drpai_qat.kernels.expr import Table
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.elementwise import (
    CHEAP,
    LINEAR,
    RULES,
    Answers,
    Value,
    data_operands,
    on_grid,
    snap,
    split_bytes,
)
from drpai_qat.lowering.storage import Stored, channels_last

_MOST_OPERANDS = 32
"""Tensors that an epilogue reads: each is an argument of its kernel."""


@dataclass(frozen=True)
class Group:
    """Nodes computed together; the first is the anchor or the first elementwise node."""

    nodes: tuple[Node, ...]

    @property
    def output(self) -> str:
        """The tensor that leaves the group."""
        return self.nodes[-1].output


def grow(context: Context, start: Node, with_operands: bool = True) -> Group:
    """The largest group that starts at a node.

    Args:
        with_operands: the kernel can read other tensors in its epilogue.
    """
    graph, shape = context.graph, context.shape(start.output)
    values = {start.output}
    members = [start]
    waiting: list[tuple[int, str]] = []
    nodes = {node.output: node for node in context.consumers.get(start.output, [])}

    def push(name: str) -> None:
        for node in context.consumers.get(name, []):
            nodes[node.output] = node
            heapq.heappush(waiting, (context.positions[node.output], node.output))

    push(start.output)
    seen: set[str] = set()
    operands: set[str] = set()
    while waiting and len(operands) < _MOST_OPERANDS:
        _, output = heapq.heappop(waiting)
        node = nodes[output]
        if output in seen or output in values:
            continue
        seen.add(output)
        if context.shape(output) != shape or not is_elementwise(graph, node):
            continue
        if output in context.plan.parts and output not in context.plan.stored_parts:
            continue
        others = [n for n in data_operands(graph, node) if n not in values and not graph.is_constant(n)]
        missing = any(leaf not in context.stored for name in others for leaf in context.leaves(name))
        if missing or (others and not with_operands):
            continue
        if not with_operands and any(_spatial(graph.constant(n)) for n in data_operands(graph, node)):
            continue
        operands.update(others)
        values.add(output)
        members.append(node)
        push(output)
    return Group(tuple(members[: _closed_prefix(context, members)]))


def _spatial(constant: np.ndarray | None) -> bool:
    """A constant that varies along more than one axis."""
    return constant is not None and sum(d != 1 for d in constant.shape) > 1


def _by_channel(constant: np.ndarray | None, rank: int) -> bool:
    """A constant that varies along axis 1 of a tensor of this rank at most."""
    assert constant is not None
    return all(size == 1 or axis == 1 for axis, size in enumerate(constant.shape, rank - constant.ndim))


def _closed_prefix(context: Context, members: list[Node]) -> int:
    outputs = set(context.graph.outputs)
    for count in range(len(members), 1, -1):
        inside = {node.output for node in members[:count]}
        escaping = [
            node.output
            for node in members[: count - 1]
            if node.output in outputs or any(c.output not in inside for c in context.consumers.get(node.output, []))
        ]
        if not escaping:
            return count
    return 1


@dataclass(frozen=True)
class Tail:
    """A group's value and the stored tensors that its expression loads, in order.

    Attributes:
        parts: values of its parts, where the tensor is stored by them.
    """

    value: Value
    operands: tuple[Stored, ...]
    shapes: tuple[Operand, ...]
    parts: tuple[Value, ...] = ()


def build(
    context: Context,
    group: Group,
    anchor: Value | None,
    order: tuple[int, ...],
    channels: np.ndarray | None = None,
) -> Tail:
    """The expression of a group.

    Args:
        anchor: value of the first node, where that is an anchor; None where the group is elementwise throughout.
        order: memory order of the output.
        channels: output channel of each channel that the kernel computes, where those differ (transposed convolutions).
    """
    builder = _Builder(context, order, context.shape(group.output), channels)
    nodes = group.nodes
    if anchor is not None:
        builder.values[nodes[0].output] = anchor
        nodes = nodes[1:]
    split = _table_split(context, nodes, builder, anchor is not None)
    for node in nodes if split is None else nodes[: split.start]:
        builder.add(node)
    if split is not None:
        builder.add_table(nodes[split.start :], split)
    parts = builder.parts(group.output)
    operands = tuple(builder.operands)
    shapes = tuple(Operand(s.physical, s.dtype) for s in operands)
    return Tail(builder.values[group.output], operands, shapes, parts)


@dataclass(frozen=True)
class TableSplit:
    """From node `start` on, the group is a function of `source` alone, a tensor on an 8-bit grid."""

    start: int
    source: str
    grid: Grid


def _table_split(context: Context, nodes: tuple[Node, ...], builder: _Builder, anchored: bool) -> TableSplit | None:
    """Where the rest of a group becomes a table: it must hold a function that costs more than the look-up."""
    graph = context.graph
    sources = {at: node.output for at, node in enumerate(nodes, 1) if node.op == FAKE_QUANT}  # by where the rest begins
    places = {node.output: at for at, node in enumerate(nodes, 1)}
    if not anchored and nodes:
        read = [n for n in data_operands(graph, nodes[0]) if not graph.is_constant(n)]
        if read:
            sources[0], places[read[0]] = read[0], 0
    found, costly, earliest = None, False, len(nodes)
    for start in range(len(nodes) - 1, -1, -1):  # backwards: each node is looked at once, however long the group is
        costly |= nodes[start].op not in CHEAP
        earliest = min(earliest, _earliest_read(context, nodes[start], places))
        source = sources.get(start)
        grid = None if source is None else context.plan.grids.get(source)
        if costly and earliest >= start and source is not None and grid is not None and grid.dtype in ("int8", "uint8"):
            found = TableSplit(start, source, grid)
    return found


def _earliest_read(context: Context, node: Node, places: Mapping[str, int]) -> int:
    """The first place that a node reads, apart from single constants; -1 if it reads something that has none."""
    if node.op == "BatchNormalization":
        return -1
    read = [
        places.get(name, -1)
        for name in data_operands(context.graph, node)
        if (constant := context.graph.constant(name)) is None or constant.size != 1
    ]
    return min(read, default=len(places))


class _Builder:
    """Builds the expression of a group node by node."""

    def __init__(
        self, context: Context, order: tuple[int, ...], shape: tuple[int, ...], channels: np.ndarray | None
    ) -> None:
        self.context = context
        self.order = order
        self.shape = shape
        self.channels = channels
        self.values: dict[str, Value] = {}
        self.operands: list[Stored] = []

    def add(self, node: Node) -> None:
        args = [self.value(name) for name in data_operands(self.context.graph, node)]
        if node.op == FAKE_QUANT:
            result = snap(args[0], self.context.plan.grids[node.output], self._answers(node))
        else:
            if node.op == "BatchNormalization":
                affine = batch_norm_affine(self.context.graph, node)
                assert affine is not None
                args += [Value(constant=self.place(self._channels(c))) for c in affine]
            result = RULES[node.op](self.context.graph, node, args)
        self.values[node.output] = result

    def _answers(self, node: Node) -> Answers | None:
        """The reference's integers behind a FakeQuant, if linear steps alone lie between it and another 8-bit grid."""
        graph, grids = self.context.graph, self.context.plan.grids
        chain, source = [node], node.inputs[0]
        while source not in grids:
            before = self.context.producer(source)
            if before is None or before.op not in LINEAR or len(before.outputs) > 1:
                return None
            constants = [graph.constant(name) for name in before.inputs if name and graph.is_constant(name)]
            if len(constants) < len([name for name in before.inputs if name]) - 1:
                return None
            if before.op != "BatchNormalization" and not all(_by_channel(one, len(self.shape)) for one in constants):
                return None
            chain.append(before)
            source = data_input(graph, before)
        grid, target = grids[source], grids[node.output]
        if grid.dtype not in ("int8", "uint8") or len(self.shape) < 2:
            return None

        def answers(steps: np.ndarray) -> np.ndarray:
            shape = (len(steps), self.shape[1], *(1 for _ in self.shape[2:]))
            reals = (steps * np.float32(grid.scale)).astype(np.float32).reshape(-1, *(1 for _ in self.shape[1:]))
            found = tabulate(graph, tuple(reversed(chain)), source, np.broadcast_to(reals, shape))
            integers = (target.steps(found) - target.zero_point).reshape(len(steps), -1)
            return integers if self.channels is None else integers[:, self.channels]

        return answers

    def add_table(self, nodes: tuple[Node, ...], split: TableSplit) -> None:
        source = self.value(split.source)
        output = nodes[-1].output
        grid = self.context.plan.grids.get(output)
        assert source.ints is not None
        first = split.grid.qmin - split.grid.zero_point
        steps = np.arange(split.grid.qmin, split.grid.qmax + 1) - split.grid.zero_point
        real = tabulate(self.context.graph, nodes, split.source, steps * np.float32(split.grid.scale))
        if grid is None:
            self.values[output] = Value(Table(source.ints, first, real))
        else:
            integers = (grid.steps(real) - grid.zero_point).astype(np.float32)
            self.values[output] = on_grid(Table(source.ints, first, integers), grid)

    def value(self, name: str) -> Value:
        if name not in self.values:
            constant = self.context.graph.constant(name)
            if constant is not None:
                self.values[name] = Value(constant=self.place(constant))
            else:
                leaves = self.context.leaves(name)
                if leaves == (name,):
                    self.values[name] = self._load(self.context.stored[name])
                else:
                    self.values[name] = self.context.sum_of_parts(name, [self.value(leaf) for leaf in leaves])
        return self.values[name]

    def parts(self, name: str) -> tuple[Value, ...]:
        """Values of the parts of a tensor that is stored by them, else none."""
        how = self.context.plan.stored_parts.get(name)
        if isinstance(how, Masked):
            total = self.values[how.sum].real
            return tuple(_masked(self.value(leaf), total) for leaf in how.leaves)
        if isinstance(how, Planes):
            return split_bytes(
                self.values[name], how, [self.context.plan.grids[p.name] for p in self.context.plan.parts[name]]
            )
        return ()

    def _load(self, stored: Stored) -> Value:
        rank = len(self.order)
        missing = rank - len(stored.shape)
        shape = (1,) * missing + stored.shape
        order = (*range(missing), *(axis + missing for axis in stored.order))
        aligned = self.context.ordered(Stored(stored.buffer, shape, order, stored.dtype, stored.grid), self.order)
        self.operands.append(aligned)
        return self.context.value_of(aligned, len(self.operands) - 1)

    def _channels(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, *(1,) * (len(self.shape) - 2))

    def place(self, constant: np.ndarray) -> np.ndarray:
        """A constant with its dims in the output's memory order."""
        values = np.asarray(constant, np.float64)
        if values.size == 1:
            return values.reshape(())
        padded = values.reshape((1,) * (len(self.shape) - values.ndim) + values.shape)
        placed = padded.transpose(self.order)
        if self.channels is not None and placed.shape[-1] > 1:
            return placed[..., self.channels]
        return placed


def _masked(x: Value, gate: E.Expr) -> Value:
    """A value on a grid where the gate is positive, elsewhere zero."""
    assert x.ints is not None
    assert x.grid is not None
    return on_grid(E.Mask(x.ints, gate), x.grid)


def lower_anchor(
    context: Context,
    node: Node,
    anchor: Value | None,
    order: tuple[int, ...],
    kernel: Callable[[Epilogue], Kernel],
    inputs: Sequence[Stored | int],
    label: str,
    group: Group | None = None,
    may_border: bool = False,
) -> None:
    """Run a kernel with everything elementwise behind its node fused into it, and note where the result is.

    Args:
        anchor: value of the node in terms of the kernel's accumulator; None where the node itself is elementwise.
        order: memory order of the output.
        kernel: makes the kernel, given its epilogue.
        may_border: the kernel can write the form that the convolutions behind want (`borders.py`).
    """
    group = group or grow(context, node)
    tail = build(context, group, anchor, order)
    shape = context.shape(group.output)
    if group.output in context.plan.stored_parts:
        _store_parts(context, group, tail, order, kernel, inputs, label)
        return
    form = context.plan.forms.get(group.output) if may_border and order == channels_last(len(shape)) else None
    grid = context.target_grid(group.output) if form is None else form.grid
    physical = tuple(shape[axis] for axis in order) or (1,)
    epilogue = replace(context.epilogue(tail.value, grid, tail.shapes), out_shape=physical)
    if form is not None and any(form.pads):
        epilogue = replace(epilogue, border=Border(form.pads, form.zero_point))
    buffer = context.kernel(kernel(epilogue), (*inputs, *tail.operands), label)
    stored = context.put(group.output, buffer, order, grid)
    if form is not None:
        context.stored[group.output] = replace(stored, pads=form.pads)
    context.done.update(member.output for member in group.nodes)


def _store_parts(
    context: Context,
    group: Group,
    tail: Tail,
    order: tuple[int, ...],
    kernel: Callable[[Epilogue], Kernel],
    inputs: Sequence[Stored | int],
    label: str,
) -> None:
    """Run a kernel whose group ends in a tensor that is stored by its parts."""
    names = [part.name for part in context.plan.parts[group.output]]
    shape = context.shape(group.output)
    physical = tuple(shape[axis] for axis in order) or (1,)
    grids = [context.plan.grids[name] for name in names]
    epilogue = replace(context.split_epilogue(tail.parts, grids, tail.shapes), out_shape=physical)
    buffers = context.program.run(kernel(epilogue), (*inputs, *tail.operands), label)
    for name, buffer, grid in zip(names, buffers, grids, strict=True):
        context.put(name, buffer, order, grid)
    context.done.update(member.output for member in group.nodes)
