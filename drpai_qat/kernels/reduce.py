"""Reductions over one run of axes: layout [outer, reduced, inner]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, Vector, splat, vector
from drpai_qat.kernels.loops import Index, Registers, fold, function, sweep, tasks

Kind = Literal["sum", "max", "min"]
_REGISTERS = 4
_TASKS = 8


def reduce(
    outer: int, reduced: int, inner: int, kind: Kind, dtype: str, zero_point: int, epilogue: Epilogue, isa: Isa
) -> Kernel:
    """Reduce the middle of three dims; a mean is a sum whose epilogue divides.

        acc[o, i] = sum (or max, min) over r of (in[o, r, i] - zero_point)

    Args:
        dtype: of the input: 8 or 16-bit integer, int32 or float32. Sums of integers are exact as far as int32 reaches;
            beyond, exact sums of parts are added in float32.
    Returns: kernel of (data); output (outer, inner).
    """
    acc_dtype = "float32" if dtype == "float32" else "int32"
    emitter = EpilogueEmitter(epilogue, (outer, inner), isa, math.inf)  # sums of parts may leave int32
    parts = 1 if outer >= _TASKS else max(1, min(_TASKS, inner // (isa.lanes * _REGISTERS)))
    size = -(-inner // parts // isa.lanes) * isa.lanes if parts > 1 else inner
    with function("reduce") as builder:
        data = flat_arg("data", (outer, reduced, inner), dtype)
        emitter.declare_operands()
        zero = flat_arg("zero_point", (1,), acc_dtype)
        emitter.declare_constants()
        emitter.declare_output()
        run = _Run(isa, kind, data, zero, dtype, acc_dtype, reduced, inner)
        with tasks(outer * parts, outer * reduced * inner) as task:
            o, part = tirx.floordiv(task, parts), tirx.floormod(task, parts)
            first = T.Bind(T.min(part * size, inner - size))
            base = T.Bind(o * (reduced * inner) + first)

            def body(starts: list[Index], lanes: int) -> None:
                accs = run.columns(base, starts, lanes)
                emitter.store_vectors(o, [first + start for start in starts], accs, lanes)

            if inner == 1:
                emitter.store(emitter.row(o), 0, run.row(base), 1)
            else:
                sweep(size, isa.lanes, body, _REGISTERS)
    constants = (np.asarray([zero_point], acc_dtype), *emitter.constants)
    return Kernel(builder.get(), constants, (outer, inner), epilogue.out_dtype, epilogue.more_dtypes)


@dataclass(frozen=True, eq=False)
class _Run:
    """The reduction of one slice of the outer dim."""

    isa: Isa
    kind: Kind
    data: Any
    zero: Any
    dtype: str
    acc_dtype: str
    reduced: int
    inner: int

    def columns(self, base: Index, starts: list[Index], lanes: int) -> list[Vector]:
        """float32 results for the inner positions base + starts."""

        def part(first: Index, count: int) -> list[Vector]:
            at = T.Bind(base + first * self.inner)
            accs = Registers(len(starts), lanes, self.acc_dtype)
            for j, start in enumerate(starts):
                accs[j] = self._load(at + start, lanes)
            with T.serial(count - 1) as r:
                row = T.Bind(at + (r + 1) * self.inner)
                for j, start in enumerate(starts):
                    accs[j] = self._combine(accs[j], self._load(row + start, lanes))
            return [self._centred(accs[j], count, lanes) for j in range(len(starts))]

        return self._in_parts(part, len(starts), lanes)

    def row(self, base: Index) -> Vector:
        """float32 result of `reduced` neighbouring elements."""

        def part(first: Index, count: int) -> list[Vector]:
            at = T.Bind(base + first)
            acc = fold(count, self.isa.lanes, self.acc_dtype, lambda i, width: self._load(at + i, width), self._combine)
            return [self._centred(acc, count, 1)]

        return self._in_parts(part, 1, 1)[0]

    def _in_parts(self, part: Any, count: int, lanes: int) -> list[Vector]:
        """part(first, terms) over as many terms as int32 adds up exactly, those sums in float32."""
        terms = self.reduced
        if self.kind == "sum" and self.acc_dtype == "int32":
            terms = min(
                terms, {"int8": 1 << 23, "uint8": 1 << 23, "int16": 1 << 15, "uint16": 1 << 15}.get(self.dtype, terms)
            )
        if terms == self.reduced:
            return part(0, terms)
        totals = Registers(count, lanes, "float32")
        for j in range(count):
            totals[j] = splat(T.float32(0), lanes)

        def add(first: Index, terms: int) -> None:
            for j, value in enumerate(part(first, terms)):
                totals[j] = totals[j] + value

        with T.serial(self.reduced // terms) as i:
            add(i * terms, terms)
        if self.reduced % terms:
            add(self.reduced // terms * terms, self.reduced % terms)
        return [totals[j] for j in range(count)]

    def _load(self, at: Index, lanes: int) -> Vector:
        return T.Cast(vector(self.acc_dtype, lanes), self.data.vload([at], vector(self.dtype, lanes)))

    def _combine(self, x: Vector, y: Vector) -> Vector:
        if self.kind == "sum":
            return x + y
        return T.max(x, y) if self.kind == "max" else T.min(x, y)

    def _centred(self, acc: Vector, count: int, lanes: int) -> Vector:
        offset = self.zero[0] * tirx.const(count if self.kind == "sum" else 1, self.acc_dtype)
        return T.Bind(T.Cast(vector("float32", lanes), acc - splat(offset, lanes)))
