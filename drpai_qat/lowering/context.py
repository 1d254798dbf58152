"""State of one lowering: the program so far, where each tensor is stored, and conversions between forms of storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from drpai_qat.core.coverage import LoweredNode
from drpai_qat.graph.canonical import Array, Graph, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.kernels import expr as E
from drpai_qat.kernels import movement
from drpai_qat.kernels.epilogue import Epilogue, Kernel, Operand
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.pointwise import pointwise
from drpai_qat.kernels.prepare import prepare
from drpai_qat.lowering.elementwise import Value, on_grid, snap
from drpai_qat.lowering.network_plan import NetworkPlan
from drpai_qat.lowering.program import Program
from drpai_qat.lowering.storage import Form, Stored, row_major
from drpai_qat.lowering.window import image_dims


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
    _converted: dict[tuple[object, ...], Stored] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.consumers = self.graph.consumers()
        self.positions = {node.output: i for i, node in enumerate(self.graph.nodes)}

    def shape(self, name: str) -> tuple[int, ...]:
        """ONNX shape of a tensor."""
        return self.graph.shapes[name]

    def target_grid(self, name: str) -> Grid | None:
        """The grid on which a tensor is stored; None for float32."""
        return self.plan.target_grid(name)

    def record(self, node: Node, compute: str, macs: int = 0, reason: str = "") -> None:
        """Note what became of a node, for the report."""
        self.coverage.append(LoweredNode(node.name, node.op, compute, macs, reason))

    def operand(self, name: str) -> Stored:
        """Where a tensor is; constants become buffers when first read."""
        if name not in self.stored:
            value = self.graph.constant(name)
            if value is None:
                raise KeyError(name)
            self.stored[name] = self._constant(name, value)
        return self.stored[name]

    def _constant(self, name: str, value: Array) -> Stored:
        grid = self.target_grid(name)
        array = value if value.dtype.kind != "f" else value.astype(np.float32)
        return Stored(
            self.program.constant_buffer(array), tuple(value.shape), row_major(value.ndim), array.dtype.name, grid
        )

    def kernel(self, kernel: Kernel, inputs: Sequence[Stored | int], label: str) -> int:
        """Append a kernel; returns the buffer it writes."""
        return self.program.run(kernel, tuple(inputs), label)

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
        load = E.Load(index)
        if stored.grid is None:
            return Value(load)
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

    def put(self, name: str, buffer: int, order: tuple[int, ...], grid: Grid | None, dtype: str = "float32") -> Stored:
        """Note where a new tensor is."""
        stored = Stored(buffer, self.shape(name), order, grid.dtype if grid else dtype, grid)
        self.stored[name] = stored
        return stored
