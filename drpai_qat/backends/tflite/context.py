"""What the writers of operators share: the graph, the file under construction, and how tensors are stored in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.backends.tflite import grids as G
from drpai_qat.backends.tflite.flatbuffer import FlatFile, activation, tensor_type
from drpai_qat.backends.tflite.grids import LiteGrid, Target
from drpai_qat.backends.tflite.observed import Range
from drpai_qat.backends.tflite.stored import Stored, row_major
from drpai_qat.backends.tflite.tail import FUSED, Tail, follow
from drpai_qat.core.errors import LoweringError
from drpai_qat.graph.canonical import Graph, Node

Emit = Callable[[int, int], None]
"""Writes an operator, given the index of its output tensor and the number of its fused activation."""

_MOVING = (
    "RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "PAD", "PADV2", "MIRROR_PAD", "CONCATENATION", "GATHER", "TILE",
    "DEPTH_TO_SPACE", "SPACE_TO_DEPTH",
)  # fmt: skip

NO_RANGE = "has no trained range and no bound: give --samples, or train it with a fake-quant there"


class RefusedError(Exception):
    """An operator that TFLite can't express in integers; the message is the reason."""


@dataclass(frozen=True)
class Written:
    """What became of a node.

    Attributes:
        compute: "int8", "int16", "float32" or "view".
        operators: TFLite's operators it was written as.
        reason: why it is not int8.
    """

    node: str
    op: str
    compute: str
    operators: tuple[str, ...]
    macs: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Derived:
    """A tensor whose grid training did not give.

    Attributes:
        source: "data" that the user gave, or the "bounds" that follow from its operands' ranges.
    """

    tensor: str
    grid: LiteGrid
    source: str

    def to_json(self) -> dict[str, Any]:
        """As it stands in deploy.json."""
        grid = self.grid
        return {
            "tensor": self.tensor, "scale": grid.scale, "zero_point": grid.zero_point, "dtype": grid.dtype,
            "source": self.source,
        }  # fmt: skip


