"""The epilogue: the steps between a kernel's accumulator and the one store of its output element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels import expr as E
from drpai_qat.kernels.emit import constants_of, emit
from drpai_qat.kernels.isa import Isa, Vector, round_to_int, span, splat, vector
from drpai_qat.kernels.loops import byte_lanes, sweep
from drpai_qat.kernels.narrow import narrow, registers_per_pack

Constant = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Operand:
    """A tensor an epilogue reads beside the accumulator.

    Attributes:
        shape: as stored, the output's rank, each dim 1 or the output's.
        dtype: uint8, int8, int16, uint16, int32 or float32.
    """

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Border:
    """Pixels around an output image that the kernel fills, so that the convolution behind need not copy it.

    Attributes:
        pads: top, left, bottom, right.
        value: of these pixels, as stored: the output's zero point.
    """

    pads: tuple[int, int, int, int]
    value: int


@dataclass(frozen=True)
class Output:
    """One more output of a kernel, of the first one's shape.

    Attributes:
        expr, dtype, zero_point: as those of `Epilogue`.
    """

    expr: E.Expr
    dtype: str
    zero_point: int = 0


@dataclass(frozen=True)
class Epilogue:
    """Elementwise tail of a kernel.

        out = cast(round(expr) + zero_point)      integer outputs; expr must be an integer by construction
        out = expr                                float32 outputs

    Attributes:
        expr: value of one output element; see `expr.py`.
        out_dtype: uint8, int8, int16, uint16, int32 or float32.
        zero_point: added after rounding; 0 for float32.
        operands: the tensors that the tree's Load nodes index.
        out_shape: the output's dims as operands and constants broadcast against them, where they are not the
            kernel's own (the rows of a matrix product may be several dims); same element order, same last dim.
        border: of outputs (N, H, W, C), for kernels that call `EpilogueEmitter.fill_border`.
        more: further outputs, which the same accumulators give; for kernels that return `more_dtypes`.
    """

    expr: E.Expr
    out_dtype: str
    zero_point: int = 0
    operands: tuple[Operand, ...] = ()
    out_shape: tuple[int, ...] | None = None
    border: Border | None = None
    more: tuple[Output, ...] = ()

    def __post_init__(self) -> None:
        integers = frozenset(i for i, one in enumerate(self.operands) if one.dtype.endswith(("int8", "int16")))
        for output in self.outputs:
            if output.dtype != "float32" and not E.is_integer(output.expr, integers):
                raise ValueError(f"{output.dtype} output of an expression that is not rounded to integers")
        if self.more and self.border is not None:
            raise ValueError("a border belongs to one output")

    @property
    def outputs(self) -> tuple[Output, ...]:
        """All outputs, in the order of the kernel's arguments."""
        return (Output(self.expr, self.out_dtype, self.zero_point), *self.more)

    @property
    def roots(self) -> tuple[E.Expr, ...]:
        """The expressions of all outputs."""
        return tuple(output.expr for output in self.outputs)

    @property
    def more_dtypes(self) -> tuple[str, ...]:
        """For `Kernel.more`."""
        return tuple(output.dtype for output in self.more)

    def evaluate(self, acc: Constant | None, operands: list[Constant]) -> Constant:
        """The first stored output, computed in numpy: bit for bit as the emitted code does, but for exp and its kin."""
        return self.evaluate_all(acc, operands)[0]

    def evaluate_all(self, acc: Constant | None, operands: list[Constant]) -> list[Constant]:
        """The same, of every output."""
        results: list[Constant] = []
        for output in self.outputs:
            value = E.evaluate(output.expr, acc, operands)
            if output.dtype == "float32":
                results.append(value)
            else:
                results.append((np.rint(value).astype(np.int64) + output.zero_point).astype(output.dtype))
        return results


@dataclass(frozen=True)
class Kernel:
    """A compiled-to-be function and the constants it is called with.

    Arguments of `func`, in order: the kernel's inputs, the epilogue's operands, `constants`, the outputs; all of them
    flat (one-dimensional, row-major), whatever the shape.

    Attributes:
        more: dtypes of further outputs, of the first one's shape.
    """

    func: tirx.PrimFunc
    constants: tuple[Constant, ...]
    out_shape: tuple[int, ...]
    out_dtype: str
    more: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Row:
    """One output row: a pixel, counted over the images, and where it starts in the output as stored."""

    number: Any
    place: Any


def largest_acc(dtype: str) -> float:
    """Bound of the magnitude of accumulators of this type."""
    return math.inf if dtype == "float32" else E.INT32


