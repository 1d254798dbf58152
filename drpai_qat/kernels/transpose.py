"""Permutation of dims: in blocks that are transposed in registers, so that reads and writes are both whole vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Kernel, flat_arg
from drpai_qat.kernels.interleave import shuffle
from drpai_qat.kernels.isa import Isa, Vector, span, vector
from drpai_qat.kernels.loops import BYTES, Index, copy, copy_run, function, tasks

Shape = tuple[int, ...]
_FEW = 4  # rows that one shuffle interleaves


def transpose(shape: Shape, perm: tuple[int, ...], dtype: str, isa: Isa) -> Kernel:
    """out[i_perm[0], i_perm[1], ...] = in[i_0, i_1, ...], as ONNX Transpose."""
    out_shape = tuple(shape[axis] for axis in perm)
    dims, order = merge_axes(shape, perm)
    with function("transpose") as builder:
        data, out = flat_arg("data", shape, dtype), flat_arg("out", out_shape, dtype)
        if len(dims) == 1:
            copy(data, out, dims[0], dtype, isa)
        elif order[-1] == len(dims) - 1:
            _rows(data, out, dims, order, dtype, isa)
        else:
            _planes(data, out, dims, order, dtype)
    return Kernel(builder.get(), (), out_shape, dtype)


def merge_axes(shape: Shape, perm: tuple[int, ...]) -> tuple[Shape, tuple[int, ...]]:
    """The same permutation with as few dims as possible: no dims of 1, neighbours that stay neighbours as one."""
    kept = [axis for axis in perm if shape[axis] != 1]
    runs: list[list[int]] = []
    for axis in kept:
        if runs and all(shape[between] == 1 for between in range(runs[-1][-1] + 1, axis)) and axis > runs[-1][-1]:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    in_order = sorted(runs)
    dims = tuple(math.prod(shape[axis] for axis in run) for run in in_order)
    return dims or (1,), tuple(in_order.index(run) for run in runs) or (0,)


def _strides(shape: Shape) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _rows(data: Any, out: Any, dims: Shape, order: tuple[int, ...], dtype: str, isa: Isa) -> None:
    """The last dim stays last: copy whole rows."""
    inner, strides = dims[-1], _strides(dims)
    outer = [dims[axis] for axis in order[:-1]]
    with tasks(outer[0], math.prod(dims)) as first, T.serial(math.prod(outer[1:])) as rest:
        row = T.Bind(first * math.prod(outer[1:]) + rest)
        source = _offset(row, outer, [strides[axis] for axis in order[:-1]])
        copy_run(data, T.Bind(source), out, T.Bind(row * inner), inner, dtype, isa)


def _offset(index: Index, sizes: list[int], strides: list[int]) -> Index:
    """Sum of coordinate * stride over a row-major index of dims `sizes`."""
    total: Index = 0
    inner = math.prod(sizes)
    for size, stride in zip(sizes, strides, strict=True):
        inner //= size
        total = total + tirx.floormod(tirx.floordiv(index, inner), size) * stride
    return total


def _planes(data: Any, out: Any, dims: Shape, order: tuple[int, ...], dtype: str) -> None:
    """The last dim moves: for each position of the other dims, transpose the plane of it and the output's last dim."""
    in_strides, out_strides = _strides(dims), dict(zip(order, _strides(tuple(dims[a] for a in order)), strict=True))
    across, along = order[-1], len(dims) - 1  # last of the output, last of the input
    others = [axis for axis in order[:-1] if axis != along]
    sizes = [dims[axis] for axis in others]
    plane = _Plane(data, out, dtype, dims[across], dims[along], in_strides[across], out_strides[along])
    parts = plane.parts()
    with tasks(math.prod(sizes) * parts, math.prod(dims)) as task:
        index, part = tirx.floordiv(task, parts), tirx.floormod(task, parts)
        source = T.Bind(_offset(index, sizes, [in_strides[axis] for axis in others]))
        target = T.Bind(_offset(index, sizes, [out_strides[axis] for axis in others]))
        plane.emit(source, target, part)