@dataclass
class Context:
    """State of one writing.

    Attributes:
        graph: the canonical graph.
        bounds: of tensors, by interval arithmetic.
        observed: ranges of tensors that data showed, where there is data.
        float_only: the file holds no integers.
        stored: how each tensor is stored that is computed already.
        done: outputs of nodes that a node before them took in.
        factors: numbers that the Softmax that reads a tensor multiplies it with.
    """

    graph: Graph
    consumers: dict[str, list[Node]]
    producers: dict[str, Node]
    bounds: dict[str, Range]
    observed: Mapping[str, Range]
    float_only: bool = False
    file: FlatFile = field(default_factory=FlatFile)
    stored: dict[str, Stored] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    factors: dict[str, float] = field(default_factory=dict)
    coverage: list[Written] = field(default_factory=list)
    derived: list[Derived] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    _kinds: list[str] = field(default_factory=list)
    _reshaped_from: dict[int, int] = field(default_factory=dict)
    _converted: dict[tuple[int, Any], Stored] = field(default_factory=dict)

    # --- the graph

    def shape(self, name: str) -> tuple[int, ...]:
        """ONNX shape of a tensor."""
        return self.graph.shapes[name]

    def tail(self, node: Node, real: bool, channels: tuple[int, int] | None = None) -> Tail:
        """What the node's own rounding takes in; see `tail.follow`."""
        return follow(self.graph, self.consumers, node, channels, real)

    def integers(self, node: Node, index: int, attribute: str) -> list[int] | None:
        """Constant integers that are an input, in later opsets, or an attribute, in older ones."""
        if len(node.inputs) > index and node.inputs[index]:
            value = self.graph.constant(node.inputs[index])
            return None if value is None else [int(v) for v in value.reshape(-1)]
        found = node.attributes.get(attribute)
        return None if found is None else [int(v) for v in found]

    # --- operators and tensors

    def emit(self, kind: str, inputs: list[int], outputs: list[int], table: str = "", **options: Any) -> None:
        """Append an operator, and note it for the coverage of the current node.

        Raises: RefusedError: an option is larger than the file's 32 bits, or what is moved would change its type.
        """
        for name, value in options.items():
            if isinstance(value, int) and not -(2**31) <= value < 2**31:
                raise RefusedError(f"its {name} {value} does not fit a TFLite file")
        if kind in _MOVING and self.file.types[inputs[0]] != self.file.types[outputs[0]]:  # LiteRT copies bytes there
            raise RefusedError(f"it would move {self.file.types[inputs[0]]} into {self.file.types[outputs[0]]}")
        self.file.operator(kind, inputs, outputs, **({"table": table, **options} if table else {}))
        self._kinds.append(kind)

    def new(
        self, name: str, shape: tuple[int, ...], order: tuple[int, ...], grid: LiteGrid | None, dtype: str = "float32"
    ) -> Stored:
        """A tensor to be computed: of `dtype` without a grid."""
        dtype = dtype if grid is None else grid.dtype
        index = self.file.tensor(name, tuple(shape[a] for a in order), dtype, grid)
        return Stored(index, shape, order, grid)

    def ints(self, values: Any) -> int:
        """A constant of int32: axes, shapes, paddings."""
        array = np.asarray(values, np.int32)
        return self.file.constant(f"const/{'_'.join(map(str, array.reshape(-1)[:8]))}", array)

    def record(self, node: Node, compute: str, macs: int = 0, reason: str = "") -> None:
        """Note what became of a node."""
        self.coverage.append(Written(node.name, node.op, compute, tuple(self._kinds), macs, reason))
        self._kinds.clear()

    def forget(self) -> None:
        """Drop what was noted of a node that was refused half-way; its operators are left out as nothing reads them."""
        self._kinds.clear()

    def keep(self, name: str, stored: Stored) -> None:
        """A tensor of the graph is stored so."""
        self.stored[name] = stored

    # --- operands

    def operand(self, name: str, real: bool) -> Stored:
        """A tensor that is not a constant, float32 or on a grid as asked.

        Raises: RefusedError: it has no grid, and one is asked for; or it holds positions.
        """
        if name not in self.stored:
            raise LoweringError(f"tensor {name!r} is not computed by any node")
        stored = self.stored[name]
        if stored.columns is not None:
            raise LoweringError(f"tensor {name!r} is flattened with its channels last")  # `flattens_for_matrix` knows
        if not self.is_real(stored):
            raise RefusedError(f"its input {name!r} is {self.file.types[stored.tensor]}: positions, no activation")
        if real:
            return self.as_float(stored)
        if stored.grid is None:
            raise RefusedError(f"its input {name!r} is float32: it {NO_RANGE}")
        return stored

    def is_real(self, stored: Stored) -> bool:
        """False of positions, which are int64 and stand for themselves."""
        return stored.grid is not None or self.file.types[stored.tensor] == "float32"

    def ordered(self, stored: Stored, order: tuple[int, ...]) -> Stored:
        """The tensor with its axes in this order; moves elements only where it must."""
        if stored.order == order:
            return stored
        key = (stored.tensor, ("order", stored.shape, stored.order, order))
        if key in self._converted:
            return self._converted[key]
        name = self.file.tensors[stored.tensor].name
        result = self.new(f"{name}:ordered", stored.shape, order, stored.grid, self.file.types[stored.tensor])
        if stored.same_elements(order):
            self.reshape(stored.tensor, result.tensor)
        else:
            permutation = [stored.order.index(axis) for axis in order]
            self.emit("TRANSPOSE", [stored.tensor, self.ints(permutation)], [result.tensor], "TransposeOptions")
        self._converted[key] = result
        return result

    def reshape(self, source: int, target: int) -> None:
        """RESHAPE to the shape that the target has; of what was only reshaped before, the tensor before that."""
        source = self._reshaped_from.get(source, source)
        self._reshaped_from[target] = source
        shape = self.file.shapes[target]
        self.emit(
            "RESHAPE", [source, self.ints(shape)], [target], "ReshapeOptions", newShape=np.asarray(shape, np.int32)
        )

    def reshaped(self, stored: Stored, shape: tuple[int, ...]) -> Stored:
        """The same elements, row-major, in another shape; the operator is left out where nothing changes."""
        name = self.file.tensors[stored.tensor].name
        return self.view(stored.tensor, f"{name}:reshaped", shape, row_major(len(shape)), stored.grid)

    def view(
        self, source: int, name: str, shape: tuple[int, ...], order: tuple[int, ...], grid: LiteGrid | None
    ) -> Stored:
        """The elements of a tensor, in their sequence, under another shape; written only where that is one."""
        origin = self._reshaped_from.get(source, source)
        physical = tuple(shape[axis] for axis in order)
        for known in (source, origin):
            if self.file.shapes[known] == physical:
                return Stored(known, shape, order, grid)
        made = self.new(name, shape, order, grid, self.file.types[source])
        self.reshape(source, made.tensor)
        return made

    def on_grid(self, stored: Stored, grid: LiteGrid) -> Stored:
        """The tensor on another grid."""
        if stored.grid == grid:
            return stored
        key = (stored.tensor, grid)
        if key not in self._converted:
            name = self.file.tensors[stored.tensor].name
            made = self.new(f"{name}:{grid.dtype}", stored.shape, stored.order, grid)
            self.requantize(stored, made, activation("NONE"))
            self._converted[key] = made
        return replace(stored, tensor=self._converted[key].tensor, grid=grid)

    def requantize(self, source: Stored, made: Stored, fused: int) -> None:
        """Round a tensor to another grid.

        QUANTIZE is exact where only the zero point changes or 16 bits are on one side. Between two scales of 8 bits,
        its kernels lose up to half a step: XNNPACK's multiply with 8 bits, the plain ones round twice, after a bit.
        A sum with 0 has an accumulator of 28 bits, and rounds right in both.
        """
        old, new = source.grid, made.grid
        narrow = old is not None and new is not None and (old.dtype, new.dtype) == ("int8", "int8")
        if narrow and old is not None and new is not None and old.scale != new.scale:
            values = np.full((1,) * max(len(source.shape), 1), old.zero_point, np.int8)
            zero = self.file.constant("const/zero", values, old)
            check_sum(old.scale, new)
            self.emit("ADD", [source.tensor, zero], [made.tensor], "AddOptions", fusedActivationFunction=fused)
        else:
            self.emit("QUANTIZE", [source.tensor], [made.tensor], "QuantizeOptions")

    def as_float(self, stored: Stored) -> Stored:
        """The tensor as float32."""
        if stored.grid is None:  # float32, or positions
            return stored
        key = (stored.tensor, None)
        if key not in self._converted:
            name = self.file.tensors[stored.tensor].name
            made = self.new(f"{name}:float32", stored.shape, stored.order, None)
            self.emit("DEQUANTIZE", [stored.tensor], [made.tensor], "DequantizeOptions")
            self._converted[key] = made
        return replace(stored, tensor=self._converted[key].tensor, grid=None)

    def wide(self, stored: Stored) -> Stored:
        """The tensor as int16, exactly."""
        assert stored.grid is not None
        return self.on_grid(stored, G.widened(stored.grid))

    # --- results

    def target(self, tail: Tail, low: float = -math.inf, high: float = math.inf) -> Target:
        """The grid of a result.

        Args:
            low, high: what the writer knows of the values, besides their bounds.
        Raises: RefusedError: there is none.
        """
        if tail.params is not None:
            found = None if tail.params.per_channel else G.target_of(tail.params, tail.low, tail.high)
            if found is None:
                raise RefusedError(f"the grid of {tail.output!r} does not exist in TFLite")
            return found
        grid = self.derived_grid(tail.output, max(low, tail.low), min(high, tail.high))
        return Target(grid, grid.steps(tail.low), grid.steps(tail.high))

    def derived_grid(self, name: str, low: float = -math.inf, high: float = math.inf) -> LiteGrid:
        """A grid for a tensor that training left without one: from data, else from its bounds.

        int16, as rounding to 8 bits would change most integers of the layers behind; int8 for the network's own
        inputs and outputs. Data may not show the largest values: int16 leaves room for twice as much.
        """
        edge = name in self.graph.outputs or name in self.graph.inputs
        shown, bound = self.observed.get(name), self.bounds.get(name, (-math.inf, math.inf))
        low, high = max(low, bound[0]), min(high, bound[1])
        if shown is not None:
            room = 1.0 if edge else 2.0
            low, high = max(low, room * shown[0]), min(high, room * shown[1])
            source = "data"
        elif math.isfinite(low) and math.isfinite(high):
            source = "bounds"
        else:
            raise RefusedError(f"its output {name!r} {NO_RANGE}")
        grid = G.asymmetric_int8(low, high) if edge else G.symmetric_int16(max(abs(low), abs(high)))
        self.derived.append(Derived(name, grid, source))
        return grid

    def finish(
        self,
        node: Node,
        tail: Tail,
        order: tuple[int, ...],
        target: Target | None,
        emit: Emit,
        *,
        wide: bool = False,
        fuses: bool = True,
    ) -> Stored:
        """Write an operator with its tail, and keep its result.

        Args:
            order: memory order of the result.
            target: its grid; None: float32.
            emit: writes the operator itself.
            wide: the operator's own result is int16, to be rounded to an int8 grid next.
            fuses: it has a fused activation.
        """  # fmt: skip
        shape = self.shape(tail.output)
        if target is None:
            made = self.new(tail.output, shape, order, None)
            fused = FUSED.get((tail.low, tail.high), "NONE") if fuses else "NONE"
            emit(made.tensor, activation(fused))
            if fused == "NONE" and (tail.low, tail.high) != (-math.inf, math.inf):
                made = self.limited(made, tail.low, tail.high, tail.output)
        else:
            fused, rest = "NONE", target
            if wide and target.grid.dtype == "int8":
                first = self.new(f"{tail.output}:int16", shape, order, G.finer(target))
                emit(first.tensor, activation("NONE"))
                made = self.new(tail.output, shape, order, target.grid)
                self.emit("QUANTIZE", [first.tensor], [made.tensor], "QuantizeOptions")
            else:
                if fuses:
                    fused, rest = fused_activation(target)
                made = self.new(tail.output, shape, order, target.grid)
                emit(made.tensor, activation(fused))
            made = self.limited_steps(made, rest, tail.output)
        self.keep(tail.output, made)
        self.done.update(one.output for one in tail.nodes)
        return made

    def limited_steps(self, stored: Stored, target: Target, name: str) -> Stored:
        """Limits of integers that neither the type nor a fused activation makes: MAXIMUM and MINIMUM."""
        low, high = target.grid.limits
        for kind, step, needed in (
            ("MAXIMUM", target.low, target.low > low),
            ("MINIMUM", target.high, target.high < high),
        ):
            if needed:
                values = np.full((1,) * max(len(stored.shape), 1), step, target.grid.dtype)
                stored = self._limit(stored, kind, values, name)
        return stored

    def limited(self, stored: Stored, low: float, high: float, name: str) -> Stored:
        """Limits of a float32 tensor."""
        if (low, high) == (0.0, math.inf):
            made = self.new(f"{name}:limited", stored.shape, stored.order, None)
            self.emit("RELU", [stored.tensor], [made.tensor])
            return made
        for kind, end in (("MAXIMUM", low), ("MINIMUM", high)):
            if math.isfinite(end):
                stored = self._limit(stored, kind, np.full((1,) * max(len(stored.shape), 1), end, np.float32), name)
        return stored

    def _limit(self, stored: Stored, kind: str, values: NDArray[Any], name: str) -> Stored:
        constant = self.file.constant(f"{name}:{kind.lower()}:limit", values, stored.grid)
        made = self.new(f"{name}:{kind.lower()}", stored.shape, stored.order, stored.grid)
        self.emit(kind, [stored.tensor, constant], [made.tensor], "MaximumMinimumOptions")
        return made

    def cast(self, source: int, name: str, dtype: str) -> int:
        """The integers of a tensor as another type, without a grid."""
        made = self.file.tensor(name, self.file.shapes[source], dtype)
        self.emit(
            "CAST", [source], [made], "CastOptions",
            inDataType=tensor_type(self.file.types[source]), outDataType=tensor_type(dtype),
        )  # fmt: skip
        return made


