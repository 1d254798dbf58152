"""State of one lowering: the program so far, where each tensor is stored, and conversions between forms of storage."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from drpai_qat.core.coverage import LoweredNode
from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, QUANTIZE, Array, Graph, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.layer_weights import NO_OPERAND_RANGE, NO_RANGE
from drpai_qat.graph.parts import Planes
from drpai_qat.kernels import expr as E
from drpai_qat.kernels import movement
from drpai_qat.kernels.epilogue import Epilogue, Kernel, Operand, Output
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.pointwise import pointwise
from drpai_qat.kernels.prepare import prepare
from drpai_qat.lowering.arithmetic import OUTRUN
from drpai_qat.lowering.elementwise import Value, on_grid, snap, split_bytes
from drpai_qat.lowering.network_plan import NetworkPlan
from drpai_qat.lowering.program import Program
from drpai_qat.lowering.storage import Form, Stored, channels_last, row_major
from drpai_qat.lowering.window import image_dims

FLOAT_INPUT = "the network's input is float32"
FLOAT_OUTPUT = "the network's output is float32"

_ONNX = {FAKE_QUANT: "QuantizeLinear", QUANTIZE: "QuantizeLinear", DEQUANTIZE: "DequantizeLinear"}


@dataclass
class Context:
    """What the lowering of each operator reads and appends to.

    Attributes:
        graph, isa, plan: what is lowered, for which machine, and what was decided of it; not changed.
        program: the kernels so far.
        stored: where each tensor is that has been computed or read.
        done: outputs of nodes that a kernel in the program computes already, fused into an earlier node's.
        coverage: what became of each node, for the report.
        consumers: the nodes that read a tensor.
        positions: of a node in the graph, by its output.
    """

    graph: Graph
    isa: Isa
    plan: NetworkPlan
    program: Program = field(default_factory=Program)
    stored: dict[str, Stored] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    coverage: list[LoweredNode] = field(default_factory=list)
    consumers: dict[str, list[Node]] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    _part_of: dict[str, str] = field(default_factory=dict)
    _converted: dict[tuple[object, ...], Stored] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.consumers = self.graph.consumers()
        self.positions = {node.output: i for i, node in enumerate(self.graph.nodes)}
        self._part_of = {part.name: name for name in self.plan.stored_parts for part in self.plan.parts[name]}

    def shape(self, name: str) -> tuple[int, ...]:
        """ONNX shape of a tensor."""
        return self.graph.shapes[name]

    def producer(self, name: str) -> Node | None:
        """The node whose first output a tensor is."""
        return self.graph.nodes[self.positions[name]] if name in self.positions else None

    def target_grid(self, name: str) -> Grid | None:
        """The grid on which a tensor is stored; None for float32."""
        return self.plan.target_grid(name)

    def record(self, node: Node, compute: str, macs: int = 0, reason: str = "") -> None:
        """Note what became of a node, for the report; of a float one whose reason is not given, it is looked for."""
        if reason == NO_RANGE and node.output in self.plan.outrun:
            reason = OUTRUN
        if compute == "float32" and not reason:
            reason = self.why_float(node, node.output)
        self.coverage.append(LoweredNode(node.name, _ONNX.get(node.op, node.op), compute, macs, reason))

    def why_float(self, node: Node, output: str) -> str:
        """Which tensor keeps a node out of integers.

        Args:
            output: what leaves the kernel that computes the node.
        """
        read = [name for name in node.inputs if name and not self.graph.is_constant(name)]
        unranged = [name for name in read if any(self._is_float(leaf) for leaf in self.leaves(name))]
        if any(name in self.graph.inputs for name in unranged):
            return FLOAT_INPUT
        if unranged:
            return NO_RANGE if len(read) == 1 else NO_OPERAND_RANGE
        return FLOAT_OUTPUT if output in self.graph.outputs else "its output has no trained range"

    def _is_float(self, name: str) -> bool:
        return name in self.stored and self.stored[name].dtype == "float32"

    def operand(self, name: str) -> Stored:
        """Where a tensor is; constants become buffers when first read, and parts are put together, or made."""
        if name not in self.stored and name in self.plan.parts:
            self.stored[name] = self._whole(name)
        if name not in self.stored and name in self._part_of:
            self._split(self._part_of[name])
        if name not in self.stored:
            value = self.graph.constant(name)
            if value is None:
                raise KeyError(name)
            self.stored[name] = self._constant(name, value)
        return self.stored[name]

    def leaves(self, name: str) -> tuple[str, ...]:
        """The stored tensors whose sum a tensor is: itself, or its parts."""
        parts = () if name in self.stored else self.plan.parts.get(name, ())
        return tuple(part.name for part in parts) or (name,)

    def sum_of_parts(self, name: str, parts: Sequence[Value]) -> Value:
        """The real value of a tensor from the values of its `leaves`."""
        how = self.plan.stored_parts.get(name)
        if not isinstance(how, Planes):
            return functools.reduce(_added, parts)
        integer: E.Expr | None = None
        for part in parts:  # from the highest byte on; 24 bits fit float32
            assert part.ints is not None
            integer = part.ints if integer is None else E.Binary("add", E.affine(integer, 256.0), part.ints)
        assert integer is not None
        return Value(E.affine(integer, how.scale))

    def _whole(self, name: str) -> Stored:
        """A tensor in float32, put together from its parts."""
        node = self.graph.nodes[self.positions[name]]
        if node.op == "Concat" and name not in self.plan.stored_parts:
            return self._concatenated(name, node)
        leaves = [self.operand(leaf) for leaf in self.leaves(name)]
        order = leaves[0].order
        leaves = [self.ordered(leaf, order) for leaf in leaves]
        value = self.sum_of_parts(name, [self.value_of(leaf, i) for i, leaf in enumerate(leaves)])
        operands = tuple(Operand(leaf.physical, leaf.dtype) for leaf in leaves)
        kernel = pointwise(leaves[0].physical, Epilogue(value.real, "float32", 0, operands), self.isa)
        return Stored(self.kernel(kernel, leaves, "join"), self.shape(name), order, "float32")

    def _concatenated(self, name: str, node: Node) -> Stored:
        rank = len(self.shape(name))
        order = channels_last(rank)
        parts = [self.converted(self.ordered(self.operand(part), order), None) for part in node.inputs]
        kernel = movement.concat(tuple(part.physical for part in parts), rank - 1, "float32", self.isa)
        return Stored(self.kernel(kernel, parts, "concat"), self.shape(name), order, "float32")

    def _split(self, name: str) -> None:
        """Store the parts of a tensor that was computed in float32."""
        data, how = self.stored[name], self.plan.stored_parts[name]
        assert isinstance(how, Planes)
        names = [part.name for part in self.plan.parts[name]]
        grids = [self.plan.grids[part] for part in names]
        values = split_bytes(self.value_of(data, 0), how, grids)
        epilogue = self.split_epilogue(values, grids, (Operand(data.physical, data.dtype),))
        buffers = self.program.run(pointwise(data.physical, epilogue, self.isa), (data,), "split")
        for part, buffer, grid in zip(names, buffers, grids, strict=True):
            self.put(part, buffer, data.order, grid)

    def _constant(self, name: str, value: Array) -> Stored:
        grid = self.target_grid(name)
        array = value if value.dtype.kind != "f" else value.astype(np.float32)
        return Stored(
            self.program.constant_buffer(array), tuple(value.shape), row_major(value.ndim), array.dtype.name, grid
        )

    def kernel(self, kernel: Kernel, inputs: Sequence[Stored | int], label: str) -> int:
        """Append a kernel; returns the buffer it writes."""
        (buffer,) = self.program.run(kernel, tuple(inputs), label)
        return buffer

    def ordered(self, stored: Stored, order: tuple[int, ...]) -> Stored:
        """The tensor with its axes in this memory order; moves elements only where memory differs."""
        if stored.ordered_as(order):
            return stored.in_order(order)
        key = ("order", stored.buffer, stored.shape, stored.order, order)
        if key not in self._converted:
            permutation = tuple(stored.order.index(axis) for axis in order)
            kernel = movement.transpose(stored.physical, permutation, stored.dtype, self.isa)
            buffer = self.kernel(kernel, (stored,), "transpose")
            self._converted[key] = replace(stored, buffer=buffer, order=order)
        return self._converted[key]

    def value_of(self, stored: Stored, index: int) -> Value:
        """The tensor as operand `index` of an expression."""
        if stored.grid is None:
            return Value(E.Load(index))
        load = E.Load(index, stored.grid.qmin, stored.grid.qmax)
        return on_grid(E.affine(load, 1.0, -stored.grid.zero_point), stored.grid)

    def converted(self, stored: Stored, grid: Grid | None) -> Stored:
        """The tensor on another grid, or as float32 for None; the same memory order."""
        if grid is None and stored.grid is None:
            return stored
        if grid is not None and stored.grid is not None and grid.same_steps(stored.grid):
            return stored
        key = ("grid", stored.buffer, stored.shape, stored.order, grid)
        if key not in self._converted:
            epilogue = self.epilogue(self.value_of(stored, 0), grid, (Operand(stored.physical, stored.dtype),))
            kernel = pointwise(stored.physical, epilogue, self.isa)
            buffer = self.kernel(kernel, (stored,), "convert")
            self._converted[key] = replace(stored, buffer=buffer, dtype=epilogue.out_dtype, grid=grid)
        return self._converted[key]

    def in_form(self, stored: Stored, form: Form, groups: int = 1) -> Stored | int:
        """A channels-last tensor as a product reads it; copies where it is not stored so.

        Args:
            stored: on the form's grid, or on 8 bits of which the form is the int16 without a zero point.
            groups: of its channels, each of which is filled up with zeros.
        """
        if form.is_of(stored):
            return stored
        subtract = stored.grid.zero_point if stored.grid is not None and form.dtype == "int16" else 0
        kernel = prepare(
            image_dims(stored.shape), form.pads, groups, form.channels // groups, stored.dtype, form.dtype, subtract,
            float(form.zero_point), self.isa, extra_rows=form.extra_rows,
        )  # fmt: skip
        return self.kernel(kernel, (stored,), "prepare")

    def epilogue(self, value: Value, grid: Grid | None, operands: tuple[Operand, ...]) -> Epilogue:
        """The tail that stores a value on a grid, or as float32 for None."""
        if grid is None:
            return Epilogue(value.real, "float32", 0, operands)
        if value.ints is None or not (grid.same_steps(value.grid) or grid.covers(value.grid)):
            value = snap(value, grid)
        assert value.ints is not None
        return Epilogue(value.ints, grid.dtype, grid.zero_point, operands)

    def split_epilogue(self, values: Sequence[Value], grids: Sequence[Grid], operands: tuple[Operand, ...]) -> Epilogue:
        """The tail that stores several values of one element, each on a grid of its own."""
        first, *others = (self.epilogue(value, grid, operands) for value, grid in zip(values, grids, strict=True))
        more = tuple(Output(one.expr, one.out_dtype, one.zero_point) for one in others)
        return replace(first, more=more)

    def put(self, name: str, buffer: int, order: tuple[int, ...], grid: Grid | None, dtype: str = "float32") -> Stored:
        """Note where a new tensor is."""
        stored = Stored(buffer, self.shape(name), order, grid.dtype if grid else dtype, grid)
        self.stored[name] = stored
        return stored


def _added(x: Value, y: Value) -> Value:
    return Value(E.Binary("add", x.real, y.real))