@dataclass(frozen=True, eq=False)
class _Plane:
    """out[j * out_stride + i] = in[i * in_stride + j] for i < rows, j < columns."""

    data: Any
    out: Any
    dtype: str
    rows: int
    columns: int
    in_stride: int
    out_stride: int

    @property
    def block(self) -> int:
        """Elements of a vector: 16 bytes, or the largest power of two that both sides have."""
        return min(16 // BYTES[self.dtype], *(1 << size.bit_length() - 1 for size in (self.rows, self.columns)))

    @property
    def few_rows(self) -> bool:
        """Few, contiguous output rows: channels-first images of few channels to channels-last."""
        return 1 < self.rows <= _FEW and self.out_stride == self.rows and self.columns >= self._lanes

    @property
    def few_columns(self) -> bool:
        """The way back."""
        return 1 < self.columns <= _FEW and self.in_stride == self.columns and self.rows >= self._lanes

    @property
    def _lanes(self) -> int:
        return 16 // BYTES[self.dtype]

    def parts(self) -> int:
        """Parts of the plane for threads: vectors or blocks along the longer dim."""
        return max(1, min(8, self._steps() // 4))

    def _steps(self) -> int:
        if self.few_rows:
            return -(-self.columns // self._lanes)
        if self.few_columns:
            return -(-self.rows // self._lanes)
        return -(-max(self.rows, self.columns) // self.block)

    def emit(self, source: Index, target: Index, part: Index) -> None:
        """Transpose one part of the plane that starts at `source` and `target`."""
        steps, parts = self._steps(), self.parts()
        per_part = -(-steps // parts)
        with T.serial(per_part) as i:
            step = T.min(part * per_part + i, steps - 1)
            if self.few_rows:
                self._interleave(source, target, self._start(step, self._lanes, self.columns))
            elif self.few_columns:
                self._separate(source, target, self._start(step, self._lanes, self.rows))
            else:
                self._blocks(source, target, step)

    def _start(self, step: Index, size: int, extent: int) -> Index:
        return T.Bind(step * size if extent % size == 0 else T.min(step * size, extent - size))

    def _interleave(self, source: Index, target: Index, j: Index) -> None:
        rows, lanes = self.rows, self._lanes
        loaded = [self._load(source + i * self.in_stride + j, lanes) for i in range(rows)]
        for k in range(rows):
            order = [(e % rows) * lanes + e // rows for e in range(k * lanes, (k + 1) * lanes)]
            self._store(target + j * rows + k * lanes, shuffle(loaded, order), lanes)

    def _separate(self, source: Index, target: Index, i: Index) -> None:
        columns, lanes = self.columns, self._lanes
        loaded = [self._load(source + i * columns + k * lanes, lanes) for k in range(columns)]
        for k in range(columns):
            self._store(
                target + k * self.out_stride + i, shuffle(loaded, [e * columns + k for e in range(lanes)]), lanes
            )

    def _blocks(self, source: Index, target: Index, step: Index) -> None:
        """A stripe of blocks: `step` counts along the longer dim, the loop walks the other."""
        n = self.block
        rows_outside = self.rows >= self.columns
        inside = self.columns if rows_outside else self.rows
        outer = self._start(step, n, self.rows if rows_outside else self.columns)
        with T.serial(-(-inside // n)) as k:
            inner = self._start(k, n, inside)
            i, j = (outer, inner) if rows_outside else (inner, outer)
            loaded = [self._load(source + (i + a) * self.in_stride + j, n) for a in range(n)]
            for b, column in enumerate(_transposed(loaded, n)):
                self._store(target + (j + b) * self.out_stride + i, column, n)

    def _load(self, at: Index, lanes: int) -> Vector:
        return T.Bind(self.data.vload([at], vector(self.dtype, lanes)))

    def _store(self, at: Index, value: Vector, lanes: int) -> None:
        T.buffer_store(self.out, value, [span(at, lanes)])


def _transposed(rows: list[Vector], n: int) -> list[Vector]:
    """n vectors of n elements, transposed by log2(n) rounds of interleaving halves."""
    halves: list[Callable[[int], list[int]]] = [
        lambda n: [x for k in range(n // 2) for x in (k, n + k)],
        lambda n: [x for k in range(n // 2, n) for x in (k, n + k)],
    ]
    for _ in range(n.bit_length() - 1):
        pairs = [(rows[i], rows[i + n // 2]) for i in range(n // 2)]
        rows = [shuffle(list(pair), half(n)) for pair in pairs for half in halves]
    return rows