class EpilogueEmitter:
    """Emits one epilogue inside a kernel under construction.

    All numbers travel as arguments, so two layers that differ only in their scales share one compiled function.
    Use, in this order: declare the kernel's inputs, `declare_operands()`, the kernel's own constants,
    `declare_constants()`, `declare_output()`; then `fill_border()`, where supported, and `store()` for each vector.
    """

    def __init__(self, epilogue: Epilogue, out_shape: tuple[int, ...], isa: Isa, largest_acc: float = E.INT32) -> None:
        """See above.

        Args:
            largest_acc: bound of the accumulator's magnitude; infinite for float32.
        """
        self.epilogue = epilogue
        self._largest_acc = largest_acc
        assert epilogue.out_shape is None or epilogue.out_shape[-1] == out_shape[-1], "rows of another length"
        self._image = out_shape
        self.out_shape = out_shape = epilogue.out_shape or out_shape
        self.isa = isa
        self._channels = out_shape[-1]
        self._slots: dict[tuple[int, str], tuple[str, int]] = {}
        self._tables: dict[int, int] = {}
        scalars: list[float] = []
        vectors: list[Constant] = []
        self._full: list[Constant] = []
        self._table_values: list[Constant] = []
        for node in E.walk(*epilogue.roots):
            if isinstance(node, E.Table):
                self._tables[id(node)] = len(self._table_values)
                self._table_values.append(np.ascontiguousarray(node.values, np.float32))
            for name, values in constants_of(node):
                self._slots[id(node), name] = self._slot(values, scalars, vectors)
        if epilogue.border is not None:
            self._border_slot = len(scalars)
            scalars.append(float(epilogue.border.value))
        self._zero_slots: list[int | None] = []
        for output in epilogue.outputs:
            self._zero_slots.append(len(scalars) if output.zero_point else None)
            if output.zero_point:
                scalars.append(float(output.zero_point))
        self._scalars = np.asarray(scalars, np.float32)
        self._limits = self._saturated_limits()
        self._vectors = np.asarray(vectors, np.float32).reshape(len(vectors), self._channels)

    def _saturated_limits(self) -> tuple[bool, bool] | None:
        """Whether the lower and the upper limit of the final rounding are tighter than the output's dtype.

        None where the limits cannot be left to the saturation of `narrow`: then the value is clamped before rounding.
        """
        root, dtype, zero_point = self.epilogue.expr, self.epilogue.out_dtype, self.epilogue.zero_point
        if not isinstance(root, E.Snap) or registers_per_pack(self.isa, dtype) == 1 or self.epilogue.more:
            return None
        dtypes = [operand.dtype for operand in self.epilogue.operands]
        if not E.magnitude(root.x, dtypes, self._largest_acc) < E.INT32 - 2**17:
            return None
        limits = np.iinfo(dtype)
        return root.lo + zero_point > limits.min, root.hi + zero_point < limits.max

    def _slot(self, values: Constant, scalars: list[float], vectors: list[Constant]) -> tuple[str, int]:
        if values.size == 1:
            scalars.append(float(values.item()))
            return "scalar", len(scalars) - 1
        if values.shape[-1] == values.size == self._channels:
            vectors.append(values.reshape(-1))
            return "vector", len(vectors) - 1
        shape = (1,) * (len(self.out_shape) - values.ndim) + values.shape
        self._full.append(np.ascontiguousarray(values.reshape(shape), np.float32))
        return "full", len(self._full) - 1

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The output's dims in memory, its border included."""
        if self.epilogue.border is None:
            return self.out_shape
        (batch, height, width, channels), (top, left, bottom, right) = self._image, self.epilogue.border.pads
        return batch, height + top + bottom, width + left + right, channels

    @property
    def constants(self) -> tuple[Constant, ...]:
        """In the order `declare_constants` declares them."""
        some = [c for c in (self._scalars, self._vectors) if c.size]
        return tuple(c.reshape(-1) for c in (*some, *self._full, *self._table_values))

    def declare_operands(self) -> None:
        """Add the epilogue's operands to the function's arguments."""
        operands = enumerate(self.epilogue.operands)
        self._operand_buffers = [flat_arg(f"operand{i}", o.shape, o.dtype) for i, o in operands]

    def declare_constants(self) -> None:
        """Add `constants` to the function's arguments."""
        self._scalar_buffer: Any
        self._vector_buffer: Any
        self._scalar_buffer = flat_arg("scalars", self._scalars.shape, "float32") if self._scalars.size else None
        self._vector_buffer = flat_arg("vectors", self._vectors.shape, "float32") if self._vectors.size else None
        self._full_buffers = [flat_arg(f"full{i}", c.shape, "float32") for i, c in enumerate(self._full)]
        self._table_buffers = [flat_arg(f"table{i}", c.shape, "float32") for i, c in enumerate(self._table_values)]

    def declare_output(self, name: str = "out") -> None:
        """Add the outputs to the function's arguments."""
        self.outputs = [
            flat_arg(name if i == 0 else f"{name}{i}", self.stored_shape, output.dtype)
            for i, output in enumerate(self.epilogue.outputs)
        ]

    def fill_border(self) -> None:
        """Write the border, if there is one; before or after the output itself."""
        if self.epilogue.border is None:
            return
        (batch, height, width, channels), (top, left, bottom, right) = self._image, self.epilogue.border.pads
        dtype = self.epilogue.out_dtype
        value = T.Cast(dtype, T.Cast("int32", self._scalar_buffer[self._border_slot]))
        line = (width + left + right) * channels

        def fill(start: Any, count: int) -> None:
            def body(places: list[Any], lanes: int) -> None:
                for place in places:
                    T.buffer_store(self.outputs[0], splat(value, lanes), [span(start + place, lanes)])

            if count:
                sweep(count, byte_lanes(self.isa, dtype), body)

        with T.serial(batch) as image:
            first = T.Bind(image * ((height + top + bottom) * line))
            fill(first, top * line + left * channels)
            # The right border of one row and the left border of the next are neighbours.
            with T.serial(height - 1) as y:
                fill(first + (top + y) * line + (left + width) * channels, (left + right) * channels)
            fill(first + (top + height) * line - right * channels, right * channels + bottom * line)

    def row(self, number: Any) -> Row:
        """An output row; `number` counts all dims but the last, row-major."""
        if self.epilogue.border is None:
            return Row(number, number * self._channels)
        (batch, height, width, channels), (top, left, _, _) = self._image, self.epilogue.border.pads
        _, rows, columns, _ = self.stored_shape
        image = 0 if batch == 1 else tirx.floordiv(number, height * width)
        y = tirx.floordiv(number if batch == 1 else tirx.floormod(number, height * width), width)
        return Row(number, ((image * rows + y + top) * columns + tirx.floormod(number, width) + left) * channels)

    def neighbours(self, first: Any, count: int) -> list[Row]:
        """Rows side by side in one line of an image."""
        start = T.Bind(self.row(first).place)
        return [Row(first + i, start + i * self._channels) for i in range(count)]

    def rows(self, first: Any, count: int) -> list[Row]:
        """Rows one after the other in one image."""
        width = self._image[-2]
        if self.epilogue.border is None or count > width:
            return [self.row(first + i) for i in range(count)]
        start, gap = T.Bind(self.row(first).place), (self.stored_shape[-2] - width) * self._channels
        steps = after_wrap(first, count, width, gap)
        return [Row(first + i, start + (i * self._channels + step)) for i, step in enumerate(steps)]

    def store(self, row: Row, channel: Any, acc: Vector | None, lanes: int) -> None:
        """Compute and store out[row, channel : channel + lanes].

        acc: the accumulator as float32, `lanes` wide, at most the instruction set's; None where there is none.
        """
        for i, value in enumerate(self._values(row.number, channel, acc, lanes)):
            self._store_one(i, row, channel, value, lanes)

    def _store_one(self, output: int, row: Row, channel: Any, value: Vector, lanes: int) -> None:
        dtype = self.epilogue.outputs[output].dtype
        if dtype != "float32":
            zero_point = self._zero_point(output)
            if zero_point is not None:
                value = value + splat(zero_point, lanes)
            value = T.Cast(vector(dtype, lanes), value)
        T.buffer_store(self.outputs[output], value, [span(row.place + channel, lanes)])

    def store_vectors(self, number: Any, channels: list[Any], accs: list[Vector] | None, lanes: int) -> None:
        """Store vectors of one row: full registers together, or one shorter vector; as `loops.sweep` hands them out."""
        row = self.row(number)
        values: list[Vector | None] = list(accs) if accs is not None else [None] * len(channels)
        if lanes == self.isa.lanes:
            self.store_tile([(row, channel, value) for channel, value in zip(channels, values, strict=True)])
        else:
            self.store(row, channels[0], values[0], lanes)

    def store_tile(self, pieces: Sequence[tuple[Row, Any, Vector | None]]) -> None:
        """Compute and store several whole registers, which narrow faster together than one by one.

        Args:
            pieces: (row, channel, accumulator) of each register, as for `store`, the instruction set's lanes wide.
        """
        lanes = self.isa.lanes
        width = max(registers_per_pack(self.isa, output.dtype) for output in self.epilogue.outputs)
        while pieces:
            group, pieces = pieces[:width], pieces[width:]
            if len(group) == 1:
                self.store(*group[0], lanes)
                continue
            saturate = self._limits is not None
            values = [self._values(row.number, channel, acc, lanes, not saturate) for row, channel, acc in group]
            for i in range(len(self.outputs)):
                self._store_group(i, [(row, channel) for row, channel, _ in group], [one[i] for one in values])

    def _store_group(self, output: int, places: list[tuple[Row, Any]], values: list[Vector]) -> None:
        """Narrow and store whole registers of one output."""
        lanes, dtype = self.isa.lanes, self.epilogue.outputs[output].dtype
        width = registers_per_pack(self.isa, dtype)
        while values:
            some, values = values[:width], values[width:]
            own, places = places[:width], places[width:]
            if len(some) == 1:
                self._store_one(output, *own[0], some[0], lanes)
                continue
            some += some[-1:] * (width - len(some))
            parts = narrow(self.isa, some, self._zero_point(output), dtype, self._tight_limits())
            for (row, channel), part in zip(own, parts, strict=False):
                elements = T.reinterpret(part, dtype=vector(dtype, lanes))
                T.buffer_store(self.outputs[output], elements, [span(row.place + channel, lanes)])

    def _zero_point(self, output: int = 0) -> Any:
        slot = self._zero_slots[output]
        return None if slot is None else T.Cast("int32", self._scalar_buffer[slot])

    def _tight_limits(self) -> tuple[Vector | None, Vector | None]:
        """Least and greatest stored value, where narrowing has to see to them."""
        if self._limits is None:
            return None, None
        dtype, root = self.epilogue.out_dtype, self.epilogue.expr
        zero_point = 0 if self._zero_slots[0] is None else self._zero_point()
        values = []
        for name, tight in zip(("lo", "hi"), self._limits, strict=True):
            _, index = self._slots[id(root), name]
            values.append(T.Cast(dtype, T.Cast("int32", self._scalar_buffer[index]) + zero_point) if tight else None)
        return values[0], values[1]

    def _values(self, row: Any, channel: Any, acc: Vector | None, lanes: int, clamp: bool = True) -> list[Vector]:
        """The value of each output: float32, or int32 without the zero point."""

        def load(index: int, width: int) -> Vector:
            operand = self.epilogue.operands[index]
            return self._read(self._operand_buffers[index], operand.shape, operand.dtype, row, channel, width)

        def constant(node: E.Expr, name: str, width: int) -> Vector:
            kind, index = self._slots[id(node), name]
            if kind == "scalar":
                return splat(self._scalar_buffer[index], width)
            if kind == "vector":
                return self._vector_buffer.vload([index * self._channels + channel], vector("float32", width))
            return self._read(self._full_buffers[index], self._full[index].shape, "float32", row, channel, width)

        def lookup(node: E.Table, index: Vector) -> Vector:
            return self._table_buffers[self._tables[id(node)]][index]

        values = emit(self.isa, self.epilogue.roots, lanes, acc, load, constant, lookup, clamp)
        return [
            value if output.dtype == "float32" else T.Bind(round_to_int(self.isa, value, lanes))
            for output, value in zip(self.epilogue.outputs, values, strict=True)
        ]

    def _read(self, buffer: Any, shape: tuple[int, ...], dtype: str, row: Any, channel: Any, lanes: int) -> Vector:
        """float32 vector of a broadcast tensor at (row, channel)."""
        base = self._row_offset(shape, row)
        if shape[-1] == 1 and self._channels != 1:
            return splat(T.Cast("float32", buffer[base]), lanes)
        return T.Cast(vector("float32", lanes), buffer.vload([base + channel], vector(dtype, lanes)))

    def _row_offset(self, shape: tuple[int, ...], row: Any) -> Any:
        leading, out = shape[:-1], self.out_shape[:-1]
        if leading == out:
            return row * shape[-1]
        if math.prod(leading) == 1:
            return 0
        offset: Any = 0
        inner = math.prod(out)
        for i, (size, extent) in enumerate(zip(leading, out, strict=True)):
            inner //= extent
            if size != 1:
                stride = math.prod(shape[i + 1 :])
                offset = offset + tirx.floormod(tirx.floordiv(row, inner), extent) * stride
        return offset


def after_wrap(first: Any, count: int, width: int, gap: int) -> list[Any]:
    """Extra distance of each neighbour from the first: `gap` from the one on that begins the next line of `width`.

    One division for all; count is at most width.
    """
    column = T.Bind(tirx.floormod(first, width))
    return [T.Select(column >= width - i, T.int32(gap), T.int32(0)) if i else 0 for i in range(count)]


def flat_arg(name: str, shape: tuple[int, ...], dtype: str) -> Any:
    """A function argument: stored tensors are flat, so that reshapes cost nothing and kernels are shared by size."""
    return T.arg(name, T.buffer((math.prod(shape),), dtype))