def check_sum(scale: float, result: LiteGrid) -> None:
    """Kernels of ADD and SUB end the process where the result's grid is that much finer than an operand's.

    Raises: RefusedError: it is.
    """
    shift = 20 if result.dtype == "int8" else 15
    if 2 * scale / (2.0**shift * result.scale) >= 1:
        raise RefusedError(f"its scales are degenerate: {scale:.3g} of an operand, {result.scale:.3g} of the result")


def fused_activation(target: Target) -> tuple[str, Target]:
    """The fused activation that makes most of a target's limits, and the target with the limits it leaves."""
    grid = target.grid
    least, largest = grid.limits
    best, rest, left = "NONE", target, target.clamps
    for (low, high), name in FUSED.items():
        ends = (max(least, grid.steps(low)) if np.isfinite(low) else least, grid.steps(high))
        if ends[0] <= target.low and target.high <= ends[1]:
            after = Target(
                grid, least if ends[0] == target.low else target.low, largest if ends[1] == target.high else target.high
            )
            if after.clamps < left:
                best, rest, left = name, after, after.clamps
    return best, rest


def compute_of(grid: LiteGrid | None) -> str:
    """How a result on this grid was computed, for the coverage."""
    return "float32" if grid is None else "int16" if grid.dtype == "int16" else "int8"
